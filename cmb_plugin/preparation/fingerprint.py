"""Fingerprint of a data set: what a planner needs to know, and nothing that has to be read from the scans again."""

from __future__ import annotations

from collections.abc import Mapping as Dictionary
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.documents import from_json
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import Grid, Mapping, boxes_of_instances, voxels_of_instances

from .case import find_brain, foreground_extent
from .intensities import replace_nonfinite
from .modalities import brain_channel
from .schemes import brain_values, bulk

Triple = tuple[int, int, int]
Size = tuple[float, float, float]
PERCENTILES = (0.5, 50.0, 99.5)
SHELL = 3  # voxels around a lesion that its contrast is taken against
SCHEMA = 3  # 2: brain and contrast; 3: extreme values and bulk, and a block that knows no lesions


@dataclass(frozen=True)
class CaseFingerprint:
    """One case; all axes are the oriented z, y, x (superior, posterior, left), not yet transposed.

    Attributes:
        case_id: its name.
        shape: voxels of the scan.
        spacing: mm.
        cropped_shape: voxels of the smallest block that holds everything non-zero.
        orientation: nearest world direction of the file's own axes z, y, x, for instance ``SPL``.
        sizes_mm: sides of each lesion's box.
        voxels: voxels of each lesion.
        labels: class index of each lesion.
        percentiles: intensity at ``PERCENTILES`` for each modality, within the block.
        brain_shape: voxels of the brain's block; None where no brain was given or found.
        brain_given: whether the Task folder has a mask of it.
        contrasts: for each lesion and modality its mean against its surroundings, over their standard deviation.
        extremes: smallest and largest value of each modality in the whole scan; zeros where it is missing.
        bulks: for each modality the size that all but a hundredth of the brain's values stay below.
    """

    case_id: str
    shape: Triple
    spacing: Size
    cropped_shape: Triple
    orientation: str
    sizes_mm: tuple[Size, ...]
    voxels: tuple[int, ...]
    labels: tuple[int, ...]
    percentiles: tuple[tuple[float, float, float], ...]
    brain_shape: Triple | None = None
    brain_given: bool = False
    contrasts: tuple[tuple[float, ...], ...] = ()
    extremes: tuple[tuple[float, float], ...] = ()
    bulks: tuple[float, ...] = ()

    @property
    def cropped_fraction(self) -> float:
        """Volume after cropping relative to the scan's."""
        return float(np.prod(self.cropped_shape) / np.prod(self.shape))


