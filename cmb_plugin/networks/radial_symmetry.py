"""The fast radial symmetry transform in three dimensions: how round the structure around each voxel is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def radial_symmetry(
    images: Tensor, spacing: Sequence[float], radii_mm: Sequence[float] = (1.6, 2.4, 3.2), strictness: float = 2.0
) -> Tensor:
    """Centres of bright balls (Loy & Zelinsky, IEEE Trans PAMI 25:959, 2003, carried over from the plane to space).

    Every voxel with a gradient g votes, for each radius r, for the place r mm up its gradient: with 1 in a map O of
    orientations and with ||g|| in a map M of magnitudes. Both are divided by the number of voxels on a sphere of that
    radius. All votes of a ball meet in its centre, those of a tube along its axis, so the response

        S = mean over r of (G_r * M) (G_r * O) ^ strictness,    G_r a Gaussian of r / 4 mm,

    is high in balls and low in tubes. In the paper the Gaussian comes after the power; in space the votes of one ball
    lie scattered over the voxels around its centre and have to be gathered before. Flat places do not vote: those whose
    gradient is below the mean of the image. Distances are in mm, so thick slices change nothing but the accuracy.

    Args:
        images: [B, Z, Y, X]; invert what is dark.
        spacing: mm per voxel along z, y, x.
        radii_mm: of the balls that are looked for.
        strictness: how much many directions count against strong gradients; alpha in the paper.

    Returns:
        float32 [B, Z, Y, X], 0 or more.
    """
    with torch.autocast(images.device.type, enabled=False):
        images = images.float()
        gradient = torch.stack(torch.gradient(images, spacing=tuple(map(float, spacing)), dim=(1, 2, 3)))
        magnitude = gradient.square().sum(dim=0).sqrt()
        voters = magnitude > magnitude.mean(dim=(1, 2, 3), keepdim=True)
        image, *origin = voters.nonzero(as_tuple=True)
        strength = magnitude[voters]
        # [3, V] voxels per mm up the gradient
        direction = gradient[:, voters] / strength / images.new_tensor(spacing)[:, None]
        response = torch.zeros_like(images)
        for radius in radii_mm:
            aim = torch.stack(origin) + (direction * radius).round().long()
            shape = torch.tensor(images.shape[1:], device=images.device)[:, None]
            inside = ((aim >= 0) & (aim < shape)).all(dim=0)
            at = (image[inside], *aim[:, inside])
            votes = torch.zeros(2, *images.shape, device=images.device)
            votes[0].index_put_(at, torch.ones_like(strength[inside]), accumulate=True)
            votes[1].index_put_(at, strength[inside], accumulate=True)
            sphere = 4 * math.pi * radius**2 / math.prod(spacing) ** (2 / 3)
            orientations, magnitudes = blurred(votes.flatten(0, 1) / sphere, spacing, radius / 4).unflatten(0, (2, -1))
            response += magnitudes * orientations**strictness
        return response / len(radii_mm)


def blurred(images: Tensor, spacing: Sequence[float], sigma_mm: float) -> Tensor:
    """Gaussian blur of [B, Z, Y, X] by ``sigma_mm``; beyond the edge lies 0."""
    result = images[:, None]
    for axis, side in enumerate(spacing):
        reach = max(1, math.ceil(3 * sigma_mm / side))
        steps = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype) * side
        kernel = torch.exp(-0.5 * (steps / sigma_mm) ** 2)
        view = [1, 1, 1, 1, 1]
        view[2 + axis] = -1
        padding = [0, 0, 0]
        padding[axis] = reach
        result = F.conv3d(result, (kernel / kernel.sum()).reshape(view), padding=padding)
    return result[:, 0]
