"""Where in the brain: region maps from a model, a parcellation or an atlas, and the place of each detection."""

from .locate import locate
from .regions import GROUPS, NOT_TISSUE, UNKNOWN, Place, RegionMap

__all__ = [
    "GROUPS",
    "NOT_TISSUE",
    "UNKNOWN",
    "Place",
    "RegionMap",
    "locate",
]
