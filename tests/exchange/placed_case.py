"""A predicted case with three lesions, of which two are reported, in a predictions folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cmb_plugin.dataset import CasePredictions, instances_file, write_case_predictions
from cmb_plugin.detections import Detections
from cmb_plugin.images import Grid, write_image


def write_prediction(
    folder: Path, case_id: str, grid: Grid, *, empty: bool = False, regions: bool = True
) -> np.ndarray:
    """Writes ``{case}_boxes.json`` and the mask, and returns the mask."""
    boxes = np.array([[1, 2, 3, 3, 5, 6], [5, 6, 2, 7, 8, 5], [2, 8, 7, 4, 9, 9]], dtype=np.float32)
    columns = {
        "score_rpn": np.array([0.8, 0.7, 0.1]),
        "region_group": np.array(["lobar", "deep", "lobar"], dtype=object),
        "nearest_group": np.array(["lobar", "deep", "lobar"], dtype=object),
        "region": np.array(["frontal", "thalamus", ""], dtype=object),
        "nearest_region": np.array(["frontal", "thalamus", ""], dtype=object),
        "side": np.array(["left", "right", ""], dtype=object),
    }
    detections = Detections(
        boxes, np.array([0.9, 0.7, 0.2], dtype=np.float32), np.zeros(3, dtype=np.int64), columns if regions else {}
    )
    if empty:
        detections = detections[np.zeros(3, dtype=bool)]
    mask = np.zeros(grid.shape, dtype=np.uint16)
    if not empty:
        mask[1:3, 2:5, 3:6] = 1
        mask[5:7, 6:8, 2:5] = 2
        mask[5, 6, 2] = 0
    voxel = float(np.prod(grid.spacing))
    volumes = () if empty else (18 * voxel, 11 * voxel, None)
    about = {"source": "atlas:builtin", "trusted": True, "why": "", "sub_regions": ["frontal", "thalamus"]}
    write_case_predictions(
        folder,
        CasePredictions(case_id, detections, grid, ("cmb",), 0.5, "Model_3d", (0,), volumes, "key",
                        regions=about if regions else None),
    )  # fmt: skip
    write_image(instances_file(folder, case_id), mask, grid)
    return mask
