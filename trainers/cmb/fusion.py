"""Feature fusion: what several levels of the decoder see, brought together where lesions are detected."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmb_plugin.networks import NORMS, PointwiseConv3d


class FeatureFusion(nn.Module):
    """Fuses decoder maps of several levels into the detection level (the FFM of Kim et al. 2023, arXiv 2306.13020).

    Each map is reduced by a 1x1x1 convolution, brought to the detection level by trilinear interpolation, concatenated
    and mixed by further 1x1x1 convolutions. This is done from the coarsest level down, one level at a time: mixing and
    interpolation are linear and can be exchanged, so each level is interpolated once, with few channels, and only as
    far as the next. The detection level's own map is added to the result: heads lose nothing of what they would see
    without fusion, and a network begins to learn as fast as one without.

    Args:
        widths: channels of the maps, the detection level first.
        norm: of the fused map, one of ``NORMS``.
        reduced: channels to which each map is reduced; None takes a quarter of ``widths[0]``, at least 4.
    """

    def __init__(self, widths: Sequence[int], norm: str = "batch", reduced: int | None = None) -> None:
        super().__init__()
        channels = widths[0]
        reduced = reduced or max(4, channels // 4)
        self.reduce = nn.ModuleList(PointwiseConv3d(width, reduced, bias=False) for width in widths)
        inner = [PointwiseConv3d(2 * reduced, reduced, bias=False) for _ in widths[1:-1]]
        incoming = reduced * min(2, len(widths))
        self.mix = nn.ModuleList([PointwiseConv3d(incoming, channels, bias=False), *inner])
        self.activation = nn.Sequential(NORMS[norm](channels), nn.ReLU(inplace=True))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: the detection level first, coarser ones after it, each [B, C_i, Z_i, Y_i, X_i]; returns [B, C, Z, Y, X]
        at the detection level."""
        carried: Tensor | None = None
        for level in range(len(maps) - 1, -1, -1):
            own = self.reduce[level](maps[level])
            if carried is not None:
                size = own.shape[2:]
                if carried.shape[2:] != size:
                    carried = F.interpolate(carried, size=size, mode="trilinear", align_corners=False)
                own = torch.cat([own, carried], dim=1)
            carried = self.mix[level](own) if level < len(self.mix) else own
        fused: Tensor = maps[0] + self.activation(carried)
        return fused
