"""Resampling: images by nnU-Net's functions, instances by exact coverage so that no lesion is lost."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from .phase import wrap

if TYPE_CHECKING:  # imported where scans are resampled
    from scipy.sparse import csr_array

Triple = tuple[int, int, int]


def resample_images(
    images: np.ndarray, shape: Sequence[int], spacing: Sequence[float], new_spacing: Sequence[float]
) -> np.ndarray:
    """Images on another grid of the same extent, edges on edges, as nnU-Net does it.

    Cubic splines; where one axis is more than three times coarser than another, cubic within its slices and the nearest
    slice across. Values never leave the range of the input, so that splines cannot ring beyond it.

    Args:
        images: float32 [C, Z, Y, X].
        shape: new Z, Y, X.
        spacing: mm of the input voxels.
        new_spacing: mm of the target voxels.

    Returns:
        float32 [C, *shape].
    """
    if tuple(shape) == images.shape[1:]:
        return images
    from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis

    _, slices_along = determine_do_sep_z_and_axis(None, spacing, new_spacing)
    others = None if slices_along is None else tuple(axis for axis in range(3) if axis != slices_along)
    result = np.empty((len(images), *shape), dtype=np.float32)
    for channel, image in zip(result, images, strict=True):
        low, high = image.min(axis=others, keepdims=True), image.max(axis=others, keepdims=True)
        weights = [
            None if axis == slices_along or new == old else _cubic_weights(old, new)
            for axis, (old, new) in enumerate(zip(image.shape, shape, strict=True))
        ]
        if shape[0] < len(image):  # the cheaper order
            resampled = _within_planes(_across_planes(image, weights[0]), weights[1], weights[2])
        else:
            resampled = _across_planes(_within_planes(image, weights[1], weights[2]), weights[0])
        resampled = np.clip(resampled, low, high)
        if slices_along is not None:
            nearest = _nearest(image.shape[slices_along], shape[slices_along])
            resampled = np.take(resampled, nearest, axis=slices_along)
        channel[...] = resampled
    return result


@lru_cache(maxsize=32)
def _cubic_weights(old: int, new: int) -> csr_array:
    """float32 [new, old]: what each old voxel adds to each new one along an axis; parts below 1e-8 are left out.

    The splines that nnU-Net calls are linear in the image and separable, so what they make of images of one voxel says
    all. Applied axis by axis this takes less than a tenth of the time of 64 weights for each voxel.
    """
    from scipy.sparse import csr_array
    from skimage.transform import resize

    weights = resize(np.eye(old), (new, old), order=3, mode="edge", anti_aliasing=False, clip=False)
    return csr_array(np.where(np.abs(weights) > 1e-8, weights, 0).astype(np.float32))


def _across_planes(image: np.ndarray, weights: csr_array | None) -> np.ndarray:
    """An image [Z, Y, X] resampled along Z."""
    if weights is None:
        return image
    return (weights @ image.reshape(len(image), -1)).reshape(-1, *image.shape[1:])


def _within_planes(image: np.ndarray, down: csr_array | None, across: csr_array | None) -> np.ndarray:
    """An image [Z, Y, X] resampled along Y and X, a plane at a time, which then stays in the processor's cache."""
    if down is None and across is None:
        return image
    planes = []
    for plane in image:
        resampled = plane if down is None else down @ plane
        planes.append(resampled if across is None else (across @ np.ascontiguousarray(resampled.T)).T)
    return np.stack(planes)


def _nearest(old: int, new: int) -> np.ndarray:
    """[new] the old slice nearest to each new one, as nnU-Net rounds."""
    from scipy.ndimage import map_coordinates

    centres = (np.arange(new) + 0.5) * (old / new) - 0.5
    return map_coordinates(np.arange(old), centres[None], order=0, mode="nearest")


def resample_phase(
    images: np.ndarray, shape: Sequence[int], spacing: Sequence[float], new_spacing: Sequence[float]
) -> np.ndarray:
    """Phase images on another grid: cosine and sine are resampled, never the angle, which jumps where it wraps.

    Args:
        images: float32 [C, Z, Y, X] in radians.
        shape, spacing, new_spacing: as for ``resample_images``.

    Returns:
        float32 [C, *shape] in (-pi, pi]; where cosine and sine cancel out, as in pure noise, any angle.
    """
    if tuple(shape) == images.shape[1:]:
        return images
    cosine = resample_images(np.cos(images), shape, spacing, new_spacing)
    sine = resample_images(np.sin(images), shape, spacing, new_spacing)
    return wrap(np.arctan2(sine, cosine))


