"""The U-Net of segmentation trainers: nnU-Net's plain convolutional encoder and decoder, with deep supervision."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import Tensor, nn

from cmb_plugin.errors import UserError
from cmb_plugin.planning.plan import Architecture

from .pyramid import build_encoder


class UNet(nn.Module):
    """Encoder, decoder with skip connections, and class scores of every stage of the decoder (Ronneberger et al. 2015;
    Isensee et al. 2021).

    Args:
        in_channels: channels of the images.
        classes: outputs, the background included.
        architecture: shape of the network; the decoder mirrors the encoder.
        prior: probability of each class but the background before training, where they are rare: a bias that has to be
            learned costs a short training most of its steps (Lin et al. 2017). None for all classes alike.

    Raises:
        UserError: the architecture has a single stage, which leaves nothing to decode.
    """

    def __init__(self, in_channels: int, classes: int, architecture: Architecture, prior: float | None = None) -> None:
        super().__init__()
        if len(architecture.features) < 2:
            raise UserError(
                "the network has a single stage, a U-Net needs two or more",
                remedy="plan larger patches or smaller voxels: a side of 8 voxels gives a second stage",
            )
        self.encoder = build_encoder(in_channels, architecture)
        convs = list(architecture.convs_per_stage[-2::-1])  # as the decoder counts: from the coarsest stage up
        self.decoder = UNetDecoder(self.encoder, classes, convs, deep_supervision=True)
        if prior is not None:
            for scores in self.decoder.seg_layers:
                nn.init.zeros_(scores.bias)
                nn.init.constant_(scores.bias[1:], math.log(prior / (1 - (classes - 1) * prior)))

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: [B, C, Z, Y, X], sides multiples of the network's divisor; returns logits [B, classes, z, y, x] of
        the full resolution first, then, in training only, of the coarser stages of the decoder."""
        return self.decode(self.encoder(images))

    def decode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """As ``forward``, from the encoder's maps, finest first."""
        self.decoder.deep_supervision = self.training
        logits = self.decoder(maps)
        return logits if self.training else [logits]
