"""Random boxes for the tests of this folder."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor


@st.composite
def boxes(draw: st.DrawFn, min_count: int = 0, max_count: int = 12, extent: int = 12) -> Tensor:
    """[N, 6] float32 boxes of at least half a voxel a side, near each other, so that many overlap, touch or coincide.

    Coordinates are half voxels: touching boxes, equal boxes, equal IoUs and one-voxel boxes are common. Some draws lie
    far from the origin, where float32 still holds half voxels exactly.
    """
    count = draw(st.integers(min_count, max_count))
    offset = draw(st.sampled_from([0, 0, 0, 4000]))
    halves = st.integers(0, 2 * extent)
    sides = st.integers(1, 2 * extent)
    rows = [[draw(halves) + 2 * offset for _ in range(3)] + [draw(sides) for _ in range(3)] for _ in range(count)]
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6) / 2
    return torch.cat([values[:, :3], values[:, :3] + values[:, 3:]], dim=1)


def random_boxes(count: int, seed: int, volume: float = 60.0, smallest: float = 1.0, largest: float = 12.0) -> Tensor:
    """[N, 6] boxes at continuous places, so that no two distances or IoUs are equal."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 3, generator=generator) * volume
    sides = smallest + torch.rand(count, 3, generator=generator) * (largest - smallest)
    return torch.cat([low, low + sides], dim=1)


def clustered_boxes(count: int, centres: int, seed: int) -> Tensor:
    """[N, 6] jittered copies of a few boxes, as overlapping tiles and mirrorings predict them."""
    generator = torch.Generator().manual_seed(seed)
    kinds = random_boxes(centres, seed, volume=100.0, smallest=3.0)
    chosen = kinds[torch.randint(0, centres, (count,), generator=generator)]
    return chosen + torch.randn(count, 3, generator=generator).repeat(1, 2) * 0.3
