"""How a lesion that a reader adds is going to be drawn: grown from its point, as the export grows it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from cmb_plugin.conversion import grow_points
from cmb_plugin.images import Grid, read_scan
from cmb_plugin.preparation import modality_polarity

from .session import ReviewSession


class LesionPreview:
    """Grows points in the scans of a session; the scan that was asked for last is kept in memory.

    Args:
        session: what is reviewed.
    """

    def __init__(self, session: ReviewSession) -> None:
        self.session = session
        self._lock = threading.Lock()  # one scan at a time, so that two requests do not read it twice
        self._kept: tuple[str, np.ndarray, Grid, bool] | None = None

    def grow(self, case_id: str, point: list[float]) -> dict[str, Any]:
        """``how`` (``grown`` or ``ball``), ``volume_mm3``, ``diameter_mm`` of a ball as large, and ``voxels``: [K][3]
        indices z, y, x, of a lesion at ``point``, bounded by those that were added already.

        Args:
            case_id: which scan.
            point: voxel-edge z, y, x inside it.
        """
        lesions = self.session.review(case_id).state()["lesions"]
        others = [own["point"] for own in lesions.values() if "point" in own and own["point"] != point]
        with self._lock:
            array, grid, bright = self._scan(case_id)
            growth = grow_points(array, grid.spacing, np.array([point, *others], dtype=float), bright=bright)[0]
        volume = len(growth.voxels) * float(np.prod(grid.spacing))
        return {
            "how": growth.how,
            "volume_mm3": round(volume, 2),
            "diameter_mm": round((6 * volume / np.pi) ** (1 / 3), 2),
            "voxels": growth.voxels.tolist(),
        }

    def _scan(self, case_id: str) -> tuple[np.ndarray, Grid, bool]:
        if self._kept is None or self._kept[0] != case_id:
            number, path = next(iter(self.session.images(case_id).items()))
            array, grid = read_scan(path)
            bright = modality_polarity(self.session.dataset.modalities[number]) == "bright"
            self._kept = (case_id, array, grid, bright)
        return self._kept[1:]
