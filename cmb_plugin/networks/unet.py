"""The U-Net of segmentation trainers: nnU-Net's plain convolutional encoder and decoder."""

from __future__ import annotations

from typing import cast

from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import Tensor, nn

from cmb_plugin.planning.plan import Architecture

from .pyramid import build_encoder


class UNet(nn.Module):
    """Encoder, decoder with skip connections, and class scores at the full resolution (Ronneberger et al. 2015; Isensee
    et al. 2021).

    Args:
        in_channels: channels of the images.
        classes: outputs, the background included.
        architecture: shape of the network; the decoder mirrors the encoder.
    """

    def __init__(self, in_channels: int, classes: int, architecture: Architecture) -> None:
        super().__init__()
        self.encoder = build_encoder(in_channels, architecture)
        convs = list(architecture.convs_per_stage[-2::-1])  # as the decoder counts: from the coarsest stage up
        self.decoder = UNetDecoder(self.encoder, classes, convs, deep_supervision=False)
        # The library also makes scores of coarser stages; weights that nobody reads stop DDP.
        self.decoder.seg_layers = self.decoder.seg_layers[-1:]

    def forward(self, images: Tensor) -> Tensor:
        """images: [B, C, Z, Y, X], sides multiples of the network's divisor; returns logits [B, classes, Z, Y, X]."""
        return cast(Tensor, self.decoder(self.encoder(images)))
