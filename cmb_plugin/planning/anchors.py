"""Anchors fitted to the lesions of a data set where lesions really lie: anywhere between the anchors' centres."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from .plan import AnchorFit, Anchors, Triple

Size = tuple[float, float, float]

DEFAULT_SIZES_MM = (3.0, 5.0, 10.0)  # small, middle and largest microbleed: for data sets without any labelled lesion
SMALLEST_SIDE = 1.0  # voxels; no lesion of an instance mask is smaller
LEAST_RATIO = 1.1  # between neighbouring lengths: closer ones are one anchor paid for twice
LEAST_PLACES = 8  # random places per box
SIZE_BINS_MM = (2.0, 3.0, 5.0)  # edges of the classes of diameter in which the fit is reported
PLACED_BOXES = 2000  # boxes times places in a fit: enough for a smooth mean, few enough for seconds


def fit_anchors(box_sizes: np.ndarray, strides: Sequence[Triple], per_axis: int = 3, seed: int = 0) -> Anchors:
    """Anchor sizes that maximise the mean best IoU with the boxes of a data set, and that IoU.

    nnDetection's scheme: ``per_axis`` lengths along each axis for the finest level, all their combinations (27 for
    3), and for every coarser level the same sizes times the ratio of its stride to the finest one's. Where
    nnDetection fits concentric boxes, here each box lies at random places on the lattice of the levels: with strides
    as large as the lesions the best anchor is larger than the lesion, so that it still reaches it. Found by
    coordinate descent on the logarithms of the lengths from the best of several starts; deterministic.

    Args:
        box_sizes: [N, 3] sides of the boxes in network voxels, z, y, x; N > 0.
        strides: stride of each detection level in network voxels, finest first.
        per_axis: lengths along each axis.
        seed: of the random places; data sets of very many boxes are thinned with it.
    """
    sizes = _at_least_a_voxel(box_sizes)
    rng = np.random.default_rng(seed)
    most = PLACED_BOXES // LEAST_PLACES
    sample = sizes if len(sizes) <= most else sizes[rng.choice(len(sizes), most, replace=False)]
    lattice = _Lattice.at_random(sample, strides, PLACED_BOXES // len(sample), rng)
    high = sample.max(axis=0) + strides[0]
    start = max(_starts(sample, strides[0], per_axis), key=lattice.mean_best_iou)
    levels = anchors_of_lengths(_apart(_descend(start, high, lattice.mean_best_iou)), strides)
    mean, worst = anchor_quality(sizes, levels, strides, seed=seed + 1)
    return Anchors(levels, round(mean, 4), round(worst, 4))


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


def fit_free_anchors(box_sizes: np.ndarray, strides: Sequence[Triple], count: int = 3, seed: int = 0) -> Anchors:
    """``count`` anchors per location, each with a (z, y, x) of its own, that maximise the mean best IoU; and that IoU.

    All combinations of three lengths per axis, as ``fit_anchors`` has them, spend most of their 27 anchors on shapes
    that no microbleed has: flat, long, tall at once. Free triples go where the boxes are. The boxes lie at random
    places, as there. Rare sizes count more than their number, each octave of volume by the square root of it: a lesion
    that no anchor reaches is not learned. Found by coordinate descent on the logarithms of the sides, from the best of
    several starts: medians of as many groups of boxes of like volume, smaller and larger and lengthened by a share of
    the stride; deterministic.

    Args:
        box_sizes: [N, 3] sides of the boxes in network voxels, z, y, x; N > 0.
        strides: stride of each detection level in network voxels, finest first; coarser levels carry the same anchors
            times the ratio of the strides.
        count: anchors per location.
        seed: of the random places; data sets of very many boxes are thinned with it.
    """
    sizes = _at_least_a_voxel(box_sizes)
    rng = np.random.default_rng(seed)
    most = PLACED_BOXES // LEAST_PLACES
    sample = sizes if len(sizes) <= most else sizes[rng.choice(len(sizes), most, replace=False)]
    places = PLACED_BOXES // len(sample)
    lattice = _Lattice.at_random(sample, strides, places, rng)
    lattice.weights = np.repeat(rarity(sample), places)
    high = sample.max(axis=0) + strides[0]
    start = max(_free_starts(sample, strides[0], count), key=lattice.mean_best_iou_of)
    fitted = _descend(start, high, lattice.mean_best_iou_of)
    levels = _scaled(fitted[np.argsort(fitted.prod(axis=1), kind="stable")], strides)
    mean, worst = anchor_quality(sizes, levels, strides, seed=seed + 1)
    return Anchors(levels, round(mean, 4), round(worst, 4))


def rarity(sizes: np.ndarray) -> np.ndarray:
    """[N] weights of boxes [N, 3]: one over the square root of how many share their octave of volume."""
    octaves = np.floor(np.log2(sizes.prod(axis=1)))
    _, group, counts = np.unique(octaves, return_inverse=True, return_counts=True)
    weights: np.ndarray = 1 / np.sqrt(counts[group.ravel()])
    return weights


def default_free_anchors(spacing: Sequence[float], strides: Sequence[Triple], count: int = 3) -> Anchors:
    """As ``default_anchors``: cubes in mm of 3, 5 and 10 mm, or of ``count`` sides from 3 to 10 mm."""
    millimetres = DEFAULT_SIZES_MM if count == len(DEFAULT_SIZES_MM) else np.geomspace(3.0, 10.0, count)
    sides = np.asarray(millimetres)[:, None] / np.asarray(spacing, dtype=float)
    return Anchors(_scaled(np.maximum(sides, SMALLEST_SIDE), strides))


def fit_by_size(
    anchors: Anchors, box_sizes: np.ndarray, strides: Sequence[Triple], spacing: Sequence[float], seed: int = 0
) -> tuple[AnchorFit, ...]:
    """How well anchors fit the lesions of each size: under 2, 2 to 3, 3 to 5, and 5 mm or more.

    Args:
        anchors: what to judge.
        box_sizes: [N, 3] sides of the boxes in network voxels.
        strides: as for the fit.
        spacing: network voxel in mm; the diameter is taken along its last two axes, in the slice.
        seed: of the random places.
    """
    fits = []
    for name, chosen in by_diameter(box_sizes, spacing):
        mean, worst = anchor_quality(chosen, anchors.sizes, strides, seed=seed) if len(chosen) else (None, None)
        fits.append(AnchorFit(name, len(chosen), _rounded(mean), _rounded(worst)))
    return tuple(fits)


def by_diameter(box_sizes: np.ndarray, spacing: Sequence[float]) -> list[tuple[str, np.ndarray]]:
    """Lesions by size: for each range of diameters in mm its name, and the sides [N, 3] in voxels of those in it.

    Args:
        box_sizes, spacing: as for ``fit_by_size``.
    """
    sizes = np.asarray(box_sizes, dtype=float).reshape(-1, 3)
    diameters = np.sqrt((sizes * np.asarray(spacing))[:, 1:].prod(axis=1))
    edges = (0.0, *SIZE_BINS_MM, np.inf)
    names = [f"< {SIZE_BINS_MM[0]:g} mm"]
    names += [f"{low:g}-{high:g} mm" for low, high in itertools.pairwise(SIZE_BINS_MM)]
    names += [f">= {SIZE_BINS_MM[-1]:g} mm"]
    return [
        (name, sizes[(diameters >= low) & (diameters < high)])
        for name, low, high in zip(names, edges[:-1], edges[1:], strict=True)
    ]


def anchors_of_lengths(lengths: np.ndarray, strides: Sequence[Triple]) -> tuple[tuple[Size, ...], ...]:
    """All combinations of the finest level's lengths, scaled to each level by its stride; rounded to 1/1000 voxel.

    Args:
        lengths: [per_axis, 3] lengths along z, y, x at the finest level, in network voxels.
        strides: stride of each detection level, finest first.
    """
    return _scaled(np.array(list(itertools.product(*np.sort(lengths, axis=0).T))), strides)


def _scaled(sizes: np.ndarray, strides: Sequence[Triple]) -> tuple[tuple[Size, ...], ...]:
    """The finest level's sizes [A, 3] for every level, by the ratio of the strides; rounded to 1/1000 voxel."""
    levels = []
    for ratio in _ratios(strides):
        rounded = np.round(sizes * ratio, 3)
        levels.append(tuple((float(z), float(y), float(x)) for z, y, x in rounded))
    return tuple(levels)


