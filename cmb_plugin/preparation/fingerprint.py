"""Fingerprint of a data set: what a planner needs to know, and nothing that has to be read from the scans again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.documents import from_json
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json

Triple = tuple[int, int, int]
Size = tuple[float, float, float]
PERCENTILES = (0.5, 50.0, 99.5)
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
        domain: site, scanner or protocol; empty where nobody says.
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
    domain: str = ""

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
