from .dicom import DicomSeries, find_series, read_series
from .grid import Grid
from .instances import (
    boxes_of_instances,
    centroids_of_instances,
    detections_of_instances,
    label_components,
    pieces_of_instances,
    voxels_of_instances,
)
from .io import SUFFIXES, image_stem, place_doubt, read_grid, read_mask, read_scan, read_stored, write_image
from .itk import registration_method, resample, to_itk
from .mapping import Mapping

__all__ = [
    "SUFFIXES",
    "DicomSeries",
    "Grid",
    "Mapping",
    "boxes_of_instances",
    "centroids_of_instances",
    "detections_of_instances",
    "find_series",
    "image_stem",
    "label_components",
    "pieces_of_instances",
    "place_doubt",
    "read_grid",
    "read_mask",
    "read_scan",
    "read_series",
    "read_stored",
    "registration_method",
    "resample",
    "to_itk",
    "voxels_of_instances",
    "write_image",
]
