"""What scans a model has seen, and what to say of a scan that is like none of them."""

from __future__ import annotations

from collections.abc import Mapping as Dictionary
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cmb_plugin.documents import from_json
from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid, Mapping
from cmb_plugin.images.contrast import QSM, UNKNOWN, contrast_of_name
from cmb_plugin.paths import FoldFolder, TaskFolder, splits_file
from cmb_plugin.planning import Plan
from cmb_plugin.settings import read_settings

if TYPE_CHECKING:  # prediction reads no fingerprint
    from cmb_plugin.preparation import Fingerprint

Range = tuple[float, float]

SLACK = 1.1  # a spacing so many times beyond what was seen counts as seen
LESS = 0.9  # and a scan that covers so much of the least that was seen
NEGATIVE = 0.02  # a magnitude has no negative values; what interpolation leaves of them is less


@dataclass(frozen=True)
class SeenScans:
    """The scans that a model was trained on: what is known of them without naming one.

    Attributes:
        cases: how many.
        lesions: labelled in them.
        slice_mm: least and largest spacing across the slices, the longest side of a voxel.
        pixel_mm: the same of the longer side within the slice.
        extent_mm: least and largest extent of the whole scan along the body's z, y, x.
        contrasts: of the first channel, of ``images.contrast.CONTRASTS``; by the name of its modality.
        polarity: how a microbleed shows in it: ``dark``, ``bright``, ``signed`` or ``unknown``.
        lesion_mm: 5th, 50th and 95th percentile of the lesions' diameters; empty without lesions.
    """

    cases: int
    lesions: int
    slice_mm: Range
    pixel_mm: Range
    extent_mm: tuple[Range, Range, Range]
    contrasts: tuple[str, ...] = ()
    polarity: str = "unknown"
    lesion_mm: tuple[float, ...] = ()

    @classmethod
    def of(cls, fingerprint: Fingerprint, modalities: Sequence[str], polarity: str = "") -> SeenScans:
        """What the scans of a prepared Task are like.

        Args:
            fingerprint: of the training scans.
            modalities: of the model.
            polarity: of the first of them, where the plan says so.
        """
        from cmb_plugin.preparation import modality_polarity

        spacings = np.sort([case.spacing for case in fingerprint.cases], axis=1)
        extents = np.array([np.multiply(case.shape, case.spacing) for case in fingerprint.cases])
        diameters = np.cbrt(fingerprint.sizes_mm.prod(axis=1))
        z, y, x = (_range(extents[:, axis]) for axis in range(3))
        contrast = contrast_of_name(modalities[0])
        return cls(
            cases=len(fingerprint.cases),
            lesions=len(diameters),
            slice_mm=_range(spacings[:, 2]),
            pixel_mm=_range(spacings[:, 1]),
            extent_mm=(z, y, x),
            contrasts=() if contrast == UNKNOWN else (contrast,),
            polarity=polarity or modality_polarity(modalities[0]),
            lesion_mm=tuple(np.percentile(diameters, (5, 50, 95)).round(2).tolist()) if len(diameters) else (),
        )

    def joined(self, other: SeenScans) -> SeenScans:
        """What the scans of both are like. Percentiles of the lesions are the means of theirs, weighted by the numbers
        of lesions, since the diameters themselves are not kept.
        """
        z, y, x = (_together(*pair) for pair in zip(self.extent_mm, other.extent_mm, strict=True))
        lesions = self.lesions + other.lesions
        if self.lesion_mm and other.lesion_mm:
            sums = np.multiply(self.lesions, self.lesion_mm) + np.multiply(other.lesions, other.lesion_mm)
            lesion_mm = tuple((sums / lesions).round(2).tolist())
        else:
            lesion_mm = self.lesion_mm or other.lesion_mm
        return SeenScans(
            cases=self.cases + other.cases,
            lesions=lesions,
            slice_mm=_together(self.slice_mm, other.slice_mm),
            pixel_mm=_together(self.pixel_mm, other.pixel_mm),
            extent_mm=(z, y, x),
            contrasts=tuple(dict.fromkeys([*self.contrasts, *other.contrasts])),
            polarity=self.polarity if self.polarity == other.polarity else "unknown",
            lesion_mm=lesion_mm,
        )

    def doubts(self, grid: Grid, negative: float | None = None, contrast: str = "") -> list[str]:
        """Sentences on what is unlike every scan that the model has seen; none is good.

        Args:
            grid: of the scan.
            negative: share of the first channel's values that are negative (``Scan.negative``); None where nobody
                knows.
            contrast: what the scan shows, "" where that is not known.
        """
        return [*self._of_spacing(grid), *self._of_extent(grid), *self._of_values(negative, contrast)]

    def _of_spacing(self, grid: Grid) -> list[str]:
        _, pixel, thick = sorted(grid.spacing)
        sentences = []
        for what, own, (low, high) in (("Slices", thick, self.slice_mm), ("Pixels", pixel, self.pixel_mm)):
            if own > SLACK * high or own < low / SLACK:
                effect = "small lesions may be missed" if own > high else "its counts are not to be trusted as they are"
                sentences.append(f"{what} of {own:.2g} mm; the model has seen {low:.2g} to {high:.2g} mm: {effect}.")
        return sentences

    def _of_extent(self, grid: Grid) -> list[str]:
        mapping = Mapping.plan(grid)
        extent = np.multiply(mapping.oriented_shape, mapping.oriented_spacing)
        sentences = []
        for axis, (own, (low, _)) in enumerate(zip(extent.tolist(), self.extent_mm, strict=True)):
            if own < LESS * low:
                way = ("from neck to top", "from back to front", "from side to side")[axis]
                sentences.append(
                    f"The scan covers {own:.0f} mm {way}; the least that the model has seen is {low:.0f} mm: "
                    "lesions beyond it are not counted, and its edges may be taken for some."
                )
        return sentences

    def _of_values(self, negative: float | None, contrast: str) -> list[str]:
        if contrast == QSM and self.polarity == "dark" and QSM not in self.contrasts:
            return ["A map of susceptibility, turned dark for iron; the model has seen none: look at every lesion."]
        if negative is None or negative < NEGATIVE or contrast == QSM or self.polarity != "dark":
            return []
        return [
            f"{100 * negative:.0f} % of its values are negative, as in phase, QSM or scans that were normalised "
            "before; the model knows magnitude and SWI, in which microbleeds are dark and nothing is negative."
        ]


