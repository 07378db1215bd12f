"""Feature fusion: what several levels of the decoder see, brought together where lesions are detected."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FeatureFusion(nn.Module):
    """Fuses decoder maps of several levels into the detection level (the FFM of Kim et al. 2023, arXiv 2306.13020).

    Each map is reduced by a 1x1x1 convolution, brought to the detection level by trilinear interpolation, concatenated
    and mixed by another 1x1x1 convolution. The detection level's own map is added to the result: heads lose nothing of
    what they would see without fusion, and a network begins to learn as fast as one without.

    Args:
        widths: channels of the maps, the detection level first.
        reduced: channels to which each map is reduced; None shares ``widths[0]`` out among the maps, at least 4 each.
    """

    def __init__(self, widths: Sequence[int], reduced: int | None = None) -> None:
        super().__init__()
        channels = widths[0]
        reduced = reduced or max(4, channels // len(widths))
        self.reduce = nn.ModuleList(nn.Conv3d(width, reduced, 1, bias=False) for width in widths)
        self.mix = nn.Sequential(
            nn.Conv3d(reduced * len(widths), channels, 1, bias=False),
            nn.GroupNorm(max(1, channels // 16), channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: the detection level first, coarser ones after it, each [B, C_i, Z_i, Y_i, X_i]; returns [B, C, Z, Y, X]
        at the detection level."""
        size = maps[0].shape[2:]
        reduced = [reduce(x) for reduce, x in zip(self.reduce, maps, strict=True)]
        level = [
            x if x.shape[2:] == size else F.interpolate(x, size=size, mode="trilinear", align_corners=False)
            for x in reduced
        ]
        mixed: Tensor = self.mix(torch.cat(level, dim=1))
        return maps[0] + mixed
