"""Anchors fitted to the lesions of a data set, and how well they fit where lesions really lie: between the anchors' centres."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from .plan import Anchors, Triple

Size = tuple[float, float, float]

DEFAULT_SIZES_MM = (3.0, 5.0, 10.0)  # small, middle and largest microbleed: for data sets without any labelled lesion
SMALLEST_SIDE = 1.0  # voxels; no lesion of an instance mask is smaller
LEAST_RATIO = 1.1  # between neighbouring lengths: closer ones are one anchor paid for twice
MOST_BOXES = 400  # a larger data set is thinned out at random: the fit needs the distribution, not every box


def fit_anchors(box_sizes: np.ndarray, strides: Sequence[Triple], per_axis: int = 3, seed: int = 0) -> Anchors:
    """Anchor sizes that maximise the mean best IoU with the boxes of a data set, and their quality.

    nnDetection's scheme: ``per_axis`` lengths along each axis for the finest level, all their combinations
    (27 for 3), and for every coarser level the same sizes times the ratio of its stride to the finest one's. The lengths
    are found on concentric boxes (size alone decides, so that regression starts near zero) by coordinate descent on
    logarithmic lengths from several quantiles of the boxes; deterministic.

    Args:
        box_sizes: [N, 3] sides of the boxes in network voxels, z, y, x; N may not be 0.
        strides: stride of each detection level in network voxels, finest first.
        per_axis: lengths along each axis.
        seed: of the thinning and of the random places in the measured quality.
    """
    sizes = np.maximum(np.asarray(box_sizes, dtype=float).reshape(-1, 3), SMALLEST_SIDE)
    sample = sizes
    if len(sizes) > MOST_BOXES:
        sample = sizes[np.random.default_rng(seed).choice(len(sizes), MOST_BOXES, replace=False)]
    ratios = np.asarray(strides, dtype=float) / np.asarray(strides[0], dtype=float)
    starts = [np.quantile(sample, (np.arange(per_axis) + 0.5) / per_axis * spread, axis=0) for spread in (1.0, 0.75, 0.5)]
    fits = [_descend(start, sample, ratios) for start in starts]
    lengths = _apart(max(fits, key=lambda fit: _concentric_quality(fit, sample, ratios)))
    levels = anchors_of_lengths(lengths, strides)
    mean, worst = anchor_quality(sizes, levels, strides, seed=seed)
    return Anchors(levels, mean, worst)


def default_anchors(spacing: Sequence[float], strides: Sequence[Triple], per_axis: int = 3) -> Anchors:
    """Anchors for a data set without any lesion: microbleeds of 3, 5 and 10 mm, or as many lengths between 3 and 10 mm.

    Args:
        spacing: network voxel in mm, z, y, x.
        strides: as for ``fit_anchors``.
        per_axis: lengths along each axis.
    """
    millimetres = DEFAULT_SIZES_MM if per_axis == len(DEFAULT_SIZES_MM) else np.geomspace(3.0, 10.0, per_axis)
    lengths = np.asarray(millimetres)[:, None] / np.asarray(spacing, dtype=float)
    return Anchors(anchors_of_lengths(np.maximum(lengths, SMALLEST_SIDE), strides))


def anchors_of_lengths(lengths: np.ndarray, strides: Sequence[Triple]) -> tuple[tuple[Size, ...], ...]:
    """All combinations of the finest level's lengths, scaled to each level by its stride; rounded to 1/1000 voxel.

    Args:
        lengths: [per_axis, 3] lengths along z, y, x at the finest level, in network voxels.
        strides: stride of each detection level, finest first.
    """
    combinations = np.array(list(itertools.product(*np.sort(lengths, axis=0).T)))
    ratios = np.asarray(strides, dtype=float) / np.asarray(strides[0], dtype=float)
    levels = []
    for ratio in ratios:
        rounded = np.round(combinations * ratio, 3)
        levels.append(tuple((float(z), float(y), float(x)) for z, y, x in rounded))
    return tuple(levels)


def anchor_quality(
    box_sizes: np.ndarray,
    sizes: Sequence[Sequence[Size]],
    strides: Sequence[Triple],
    offsets: int = 8,
    seed: int = 0,
) -> tuple[float, float]:
    """Best IoU of boxes with any anchor when they lie at random places on the lattice of the levels.

    The places matter more than the sizes: anchors stand ``stride`` voxels apart, so a 3x4x4 voxel lesion at stride
    (2, 4, 4) lies up to half its side from the nearest centre, however well the sizes fit.

    Args:
        box_sizes: [N, 3] sides in network voxels, N > 0.
        sizes: (z, y, x) anchor sizes of each level, finest first.
        strides: stride of each level; location k of a map lies at (k + 0.5) * stride.
        offsets: random places tried per box.
        seed: of the places.

    Returns:
        mean over boxes and places, and the smallest of all.
    """
    boxes = np.maximum(np.asarray(box_sizes, dtype=float).reshape(-1, 3), SMALLEST_SIDE)
    boxes = np.repeat(boxes, offsets, axis=0)
    period = np.lcm.reduce(np.asarray(strides, dtype=int), axis=0)
    centres = np.random.default_rng(seed).random((len(boxes), 3)) * period
    best = np.zeros(len(boxes))
    for level_sizes, stride in zip(sizes, strides, strict=True):
        # Along each axis overlap falls with distance, so the nearest location of a level holds its best anchor.
        distance = np.abs((centres / stride) % 1.0 - 0.5) * stride
        best = np.maximum(best, _best_iou(boxes, np.asarray(level_sizes, dtype=float), distance))
    return float(best.mean()), float(best.min())


def _best_iou(boxes: np.ndarray, anchors: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """[N] best IoU of boxes [N, 3] with anchors [A, 3] whose centres lie ``distance`` [N, 3] away along each axis."""
    best = np.zeros(len(boxes))
    for start in range(0, len(boxes), 4096):
        part, away = boxes[start : start + 4096, None], distance[start : start + 4096, None]
        low = np.maximum(-part / 2, away - anchors / 2)
        high = np.minimum(part / 2, away + anchors / 2)
        overlap = np.clip(high - low, 0, None).prod(axis=2)
        union = part.prod(axis=2) + anchors.prod(axis=1) - overlap
        best[start : start + 4096] = (overlap / union).max(axis=1)
    return best


def _concentric_quality(lengths: np.ndarray, boxes: np.ndarray, ratios: np.ndarray) -> float:
    """Mean over boxes [N, 3] of the best IoU with any anchor of any level, all on one centre.

    Overlap and volume are products over the axes, so both are built from [N, per_axis] tables.
    """
    best = np.zeros(len(boxes))
    volume = boxes.prod(axis=1)[:, None, None, None]
    for ratio in ratios:
        z, y, x = (lengths * ratio).T
        overlap = (
            np.minimum(boxes[:, 0, None], z)[:, :, None, None]
            * np.minimum(boxes[:, 1, None], y)[:, None, :, None]
            * np.minimum(boxes[:, 2, None], x)[:, None, None, :]
        )
        anchor_volume = z[:, None, None] * y[None, :, None] * x[None, None, :]
        iou = overlap / (volume + anchor_volume - overlap)
        best = np.maximum(best, iou.reshape(len(boxes), -1).max(axis=1))
    return float(best.mean())


def _descend(start: np.ndarray, boxes: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Coordinate descent: each length in turn tries factors around its value, ever closer ones."""
    lengths = np.clip(start, SMALLEST_SIDE, None)
    low, high = boxes.min(axis=0), boxes.max(axis=0)
    quality = _concentric_quality(lengths, boxes, ratios)
    for width in (0.5, 0.25, 0.12, 0.06, 0.03):
        for i, axis in itertools.product(range(lengths.shape[0]), range(3)):
            for factor in np.exp(width * np.array([-1.0, -0.5, 0.5, 1.0])):
                trial = lengths.copy()
                trial[i, axis] = np.clip(trial[i, axis] * factor, low[axis], high[axis])
                trial_quality = _concentric_quality(trial, boxes, ratios)
                if trial_quality > quality:
                    lengths, quality = trial, trial_quality
    return lengths


def _apart(lengths: np.ndarray) -> np.ndarray:
    """Sorted lengths, the larger of two near-equal ones made longer: boxes of few different sizes attract several to one value."""
    lengths = np.sort(lengths, axis=0)
    for i in range(1, len(lengths)):
        lengths[i] = np.maximum(lengths[i], lengths[i - 1] * LEAST_RATIO)
    return lengths
