"""``SegmentationUNet``: the base of trainers that give every voxel a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from cmb_plugin.detections import Detections
from cmb_plugin.inference import COMPONENT_SCORES, component_detections
from cmb_plugin.networks import UNet, class_shares, stage_losses
from cmb_plugin.settings import within
from cmb_plugin.training import Batch, ModelConfig, SegmentationModule


@dataclass
class SegmentationConfig(ModelConfig):
    """Settings of the segmentation family (``-o model_cfg.*``).

    Attributes:
        dice_weight: weight of the soft Dice loss.
        cross_entropy_weight: weight of the cross entropy.
        candidate_threshold: where lesions are learned: probability from which a voxel may belong to one.
        least_voxels: smaller pieces are no lesion.
    """

    dice_weight: float = within(1.0, 0)
    cross_entropy_weight: float = within(1.0, 0)
    candidate_threshold: float = within(0.2, 0, 1)
    least_voxels: int = within(1, 1)


class SegmentationUNet(SegmentationModule):
    """A U-Net over patches, learned by soft Dice and cross entropy on every stage of its decoder (Isensee et al. 2021).

    A trainer of the family says what it learns (``target``) and, where it wants, which voxels count more.
    """

    model_config = SegmentationConfig
    model_cfg: SegmentationConfig
    scores: ClassVar[dict[str, str]] = COMPONENT_SCORES

    def build_network(self) -> nn.Module:
        """A U-Net with one output for the background and one per class."""
        return UNet(len(self.plan.modalities), 1 + len(self.plan.classes), self.plan.architecture)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Dice and cross entropy, of the outputs of all levels."""
        assert batch.class_map is not None, "the patches were drawn without classes"
        shares = class_shares(batch.class_map, 1 + len(self.plan.classes))
        dice, cross_entropy = stage_losses(self.network(batch.images), shares, self.voxel_weights(batch))
        return {
            "dice": self.model_cfg.dice_weight * dice,
            "cross_entropy": self.model_cfg.cross_entropy_weight * cross_entropy,
        }

    def voxel_weights(self, batch: Batch) -> Tensor | None:
        """[B, Z, Y, X] weights of the voxels in the cross entropy; None for all alike."""
        return None

    def probabilities(self, images: Tensor) -> Tensor:
        """[B, 1 + classes, Z, Y, X] of the finest output, background first."""
        probabilities: Tensor = self.network(images)[0].float().softmax(dim=1)
        return probabilities

    def lesions(self, probabilities: np.ndarray) -> Detections:
        """``PatchSegmenter.lesions``."""
        return component_detections(probabilities, self.model_cfg.candidate_threshold, self.model_cfg.least_voxels)
