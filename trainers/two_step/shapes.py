"""Volume and elongation of candidates, in millimetres."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cmb_plugin.inference import CORE


def core_shapes(probability: np.ndarray, boxes: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """What lies in each box with at least half of its highest probability.

    The elongation is the extent (standard deviation) of that core along its longest axis over the one along its second:
    a tube is long, a ball and a disc are not. The variance of one coarsest voxel is added to both, so that a piece of
    one thick slice is not taken for a tube.

    Args:
        probability: [Z, Y, X] of lesion.
        boxes: [N, 6] in voxels, whole numbers.
        spacing: mm per voxel along z, y, x.

    Returns:
        float32 [N] volumes in mm^3 and float32 [N] elongations, 1 or more.
    """
    volumes, elongations = [], []
    blur = max(spacing) ** 2 / 12
    for box in np.asarray(boxes).astype(int):
        inside = probability[tuple(slice(start, stop) for start, stop in zip(box[:3], box[3:], strict=True))]
        places = np.argwhere(inside >= CORE * inside.max()) * np.asarray(spacing)
        variances = np.linalg.eigvalsh(np.cov(places.T, bias=True)) + blur
        volumes.append(len(places) * math.prod(spacing))
        elongations.append(math.sqrt(variances[2] / variances[1]))
    return np.array(volumes, dtype=np.float32), np.array(elongations, dtype=np.float32)
