"""``AnatomyUNet``: lobar, deep and infratentorial brain on the scan itself."""

from __future__ import annotations

from typing import Any, ClassVar

from cmb_plugin.plugins import register_trainer

from .segmentation_unet import SegmentationUNet

_SCHEDULE: dict[str, Any] = {
    "trainer_cfg.optimizer": "adamw",
    "trainer_cfg.learning_rate": 5e-4,
    "trainer_cfg.weight_decay": 1e-2,
    "trainer_cfg.swa_learning_rate": 1e-4,
    "trainer_cfg.swa_final_learning_rate": 1e-5,
    "trainer_cfg.warmup_steps": 20,
    # Another scanner's contrast is what the network meets later: change it more than a detector wants.
    "augment_cfg.brightness": 0.3,
    "augment_cfg.contrast": 0.3,
    "augment_cfg.gamma": 0.3,
    "augment_cfg.rotation_degrees": 15.0,
    "augment_cfg.scaling": (0.85, 1.2),
}


@register_trainer
class AnatomyUNet(SegmentationUNet):
    """Learns the regions of ``regionsTr`` with the whole brain in view (the second network of Kim et al. 2023).

    Sides are not learned: they follow from the geometry of the scan. So patches are mirrored left to right, and in no
    other direction, since a brain never stands on its head.
    """

    target: ClassVar[str] = "regions"
    default_plan: ClassVar[str] = "Anatomy_3d"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # Large smooth regions at a coarse spacing: a small part of what lesions take.
        "v001": {
            **_SCHEDULE,
            "trainer_cfg.epochs": 50,
            "trainer_cfg.steps_per_epoch": 100,
            "trainer_cfg.swa_epochs": 5,
            "trainer_cfg.validate_every": 5,
        },
        "fast": {
            **_SCHEDULE,
            "trainer_cfg.epochs": 8,
            "trainer_cfg.steps_per_epoch": 40,
            "trainer_cfg.swa_epochs": 1,
            "trainer_cfg.validate_every": 2,
            "trainer_cfg.validation_cases": 4,
        },
        "demo": {
            **_SCHEDULE,
            "trainer_cfg.epochs": 4,
            "trainer_cfg.steps_per_epoch": 30,
            "trainer_cfg.swa_epochs": 1,
            "trainer_cfg.validate_every": 4,
            "trainer_cfg.validation_cases": 3,
        },
    }

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Left and right alone: a brain upside down has its regions elsewhere."""
        return (self.plan.preprocessing.transpose.index(2),)
