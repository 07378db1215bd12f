"""Plain ``nn.Module``s and losses; nothing here knows Lightning or files."""

from .fusion import FeatureFusion
from .heads import DetectionHead, SegmentationHead
from .losses import classification_loss, regression_loss, sample_anchors, segmentation_loss
from .precision import autocast, resolve_precision
from .prototypes import PrototypeHead, hard_mimics, peaks_near
from .pyramid import FeaturePyramid, build_encoder, pyramid_widths
from .retina_unet import RetinaOutput, RetinaUNet

__all__ = [
    "DetectionHead",
    "FeatureFusion",
    "FeaturePyramid",
    "PrototypeHead",
    "RetinaOutput",
    "RetinaUNet",
    "SegmentationHead",
    "autocast",
    "build_encoder",
    "classification_loss",
    "hard_mimics",
    "peaks_near",
    "pyramid_widths",
    "regression_loss",
    "resolve_precision",
    "sample_anchors",
    "segmentation_loss",
]
