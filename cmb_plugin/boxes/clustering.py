"""Weighted box clustering: one box out of what tiles, mirrorings and folds say about the same lesion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .overlap import as_float, paired_iou
from .suppression import owners_of


@dataclass(frozen=True)
class Clusters:
    """Clusters, highest score first.

    Attributes:
        boxes: [K, 6].
        scores: [K].
        labels: [K].
        members: [K] int64, how many of the given boxes went into each.
        index: [N] int64, the cluster of each given box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    members: Tensor
    index: Tensor


def weighted_box_clustering(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    iou_threshold: float = 0.1,
    n_expected: Tensor | float | None = None,
) -> Clusters:
    """Weighted box clustering (Jaeger et al. 2020, Retina U-Net), with the weights that nnDetection takes.

    Within each class the highest-scoring box gathers all boxes that overlap it by more than ``iou_threshold``; the
    highest-scoring one left begins the next cluster. With ``v_i = weights_i * IoU(box_i, highest-scoring box)``,
    the members' scores ``s_i`` and coordinates ``x_i``, and ``n_missing = max(0, mean(n_expected_i) - members)``::

        score      = sum(v_i * s_i) / (sum(v_i) + n_missing * mean(v_i))
        coordinate = sum(v_i * s_i * x_i) / sum(v_i * s_i)

    So a lesion that only some of the views saw scores lower. The paper also weights by volume; nnDetection does not,
    and neither do we: for lesions of a few voxels it would favour boxes that are too large.

    Args:
        boxes: [N, 6] of all views together.
        scores: [N].
        labels: [N] class indices.
        weights: [N] trust in each box, for instance lower near the border of a tile; None means 1.
        iou_threshold: overlap with the highest-scoring box above which a box joins it.
        n_expected: how many views could have seen each box, [N] or one number for all; None counts none as missing.
    """
    boxes, scores = as_float(boxes), as_float(scores)
    owners = _owners_by_class(boxes, scores, labels, iou_threshold)
    seeds, index = owners.unique(return_inverse=True)
    count = len(seeds)
    overlap = paired_iou(boxes, boxes[owners])
    trust = torch.ones_like(scores) if weights is None else as_float(weights)
    # The floor keeps the quotients defined where a box is empty, or every weight or score is 0.
    weight = (trust * torch.where(owners == torch.arange(len(boxes), device=boxes.device), 1.0, overlap)).clamp(
        min=1e-9
    )
    weighted_score = weight * scores.clamp(min=1e-9)

    members = torch.bincount(index, minlength=count)
    total = _sum(weight, index, count)
    missing = torch.zeros_like(total)
    if n_expected is not None:
        expected = torch.as_tensor(n_expected, dtype=scores.dtype, device=scores.device).expand(len(scores))
        missing = (_sum(expected, index, count) / members - members).clamp(min=0)
    cluster_scores = _sum(weight * scores, index, count) / (total + missing * total / members)
    cluster_boxes = _sum(weighted_score[:, None] * boxes, index, count) / _sum(weighted_score, index, count)[:, None]

    order = cluster_scores.argsort(descending=True, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(count, device=order.device)
    return Clusters(cluster_boxes[order], cluster_scores[order], labels[seeds][order], members[order], place[index])


def _owners_by_class(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """[N] index of the box that each box's cluster began with."""
    owners = torch.empty(len(boxes), dtype=torch.long, device=boxes.device)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        members = members[scores[members].argsort(descending=True, stable=True)]
        owners[members] = members[owners_of(boxes[members], iou_threshold)]
    return owners


def _sum(values: Tensor, index: Tensor, count: int) -> Tensor:
    """[N, ...] -> [count, ...] sums of the values that share an index."""
    return values.new_zeros(count, *values.shape[1:]).index_add_(0, index, values)