def _range(values: np.ndarray) -> Range:
    return round(float(values.min()), 4), round(float(values.max()), 4)


def _together(one: Range, other: Range) -> Range:
    return min(one[0], other[0]), max(one[1], other[1])


def seen_before(fold: FoldFolder) -> SeenScans | None:
    """What the scans of the model that a fold's training began with are like; None where it began with random weights,
    or nobody noted it."""
    noted = (read_settings(fold.settings).get("init") or {}).get("seen")
    return from_json(SeenScans, noted, f"{fold.settings}: init.seen") if noted else None


def seen_in_training(task: TaskFolder, folds: Dictionary[int, FoldFolder]) -> SeenScans:
    """What the training scans of a Task are like that folds of a model learned from.

    Args:
        task: that they were trained on; of its preparation the fingerprint is read.
        folds: number -> folder.

    Raises:
        UserError: the Task was never prepared here, or holds none of these scans.
    """
    from cmb_plugin.dataset import read_splits
    from cmb_plugin.preparation import Fingerprint

    fingerprint = Fingerprint.load(task.fingerprint)
    trained = {
        case_id for number, fold in folds.items() for case_id in read_splits(splits_file(task, fold))[number]["train"]
    }
    cases = tuple(case for case in fingerprint.cases if case.case_id in trained)
    if not cases:
        raise UserError(f"{task.fingerprint}: holds none of the model's training scans", remedy="run nndet_prep again")
    plan = Plan.load(next(iter(folds.values())).plan)
    return SeenScans.of(replace(fingerprint, cases=cases), plan.modalities, plan.polarity[0] if plan.polarity else "")
