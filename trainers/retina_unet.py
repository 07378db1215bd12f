"""``RetinaUNetV001``: nnDetection's Retina U-Net, the honest baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from cmb_plugin.errors import UserError
from cmb_plugin.inference import PatchDetections
from cmb_plugin.networks import (
    LOCAL_NORMS,
    NORMS,
    FeaturePyramid,
    RetinaOutput,
    RetinaUNet,
    SegmentationHead,
    build_encoder,
    retina_unet_halo,
    segmentation_loss,
)
from cmb_plugin.plugins import register_trainer, suggest
from cmb_plugin.training import Batch, DetectionModule

from .assignments.anchors import AnchorAssignment
from .assignments.assignment import Assignment
from .assignments.centres import CentreAssignment
from .retina_config import RetinaConfig

ASSIGNMENTS: dict[str, type[Assignment]] = {"atss": AnchorAssignment, "centre": CentreAssignment}
WIDTHS = ("plan", "light")


@register_trainer
class RetinaUNetV001(DetectionModule):
    """Retina U-Net as nnDetection trains it (Jaeger et al. 2020, Baumgartner et al. 2021).

    U-Net encoder and full-resolution pyramid; a head shared over levels with sigmoid classification and GIoU box
    regression; ATSS assignment; hard negative sampling; a segmentation head as an auxiliary task.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "fast": {"model_cfg.segmentation_foreground_weight": 100.0},
        "demo": {"model_cfg.segmentation_foreground_weight": 100.0},
    }
    leaves_out_unjudged = True
    model_config = RetinaConfig
    model_cfg: RetinaConfig

    def build_network(self) -> nn.Module:
        """The baseline: no fusion of levels."""
        return self.build_retina_unet()

    def build_retina_unet(
        self, fusion: Callable[[Sequence[int]], nn.Module] | None = None, fused_levels: int = 1
    ) -> RetinaUNet:
        """The network of the family.

        Args:
            fusion: makes the module that fuses decoder maps into the finest detection level, from their widths; None
                for none.
            fused_levels: number of decoder maps that it gets, as far as there are so many.

        Raises:
            UserError: the plan lacks what the assignment needs, or a setting has an unknown value.
        """
        architecture = self.assignment.architecture
        levels, stages = architecture.detection_levels, len(architecture.features)
        fused = range(levels[0], min(levels[0] + fused_levels, stages))
        pyramid = FeaturePyramid(architecture)
        return RetinaUNet(
            encoder=build_encoder(len(self.plan.modalities), architecture, self.model_cfg.norm),
            pyramid=pyramid,
            head=self.assignment.head(),
            segmentation=SegmentationHead(pyramid.widths[0]),
            detection_levels=levels,
            fusion=fusion([pyramid.widths[level] for level in fused]) if fusion and len(fused) > 1 else None,
            fused_levels=len(fused),
            tower=self.assignment.tower(),
        )

    @cached_property
    def assignment(self) -> Assignment:
        """How lesions are brought to locations, by the settings.

        Raises:
            UserError: a setting has an unknown value.
        """
        config = self.model_cfg
        for name, known in (("assignment", ASSIGNMENTS), ("widths", WIDTHS), ("norm", NORMS)):
            value = getattr(config, name)
            if value not in known:
                raise UserError(f"unknown model_cfg.{name} '{value}'", remedy=suggest(value, list(known)))
        return ASSIGNMENTS[config.assignment](self.plan, config)

    @property
    def halo(self) -> tuple[int, int, int] | None:
        """How far the network and what is read from it look; None with anchors, or a norm that looks at all of a
        patch."""
        reach = self.assignment.reach
        if reach is None or self.model_cfg.norm not in LOCAL_NORMS:
            return None
        network = cast(RetinaUNet, self.network)
        # The convolution of the head's tower; what follows it looks at one location.
        seen = retina_unet_halo(self.assignment.architecture, network.fused_levels, self.model_cfg.head_convs)
        z, y, x = (a + b for a, b in zip(seen, reach, strict=True))
        return z, y, x

    @property
    def divisor(self) -> tuple[int, int, int]:
        """Of the network that the assignment takes."""
        return self.assignment.architecture.divisor

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of [B, C, Z, Y, X] patches; names as in ``output_losses``."""
        return self.output_losses(cast(RetinaOutput, self.network(batch.images)), batch)

    def output_losses(self, output: RetinaOutput, batch: Batch) -> dict[str, Tensor]:
        """The losses of what the network gives for a batch; a trainer that extends the family adds its own."""
        logits, foreground, judged = output.segmentation, batch.foreground, batch.judged
        if batch.outlined is not None and not self.model_cfg.segment_weak:
            logits, foreground = logits[batch.outlined], foreground[batch.outlined]
            judged = None if judged is None else judged[batch.outlined]
        losses = self.assignment.losses(output, batch, self.step_generator())
        weight = self.model_cfg.segmentation_foreground_weight
        return losses | {"segmentation": segmentation_loss(logits, foreground, weight, judged=judged)}

    def find(self, images: Tensor) -> tuple[list[PatchDetections], Tensor | None]:
        """Detections of each patch, and the probability [B, Z, Y, X] that a voxel is a lesion's."""
        output = cast(RetinaOutput, self.network(images))
        patches = []
        for image in range(len(images)):
            detections, points = self.assignment.select(output, image)
            detections.columns.update(self.describe(output, image, detections, points))
            patches.append(detections)
        return patches, output.segmentation.softmax(dim=1)[:, 1]

    def describe(
        self, output: RetinaOutput, image: int, detections: PatchDetections, points: Tensor
    ) -> dict[str, Tensor]:
        """Further columns of the detections of one patch; the baseline has none.

        Args:
            output: of the batch.
            image: number of the patch in it.
            detections: its N detections.
            points: [N, 3] in patch voxels, where each was seen from.
        """
        return {}
