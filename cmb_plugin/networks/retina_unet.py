"""``RetinaUNet``: encoder, pyramid, detection head and segmentation head put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

Triple = tuple[int, int, int]


@dataclass
class RetinaOutput:
    """What the network says about a batch.

    Attributes:
        logits: [B, T, classes] float32, T anchors in the order of ``boxes.anchors_for_levels``.
        deltas: [B, T, 6] float32 box deltas relative to the anchors.
        map_shapes: (Z, Y, X) of each detection level's map, finest first.
        segmentation: [B, 2, Z, Y, X] float32 logits at the input resolution.
        features: maps that the heads read, one [B, C, Z, Y, X] per detection level.
    """

    logits: Tensor
    deltas: Tensor
    map_shapes: list[Triple]
    segmentation: Tensor
    features: list[Tensor]


class RetinaUNet(nn.Module):
    """One-stage detector with a U-Net's full-resolution decoder (Jaeger et al. 2020).

    Args:
        encoder: [B, C, Z, Y, X] -> maps of all stages, finest first.
        pyramid: those maps -> maps of all stages, finest first.
        head: maps of the detection levels -> (logits, deltas).
        segmentation: finest map -> [B, 2, Z, Y, X].
        detection_levels: stages whose maps the head reads.
        fusion: maps of the finest detection level and of ``fused_levels - 1`` coarser stages -> what the head reads at
            that level instead of its map; None for none.
        fused_levels: number of maps that ``fusion`` takes.
        tower: what the finest detection level's map passes through before the head reads it; None for nothing.
    """

    def __init__(
        self,
        encoder: nn.Module,
        pyramid: nn.Module,
        head: nn.Module,
        segmentation: nn.Module,
        detection_levels: Sequence[int],
        fusion: nn.Module | None = None,
        fused_levels: int = 1,
        tower: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pyramid = pyramid
        self.head = head
        self.segmentation = segmentation
        self.detection_levels = tuple(detection_levels)
        self.fusion = fusion
        self.fused_levels = fused_levels
        self.tower = tower

    def forward(self, images: Tensor) -> RetinaOutput:
        """images: [B, C, Z, Y, X], sides multiples of the network's divisor."""
        maps = self.pyramid(self.encoder(images))
        features = [maps[level] for level in self.detection_levels]
        if self.fusion is not None:
            finest = self.detection_levels[0]
            features[0] = self.fusion(maps[finest : finest + self.fused_levels])
        if self.tower is not None:
            features[0] = self.tower(features[0])
        logits, deltas = self.head(features)
        shapes: list[Triple] = [(f.shape[2], f.shape[3], f.shape[4]) for f in features]
        return RetinaOutput(logits, deltas, shapes, self.segmentation(maps[0]), features)
