"""Plain ``nn.Module``s and losses; nothing here knows Lightning or files."""

from .heads import CentreHead, DetectionHead, SegmentationHead, light_tower
from .losses import (
    centre_loss,
    class_shares,
    classification_loss,
    dice_and_cross_entropy,
    hard_centre_loss,
    regression_loss,
    sample_anchors,
    segmentation_loss,
    stage_losses,
)
from .norms import LOCAL_NORMS, NORMS
from .pointwise import PointwiseConv3d
from .precision import autocast, resolve_precision
from .pyramid import FeaturePyramid, build_encoder, pyramid_widths
from .receptive_field import (
    ReceptiveField,
    encoder_fields,
    fused_field,
    pyramid_fields,
    retina_unet_halo,
)
from .retina_unet import RetinaOutput, RetinaUNet
from .unet import UNet

__all__ = [
    "LOCAL_NORMS",
    "NORMS",
    "CentreHead",
    "DetectionHead",
    "FeaturePyramid",
    "PointwiseConv3d",
    "ReceptiveField",
    "RetinaOutput",
    "RetinaUNet",
    "SegmentationHead",
    "UNet",
    "autocast",
    "build_encoder",
    "centre_loss",
    "class_shares",
    "classification_loss",
    "dice_and_cross_entropy",
    "encoder_fields",
    "fused_field",
    "hard_centre_loss",
    "light_tower",
    "pyramid_fields",
    "pyramid_widths",
    "regression_loss",
    "resolve_precision",
    "retina_unet_halo",
    "sample_anchors",
    "segmentation_loss",
    "stage_losses",
]
