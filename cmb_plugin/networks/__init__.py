"""Plain ``nn.Module``s and losses; nothing here knows Lightning or files."""

from .allocation import keep_freed_memory
from .heads import DetectionHead, SegmentationHead
from .losses import (
    class_shares,
    classification_loss,
    dice_and_cross_entropy,
    regression_loss,
    sample_anchors,
    segmentation_loss,
    stage_losses,
)
from .precision import autocast, resolve_precision
from .pyramid import FeaturePyramid, build_encoder, pyramid_widths
from .retina_unet import RetinaOutput, RetinaUNet
from .unet import UNet

__all__ = [
    "DetectionHead",
    "FeaturePyramid",
    "RetinaOutput",
    "RetinaUNet",
    "SegmentationHead",
    "UNet",
    "autocast",
    "build_encoder",
    "class_shares",
    "classification_loss",
    "dice_and_cross_entropy",
    "keep_freed_memory",
    "pyramid_widths",
    "regression_loss",
    "resolve_precision",
    "sample_anchors",
    "segmentation_loss",
    "stage_losses",
]
