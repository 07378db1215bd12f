"""Anchors: boxes of fixed sizes at every location of a feature map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def anchors_for_level(
    map_shape: Sequence[int],
    stride: Sequence[int],
    sizes: Sequence[Sequence[float]],
    device: torch.device | str | None = None,
) -> Tensor:
    """Anchors of one feature map: ``sizes`` exactly as given, centred on every location.

    Args:
        map_shape: (Z, Y, X) of the map.
        stride: input voxels per voxel of the map along z, y, x; location k has its centre at ``(k + 0.5) * stride``.
        sizes: A anchor sizes (z, y, x) in input voxels.
        device: where the anchors are made.

    Returns:
        [Z * Y * X * A, 6] float32: location by location in the order of the map, and at each location size by size.
    """
    lines = [
        (torch.arange(count, dtype=torch.float32, device=device) + 0.5) * step
        for count, step in zip(map_shape, stride, strict=True)
    ]
    centres = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).reshape(-1, 1, 3)
    halves = torch.tensor(sizes, dtype=torch.float32, device=device).reshape(1, -1, 3) / 2
    return torch.cat([centres - halves, centres + halves], dim=2).reshape(-1, 6)


def anchors_for_levels(
    map_shapes: Sequence[Sequence[int]],
    strides: Sequence[Sequence[int]],
    sizes: Sequence[Sequence[Sequence[float]]],
    device: torch.device | str | None = None,
) -> tuple[Tensor, list[int], int]:
    """Anchors of all detection levels, one level after another.

    Args:
        map_shapes: (Z, Y, X) of each level's map, finest first.
        strides: of each level, see ``anchors_for_level``.
        sizes: of each level; all levels have equally many, because heads share their weights.
        device: where the anchors are made.

    Returns:
        anchors [T, 6], the number of anchors of each level (they add up to T), and the number at each location.
    """
    per_location = {len(level) for level in sizes}
    if len(per_location) != 1:
        raise ValueError(f"levels differ in their number of anchor sizes: {[len(level) for level in sizes]}")
    levels = [
        anchors_for_level(shape, stride, level, device)
        for shape, stride, level in zip(map_shapes, strides, sizes, strict=True)
    ]
    return torch.cat(levels), [len(level) for level in levels], per_location.pop()
