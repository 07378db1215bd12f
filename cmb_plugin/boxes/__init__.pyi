from .anchors import anchors_for_level, anchors_for_levels
from .clustering import Clusters, weighted_box_clustering
from .coding import decode, encode
from .matching import atss_match
from .overlap import (
    box_area,
    box_centres,
    box_giou,
    box_iou,
    centre_distance,
    clip_boxes,
    nonempty,
    paired_giou,
    paired_iou,
)
from .suppression import batched_nms, nms

__all__ = [
    "Clusters",
    "anchors_for_level",
    "anchors_for_levels",
    "atss_match",
    "batched_nms",
    "box_area",
    "box_centres",
    "box_giou",
    "box_iou",
    "centre_distance",
    "clip_boxes",
    "decode",
    "encode",
    "nms",
    "nonempty",
    "paired_giou",
    "paired_iou",
    "weighted_box_clustering",
]
