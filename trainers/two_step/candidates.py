"""What is decided about candidates: their class in training, their score from two steps, whether all were rejected."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from cmb_plugin.dataset import CasePredictions

NEVER_SURE = 1e-6  # no step's probability counts as nearer to 0 or 1


def all_rejected(case: CasePredictions) -> bool:
    """Whether the first step let candidates of a scan pass, and none is reported."""
    rejected_by = case.detections.columns.get("rejected_by")
    return rejected_by is not None and bool((rejected_by != "candidates").any()) and not case.reported.any()


def fused(first: Tensor, second: Tensor) -> Tensor:
    """[N] probability whose odds are the geometric mean of those of two steps: what either is sure of weighs more than
    what the other leaves open, also close to 0 and 1."""
    return ((first.logit(eps=NEVER_SURE) + second.logit(eps=NEVER_SURE)) / 2).sigmoid()


def classes_at(centres: Tensor, boxes: Tensor, classes: Tensor) -> Tensor:
    """Class of the lesion that each place lies in or within a voxel of, as crops are labelled.

    Args:
        centres: [N, 3] z, y, x.
        boxes: [L, 6].
        classes: int64 [L] indices from 0.

    Returns:
        int64 [N], 0 for none, else 1 + class index.
    """
    inside = ((centres[:, None] >= boxes[:, :3] - 1) & (centres[:, None] < boxes[:, 3:] + 1)).all(dim=2)
    return F.pad(inside * (classes + 1), (0, 1)).amax(dim=1)