def anchor_quality(
    box_sizes: np.ndarray,
    sizes: Sequence[Sequence[Size]],
    strides: Sequence[Triple],
    places: int | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    """Best IoU of boxes with any anchor when they lie at random places on the lattice of the levels.

    The places matter more than the sizes: anchors stand ``stride`` voxels apart, so a 3x4x4 voxel lesion at stride
    (2, 4, 4) lies up to half its side from the nearest centre, however well the sizes fit.

    Args:
        box_sizes: [N, 3] sides in network voxels, N > 0.
        sizes: (z, y, x) anchor sizes of each level, finest first.
        strides: stride of each level; location k of a map lies at (k + 0.5) * stride.
        places: random places tried per box; None tries at least 8, and more where there are few boxes.
        seed: of the places.

    Returns:
        mean over boxes and places, and the smallest of all.
    """
    boxes = _at_least_a_voxel(box_sizes)
    places = places or max(LEAST_PLACES, PLACED_BOXES // len(boxes))
    lattice = _Lattice.at_random(boxes, strides, places, np.random.default_rng(seed))
    best = np.zeros(len(lattice.boxes))
    for anchors, distance in zip(sizes, lattice.distances, strict=True):
        for part in np.array_split(np.arange(len(best)), len(best) // 4096 + 1):
            overlaps = _overlaps(lattice.boxes[part, None], np.asarray(anchors), distance[part, None])
            union = lattice.boxes[part, None].prod(axis=2) + np.prod(anchors, axis=1) - overlaps.prod(axis=2)
            best[part] = np.maximum(best[part], (overlaps.prod(axis=2) / union).max(axis=1))
    return float(best.mean()), float(best.min())


class _Lattice:
    """Boxes at places on the lattice of the levels' anchor centres.

    Along each axis overlap falls with distance, so the nearest location of a level holds its best anchor, and only the
    distance to it is kept.

    Attributes:
        boxes: [N, 3] sides.
        distances: for each level [N, 3] distance of the box's centre to the nearest location along each axis.
        ratios: stride of each level relative to the finest.
        weights: [N] of the boxes in the mean over free anchors; None counts them alike.
    """

    weights: np.ndarray | None = None

    def __init__(self, boxes: np.ndarray, centres: np.ndarray, strides: Sequence[Triple]) -> None:
        self.boxes = boxes
        self.distances = [
            np.abs((centres / stride) % 1.0 - 0.5) * stride for stride in np.asarray(strides, dtype=float)
        ]
        self.ratios = _ratios(strides)

    @classmethod
    def at_random(cls, boxes: np.ndarray, strides: Sequence[Triple], places: int, rng: np.random.Generator) -> _Lattice:
        """Each of ``boxes`` [N, 3] ``places`` times, its centre drawn evenly over a period of the strides."""
        boxes = np.repeat(boxes, places, axis=0)
        period = np.lcm.reduce(np.asarray(strides, dtype=int), axis=0)
        return cls(boxes, rng.random((len(boxes), 3)) * period, strides)

    def mean_best_iou(self, lengths: np.ndarray) -> float:
        """For all combinations of ``lengths`` [per_axis, 3]; built from [N, per_axis] tables, as overlap and volume
        are products."""
        best = np.zeros(len(self.boxes))
        volume = self.boxes.prod(axis=1)[:, None, None, None]
        for ratio, distance in zip(self.ratios, self.distances, strict=True):
            anchors = lengths * ratio
            table = _overlaps(self.boxes[:, None], anchors, distance[:, None])
            overlap = table[:, :, None, None, 0] * table[:, None, :, None, 1] * table[:, None, None, :, 2]
            z, y, x = anchors.T
            union = volume + z[:, None, None] * y[:, None] * x - overlap
            best = np.maximum(best, (overlap / union).reshape(len(best), -1).max(axis=1))
        return float(best.mean())

    def mean_best_iou_of(self, sizes: np.ndarray) -> float:
        """For free anchors ``sizes`` [A, 3] of the finest level."""
        best = np.zeros(len(self.boxes))
        volume = self.boxes.prod(axis=1)[:, None]
        for ratio, distance in zip(self.ratios, self.distances, strict=True):
            anchors = sizes * ratio
            overlap = _overlaps(self.boxes[:, None], anchors, distance[:, None]).prod(axis=2)
            best = np.maximum(best, (overlap / (volume + anchors.prod(axis=1) - overlap)).max(axis=1))
        return float(np.average(best, weights=self.weights))


def _overlaps(boxes: np.ndarray, anchors: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Overlap along each axis of intervals of length ``boxes`` and ``anchors`` whose centres lie ``distance`` apart."""
    shorter = np.minimum(boxes, anchors)
    return np.clip((boxes + anchors) / 2 - distance, 0, shorter)


def _starts(sample: np.ndarray, stride: Triple, per_axis: int) -> list[np.ndarray]:
    """[per_axis, 3] lengths to begin with: quantiles of the boxes, or a spread around their median, smaller and larger,
    and lengthened by up to half a stride, by which an anchor may lie off."""
    quantiles = np.quantile(sample, (np.arange(per_axis) + 0.5) / per_axis, axis=0)
    spread = np.median(sample, axis=0) * np.geomspace(0.6, 1.7, per_axis)[:, None]
    reach = np.asarray(stride, dtype=float) / 2
    return [
        np.maximum(factor * lengths + share * reach, SMALLEST_SIDE)
        for lengths in (quantiles, spread)
        for factor in (0.5, 0.75, 1.0, 1.4)
        for share in (0.0, 0.5, 1.0)
    ]


def _free_starts(sample: np.ndarray, stride: Triple, count: int) -> list[np.ndarray]:
    """[count, 3] sides to begin with: medians of ``count`` groups of boxes of like volume, then as ``_starts``."""
    order = np.argsort(sample.prod(axis=1), kind="stable")
    groups = [part if len(part) else order for part in np.array_split(order, count)]
    medians = np.array([np.median(sample[part], axis=0) for part in groups])
    spread = np.median(sample, axis=0) * np.geomspace(0.6, 1.7, count)[:, None]
    reach = np.asarray(stride, dtype=float) / 2
    return [
        np.maximum(factor * sides + share * reach, SMALLEST_SIDE)
        for sides in (medians, spread)
        for factor in (0.75, 1.0, 1.4)
        for share in (0.0, 0.5, 1.0)
    ]


def _descend(start: np.ndarray, high: np.ndarray, mean_best_iou: Callable[[np.ndarray], float]) -> np.ndarray:
    """Coordinate descent: each length in turn tries factors around its value, ever closer ones."""
    lengths = np.clip(start, SMALLEST_SIDE, high)
    quality = mean_best_iou(lengths)
    for width in (0.5, 0.25, 0.12, 0.06):
        for i, axis in itertools.product(range(lengths.shape[0]), range(3)):
            for factor in np.exp([-width, width]):
                trial = lengths.copy()
                trial[i, axis] = np.clip(trial[i, axis] * factor, SMALLEST_SIDE, high[axis])
                trial_quality = mean_best_iou(trial)
                if trial_quality > quality:
                    lengths, quality = trial, trial_quality
    return lengths


def _apart(lengths: np.ndarray) -> np.ndarray:
    """Sorted lengths, the larger of two near-equal ones made longer: boxes of few different sizes attract several
    to one value."""
    lengths = np.sort(lengths, axis=0)
    for i in range(1, len(lengths)):
        lengths[i] = np.maximum(lengths[i], lengths[i - 1] * LEAST_RATIO)
    return lengths


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _at_least_a_voxel(box_sizes: np.ndarray) -> np.ndarray:
    return np.maximum(np.asarray(box_sizes, dtype=float).reshape(-1, 3), SMALLEST_SIDE)


def _ratios(strides: Sequence[Triple]) -> np.ndarray:
    return np.asarray(strides, dtype=float) / np.asarray(strides[0], dtype=float)
