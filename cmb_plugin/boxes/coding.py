"""Boxes relative to anchors, as a network predicts them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .overlap import as_float

UNIT_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
MAX_LOG = math.log(1000 / 16)  # a box is at most 62.5 times its anchor: exp() of a wild prediction stays finite


def encode(boxes: Tensor, anchors: Tensor, weights: Sequence[float] = UNIT_WEIGHTS) -> Tensor:
    """Boxes as offsets from their anchors (Ren et al. 2015, Faster R-CNN).

    ``(c - c_a) / s_a`` and ``log(s / s_a)`` along each axis, with c the centre and s the side of the box, c_a and s_a
    those of the anchor.

    Args:
        boxes: [N, 6], all sides longer than 0.
        anchors: [N, 6], the anchor of each box.
        weights: factors of the six numbers.

    Returns:
        [N, 6] ``(dz, dy, dx, log z, log y, log x)``.
    """
    boxes, anchors = as_float(boxes), as_float(anchors)
    sides, anchor_sides = boxes[:, 3:] - boxes[:, :3], anchors[:, 3:] - anchors[:, :3]
    offsets = (boxes[:, :3] + boxes[:, 3:] - anchors[:, :3] - anchors[:, 3:]) / 2 / anchor_sides
    return torch.cat([offsets, torch.log(sides / anchor_sides)], dim=1) * boxes.new_tensor(weights)


def decode(deltas: Tensor, anchors: Tensor, weights: Sequence[float] = UNIT_WEIGHTS) -> Tensor:
    """The boxes that ``encode`` would turn into ``deltas``; growth is limited to ``exp(MAX_LOG)`` times the anchor.

    Args:
        deltas: [N, 6] ``(dz, dy, dx, log z, log y, log x)``.
        anchors: [N, 6].
        weights: as for ``encode``.

    Returns:
        [N, 6] boxes.
    """
    deltas, anchors = as_float(deltas), as_float(anchors)
    deltas = deltas / deltas.new_tensor(weights)
    anchor_sides = anchors[:, 3:] - anchors[:, :3]
    centres = (anchors[:, :3] + anchors[:, 3:]) / 2 + deltas[:, :3] * anchor_sides
    logs = deltas[:, 3:]
    # Limited in value, not in gradient: a box that has grown to the limit must be able to shrink again.
    limited = logs.clamp(max=MAX_LOG).detach() + (logs - logs.detach())
    halves = limited.exp() * anchor_sides / 2
    return torch.cat([centres - halves, centres + halves], dim=1)
