"""The Retina U-Net family: its baseline ``RetinaUNetV001``, and the two ways of bringing lesions to locations."""

from .assignment import Assignment
from .module import RetinaConfig, RetinaUNetV001

__all__ = ["Assignment", "RetinaConfig", "RetinaUNetV001"]
