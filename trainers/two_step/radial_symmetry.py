"""The fast radial symmetry transform in three dimensions: how round the structure around each voxel is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .gaussian import blurred

PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))  # entries of a symmetric 3 x 3 tensor


def radial_symmetry(
    images: Tensor, spacing: Sequence[float], radii_mm: Sequence[float] = (1.6, 2.4, 3.2), strictness: float = 2.0
) -> Tensor:
    """Centres of bright balls (Loy & Zelinsky, IEEE Trans PAMI 25:959, 2003, carried over from the plane to space).

    Every voxel with a gradient g votes, for each radius r, for the place r mm up its gradient: with ||g|| in a map M of
    magnitudes and, where the paper counts votes, with the tensor d d^T of its direction d = g / ||g|| in a map T of
    orientations. Both are divided by the number of voxels on a sphere of that radius. A ball's votes meet in its centre
    from everywhere, so that T is a third of the identity there; those of a tube meet too, but none points along it, and
    det T is 0. The response is

        S = mean over r of (G_r * M) (3 det(G_r * T) ^ 1/3) ^ strictness,    G_r a Gaussian of r / 4 mm.

    The tensor is what tells balls from tubes across thick slices, where both leave but a ring of votes in each slice.
    In the paper the Gaussian comes after the power; in space the votes of one ball lie scattered over the voxels around
    its centre and have to be gathered before. Flat places do not vote: those whose gradient is below the image's mean.

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
        direction = gradient[:, voters] / strength
        votes = torch.stack([*(direction[a] * direction[b] for a, b in PAIRS), strength])
        per_mm = direction / images.new_tensor(spacing)[:, None]  # voxels
        shape = torch.tensor(images.shape[1:], device=images.device)[:, None]
        response = torch.zeros_like(images)
        for radius in radii_mm:
            step = per_mm * radius
            step = step / step.abs().amax(dim=0).clamp(max=1)  # a vote never stays in the voxel that casts it
            aim = torch.stack(origin) + step.round().long()
            inside = ((aim >= 0) & (aim < shape)).all(dim=0)
            z, y, x = aim[:, inside]
            place = ((image[inside] * shape[0] + z) * shape[1] + y) * shape[2] + x
            maps = votes.new_zeros(len(votes), images.numel()).index_add_(1, place, votes[:, inside])
            sphere = 4 * math.pi * radius**2 / math.prod(spacing) ** (2 / 3)
            gathered = blurred(maps.reshape(-1, *images.shape[1:]) / sphere, spacing, radius / 4)
            zz, yy, xx, zy, zx, yx, magnitudes = gathered.unflatten(0, (-1, len(images)))
            determinant = zz * yy * xx + 2 * zy * zx * yx - zz * yx**2 - yy * zx**2 - xx * zy**2
            response += magnitudes * (27 * determinant.clamp(min=0)) ** (strictness / 3)
        return response / len(radii_mm)


def ball_response(spacing: Sequence[float], radii_mm: Sequence[float] = (1.6, 2.4, 3.2)) -> float:
    """The highest response of a ball of the middle radius that is 1 brighter than its surroundings. What is divided by
    it means the same at every spacing."""
    radius = sorted(radii_mm)[len(radii_mm) // 2]
    axes = [
        torch.arange(-reach, reach + 1) * float(side) for side in spacing for reach in [math.ceil(3 * radius / side)]
    ]
    distance = torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0)
    ball = torch.sigmoid((radius - distance) / (min(spacing) / 2))
    return float(radial_symmetry(ball[None], spacing, radii_mm).max())
