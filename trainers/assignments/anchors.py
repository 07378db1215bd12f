"""Lesions matched with anchors: ATSS, as in nnDetection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmb_plugin.boxes import anchors_for_levels, atss_match, batched_nms, box_centres, clip_boxes, decode
from cmb_plugin.errors import UserError
from cmb_plugin.inference import PatchDetections
from cmb_plugin.networks import DetectionHead, RetinaOutput, classification_loss, regression_loss, sample_anchors
from cmb_plugin.planning import Architecture
from cmb_plugin.training import Batch

from .assignment import Assignment, boxes_of_lesions, judged_anchors

UNJUDGED = -2
"""Match of an anchor that is neither a lesion nor, as far as anybody has judged, background."""


class AnchorAssignment(Assignment):
    """Every location carries anchors of several sizes; those that fit a lesion are positives (ATSS, Zhang et al. 2020),
    and of all others the highest-scoring ones, or random ones, are its negatives."""

    @property
    def architecture(self) -> Architecture:
        """The planned one.

        Raises:
            UserError: the plan has no anchors.
        """
        if not self.plan.architecture.detection_levels:
            raise UserError(
                f"model_cfg.assignment=atss needs anchors, plan {self.plan.name} has none",
                remedy="choose a plan of D3CMB or D3V001 with plan=NAME, or another module=NAME",
            )
        return self.plan.architecture

    def head(self) -> nn.Module:
        """Two towers shared over levels."""
        return DetectionHead(
            self.architecture.pyramid_channels,
            anchors=len(self.plan.anchors.sizes[0]),
            classes=len(self.plan.classes),
            levels=len(self.architecture.detection_levels),
            convs=self.config.head_convs,
        )

    def anchors(self, output: RetinaOutput) -> tuple[Tensor, list[int], int]:
        """Anchors of a batch's maps [T, 6] in patch voxels, their number per level, and how many share a location."""
        return anchors_for_levels(
            output.map_shapes, self._strides, self.plan.anchors.sizes, device=output.logits.device
        )

    @property
    def _strides(self) -> list[tuple[int, int, int]]:
        """Patch voxels per location of each detection level."""
        return [self.architecture.stride_of(level) for level in self.architecture.detection_levels]

    def losses(self, output: RetinaOutput, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Classification over sampled anchors and GIoU over the positives among them. What nobody has judged is not
        drawn."""
        config = self.config
        anchors, per_level, per_location = self.anchors(output)
        matches = torch.stack(
            [atss_match(boxes, anchors, per_level, per_location, config.matcher_candidates) for boxes in batch.boxes]
        )
        judged = judged_anchors(output, batch, self._strides, per_location)
        if judged is not None:
            matches = torch.where((matches < 0) & ~judged, UNJUDGED, matches)
        positives, negatives = sample_anchors(
            matches,
            output.logits.max(dim=2).values,
            config.samples_per_image,
            config.positive_fraction,
            config.negative_pool,
            generator,
        )
        image, anchor = positives // len(anchors), positives % len(anchors)
        lesion = matches[image, anchor]
        boxes, labels = boxes_of_lesions(batch, image, lesion)
        all_labels = torch.zeros(matches.numel(), dtype=torch.long, device=matches.device)
        all_labels[positives] = labels
        decoded = decode(output.deltas[image, anchor], anchors[anchor])
        return {
            "classification": classification_loss(output.logits.flatten(0, 1), all_labels, positives, negatives),
            "regression": regression_loss(decoded, boxes),
        }

    def select(self, output: RetinaOutput, image: int) -> tuple[PatchDetections, Tensor]:
        """The best boxes after suppression within each class, and the middles of their anchors."""
        config = self.config
        anchors, _, _ = self.anchors(output)
        logits, deltas = output.logits[image], output.deltas[image]
        classes = logits.shape[1]
        scores, flat = logits.sigmoid().flatten().topk(min(config.topk, logits.numel()))
        flat, scores = flat[scores >= config.score_threshold], scores[scores >= config.score_threshold]
        anchor, labels = flat // classes, flat % classes
        boxes = clip_boxes(decode(deltas[anchor], anchors[anchor]), output.segmentation.shape[2:])
        kept = batched_nms(boxes, scores, labels, config.nms_iou)[: config.detections_per_patch]
        return PatchDetections(boxes[kept], scores[kept], labels[kept]), box_centres(anchors[anchor[kept]])
