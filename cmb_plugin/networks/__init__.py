"""Plain ``nn.Module``s and losses; nothing here knows Lightning or files."""

from .allocation import keep_freed_memory
from .fusion import FeatureFusion
from .heads import DetectionHead, SegmentationHead
from .losses import (
    class_shares,
    classification_loss,
    dice_and_cross_entropy,
    regression_loss,
    sample_anchors,
    segmentation_loss,
)
from .precision import autocast, resolve_precision
from .prototypes import PrototypeHead, hard_mimics, peaks_near
from .pyramid import FeaturePyramid, build_encoder, pyramid_widths
from .retina_unet import RetinaOutput, RetinaUNet
from .unet import UNet

__all__ = [
    "DetectionHead",
    "FeatureFusion",
    "FeaturePyramid",
    "PrototypeHead",
    "RetinaOutput",
    "RetinaUNet",
    "SegmentationHead",
    "UNet",
    "autocast",
    "build_encoder",
    "class_shares",
    "classification_loss",
    "dice_and_cross_entropy",
    "hard_mimics",
    "keep_freed_memory",
    "peaks_near",
    "pyramid_widths",
    "regression_loss",
    "resolve_precision",
    "sample_anchors",
    "segmentation_loss",
]
