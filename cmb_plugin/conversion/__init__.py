"""Data sets as people have them become Task folders: label kinds, point growing, grids, DICOM, tables, the split."""

from .case import Job, Record, convert_case, source_key
from .evidence import doubt
from .growing import Growth, grow_points
from .instances import Drawn, draw_boxes, draw_points, instances_of_mask
from .reading import SourceImage, read_source
from .report import write_html
from .source import (
    SPACES,
    BoxLabel,
    ConvertConfig,
    Converter,
    Healthy,
    Label,
    MaskLabel,
    PointLabel,
    Problem,
    SourceCase,
)
from .splitting import Counted, choose_test
from .tables import (
    TABLE_SUFFIXES,
    Row,
    boxes_of_rows,
    has_boxes,
    number,
    points_of_rows,
    read_cells,
    read_table,
    safe_name,
)

__all__ = [
    "SPACES",
    "TABLE_SUFFIXES",
    "BoxLabel",
    "ConvertConfig",
    "Converter",
    "Counted",
    "Drawn",
    "Growth",
    "Healthy",
    "Job",
    "Label",
    "MaskLabel",
    "PointLabel",
    "Problem",
    "Record",
    "Row",
    "SourceCase",
    "SourceImage",
    "boxes_of_rows",
    "choose_test",
    "convert_case",
    "doubt",
    "draw_boxes",
    "draw_points",
    "grow_points",
    "has_boxes",
    "instances_of_mask",
    "number",
    "points_of_rows",
    "read_cells",
    "read_source",
    "read_table",
    "safe_name",
    "source_key",
    "write_html",
]
