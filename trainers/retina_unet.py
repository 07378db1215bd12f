"""``RetinaUNetV001``: nnDetection's Retina U-Net, the honest baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from cmb_plugin.boxes import anchors_for_levels, atss_match, batched_nms, clip_boxes, decode
from cmb_plugin.errors import UserError
from cmb_plugin.inference import PatchDetections
from cmb_plugin.networks import (
    DetectionHead,
    FeaturePyramid,
    RetinaOutput,
    RetinaUNet,
    SegmentationHead,
    build_encoder,
    classification_loss,
    regression_loss,
    sample_anchors,
    segmentation_loss,
)
from cmb_plugin.plugins import register_trainer
from cmb_plugin.settings import within
from cmb_plugin.training import Batch, DetectionModule, ModelConfig


@dataclass
class RetinaConfig(ModelConfig):
    """Settings of the Retina U-Net family (``-o model_cfg.*``); the defaults are nnDetection's.

    Attributes:
        head_convs: convolutions in each tower of the head.
        matcher_candidates: anchors per level and location rule that ATSS considers for a lesion.
        samples_per_image: anchors per patch that enter the classification loss.
        positive_fraction: share of positives among them.
        negative_pool: size of the pool of hard negatives relative to the number drawn.
        topk: best-scoring boxes of a patch that reach suppression.
        score_threshold: boxes below it are dropped before suppression.
        nms_iou: overlap from which the weaker of two boxes of a patch is dropped.
        detections_per_patch: at most so many boxes leave a patch.
        segmentation_foreground_weight: weight of lesion voxels in the cross entropy of the segmentation head; 1 is
            nnDetection's, short schedules need more.
        segment_weak: also learn the outlines of lesions that were drawn from points or boxes
            (``annotation_style: weak`` in dataset.json). Without it such patches teach where lesions are, not how far
            they reach.
    """

    head_convs: int = within(1, 0)
    matcher_candidates: int = within(4, 1)
    samples_per_image: int = within(32, 1)
    positive_fraction: float = within(1 / 3, 0, 1)
    negative_pool: float = within(20.0, 0)
    topk: int = within(1000, 1)
    score_threshold: float = within(0.02, 0, 1)
    nms_iou: float = within(0.6, 0, 1)
    detections_per_patch: int = within(100, 1)
    segmentation_foreground_weight: float = within(1.0, 0)
    segment_weak: bool = False


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
            UserError: the plan has no anchors.
        """
        architecture = self.plan.architecture
        levels, stages = architecture.detection_levels, len(architecture.features)
        if not levels:
            raise UserError(
                f"{type(self).__name__} needs anchors, plan {self.plan.name} has none",
                remedy="choose a plan of D3CMB or D3V001 with plan=NAME, or another module=NAME",
            )
        fused = range(levels[0], min(levels[0] + fused_levels, stages))
        pyramid = FeaturePyramid(architecture)
        return RetinaUNet(
            encoder=build_encoder(len(self.plan.modalities), architecture),
            pyramid=pyramid,
            head=DetectionHead(
                architecture.pyramid_channels,
                anchors=len(self.plan.anchors.sizes[0]),
                classes=len(self.plan.classes),
                levels=len(levels),
                convs=self.model_cfg.head_convs,
            ),
            segmentation=SegmentationHead(pyramid.widths[0]),
            detection_levels=levels,
            fusion=fusion([pyramid.widths[level] for level in fused]) if fusion and len(fused) > 1 else None,
            fused_levels=len(fused),
        )

    def anchors(self, output: RetinaOutput) -> tuple[Tensor, list[int], int]:
        """Anchors of a batch's maps [T, 6] in patch voxels, their number per level, and how many share a location."""
        levels = self.plan.architecture.detection_levels
        strides = [self.plan.architecture.stride_of(level) for level in levels]
        return anchors_for_levels(output.map_shapes, strides, self.plan.anchors.sizes, device=output.logits.device)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of [B, C, Z, Y, X] patches; names as in ``output_losses``."""
        return self.output_losses(cast(RetinaOutput, self.network(batch.images)), batch)

    def output_losses(self, output: RetinaOutput, batch: Batch) -> dict[str, Tensor]:
        """The losses of what the network gives for a batch; a trainer that extends the family adds its own."""
        logits, foreground = output.segmentation, batch.foreground
        if batch.outlined is not None and not self.model_cfg.segment_weak:
            logits, foreground = logits[batch.outlined], foreground[batch.outlined]
        weight = self.model_cfg.segmentation_foreground_weight
        return self.detection_losses(output, batch) | {"segmentation": segmentation_loss(logits, foreground, weight)}

    def detection_losses(self, output: RetinaOutput, batch: Batch) -> dict[str, Tensor]:
        """Classification over sampled anchors and GIoU over the positives among them."""
        config = self.model_cfg
        anchors, per_level, per_location = self.anchors(output)
        matches = torch.stack(
            [atss_match(boxes, anchors, per_level, per_location, config.matcher_candidates) for boxes in batch.boxes]
        )
        positives, negatives = sample_anchors(
            matches,
            output.logits.max(dim=2).values,
            config.samples_per_image,
            config.positive_fraction,
            config.negative_pool,
            self.step_generator(),
        )
        image, anchor = positives // len(anchors), positives % len(anchors)
        lesion = matches[image, anchor]
        boxes, labels = self._of_lesions(batch, image, lesion)
        all_labels = torch.zeros(matches.numel(), dtype=torch.long, device=matches.device)
        all_labels[positives] = labels
        decoded = decode(output.deltas[image, anchor], anchors[anchor])
        return {
            "classification": classification_loss(output.logits.flatten(0, 1), all_labels, positives, negatives),
            "regression": regression_loss(decoded, boxes),
        }

    @staticmethod
    def _of_lesions(batch: Batch, image: Tensor, lesion: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [P, 6] and labels [P] of lesion ``lesion[p]`` of image ``image[p]``."""
        offsets = torch.tensor([0, *(len(boxes) for boxes in batch.boxes)], device=image.device).cumsum(0)
        index = offsets[image] + lesion
        return torch.cat(batch.boxes)[index], torch.cat(batch.labels)[index]

    def find(self, images: Tensor) -> tuple[list[PatchDetections], Tensor | None]:
        """Detections of each patch, and the probability [B, Z, Y, X] that a voxel is a lesion's."""
        output = cast(RetinaOutput, self.network(images))
        anchors, _, _ = self.anchors(output)
        patches = []
        for image, (logits, deltas) in enumerate(zip(output.logits, output.deltas, strict=True)):
            detections, chosen = self.select(logits, deltas, anchors)
            detections.columns.update(self.describe(output, image, detections, chosen))
            patches.append(detections)
        return patches, output.segmentation.softmax(dim=1)[:, 1]

    def describe(
        self, output: RetinaOutput, image: int, detections: PatchDetections, anchors: Tensor
    ) -> dict[str, Tensor]:
        """Further columns of the detections of one patch; the baseline has none.

        Args:
            output: of the batch.
            image: number of the patch in it.
            detections: its N detections.
            anchors: [N, 6] the anchor that each came from.
        """
        return {}

    def select(self, logits: Tensor, deltas: Tensor, anchors: Tensor) -> tuple[PatchDetections, Tensor]:
        """Scores [T, classes] and deltas [T, 6] of one patch -> its best boxes after suppression within each class, and
        the anchors [N, 6] that they came from."""
        config = self.model_cfg
        classes = logits.shape[1]
        scores, flat = logits.sigmoid().flatten().topk(min(config.topk, logits.numel()))
        flat, scores = flat[scores >= config.score_threshold], scores[scores >= config.score_threshold]
        anchor, labels = flat // classes, flat % classes
        boxes = clip_boxes(decode(deltas[anchor], anchors[anchor]), self.patch_size)
        kept = batched_nms(boxes, scores, labels, config.nms_iou)[: config.detections_per_patch]
        return PatchDetections(boxes[kept], scores[kept], labels[kept]), anchors[anchor[kept]]
