from .components import COMPONENT_SCORES, CORE, component_detections
from .config import InferenceConfig
from .detector import PatchDetections, PatchDetector, PatchSegmenter
from .merging import merge_tiles, merge_views
from .predictor import Prediction, predict_array
from .restore import filled_boxes, instance_mask, restore
from .segmenter import class_map, segment_array
from .tiling import CoreTiling, Tiling, gaussian_map, tile_starts

__all__ = [
    "COMPONENT_SCORES",
    "CORE",
    "CoreTiling",
    "InferenceConfig",
    "PatchDetections",
    "PatchDetector",
    "PatchSegmenter",
    "Prediction",
    "Tiling",
    "class_map",
    "component_detections",
    "filled_boxes",
    "gaussian_map",
    "instance_mask",
    "merge_tiles",
    "merge_views",
    "predict_array",
    "restore",
    "segment_array",
    "tile_starts",
]
