"""``RetinaConfig``: settings of the Retina U-Net family."""

from __future__ import annotations

from dataclasses import dataclass

from cmb_plugin.settings import within
from cmb_plugin.training import ModelConfig


@dataclass
class RetinaConfig(ModelConfig):
    """Settings of the Retina U-Net family (``-o model_cfg.*``); the defaults are nnDetection's.

    Attributes:
        assignment: how lesions are brought to locations: ``atss`` by anchors that fit them, ``centre`` by a dense map
            of their centres.
        widths: of the network: ``plan`` as planned, or ``light``, the plan's for dense maps of centres.
        norm: between convolutions: ``instance``, ``group``, ``batch`` or ``none``.
        head_convs: convolutions in each tower of the head.
        matcher_candidates: anchors per level and location rule that ATSS considers for a lesion.
        samples_per_image: anchors per patch that enter the classification loss.
        positive_fraction: share of positives among them.
        negative_pool: size of the pool of hard negatives relative to the number drawn; null draws from all, which are
            the random negatives of a plain region proposal network.
        hard_negatives: with a dense map, how many locations without a lesion enter a cross entropy for each lesion, the
            hardest of the batch, beside CornerNet's focal loss over all; 0 takes the focal loss alone.
        topk: best-scoring boxes of a patch that reach suppression.
        score_threshold: boxes below it are dropped before suppression.
        nms_iou: with anchors, overlap from which the weaker of two boxes of a patch is dropped.
        detections_per_patch: at most so many boxes leave a patch.
        segmentation_foreground_weight: weight of lesion voxels in the cross entropy of the segmentation head; 1 is
            nnDetection's, short schedules need more.
        segment_weak: also learn the outlines of lesions that were drawn from points or boxes
            (``annotation_style: weak`` in dataset.json). Without it such patches teach where lesions are, not how far
            they reach.
    """

    assignment: str = "atss"
    widths: str = "plan"
    norm: str = "instance"
    head_convs: int = within(1, 0)
    matcher_candidates: int = within(4, 1)
    samples_per_image: int = within(32, 1)
    positive_fraction: float = within(1 / 3, 0, 1)
    negative_pool: float | None = within(20.0, 0)
    hard_negatives: int = within(16, 0)
    topk: int = within(1000, 1)
    score_threshold: float = within(0.02, 0, 1)
    nms_iou: float = within(0.6, 0, 1)
    detections_per_patch: int = within(100, 1)
    segmentation_foreground_weight: float = within(1.0, 0)
    segment_weak: bool = False
