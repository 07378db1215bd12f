"""One scan set becomes the array that a network sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmb_plugin.images import Grid, Mapping, boxes_of_instances

from .intensities import normalise, replace_nonfinite
from .recipe import Preprocessing
from .resampling import resample_images, resample_instances


@dataclass(frozen=True)
class PreparedCase:
    """A preprocessed case.

    Attributes:
        data: float32 [C, Z, Y, X].
        instances: int16 [Z, Y, X] with one number per lesion, or None for a scan without labels.
        mapping: the way from the scan's voxels to the array's and back.
        truth: instance number -> box [6] in the scan's voxels.
        redrawn: numbers of the instances that resampling alone would have lost.
        nonfinite: number of values that were NaN or infinite and became 0.
    """

    data: np.ndarray
    instances: np.ndarray | None
    mapping: Mapping
    truth: dict[int, np.ndarray]
    redrawn: tuple[int, ...] = ()
    nonfinite: int = 0


def preprocess_case(
    images: np.ndarray, grid: Grid, instances: np.ndarray | None, recipe: Preprocessing
) -> PreparedCase:
    """Orients, crops, normalises and resamples one case; nnU-Net's order, in which normalisation precedes resampling.

    The crop keeps every lesion, also one that lies in zeros.

    Args:
        images: float32 [C, z, y, x], one channel per modality, all on ``grid``.
        grid: place of the scan.
        instances: integers [z, y, x] on the same grid, 0 background, one number per lesion; None without labels.
        recipe: what to do.

    Returns:
        the case; as many instances as came in.
    """
    images, nonfinite = replace_nonfinite(images)
    oriented = Mapping.plan(grid, recipe.transpose)
    images = oriented.orient(images)
    mask = None if instances is None else oriented.orient(instances)
    start, stop = foreground_extent(images, mask) if recipe.crop_to_nonzero else ((0, 0, 0), oriented.shape)
    cropped = [b - a for a, b in zip(start, stop, strict=True)]
    shape = target_shape(cropped, oriented.oriented_spacing, recipe.spacing)
    mapping = Mapping.plan(grid, recipe.transpose, start, stop, shape)

    data = normalise(mapping.crop(images), recipe.normalisation)
    data = resample_images(data, shape, mapping.oriented_spacing, recipe.spacing)
    if mask is None or instances is None:
        return PreparedCase(data, None, mapping, {}, (), nonfinite)
    resampled, redrawn = resample_instances(np.ascontiguousarray(mapping.crop(mask)), shape, recipe.min_instance_voxels)
    truth = boxes_of_instances(instances)
    lost = set(truth) - set(boxes_of_instances(resampled))
    if lost:
        raise RuntimeError(f"instances {sorted(lost)} were lost in resampling")
    return PreparedCase(data, resampled, mapping, truth, redrawn, nonfinite)


def foreground_extent(
    images: np.ndarray, instances: np.ndarray | None = None
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """First voxel, and one past the last, of the smallest block that holds every non-zero value and every instance.

    Args:
        images: [C, Z, Y, X].
        instances: [Z, Y, X] or None.

    Returns:
        the whole scan when everything is zero.
    """
    filled = (images != 0).any(axis=0)
    if instances is not None:
        filled |= instances > 0
    start, stop = [0, 0, 0], list(filled.shape)
    for axis in range(3):
        along = np.flatnonzero(filled.any(axis=tuple(a for a in range(3) if a != axis)))
        if len(along):
            start[axis], stop[axis] = int(along[0]), int(along[-1]) + 1
    return (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])


def target_shape(
    shape: list[int] | tuple[int, ...], spacing: tuple[float, ...], new_spacing: tuple[float, ...]
) -> tuple[int, int, int]:
    """Shape at another spacing, rounded as nnU-Net does, at least one voxel."""
    z, y, x = (max(1, round(old / new * n)) for n, old, new in zip(shape, spacing, new_spacing, strict=True))
    return z, y, x
