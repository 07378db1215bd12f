"""Volumes, overlaps and distances of boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def as_float(boxes: Tensor) -> Tensor:
    """float64 stays, everything else becomes float32: products of three sides overflow and round badly in 16 bits."""
    return boxes if boxes.dtype == torch.float64 else boxes.float()


def box_area(boxes: Tensor) -> Tensor:
    """Volume of boxes [..., 6] in voxels, [...]; a box with a negative side has none."""
    boxes = as_float(boxes)
    z, y, x = (boxes[..., 3:] - boxes[..., :3]).clamp(min=0).unbind(-1)
    return z * y * x


def box_centres(boxes: Tensor) -> Tensor:
    """[N, 6] boxes -> [N, 3] centres in voxel-edge coordinates z, y, x."""
    boxes = as_float(boxes)
    return (boxes[:, :3] + boxes[:, 3:]) / 2


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of every pair.

    Args:
        boxes1: [N, 6].
        boxes2: [M, 6].

    Returns:
        [N, M] in 0..1; 0 where both boxes are empty.
    """
    return _iou(as_float(boxes1)[:, None], as_float(boxes2)[None])[0]


def box_giou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Generalised intersection over union of every pair (Rezatofighi et al. 2019).

    IoU minus the share of the smallest enclosing box that neither box fills, so that it still has a gradient when boxes
    do not touch.

    Args:
        boxes1: [N, 6].
        boxes2: [M, 6].

    Returns:
        [N, M] in -1..1.
    """
    return _giou(as_float(boxes1)[:, None], as_float(boxes2)[None])


def paired_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU of ``boxes1[i]`` [N, 6] with ``boxes2[i]`` [N, 6]; returns [N]. Further leading axes broadcast."""
    return _iou(as_float(boxes1), as_float(boxes2))[0]


def paired_giou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """GIoU of ``boxes1[i]`` [N, 6] with ``boxes2[i]`` [N, 6]; returns [N]. See ``box_giou``."""
    return _giou(as_float(boxes1), as_float(boxes2))


def _iou(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and union of boxes [..., 6] that broadcast against each other."""
    # One axis at a time: a [N, M, 3] tensor and its product over the short last axis cost three times as much.
    intersection: Tensor | None = None
    for axis in range(3):
        high = torch.minimum(boxes1[..., axis + 3], boxes2[..., axis + 3])
        length = (high - torch.maximum(boxes1[..., axis], boxes2[..., axis])).clamp(min=0)
        intersection = length if intersection is None else intersection * length
    assert intersection is not None
    union = box_area(boxes1) + box_area(boxes2) - intersection
    return intersection / _positive(union), union


def _giou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    iou, union = _iou(boxes1, boxes2)
    low = torch.minimum(boxes1[..., :3], boxes2[..., :3])
    enclosing = box_area(torch.cat([low, torch.maximum(boxes1[..., 3:], boxes2[..., 3:])], dim=-1))
    return iou - (enclosing - union) / _positive(enclosing)


def _positive(volume: Tensor) -> Tensor:
    """Keeps a quotient by ``volume`` defined where it is 0; every real volume is left exactly as it is."""
    return volume.clamp(min=torch.finfo(volume.dtype).tiny)


def centre_distance(boxes1: Tensor, boxes2: Tensor, spacing: Sequence[float]) -> Tensor:
    """Euclidean distance between the centres of every pair.

    Args:
        boxes1: [N, 6].
        boxes2: [M, 6].
        spacing: voxel size in mm along z, y, x.

    Returns:
        [N, M] distances in mm.
    """
    centres1, centres2 = box_centres(boxes1), box_centres(boxes2)
    scale = centres1.new_tensor(spacing)
    # cdist's default takes a matrix product for many boxes, which is 0.1 mm off for close centres far from the origin.
    return torch.cdist(centres1 * scale, centres2 * scale, compute_mode="donot_use_mm_for_euclid_dist")


def clip_boxes(boxes: Tensor, shape: Sequence[int]) -> Tensor:
    """Cuts boxes [N, 6] off at the border of an array of ``shape`` (z, y, x). One that lies outside becomes empty."""
    limit = boxes.new_tensor([*shape, *shape])
    return torch.minimum(boxes.clamp(min=0), limit)


def nonempty(boxes: Tensor, min_size: float = 0.0) -> Tensor:
    """[N] True where every side of a box [N, 6] is longer than 0 and at least ``min_size`` voxels."""
    sides = boxes[:, 3:] - boxes[:, :3]
    return ((sides > 0) & (sides >= min_size)).all(dim=1)
