"""1x1x1 convolutions as products of matrices."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PointwiseConv3d(nn.Conv3d):
    """A 1x1x1 convolution, with the weights that ``nn.Conv3d`` would have.

    In float32 on a CPU torch gives 1x1x1 convolutions to a routine that first copies the map; a product of matrices
    reads it once, where channels come last.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, Z, Y, X] -> [B, out_channels, Z, Y, X]."""
        mixed = F.linear(input.permute(0, 2, 3, 4, 1), self.weight.flatten(1), self.bias)
        return mixed.permute(0, 4, 1, 2, 3)
