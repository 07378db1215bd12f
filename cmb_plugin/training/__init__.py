"""Training: patches, augmentation, the module that trainers inherit, and the loop around Lightning."""

from .augmentation import Augmentation
from .cases import LabelledCases, PreparedCases
from .config import AUGMENT_PRESETS, PRESETS, AugmentConfig, ExperimentConfig, TrainerConfig
from .loop import fit, seed_all
from .module import DetectionModule, ModelConfig, SegmentationModule, TrainingModule, read_weights
from .painting import can_be_painted
from .patches import Batch, PatchDataset, Sample, read_region
from .schedule import learning_rate

__all__ = [
    "AUGMENT_PRESETS",
    "PRESETS",
    "AugmentConfig",
    "Augmentation",
    "Batch",
    "DetectionModule",
    "ExperimentConfig",
    "LabelledCases",
    "ModelConfig",
    "PatchDataset",
    "PreparedCases",
    "Sample",
    "SegmentationModule",
    "TrainerConfig",
    "TrainingModule",
    "can_be_painted",
    "fit",
    "learning_rate",
    "read_region",
    "read_weights",
    "seed_all",
]
