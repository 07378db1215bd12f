"""Non-maximum suppression that stays quick for tens of thousands of 3D boxes without a compiled extension."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .overlap import as_float, box_iou, paired_iou

CHUNK = 512  # boxes decided at a time, highest scores first
LEAF = 16  # neighbouring boxes that share a bounding box
PAIRS = 1 << 20  # box pairs compared at a time: bounds the memory


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression: from the highest score down, a box is kept unless a kept one overlaps it by more
    than ``iou_threshold``. Equal scores keep their order.

    Args:
        boxes: [N, 6].
        scores: [N].
        iou_threshold: IoU above which the weaker box goes.

    Returns:
        int64 indices of the kept boxes, highest score first.
    """
    order = scores.argsort(descending=True, stable=True)
    owners = owners_of(boxes[order], iou_threshold)
    return order[owners == torch.arange(len(owners), device=owners.device)]


def batched_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """``nms`` within each class: boxes of different ``labels`` [N] never suppress each other."""
    kept = [
        members[nms(boxes[members], scores[members], iou_threshold)]
        for members in ((labels == label).nonzero().flatten() for label in labels.unique())
    ]
    if not kept:
        return torch.zeros(0, dtype=torch.long, device=boxes.device)
    indices = torch.cat(kept)
    if len(kept) > 1:
        indices = indices.sort().values  # so that equal scores keep their order across classes too
    return indices[scores[indices].argsort(descending=True, stable=True)]


def owners_of(boxes: Tensor, iou_threshold: float) -> Tensor:
    """For every box the box that takes it in greedy suppression; a kept box owns itself.

    Args:
        boxes: [N, 6], highest score first.
        iou_threshold: a kept box takes all later, still free ones that it overlaps by more than this.

    Returns:
        [N] int64 indices; ``owners[i] == i`` exactly for the kept boxes.
    """
    boxes = as_float(boxes)
    owners = torch.full((len(boxes),), -1, dtype=torch.long, device=boxes.device)
    free = torch.arange(len(boxes), device=boxes.device)
    while len(free):
        chunk, rest = free[:CHUNK], free[CHUNK:]
        local = _owners_in_chunk(box_iou(boxes[chunk], boxes[chunk]) > iou_threshold)
        owners[chunk] = chunk[local]
        if len(rest):
            kept = chunk[local == torch.arange(len(chunk), device=boxes.device)]
            owners[rest] = _first_overlapping(kept, rest, boxes, iou_threshold)
        free = rest[owners[rest] < 0]
    return owners


def _owners_in_chunk(overlapping: Tensor) -> Tensor:
    """Greedy suppression on a [N, N] boolean matrix; returns [N] owners."""
    matrix = overlapping.cpu().numpy()
    owners = np.full(len(matrix), -1)
    free = np.ones(len(matrix), dtype=bool)
    for index, row in enumerate(matrix):
        if free[index]:
            free[index] = False
            taken = row & free
            owners[taken] = index
            owners[index] = index
            free &= ~taken
    return torch.from_numpy(owners).to(overlapping.device)


def _first_overlapping(kept: Tensor, rest: Tensor, boxes: Tensor, iou_threshold: float) -> Tensor:
    """For each box of ``rest`` the first of ``kept`` that overlaps it by more than the threshold, or -1.

    ``rest`` is cut into leaves of neighbouring boxes, and only those leaves are compared box by box whose bounding box
    a kept box can reach.
    """
    rest_order = _by_place(boxes[rest])
    padding = -len(rest) % LEAF
    leaves = torch.cat([rest_order, rest_order[-1:].expand(padding)]).reshape(
        -1, LEAF
    )  # the last box stands in for none
    # IoU > t asks of every axis that i > t (a + b - i), a and b the sides and i the shared length, so that boxes shrunk
    # about their centres by (1 - t) / (1 + t) still meet.
    shrink = max(0.0, (1 - iou_threshold) / (1 + iou_threshold)) if iou_threshold > 0 else 1.0
    centres, halves = (
        (boxes[:, 3:] + boxes[:, :3]) / 2,
        (boxes[:, 3:] - boxes[:, :3]) / 2 * (shrink * (1 + 1e-4) + 1e-6),
    )
    low, high = centres - halves, centres + halves
    leaf_low, leaf_high = low[rest[leaves]].amin(dim=1), high[rest[leaves]].amax(dim=1)  # [L, 3]

    first = torch.full((len(rest),), len(boxes), dtype=torch.long, device=boxes.device)
    rows = max(1, PAIRS // len(leaves))
    for some in kept.split(rows):
        reach = (low[some, None, 0] <= leaf_high[:, 0]) & (high[some, None, 0] >= leaf_low[:, 0])
        for axis in (1, 2):
            reach &= (low[some, None, axis] <= leaf_high[:, axis]) & (high[some, None, axis] >= leaf_low[:, axis])
        for pairs in reach.nonzero().split(PAIRS // LEAF):
            owner, leaf = some[pairs[:, 0]], leaves[pairs[:, 1]]
            taken = paired_iou(boxes[owner, None], boxes[rest[leaf]]) > iou_threshold
            pair, column = taken.nonzero(as_tuple=True)
            first.scatter_reduce_(0, leaf[pair, column], owner[pair], "amin")
    return torch.where(first < len(boxes), first, -1)


def _by_place(boxes: Tensor) -> Tensor:
    """Order of boxes [N, 6] in which boxes near each other in the order are near in space: slabs of z, rows of y, x."""
    centres = boxes[:, :3] + boxes[:, 3:]
    parts = max(1, round((len(boxes) / LEAF) ** (1 / 3)))
    rank = torch.arange(len(boxes), device=boxes.device)
    order = centres[:, 0].argsort()
    slab = rank * parts // len(boxes)  # of the box at each rank
    order = order[_lexsort(slab, centres[order, 1])]
    row = rank * parts * parts // len(boxes)
    return order[_lexsort(row, centres[order, 2])]


def _lexsort(group: Tensor, values: Tensor) -> Tensor:
    """Order by ``group``, then by ``values`` within it."""
    order = values.argsort()
    return order[group[order].argsort(stable=True)]