@dataclass(frozen=True)
class Fingerprint:
    """A data set as a planner sees it.

    Attributes:
        task: name of the Task folder.
        modalities: names in the order of the channels.
        classes: class names by index from 0.
        cases: the training cases.
        regions: names of the numbers 1, 2, ... in ``regionsTr``.
    """

    task: str
    modalities: tuple[str, ...]
    classes: tuple[str, ...]
    cases: tuple[CaseFingerprint, ...] = field(default=())
    regions: tuple[str, ...] = ()

    @property
    def sizes_mm(self) -> np.ndarray:
        """[N, 3] box sides in mm of all lesions, oriented z, y, x."""
        return np.array([size for case in self.cases for size in case.sizes_mm], dtype=float).reshape(-1, 3)

    def of_channels(self, channels: Sequence[int]) -> Fingerprint:
        """As if the data set had only these of its modalities, in this order."""

        def chosen(rows: Sequence[Any]) -> tuple[Any, ...]:
            """The rows of the channels."""
            return tuple(rows[channel] for channel in channels)

        cases = tuple(
            replace(
                case,
                percentiles=chosen(case.percentiles),
                contrasts=tuple(chosen(row) for row in case.contrasts),
                extremes=chosen(case.extremes) if case.extremes else (),
                bulks=chosen(case.bulks) if case.bulks else (),
            )
            for case in self.cases
        )
        return replace(self, modalities=chosen(self.modalities), cases=cases)

    def save(self, path: Path) -> None:
        """Writes ``fingerprint.json``, atomically."""
        write_json(path, {"schema": SCHEMA, **_fields(self), "cases": [_fields(case) for case in self.cases]})

    @classmethod
    def load(cls, path: Path) -> Fingerprint:
        """Reads what ``save`` wrote.

        Raises:
            UserError: the file is missing, damaged or of another version.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
            raise UserError(f"{path}: not a fingerprint of this version", remedy="delete it and run nndet_prep")
        return from_json(cls, content, str(path))


def fingerprint_case(
    case_id: str,
    images: np.ndarray,
    grid: Grid,
    instances: np.ndarray | None,
    classes: Dictionary[int, int],
    modalities: Sequence[str] = (),
    brain: np.ndarray | None = None,
) -> CaseFingerprint:
    """Measures one case.

    Args:
        case_id: its name.
        images: [C, z, y, x] on ``grid``.
        grid: place of the scan.
        instances: integers [z, y, x], or None without labels.
        classes: instance number -> class index.
        modalities: names of the channels: which of them shows the brain.
        brain: [z, y, x] mask of the brain; None estimates it.
    """
    oriented = Mapping.plan(grid)
    images = oriented.orient(replace_nonfinite(images)[0])
    mask = None if instances is None else oriented.orient(instances)
    start, stop = foreground_extent(images)
    inside = images[(slice(None), *map(slice, start, stop))]
    boxes = {} if mask is None else boxes_of_instances(mask)
    counts = {} if mask is None else voxels_of_instances(mask)
    inner, given = _brain(images, oriented, modalities, brain)
    sizes = [(box[3:] - box[:3]) * oriented.oriented_spacing for box in boxes.values()]
    return CaseFingerprint(
        case_id=case_id,
        shape=oriented.shape,
        spacing=oriented.oriented_spacing,
        cropped_shape=_triple([b - a for a, b in zip(start, stop, strict=True)]),
        orientation=grid.axis_codes,
        sizes_mm=tuple(_size(size) for size in sizes),
        voxels=tuple(counts[number] for number in boxes),
        labels=tuple(int(classes[number]) for number in boxes),
        percentiles=tuple(_size(np.percentile(channel, PERCENTILES)) for channel in inside),
        brain_shape=None if inner is None else _block_shape(inner),
        brain_given=given,
        contrasts=tuple(_contrasts(images, mask, number, box) for number, box in boxes.items() if mask is not None),
        extremes=tuple((float(channel.min()), float(channel.max())) for channel in images),
        bulks=tuple(float(f"{bulk(brain_values(channel, inner)):.5g}") for channel in images),
    )


def _brain(
    images: np.ndarray, oriented: Mapping, modalities: Sequence[str], brain: np.ndarray | None
) -> tuple[np.ndarray | None, bool]:
    """bool [Z, Y, X]: the brain, as far as it is known, and whether it is the given mask."""
    present = [channel for channel, image in enumerate(images) if image.any()][: len(modalities)]
    among_present = brain_channel([modalities[channel] for channel in present])
    if among_present is None:
        return None, False
    channel = present[among_present]
    given = None if brain is None else oriented.orient(brain) != 0
    inner = find_brain(images, oriented.oriented_spacing, channel, given)
    return inner, inner is not None and inner is given


def _block_shape(mask: np.ndarray) -> Triple:
    start, stop = foreground_extent(mask[None])
    return _triple([b - a for a, b in zip(start, stop, strict=True)])


def _contrasts(images: np.ndarray, mask: np.ndarray, number: int, box: np.ndarray) -> tuple[float, ...]:
    """For each modality the lesion's mean minus that of a shell around it, over the shell's standard deviation.

    The shell is the lesion's box with ``SHELL`` voxels on each side, without any lesion. NaN-free: 0 where it is empty
    or even.
    """
    low = [max(0, int(value) - SHELL) for value in box[:3]]
    high = [int(value) + SHELL for value in box[3:]]
    place = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    inside, around = mask[place] == number, mask[place] == 0
    contrasts = []
    for channel in images:
        shell = channel[place][around].astype(np.float64)
        deviation = shell.std() if shell.size else 0.0
        difference = channel[place][inside].mean(dtype=np.float64) - shell.mean() if deviation > 0 else 0.0
        contrasts.append(round(float(difference / deviation), 3) if deviation > 0 else 0.0)
    return tuple(contrasts)


def load_piece(path: Path, key: str) -> CaseFingerprint | None:
    """What ``save_piece`` wrote with the same ``key``; None where there is nothing (good)."""
    try:
        content = read_json(path)
        current = content.get("key") == key and content.get("schema") == SCHEMA
        return from_json(CaseFingerprint, content["case"], str(path)) if current else None
    except (UserError, KeyError, TypeError, AttributeError):
        return None


def save_piece(path: Path, case: CaseFingerprint, key: str) -> None:
    """Keeps the fingerprint of one case, so that a killed run goes on where it was."""
    write_json(path, {"schema": SCHEMA, "key": key, "case": _fields(case)})


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _triple(values: Sequence[int]) -> Triple:
    z, y, x = (int(value) for value in values)
    return z, y, x


def _size(values: Sequence[float] | np.ndarray) -> Size:
    z, y, x = (round(float(value), 5) for value in values)
    return z, y, x
