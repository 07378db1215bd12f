"""Plain ``nn.Module``s and losses; nothing here knows Lightning or files."""

from .allocation import keep_freed_memory
from .crops import CropStudent, CropTeacher, cut_crops
from .distillation import distillation_loss
from .fusion import FeatureFusion
from .gaussian import blurred
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
from .prototypes import PrototypeHead, hard_mimics, peaks_near
from .pyramid import FeaturePyramid, build_encoder, pyramid_widths
from .radial_symmetry import ball_response, radial_symmetry
from .retina_unet import RetinaOutput, RetinaUNet
from .unet import UNet
from .vessels import inpaint_vessels

__all__ = [
    "CropStudent",
    "CropTeacher",
    "DetectionHead",
    "FeatureFusion",
    "FeaturePyramid",
    "PrototypeHead",
    "RetinaOutput",
    "RetinaUNet",
    "SegmentationHead",
    "UNet",
    "autocast",
    "ball_response",
    "blurred",
    "build_encoder",
    "class_shares",
    "classification_loss",
    "cut_crops",
    "dice_and_cross_entropy",
    "distillation_loss",
    "hard_mimics",
    "inpaint_vessels",
    "keep_freed_memory",
    "peaks_near",
    "pyramid_widths",
    "radial_symmetry",
    "regression_loss",
    "resolve_precision",
    "sample_anchors",
    "segmentation_loss",
    "stage_losses",
]
