from .anchors import anchors_for_level, anchors_for_levels
from .clustering import Clusters, weighted_box_clustering
from .coding import decode, encode
from .locations import (
    LESIONS_AT_ONCE,
    at_middles,
    cells_of,
    centre_map,
    decode_from,
    encode_from,
    flat_index,
    growth_of,
    image_of_boxes,
    locations_near,
    middles_of,
    peaks,
)
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
    "LESIONS_AT_ONCE",
    "Clusters",
    "anchors_for_level",
    "anchors_for_levels",
    "at_middles",
    "atss_match",
    "batched_nms",
    "box_area",
    "box_centres",
    "box_giou",
    "box_iou",
    "cells_of",
    "centre_distance",
    "centre_map",
    "clip_boxes",
    "decode",
    "decode_from",
    "encode",
    "encode_from",
    "flat_index",
    "growth_of",
    "image_of_boxes",
    "locations_near",
    "middles_of",
    "nms",
    "nonempty",
    "paired_giou",
    "paired_iou",
    "peaks",
    "weighted_box_clustering",
]
