"""``Assignment``: how lesions are brought to the locations of a map, and detections read from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cmb_plugin.boxes import at_middles
from cmb_plugin.inference import PatchDetections
from cmb_plugin.networks import RetinaOutput
from cmb_plugin.planning import Architecture, Plan
from cmb_plugin.training import Batch

from ..retina_config import RetinaConfig


class Assignment(ABC):
    """What the two ways of the family have in common: a head, its losses, and what it found.

    Args:
        plan: of the data set.
        config: settings of the trainer.
    """

    def __init__(self, plan: Plan, config: RetinaConfig) -> None:
        self.plan = plan
        self.config = config

    @property
    @abstractmethod
    def architecture(self) -> Architecture:
        """The shape of the network whose maps the head reads."""

    @property
    def reach(self) -> tuple[int, int, int] | None:
        """Voxels along z, y, x beyond what the head sees that ``select`` looks at for a detection, its centre included;
        None where that may be the whole patch."""
        return None

    @abstractmethod
    def head(self) -> nn.Module:
        """Maps of the detection levels -> logits [B, T, classes] and box codes [B, T, 6]."""

    def tower(self) -> nn.Module | None:
        """What the finest detection level's map passes through before the head; None for nothing."""
        return None

    @abstractmethod
    def losses(self, output: RetinaOutput, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses ``classification`` and ``regression`` of what the network gives for a batch."""

    @abstractmethod
    def select(self, output: RetinaOutput, image: int) -> tuple[PatchDetections, Tensor]:
        """The detections of one patch of the batch, best first, and for each the point [N, 3] in patch voxels that it
        was seen from."""


def judged_anchors(
    output: RetinaOutput, batch: Batch, strides: Sequence[Sequence[int]], per_location: int = 1
) -> Tensor | None:
    """bool [B, T] whether somebody has judged what lies in the middle of each anchor's location; None for all.

    Args:
        output: of the network.
        batch: that it saw.
        strides: patch voxels per location of each detection level.
        per_location: anchors that share a location.
    """
    if batch.judged is None:
        return None
    levels = zip(output.map_shapes, strides, strict=True)
    seen = [at_middles(batch.judged, shape, stride).flatten(1) for shape, stride in levels]
    return torch.cat(seen, dim=1).repeat_interleave(per_location, dim=1)


def boxes_of_lesions(batch: Batch, image: Tensor, lesion: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes [P, 6] and labels [P] of lesion ``lesion[p]`` of image ``image[p]``."""
    offsets = torch.tensor([0, *(len(boxes) for boxes in batch.boxes)], device=image.device).cumsum(0)
    index = offsets[image] + lesion
    return torch.cat(batch.boxes)[index], torch.cat(batch.labels)[index]
