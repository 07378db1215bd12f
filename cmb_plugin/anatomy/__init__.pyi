from .atlas import Atlas, atlas_regions, read_atlas
from .label_tables import LabelTable, load_table
from .location import locate
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
