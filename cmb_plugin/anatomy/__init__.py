"""Where in the brain: region maps from a model, a parcellation or an atlas, and the place of each detection."""

from .atlas import Atlas, atlas_regions, read_atlas
from .label_tables import LabelTable, load_table
from .locate import locate
from .parcellation import find_parcellation, parcellation_regions
from .regions import GROUPS, NOT_TISSUE, UNKNOWN, Place, RegionMap

__all__ = [
    "GROUPS",
    "NOT_TISSUE",
    "UNKNOWN",
    "Atlas",
    "LabelTable",
    "Place",
    "RegionMap",
    "atlas_regions",
    "find_parcellation",
    "load_table",
    "locate",
    "parcellation_regions",
    "read_atlas",
]
