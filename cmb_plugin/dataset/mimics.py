"""What looks like a lesion and is none, where the data set knows it: ``mimicsTr/{case}.json`` (docs/phantom.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json

from .dataset import Case


@dataclass(frozen=True)
class Mimic:
    """One mimic, in the scan's own voxels.

    Attributes:
        kind: for instance ``vein_straight`` or ``calcification``.
        box: float [6] half-open voxel-edge box ``(z0, y0, x0, z1, y1, x1)`` around it.
        path: of a vessel its course, float [K, 3] voxel-edge points z, y, x with K >= 2; None for a compact mimic.
        diameter_mm: of a vessel its width; 0 where it is unknown.
    """

    kind: str
    box: np.ndarray
    path: np.ndarray | None = None
    diameter_mm: float = 0.0


def read_mimics(case: Case) -> list[Mimic] | None:
    """The mimics of a case; None where the data set does not list them, which is not the same as an empty list.

    Raises:
        UserError: the file does not hold a list of mimics with kind and box.
    """
    path = case.extra("mimics")
    if path is None:
        return None
    try:
        return [_mimic(entry) for entry in read_json(path)["mimics"]]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        remedy = 'write {"mimics": [{"kind": "vein", "box": [z0, y0, x0, z1, y1, x1]}]}, or remove the file'
        raise UserError(f"{path}: not a list of mimics with kind and box", remedy=remedy) from None


def _mimic(entry: dict[str, Any]) -> Mimic:
    course = entry.get("path")
    mimic = Mimic(
        kind=str(entry["kind"]),
        box=np.asarray(entry["box"], dtype=float).reshape(6),
        path=None if course is None or len(course) < 2 else np.asarray(course, dtype=float).reshape(-1, 3),
        diameter_mm=float(entry.get("diameter_mm") or 0.0),
    )
    numbers = (mimic.box, mimic.diameter_mm, 0.0 if mimic.path is None else mimic.path)
    if not all(np.isfinite(values).all() for values in numbers):
        raise ValueError("a place is no finite number")
    return mimic
