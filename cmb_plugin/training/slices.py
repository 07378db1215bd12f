"""What a patch would be if its scan had thicker slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

NEAREST_FROM = 3.0
"""Slices more than so many times thicker than pixels are wide are prepared without interpolation across them: nnU-Net's
rule (docs/planning.md). Of the pixels of a scan with thick slices the patch's own width is the best guess."""


def with_thick_slices(
    image: Tensor, instances: Tensor, spacing: Sequence[float], thickness: float, shift: float, circular: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    """A patch as preparation would make it of a scan with slices of ``thickness``.

    Each slice is the mean over its thickness, a boxcar: what a slice-selective pulse excites, as scans of thick slices
    are made, and about the main lobe of what a slab gives whose k-space is cropped, without the lobes beside it, for
    which a patch is too small. Slices at the edges are the mean of what the patch holds of them. Then the slices are
    brought back to the patch's grid as ``preparation.resample_images`` does it: the nearest one where they are thick,
    else cubic splines.

    A lesion becomes what a rater draws on such slices: the pixels in which it fills at least half of what it fills
    where it fills most. So it is as deep as its slices and lies in the middle of them, which is all that such a scan
    tells of its place. None is lost.

    Args:
        image: [C, Z, Y, X] float32; slices along Z.
        instances: integers [Z, Y, X], 0 background.
        spacing: mm per voxel of the patch, z, y, x.
        thickness: mm from slice to slice; where it is below ``spacing[0]`` the patch stays as it is.
        shift: 0 to 1, how far before the patch its first slice begins, in slices.
        circular: for each channel whether it holds angles in radians, whose mean is that of points of a circle.

    Returns:
        both, of the same shapes and types.
    """
    depth, step = image.shape[1], thickness / spacing[0]
    if step <= 1:
        return image, instances
    edges = np.arange(-shift, depth / step) * step  # of slices, in voxels of the patch
    means = _means(edges, step, depth)
    kept = means.sum(axis=1) > 0
    edges, means = edges[kept], means[kept] / means[kept].sum(axis=1, keepdims=True)
    where = (np.arange(depth) + 0.5 - edges[0]) / step  # voxels' middles, in slices from the first one's edge
    nearest = np.clip(np.floor(where).astype(int), 0, len(edges) - 1)
    back = np.eye(len(edges))[nearest]
    if thickness <= NEAREST_FROM * min(spacing[1:]):
        impulses = np.eye(len(edges))
        back = np.stack([ndimage.map_coordinates(one, where[None] - 0.5, order=3, mode="nearest") for one in impulses])
        back = back.T
    averaging, returning = torch.from_numpy(means).to(image), torch.from_numpy(back).to(image)
    result = torch.empty_like(image)
    for channel, values, is_angle in zip(result, image, circular, strict=True):
        if is_angle:
            sine, cosine = (torch.tensordot(averaging, part, dims=1) for part in (values.sin(), values.cos()))
            angle = torch.atan2(sine, cosine)
            sine, cosine = (_returned(part, returning) for part in (angle.sin(), angle.cos()))
            channel[...] = torch.atan2(sine, cosine)
        else:
            channel[...] = _returned(torch.tensordot(averaging, values, dims=1), returning)
    return result, _redrawn(instances, means, nearest)


def _means(edges: np.ndarray, step: float, depth: int) -> np.ndarray:
    """[slices, depth] how much of each voxel lies in each slice."""
    low, voxels = edges[:, None], np.arange(depth)
    return np.clip(np.minimum(low + step, voxels + 1) - np.maximum(low, voxels), 0, 1)


def _returned(slices: Tensor, returning: Tensor) -> Tensor:
    """[slices, Y, X] -> [Z, Y, X]; splines do not ring beyond the slices' range."""
    return torch.tensordot(returning, slices, dims=1).clamp(min=float(slices.min()), max=float(slices.max()))


def _redrawn(instances: Tensor, means: np.ndarray, nearest: np.ndarray) -> Tensor:
    """[Z, Y, X] the lesions as they are drawn on slices."""
    before = instances.numpy()
    after = np.zeros_like(before)
    places = [(n, place) for n, place in enumerate(ndimage.find_objects(before), start=1) if place is not None]
    for number, (z, y, x) in places:
        filled = np.tensordot(means[:, z], (before[z, y, x] == number).astype(float), axes=1)
        drawn = (filled >= filled.max() / 2)[nearest]
        part = after[:, y, x]
        part[drawn & (part == 0)] = number
    for number in {n for n, _ in places} - set(np.unique(after).tolist()):  # another lies over it, or it fell between
        after[before == number] = number
    return torch.from_numpy(after)
