"""A point becomes a lesion: growing into the dark (or bright) neighbourhood of a click."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

RING_MM = 3.0
"""Width of the ring around a lesion with which it is compared."""

LEAST_CNR = 2.0
"""A point whose surroundings do not stand out by so many deviations of the ring gets a ball instead."""

FRACTIONS = (0.5, 0.6, 0.7, 0.8)
"""Where between ring and core the border is drawn: half way, as a rater does, unless the lesion then runs out into a
vessel or the edge of the brain."""

SEED_MM = 1.5
"""The core is looked for so close to the point, and in every voxel that touches it."""

_TOUCHING = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Growth:
    """What was drawn at a point.

    Attributes:
        voxels: int [K, 3] indices z, y, x; at least one.
        how: ``grown``, or ``ball`` where nothing stood out.
    """

    voxels: np.ndarray
    how: str


def grow_points(
    image: np.ndarray,
    spacing: Sequence[float],
    points: np.ndarray,
    *,
    bright: bool = False,
    most_mm: float = 10.0,
    ball_mm: float = 3.0,
) -> list[Growth]:
    """Draws a lesion at every point.

    Around each point the image is compared with a ring outside; the lesion is what lies beyond half the way from the
    ring's median to the core and is connected to it. It is bounded by ``most_mm``, by the surfaces that lie half
    way to the other points and by the valleys between them, and its box stays centred on the point within half a
    voxel. What runs out (into a vessel, out of the brain) is drawn narrower; where nothing stands out, a ball of
    ``ball_mm`` is drawn.

    Args:
        image: [z, y, x], finite.
        spacing: voxel size in mm along z, y, x.
        points: [N, 3] voxel-edge coordinates z, y, x inside the image.
        bright: lesions are brighter than their surroundings (QSM).
        most_mm: largest diameter.
        ball_mm: diameter of the ball.
    """
    points = np.asarray(points, dtype=float).reshape(-1, 3)
    return [_grow(image, np.asarray(spacing, float), points, i, bright, most_mm, ball_mm) for i in range(len(points))]


def ball_voxels(
    point: np.ndarray, diameter_mm: float, spacing: Sequence[float] | np.ndarray, shape: Sequence[int]
) -> np.ndarray:
    """[K, 3] indices of the voxels whose centre lies within a ball; at least the one that holds its centre.

    Args:
        point: voxel-edge coordinates z, y, x.
        diameter_mm: of the ball.
        spacing: voxel size in mm along z, y, x.
        shape: of the image.
    """
    lower, upper = _around(point, diameter_mm / 2, spacing, shape)
    index = np.argwhere(np.ones(upper - lower, bool)) + lower
    inside = index[np.linalg.norm((index + 0.5 - point) * np.asarray(spacing), axis=1) <= diameter_mm / 2 + 1e-9]
    own = np.clip(np.floor(point).astype(int), 0, np.asarray(shape) - 1)
    return inside if len(inside) else own[None]


def _grow(
    image: np.ndarray,
    spacing: np.ndarray,
    points: np.ndarray,
    number: int,
    bright: bool,
    most_mm: float,
    ball_mm: float,
) -> Growth:
    point, radius = points[number], most_mm / 2
    lower, upper = _around(point, radius + RING_MM, spacing, image.shape)
    place = tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))
    values = image[place].astype(np.float64)
    values = values if bright else -values
    offsets = (np.indices(values.shape).reshape(3, -1).T + lower + 0.5).reshape(*values.shape, 3)
    distance = np.linalg.norm((offsets - point) * spacing, axis=-1)
    others = np.delete(points, number, axis=0)
    others = others[np.linalg.norm((others - point) * spacing, axis=1) < 2 * (radius + RING_MM)]
    to_others = np.full(values.shape, np.inf)
    for other in others:
        to_others = np.minimum(to_others, np.linalg.norm((offsets - other) * spacing, axis=-1))
    allowed = (distance <= radius) & (distance < to_others) & ~_empty(image[place])
    ball = ball_voxels(point, ball_mm, spacing, image.shape)
    near = allowed & (distance <= max(SEED_MM, float(np.linalg.norm(spacing)) / 2 + 1e-6))
    if not near.any():
        return Growth(ball, "ball")
    near_values = np.where(near, values, -np.inf)
    seed = np.unravel_index(int(near_values.argmax()), near.shape)
    if len(others):
        allowed &= _basin(values, seed, others, lower)
    voxels = None
    inner = 2.5
    for _ in range(2):  # the ring first lies around an average lesion, then around this one
        voxels = _region(values, distance, to_others, allowed, seed, inner, radius, spacing) if allowed[seed] else None
        if voxels is None:
            return Growth(ball, "ball")
        inner = min(float(distance[voxels].max()) + float(np.min(spacing)), radius)
    assert voxels is not None
    centred = _centred(voxels, point - lower)
    if centred is None:
        return Growth(ball, "ball")
    return Growth(np.argwhere(centred) + lower, "grown")


def _region(
    values: np.ndarray,
    distance: np.ndarray,
    to_others: np.ndarray,
    allowed: np.ndarray,
    seed: tuple[np.intp, ...],
    inner: float,
    radius: float,
    spacing: np.ndarray,
) -> np.ndarray | None:
    """bool, the voxels beyond a fraction of the way from ring to core that are connected; None where none stand out."""
    ring = (distance > inner) & (distance <= inner + RING_MM) & (to_others > inner) & ~_empty(values)
    if np.count_nonzero(ring) < 8:
        return None
    base = float(np.median(values[ring]))
    spread = 1.4826 * float(np.median(np.abs(values[ring] - base)))
    core = float(values[seed])
    if core - base <= LEAST_CNR * spread or core <= base:
        return None
    for fraction in FRACTIONS:
        labels, _ = ndimage.label(allowed & (values > base + fraction * (core - base)), structure=_TOUCHING)
        region = labels == labels[seed]
        equal = (3 * np.count_nonzero(region) * float(np.prod(spacing)) / (4 * np.pi)) ** (1 / 3)
        farthest = float(distance[region].max())
        if farthest <= radius - float(np.min(spacing)) / 2 and farthest <= 2 * equal + float(np.max(spacing)) / 2:
            return ndimage.binary_fill_holes(region) & allowed
    return None


def _empty(values: np.ndarray) -> np.ndarray:
    """bool, zeros that reach the border of the crop: what a mask has cut off, not a dark lesion."""
    zeros = values == 0
    if not zeros.any():
        return zeros
    labels, _ = ndimage.label(zeros)
    faces = [labels.take(i, axis=a) for a in range(3) for i in (0, -1)]
    return np.isin(labels, np.unique(np.concatenate([face.ravel() for face in faces]))) & zeros


def _basin(values: np.ndarray, seed: tuple[np.intp, ...], others: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """bool, what drains to the seed and not to another point."""
    from skimage.segmentation import watershed

    markers = np.zeros(values.shape, dtype=np.int32)
    for other in others:
        index = np.floor(other).astype(int) - lower
        if (index >= 0).all() and (index < values.shape).all():
            markers[tuple(index)] = 2
    markers[seed] = 1
    basins: np.ndarray = watershed(-values, markers) == 1
    return basins


def _centred(region: np.ndarray, point: np.ndarray) -> np.ndarray | None:
    """The region cut so that the middle of its box lies within half a voxel of ``point``; None if nothing is left."""
    region = region.copy()
    for _ in range(20):
        found = ndimage.find_objects(region.astype(np.uint8))
        if not found or found[0] is None:
            return None
        done = True
        for axis, extent in enumerate(found[0]):
            below, above = point[axis] - extent.start, extent.stop - point[axis]
            if abs(above - below) <= 1 + 1e-6:
                continue
            done = False
            cut = [slice(None)] * 3
            side = slice(extent.stop - 1, None) if above > below else slice(None, extent.start + 1)
            cut[axis] = side
            region[tuple(cut)] = False
        if done:
            return region
    return None


def _around(
    point: np.ndarray, reach_mm: float, spacing: Sequence[float] | np.ndarray, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last voxel of the crop within ``reach_mm`` of a point."""
    reach = reach_mm / np.asarray(spacing)
    side = np.asarray(shape)
    lower = np.clip(np.floor(point - reach), 0, side - 1).astype(int)
    upper = np.clip(np.ceil(point + reach), lower + 1, side).astype(int)
    return lower, upper
