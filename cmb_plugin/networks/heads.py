"""Heads of the Retina U-Net: what a feature map says about each anchor, and about each voxel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .norms import NORMS
from .pointwise import PointwiseConv3d


def tower(channels: int, convs: int, norm_group: int = 16) -> nn.Sequential:
    """``convs`` x (3x3x3 convolution, group norm, ReLU) at constant width."""
    groups = max(1, channels // norm_group)
    layers: list[nn.Module] = []
    for _ in range(convs):
        layers += [
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(groups, channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class DetectionHead(nn.Module):
    """Classification and box regression for every anchor; weights are shared over levels, a learned scale per level
    is not.

    Args:
        channels: width of the pyramid's maps.
        anchors: anchors per location.
        classes: lesion classes; each has its own sigmoid, so background is no class.
        levels: number of detection levels.
        convs: convolutions in each tower.
        prior: score of every anchor before training (Lin et al. 2017, focal loss), so that background does not swamp
            the start.
    """

    def __init__(
        self, channels: int, anchors: int, classes: int, levels: int, convs: int = 1, prior: float = 0.01
    ) -> None:
        super().__init__()
        self.classes = classes
        self.classification = tower(channels, convs)
        self.regression = tower(channels, convs)
        self.logits = nn.Conv3d(channels, anchors * classes, 3, padding=1)
        self.deltas = nn.Conv3d(channels, anchors * 6, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(levels))
        for module in (self.classification, self.regression, self.logits, self.deltas):
            for layer in module.modules():
                if isinstance(layer, nn.Conv3d):
                    nn.init.normal_(layer.weight, std=0.01)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
        self.logits.bias.data.fill_(-math.log((1 - prior) / prior))  # type: ignore[union-attr] # it has a bias

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """maps: one [B, C, Z, Y, X] per level, finest first.

        Returns:
            logits [B, T, classes] and box deltas [B, T, 6] in float32, T = anchors of all levels in the order of
            ``boxes.anchors_for_levels``: level, then location (z, y, x), then anchor size.
        """
        logits, deltas = [], []
        for level, features in enumerate(maps):
            logits.append(_per_anchor(self.logits(self.classification(features)), self.classes))
            deltas.append(_per_anchor(self.deltas(self.regression(features)), 6) * self.scales[level])
        return torch.cat(logits, dim=1), torch.cat(deltas, dim=1)


def _per_anchor(output: Tensor, values: int) -> Tensor:
    """[B, A * values, Z, Y, X] -> [B, Z * Y * X * A, values] in float32."""
    return output.permute(0, 2, 3, 4, 1).reshape(output.shape[0], -1, values).float()


def light_tower(channels: int, convs: int = 1, norm: str = "batch") -> nn.Sequential:
    """What a dense map passes through before ``CentreHead``: (norm, ReLU), then ``convs`` x (convolution, norm, ReLU).

    Args:
        channels: width of the map.
        convs: convolutions.
        norm: one of ``NORMS``.
    """
    layers: list[nn.Module] = [NORMS[norm](channels), nn.ReLU(inplace=True)]
    for _ in range(convs):
        layers += [nn.Conv3d(channels, channels, 3, padding=1, bias=False), NORMS[norm](channels)]
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class CentreHead(nn.Module):
    """How near the centre of a lesion each location is, and the lesion's box, from the location's vector of features.

    In place of ``DetectionHead`` where there are no anchors: one box per location. What it says is computed in
    float32, whatever the precision of the rest: in bfloat16 neighbouring locations of a clear lesion would score alike.

    Args:
        channels: width of the map.
        classes: lesion classes; each has its own sigmoid, so background is no class.
        prior: score of every location before training (Lin et al. 2017).
    """

    def __init__(self, channels: int, classes: int, prior: float = 0.01) -> None:
        super().__init__()
        self.logits = nn.Linear(channels, classes)
        self.codes = nn.Linear(channels, 6)
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.normal_(self.codes.weight, std=0.01)
        nn.init.constant_(self.logits.bias, -math.log((1 - prior) / prior))
        nn.init.zeros_(self.codes.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """maps: the finest detection level's [B, C, Z, Y, X] alone.

        Returns:
            logits [B, T, classes] and codes of boxes [B, T, 6] (``boxes.encode_from``) in float32, T = Z * Y * X.
        """
        # A product of matrices: torch has no quick 1x1x1 convolution to one channel on a CPU.
        features = maps[0].permute(0, 2, 3, 4, 1).flatten(1, 3)
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            return self.logits(features), self.codes(features)


class SegmentationHead(nn.Module):
    """Foreground against background at the input resolution: an auxiliary task that sharpens the features, and the
    lesion masks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.logits = PointwiseConv3d(channels, 2)

    def forward(self, features: Tensor) -> Tensor:
        """features: [B, C, Z, Y, X]; returns logits [B, 2, Z, Y, X] in float32, background first."""
        logits: Tensor = self.logits(features)
        return logits.float()
