"""Ghosts in the air beside the head: what motion and flow leave along the phase encoding."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cmb_plugin.images import Grid

HEAD = 0.3  # of the brain's brightness: what is brighter is head, not its ghost
MARGIN_MM = 6.0  # around the head, where the point spread and the ears still shine
FEWEST_VOXELS = 2000  # of air beside the head, and as many in the corners, to measure by
MASKED = 0.2  # share of zeros in the air from which on the scan was cut out or the air removed


def ghost_strength(scan: np.ndarray, grid: Grid, brain: np.ndarray) -> float | None:
    """How much brighter the air beside the head is than that of the image's corners, as a share of the brain's signal.

    A displaced copy of the head appears along the phase encoding only, so the image's corners, beside the head along
    neither axis, hold noise alone. It is the ghost-to-signal ratio of echo planar imaging (Giannelli et al.
    2010) for copies at any distance.

    Args:
        scan: [z, y, x], slices first, finite or not.
        grid: of the scan.
        brain: bool [z, y, x].

    Returns:
        None where the air was masked or is too little.
    """
    slices = brain.any(axis=(1, 2))
    values = np.nan_to_num(scan[slices].astype(np.float32))
    bright = float(np.median(values[brain[slices]]))
    if bright <= 0:
        return None
    head = (values > HEAD * bright) | brain[slices]
    reach = [max(1, round(MARGIN_MM / side)) for side in grid.spacing[1:]]
    # Single bright voxels of noise are no head.
    head = ndimage.binary_opening(head, np.ones((1, 3, 3), bool))
    rows, columns = head.any(axis=(0, 2)), head.any(axis=(0, 1))
    rows, columns = (
        ndimage.binary_dilation(line, iterations=n) for line, n in zip((rows, columns), reach, strict=True)
    )
    corners = values[:, ~rows][:, :, ~columns]
    if corners.size < FEWEST_VOXELS or (corners == 0).mean() > MASKED:
        return None
    beside = [
        part
        for part in (values[:, ~rows][:, :, columns], values[:, rows][:, :, ~columns])
        if part.size >= FEWEST_VOXELS
    ]
    return max((float(part.mean()) - float(corners.mean())) / bright for part in beside)
