"""Training: patches, augmentation, the module that trainers inherit, and the loop around Lightning."""

from .config import PRESETS, AugmentConfig, ExperimentConfig, TrainerConfig
from .loop import fit, seed_all
from .module import DetectionModule, ModelConfig, read_weights
from .patches import Batch
from .schedule import learning_rate

__all__ = [
    "PRESETS",
    "AugmentConfig",
    "Batch",
    "DetectionModule",
    "ExperimentConfig",
    "ModelConfig",
    "TrainerConfig",
    "fit",
    "learning_rate",
    "read_weights",
    "seed_all",
]
