"""Which anchors learn which lesion: adaptive training sample selection (ATSS)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .overlap import as_float, box_centres, paired_iou


def atss_match(
    gt_boxes: Tensor,
    anchors: Tensor,
    per_level: Sequence[int],
    per_location: int,
    candidates: int = 4,
    center_in_gt: bool = False,
) -> Tensor:
    """Assigns anchors to lesions by adaptive training sample selection (Zhang et al. 2020).

    For each lesion the ``candidates`` locations of each level nearest to its centre are looked at, with all their
    anchors. Those whose IoU reaches the mean plus the standard deviation of these IoUs become its positives; an anchor
    that several lesions want goes to the one it overlaps most. Beyond the paper, a lesion that ends with nothing (all
    its anchors went to neighbours) gets its best candidate that is not somebody else's only anchor: there is always one
    where its candidates are not fewer than the lesions.

    Only candidates are ever compared, so the cost hardly grows with the number of anchors. Of locations at one distance
    the first ones are taken, in the order of the map, on every device.

    Args:
        gt_boxes: [N, 6] lesions.
        anchors: [T, 6] in the order of ``anchors_for_levels``; the anchors of one location share their centre.
        per_level: number of anchors of each level; they add up to T.
        per_location: number of anchors at each location.
        candidates: locations looked at per level and lesion.
        center_in_gt: demand that an anchor's centre lies inside the lesion, as the paper does. Off, because the nearest
            centre often lies outside a lesion smaller than the stride.

    Returns:
        [T] int64: index of each anchor's lesion, or -1 for background.
    """
    if sum(per_level) != len(anchors):
        raise ValueError(f"per_level adds up to {sum(per_level)}, but there are {len(anchors)} anchors")
    matches = torch.full((len(anchors),), -1, dtype=torch.long, device=anchors.device)
    if len(gt_boxes) == 0 or len(anchors) == 0:
        return matches
    gt_boxes, anchors = as_float(gt_boxes), as_float(anchors)
    candidate = _nearest_anchors(gt_boxes, anchors, per_level, per_location, candidates)  # [N, C]
    overlaps = paired_iou(gt_boxes[:, None], anchors[candidate])  # [N, C]
    mean = overlaps.mean(dim=1, keepdim=True)
    spread = overlaps.std(dim=1, keepdim=True) if overlaps.shape[1] > 1 else torch.zeros_like(mean)
    positive = overlaps >= mean + spread
    if center_in_gt:
        centres = box_centres(anchors)[candidate]  # [N, C, 3]
        positive &= ((centres > gt_boxes[:, None, :3]) & (centres < gt_boxes[:, None, 3:])).all(dim=2)

    lesion, column = positive.nonzero(as_tuple=True)
    _assign(matches, candidate[lesion, column], lesion, overlaps[lesion, column])
    _help_empty_handed(matches, candidate, overlaps)
    return matches


def _nearest_anchors(
    gt_boxes: Tensor, anchors: Tensor, per_level: Sequence[int], per_location: int, candidates: int
) -> Tensor:
    """[N, C] anchors of the ``candidates`` locations of each level nearest to each lesion's centre."""
    centres = box_centres(gt_boxes)
    sizes = torch.arange(per_location, device=anchors.device)
    chosen, start = [], 0
    for count in per_level:
        locations = box_centres(anchors[start : start + count : per_location])
        distance = (centres[:, None] - locations[None]).square().sum(dim=2)  # [N, L]
        k = min(candidates, len(locations))
        # topk may return any of several equal distances, and lesions lie symmetrically to the lattice all the time.
        farthest = distance.topk(k, dim=1, largest=False).values[:, -1:]
        nearer, level_with = distance < farthest, distance == farthest
        places = k - nearer.sum(dim=1, keepdim=True)
        selected = nearer | (level_with & (level_with.cumsum(dim=1) <= places))
        location = selected.nonzero()[:, 1].reshape(len(gt_boxes), k)
        chosen.append((start + location[:, :, None] * per_location + sizes).flatten(1))
        start += count
    return torch.cat(chosen, dim=1)


def _assign(matches: Tensor, anchor: Tensor, lesion: Tensor, overlap: Tensor) -> None:
    """Writes into ``matches`` for each wanted anchor the lesion with the highest overlap; the first one when level."""
    best = torch.full(matches.shape, -1.0, dtype=overlap.dtype, device=matches.device)
    best.scatter_reduce_(0, anchor, overlap, "amax")
    wins = overlap == best[anchor]
    claims = torch.full_like(matches, torch.iinfo(matches.dtype).max)
    claims.scatter_reduce_(0, anchor[wins], lesion[wins], "amin")
    matches[anchor] = claims[anchor]


def _help_empty_handed(matches: Tensor, candidate: Tensor, overlaps: Tensor) -> None:
    """Gives every lesion without an anchor its best candidate that is free or that its owner can spare."""
    owned = torch.bincount(matches[matches >= 0], minlength=len(candidate))
    for lesion in (owned == 0).nonzero().flatten().tolist():
        for anchor in candidate[lesion, overlaps[lesion].argsort(descending=True, stable=True)].tolist():
            owner = int(matches[anchor])
            if owner < 0 or owned[owner] > 1:
                if owner >= 0:
                    owned[owner] -= 1
                matches[anchor] = lesion
                owned[lesion] += 1
                break
