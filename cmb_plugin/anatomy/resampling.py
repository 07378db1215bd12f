"""Label maps brought to the grid of a scan, by the nearest voxel in world coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np

from cmb_plugin.images import Grid, resample


def resample_labels(labels: np.ndarray, source: Grid, target: Grid, transform: Any = None) -> np.ndarray:
    """Labels [z, y, x] on ``source`` -> on ``target``, each voxel that of the nearest centre; 0 beyond the source.

    Args:
        transform: SimpleITK transform from the world of the target to that of the source; None where they are one.
    """
    if transform is None and source.matches(target):
        return labels
    return resample(labels, source, target, transform, nearest=True)