def resample_instances(mask: np.ndarray, shape: Triple, least_voxels: int = 1) -> tuple[np.ndarray, tuple[int, ...]]:
    """An instance mask on another grid of the same extent; every instance survives.

    A voxel belongs to the instance that covers at least half of it; coverage is exact (overlap of voxels, not samples
    of an interpolated mask). An instance left with fewer than ``least_voxels`` is redrawn at its place: the voxels
    that it covers most, as many as its volume amounts to and at least ``least_voxels``; where several share a voxel,
    the later one moves to the nearest free one. No instance is taken below ``least_voxels`` by another.

    Args:
        mask: integers [z, y, x], 0 background, one number per lesion.
        shape: new Z, Y, X.
        least_voxels: fewest voxels of an instance.

    Returns:
        int16 [*shape] and the numbers of the redrawn instances.

    Raises:
        ValueError: there are more instances than voxels to hold them.
    """
    result = np.zeros(shape, dtype=np.int16)
    if mask.shape == tuple(shape) and least_voxels <= 1:
        result[...] = mask
        return result, ()
    coverages = dict(_coverages(mask, shape))
    lost = []
    for number, (corner, coverage) in coverages.items():
        region = _region(result, corner, coverage.shape)
        kept = (coverage >= 0.5) & (region == 0)
        if np.count_nonzero(kept) < least_voxels:
            lost.append(number)
        else:
            region[kept] = number
    for number in lost:
        corner, coverage = coverages[number]
        _redraw(result, number, corner, coverage, least_voxels)
    return result, tuple(lost)


def resample_regions(mask: np.ndarray, shape: Triple) -> np.ndarray:
    """A mask of regions that fill space on another grid of the same extent: each voxel gets the region, or the 0
    outside of all, that covers most of it; coverage is exact, as for instances.

    Args:
        mask: integers [z, y, x] from 0.
        shape: new Z, Y, X.

    Returns:
        int16 [*shape].
    """
    weights = [_overlaps(0, old, old, new)[1].astype(np.float32) for old, new in zip(mask.shape, shape, strict=True)]
    best = np.zeros(shape, dtype=np.float32)
    result = np.zeros(shape, dtype=np.int16)
    for number in range(int(mask.max(initial=0)) + 1):
        coverage = (mask == number).astype(np.float32)
        for axis in range(3):
            coverage = np.moveaxis(np.tensordot(weights[axis], coverage, axes=(1, axis)), 0, axis)
        larger = coverage > best + 1e-6
        best[larger], result[larger] = coverage[larger], number
    return result


def _coverages(mask: np.ndarray, shape: Triple) -> list[tuple[int, tuple[Triple, np.ndarray]]]:
    """For each instance the first voxel of the region it touches on the new grid, and the covered fraction of each
    voxel there."""
    from scipy.ndimage import find_objects

    coverages = []
    for number, place in enumerate(find_objects(mask), start=1):
        if place is None:
            continue
        coverage = (mask[place] == number).astype(np.float64)
        corner = []
        for axis, (part, old, new) in enumerate(zip(place, mask.shape, shape, strict=True)):
            first, weights = _overlaps(part.start, part.stop, old, new)
            coverage = np.moveaxis(np.tensordot(weights, coverage, axes=(1, axis)), 0, axis)
            corner.append(first)
        coverages.append((number, ((corner[0], corner[1], corner[2]), coverage)))
    return coverages


def _overlaps(start: int, stop: int, old: int, new: int) -> tuple[int, np.ndarray]:
    """Along one axis of ``old`` voxels zoomed to ``new``: the first new voxel that old voxels ``start``..``stop``
    touch, and [touched new, stop - start] the fraction of each new voxel that each old one covers."""
    zoom = new / old
    first, last = int(np.floor(start * zoom + 1e-9)), int(np.ceil(stop * zoom - 1e-9))
    low = np.arange(start, stop) * zoom
    edges = np.arange(first, max(last, first + 1))[:, None]
    return first, np.clip(np.minimum(low + zoom, edges + 1) - np.maximum(low, edges), 0, 1)


def _region(array: np.ndarray, corner: Triple, size: tuple[int, ...]) -> np.ndarray:
    return array[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))]


def _redraw(result: np.ndarray, number: int, corner: Triple, coverage: np.ndarray, least_voxels: int) -> None:
    wanted = max(least_voxels, 1, round(float(coverage.sum())))
    places = np.argwhere(coverage > 0)
    values = coverage[tuple(places.T)]
    centroid = (places * values[:, None]).sum(axis=0) / values.sum() + corner
    order = np.lexsort((np.linalg.norm(places + corner - centroid, axis=1).round(6), -values.round(9)))
    drawn = 0
    for place in places[order] + corner:
        if drawn == wanted:
            return
        drawn += _claim(result, tuple(place), number, least_voxels)
    reach = 1
    while drawn < max(least_voxels, 1):
        low = np.maximum(np.floor(centroid).astype(int) - reach, 0)
        high = np.minimum(np.floor(centroid).astype(int) + reach + 1, result.shape)
        nearby = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), axis=-1).reshape(-1, 3)
        for place in nearby[np.argsort(np.linalg.norm(nearby - centroid, axis=1), kind="stable")]:
            if drawn < max(least_voxels, 1):
                drawn += _claim(result, tuple(place), number, least_voxels)
        if np.all(low == 0) and np.all(high == result.shape) and drawn < max(least_voxels, 1):
            raise ValueError(f"instance {number} finds no free voxel in an array of {result.shape}")
        reach *= 2


def _claim(result: np.ndarray, place: tuple[int, ...], number: int, least_voxels: int) -> bool:
    """Gives the voxel to ``number`` unless it is its own already or its owner cannot spare it."""
    owner = result[place]
    if owner == number or (owner and np.count_nonzero(result == owner) <= max(least_voxels, 1)):
        return False
    result[place] = number
    return True
