"""The brain in a magnitude image, found roughly: where statistics are taken and what a crop keeps, no segmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

Triple = tuple[int, int, int]

GRID_MM = 3.0  # everything is done on voxels of about this size
CUT_MM = 5.0  # bridges thinner than twice this are cut: vessels and nerves through the skull, muscle at its base
CLOSE_MM = 9.0  # sulci, ventricles and voids narrower than twice this belong to the brain
AIR = 0.2  # of what is bright in a head: air and its noise are darker, brain is not
TISSUE_CLIP = 1.25  # times the median tissue; fat, flow and CSF count as this bright at most
PLAUSIBLE_ML = (400.0, 2800.0)  # of whole brains of children and adults, as roughly as they are found
BINS = 256


def estimate_brain(image: np.ndarray, spacing: Sequence[float]) -> np.ndarray | None:
    """The brain of a magnitude image, with or without a skull around it.

    On a grid of about 3 mm: bright against air by Otsu's threshold (1979), eroded so that the brain comes loose from
    the scalp, the largest piece, dilated back, closed and filled.

    Args:
        image: [Z, Y, X], bright head on dark air.
        spacing: mm along z, y, x.

    Returns:
        bool [Z, Y, X]; None when what was found cannot be a brain.
    """
    spacing = [round(float(side), 4) for side in spacing]  # distances of whole voxels are ties that rounding decides
    steps = [max(1, int(GRID_MM / side + 0.5)) for side in spacing]
    coarse = _block_means(np.asarray(image, dtype=np.float32), steps)
    sides = [side * step for side, step in zip(spacing, steps, strict=True)]
    mask = _brain_of(coarse, sides)
    if mask is None:
        return None
    for axis, step in enumerate(steps):
        mask = np.repeat(mask, step, axis=axis)
    z, y, x = image.shape
    return mask[:z, :y, :x]


def _brain_of(coarse: np.ndarray, sides: Sequence[float]) -> np.ndarray | None:
    # Otsu would part CSF or fat from the rest where they are the brightest: they may not be brighter than tissue.
    tissue = coarse[coarse > AIR * np.percentile(coarse, 98.0)]
    bright = np.minimum(coarse, TISSUE_CLIP * np.median(tissue)) if tissue.size else coarse
    threshold = otsu(bright)
    if threshold is None:
        return None
    head = bright > threshold
    core = _largest(_depth(head, sides) > CUT_MM)
    if core is None:
        return None
    brain = head & (_distance(core, sides) <= CUT_MM + max(sides) / 2)
    brain = _closed(brain, sides)
    millilitres = np.count_nonzero(brain) * math.prod(sides) / 1000
    return brain if PLAUSIBLE_ML[0] <= millilitres <= PLAUSIBLE_ML[1] else None


def otsu(values: np.ndarray) -> float | None:
    """The threshold between two classes of values that leaves the least variance within them (Otsu 1979), as
    scikit-image finds it in 256 bins; None where all values are alike.

    A bin belongs to the lower class as a whole: the threshold is its upper edge, where scikit-image would name its
    middle. Only differences between bins enter the variances, so its upper edges can stand for the bins.
    """
    from skimage.filters import threshold_otsu

    low, high = float(values.min()), float(values.max())
    if not high > low:
        return None
    counts, edges = np.histogram(values, BINS, (low, high))
    return float(threshold_otsu(hist=(counts, edges[1:])))


def _block_means(image: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """Means of blocks of ``steps`` voxels; the last block of an axis takes its own edge values for what is missing."""
    padding = [(0, -side % step) for side, step in zip(image.shape, steps, strict=True)]
    if any(after for _, after in padding):
        image = np.pad(image, padding, mode="edge")
    for axis, step in enumerate(steps):
        if step > 1:
            shape = (*image.shape[:axis], image.shape[axis] // step, step, *image.shape[axis + 1 :])
            image = image.reshape(shape).mean(axis=axis + 1)
    return image


def _depth(mask: np.ndarray, sides: Sequence[float]) -> np.ndarray:
    """mm to the nearest voxel outside; the edge of the scan is no outside, a scan may end within the head."""
    depth: np.ndarray = ndimage.distance_transform_edt(np.pad(mask, 1, mode="edge"), sampling=sides)
    return depth[1:-1, 1:-1, 1:-1]


def _distance(mask: np.ndarray, sides: Sequence[float]) -> np.ndarray:
    """mm to the nearest voxel of the mask."""
    distance: np.ndarray = ndimage.distance_transform_edt(~mask, sampling=sides)
    return distance


def _largest(mask: np.ndarray) -> np.ndarray | None:
    pieces, count = ndimage.label(mask)
    if not count:
        return None
    largest: np.ndarray = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    return largest


def _closed(mask: np.ndarray, sides: Sequence[float]) -> np.ndarray:
    """Closed by ``CLOSE_MM`` and filled."""
    border = [int(CLOSE_MM / side) + 2 for side in sides]
    wide = np.pad(mask, [(n, n) for n in border])
    wide = _distance(wide, sides) <= CLOSE_MM
    wide = ndimage.distance_transform_edt(wide, sampling=sides) > CLOSE_MM
    inner = wide[tuple(slice(n, -n) for n in border)]
    filled: np.ndarray = ndimage.binary_fill_holes(inner | mask)
    return filled
