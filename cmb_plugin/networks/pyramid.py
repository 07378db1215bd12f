"""Encoder and feature pyramid of the Retina U-Net."""

from __future__ import annotations

from collections.abc import Sequence

from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from torch import Tensor, nn

from cmb_plugin.planning.plan import Architecture

from .norms import NORMS
from .pointwise import PointwiseConv3d


def build_encoder(in_channels: int, architecture: Architecture, norm: str = "instance") -> PlainConvEncoder:
    """The plain convolutional encoder of nnU-Net: per stage ``convs`` x (convolution, norm, ReLU).

    ``norm`` is one of ``NORMS``. Its forward maps [B, C, Z, Y, X] to one map per stage, full resolution first.
    """
    return PlainConvEncoder(
        input_channels=in_channels,
        n_stages=len(architecture.features),
        features_per_stage=list(architecture.features),
        conv_op=nn.Conv3d,
        kernel_sizes=[list(k) for k in architecture.kernels],
        strides=[list(s) for s in architecture.strides],
        n_conv_per_stage=list(architecture.convs_per_stage),
        conv_bias=False,
        norm_op=NORMS[norm],
        norm_op_kwargs={},
        nonlin=nn.ReLU,
        nonlin_kwargs={"inplace": True},
        return_skips=True,
    )


def pyramid_widths(architecture: Architecture, narrowest: int = 8) -> list[int]:
    """Channels of the pyramid's map at each stage: full width on the detection levels and above, halved per stage below
    the finest of them, as those maps only serve the segmentation head."""
    finest = architecture.detection_levels[0]
    return [
        max(narrowest, architecture.pyramid_channels >> max(0, finest - level))
        for level in range(len(architecture.features))
    ]


class FeaturePyramid(nn.Module):
    """Top-down pyramid over all encoder stages (Lin et al. 2017; over the full resolution as in Retina U-Net, Jaeger
    et al. 2020).

    At each stage: lateral 1x1x1 convolution + transposed convolution of the coarser map; then a 3x3x3 convolution where
    a head reads the map, at the full resolution and on the detection levels.

    Args:
        architecture: shape of the network.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        read = {0, *architecture.detection_levels}
        widths = pyramid_widths(architecture)
        self.lateral = nn.ModuleList(
            PointwiseConv3d(features, width) for features, width in zip(architecture.features, widths, strict=True)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(widths[level + 1], widths[level], stride, stride)
            for level, stride in enumerate(architecture.strides[1:])
        )
        self.out = nn.ModuleList(
            nn.Conv3d(width, width, kernel, padding=(kernel[0] // 2, kernel[1] // 2, kernel[2] // 2))
            if level in read
            else nn.Identity()  # weights that nobody reads cost time, and DDP stumbles over them
            for level, (width, kernel) in enumerate(zip(widths, architecture.kernels, strict=True))
        )
        self.widths = widths

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """stages: encoder maps, finest first, each [B, C_i, Z_i, Y_i, X_i]; returns maps [B, W_i, Z_i, Y_i, X_i] of
        the same places."""
        merged = [self.lateral[-1](stages[-1])]
        for level in range(len(stages) - 2, -1, -1):
            merged.insert(0, self.lateral[level](stages[level]) + self.up[level](merged[0]))
        return [out(x) for out, x in zip(self.out, merged, strict=True)]
