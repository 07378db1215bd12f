"""Boxes relative to the locations of a dense map: what a detector without anchors learns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .overlap import as_float, box_centres

LESIONS_AT_ONCE = 32
"""Lesions of which each gets a map of its own in memory at a time."""

LEAST_RATIO = 0.02  # of a typical side; the code of a side of 0 would be minus infinity


def encode_from(boxes: Tensor, locations: Tensor, reach: Sequence[float], sides: Sequence[float]) -> Tensor:
    """Boxes as six numbers of the size of 1, seen from locations.

    The offset to the box's centre in units of ``reach``; and for each side s the number r of which
    ``softplus(r) / log 2`` is its ratio to the typical side. Softplus grows with r, not with its exponential, so no
    box explodes; and since the code of every box is finite, an L1 loss of codes pulls at any prediction, however bad.

    Args:
        boxes: [N, 6].
        locations: [N, 3] voxel-edge coordinates.
        reach: voxels along z, y, x.
        sides: typical sides of a lesion in voxels, z, y, x.

    Returns:
        [N, 6] ``(dz, dy, dx, rz, ry, rx)``.
    """
    boxes = as_float(boxes)
    offsets = (box_centres(boxes) - locations) / boxes.new_tensor(reach)
    ratios = (boxes[:, 3:] - boxes[:, :3]) / boxes.new_tensor(sides)
    grown = ratios.clamp(min=LEAST_RATIO) * math.log(2)
    # log(exp(r) - 1), which would overflow for a side 128 times the typical one.
    return torch.cat([offsets, grown + torch.log(-torch.expm1(-grown))], dim=1)


def decode_from(codes: Tensor, locations: Tensor, reach: Sequence[float], sides: Sequence[float]) -> Tensor:
    """The boxes [N, 6] that ``encode_from`` turns into ``codes`` [N, 6]; no side is negative."""
    codes = as_float(codes)
    centres = locations + codes[:, :3] * codes.new_tensor(reach)
    halves = F.softplus(codes[:, 3:]) * (codes.new_tensor(sides) / (2 * math.log(2)))
    return torch.cat([centres - halves, centres + halves], dim=1)


def at_middles(mask: Tensor, shape: Sequence[int], stride: Sequence[int]) -> Tensor:
    """A mask of voxels as the locations of a map see it: each by the voxel that its middle lies in.

    Args:
        mask: [B, Z, Y, X] of the patch.
        shape: of the map, z, y, x.
        stride: patch voxels per location.

    Returns:
        bool [B, *shape].
    """
    z, y, x = (
        (torch.arange(count, device=mask.device) * step + step // 2).clamp(max=side - 1)
        for count, step, side in zip(shape, stride, mask.shape[1:], strict=True)
    )
    seen: Tensor = mask[:, z[:, None, None], y[:, None], x] != 0
    return seen


def centre_map(
    boxes: Tensor,
    labels: Tensor,
    classes: int,
    shape: Sequence[int],
    stride: Sequence[int],
    spacing: Sequence[float],
    sigma_mm: float | Tensor,
) -> Tensor:
    """How near each location is to a lesion's centre, for each class: the target of a dense detector.

    A Gaussian of the distance in mm, the highest of all lesions of the class (Law & Deng 2018, CornerNet; Zhou et al.
    2019, CenterNet); 1 exactly where a lesion's centre lies in the location, so that every lesion has one, however
    coarse the map.

    Args:
        boxes: [N, 6] lesions in patch voxels.
        labels: [N] their classes.
        classes: number of classes.
        shape: of the map, z, y, x.
        stride: patch voxels per location.
        spacing: mm per patch voxel.
        sigma_mm: standard deviation of the Gaussian, of all lesions or [N] of each.

    Returns:
        float32 [classes, Z, Y, X].
    """
    target = torch.zeros(classes, *shape, device=boxes.device)
    if not len(boxes):
        return target
    centres = box_centres(boxes)
    sigma = torch.as_tensor(sigma_mm, device=boxes.device).expand(len(boxes))[:, None]
    factors = []
    for axis, (n, step, mm) in enumerate(zip(shape, stride, spacing, strict=True)):
        middles = (torch.arange(n, device=boxes.device) + 0.5) * step
        factors.append(torch.exp(-0.5 * ((middles - centres[:, axis, None]) * mm / sigma).square()))  # [N, n]
    # Some lesions at once, for a GPU's sake, but not so many that memory grows with them.
    parts = (values.split(LESIONS_AT_ONCE) for values in (*factors, labels))
    for z, y, x, own in zip(*parts, strict=True):
        bumps = z[:, :, None, None] * y[:, None, :, None] * x[:, None, None, :]
        target.scatter_reduce_(0, own[:, None, None, None].expand_as(bumps), bumps, "amax")
    cell = cells_of(centres, shape, stride)
    target[labels, cell[:, 0], cell[:, 1], cell[:, 2]] = 1
    return target


def growth_of(boxes: Tensor, spacing: Sequence[float], typical_mm: float, most: float) -> Tensor:
    """How much wider than a typical lesion each is: [N], 1 to ``most``, of boxes [N, 6] in voxels of ``spacing`` mm, by
    their shortest sides."""
    boxes = as_float(boxes)
    sides = (boxes[:, 3:] - boxes[:, :3]) * boxes.new_tensor(list(spacing))
    return (sides.amin(dim=1) / typical_mm).clamp(1, most)


def image_of_boxes(boxes: Sequence[Tensor]) -> Tensor:
    """Which image each box lies in: boxes of images, [N, 6] each -> int64 [sum of N], one image after the other."""
    return torch.repeat_interleave(torch.tensor([len(own) for own in boxes])).to(boxes[0].device)


def cells_of(points: Tensor, shape: Sequence[int], stride: Sequence[int]) -> Tensor:
    """[N, 3] voxel-edge coordinates -> int64 [N, 3], the location of a map that each lies in, or the nearest one."""
    cells = (points / points.new_tensor(list(stride))).floor().long()
    return cells.clamp(min=0).minimum(torch.tensor(list(shape), device=points.device) - 1)


def middles_of(cells: Tensor, stride: Sequence[int]) -> Tensor:
    """Middles of locations [..., 3] of a map in voxel-edge coordinates of the patch, float32; ``cells_of`` turned
    round."""
    return (cells + 0.5) * torch.tensor(list(stride), device=cells.device)


def flat_index(cells: Tensor, shape: Sequence[int]) -> Tensor:
    """Where locations [..., 3] lie in a flattened map of ``shape``, x fastest: int64 [...]."""
    z, y, x = cells.unbind(-1)
    return (z * shape[1] + y) * shape[2] + x


def _cube(reach: Sequence[int], device: torch.device) -> Tensor:
    """Steps to all locations up to ``reach`` away along z, y, x: int64 [S, 3]."""
    return torch.cartesian_prod(*(torch.arange(-n, n + 1, device=device) for n in reach))


def locations_near(
    boxes: Tensor,
    shape: Sequence[int],
    stride: Sequence[int],
    spacing: Sequence[float],
    reach_mm: float | Tensor,
    image: Tensor | None = None,
    farthest_mm: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Locations within ``reach_mm`` of a lesion's centre, and the one that it lies in; each belongs to the nearest.

    Args:
        boxes: [N, 6] lesions in patch voxels.
        shape, stride, spacing: as for ``centre_map``.
        reach_mm: how far, from all lesions or [N] from each.
        image: int64 [N] which of several maps of that shape each lesion lies in; None for a single one.
        farthest_mm: no reach is longer, known without asking the device; None for ``reach_mm``.

    Returns:
        int64 [P] indices into the flattened locations of all maps, one map after the other, ascending, and [P] the
        lesion of each.
    """
    if not len(boxes):
        empty = torch.zeros(0, dtype=torch.long, device=boxes.device)
        return empty, empty
    centres = box_centres(boxes)
    reach = torch.as_tensor(reach_mm, device=boxes.device).expand(len(boxes))[:, None]
    farthest = float(reach_mm) if farthest_mm is None else farthest_mm
    steps = [max(1, math.ceil(farthest / (step * mm) + 0.5)) for step, mm in zip(stride, spacing, strict=True)]
    around = _cube(steps, boxes.device)
    own = cells_of(centres, shape, stride)
    cells = own[:, None] + around[None]  # [N, S, 3]
    limit = torch.tensor(list(shape), device=boxes.device)
    distance = (
        ((middles_of(cells, stride) - centres[:, None]) * centres.new_tensor(list(spacing))).square().sum(dim=2).sqrt()
    )
    wanted = (distance <= reach) | (around == 0).all(dim=1)
    lesion, place = (wanted & (cells >= 0).all(dim=2) & (cells < limit).all(dim=2)).nonzero(as_tuple=True)
    flat = flat_index(cells[lesion, place], shape)
    if image is not None:
        flat = flat + image[lesion] * math.prod(shape)
    # Of several lesions that want a location the nearest gets it: sorted by location, then by distance.
    order = distance[lesion, place].argsort(stable=True)
    order = order[flat[order].argsort(stable=True)]
    first = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    first[1:] = flat[order[1:]] != flat[order[:-1]]
    chosen = order[first]
    return flat[chosen], lesion[chosen]


def peaks(scores: Tensor, most: int, least: float, window: Sequence[int], of_each: bool = False) -> Tensor:
    """The highest local maxima of maps.

    Args:
        scores: [K, Z, Y, X].
        most: at most so many, of all maps together.
        least: lowest score.
        window: locations along z, y, x on each side among which a peak is the highest of its map.
        of_each: at most ``most`` of each map, and one map after the other.

    Returns:
        int64 [N, 4] ``(map, z, y, x)``, highest score first.
    """
    scores = scores.detach()
    highest = scores
    for axis, reach in enumerate(window, start=1):
        highest = _highest_within(highest, reach, axis)
    places = ((scores == highest) & (scores >= least)).nonzero()
    places = places[scores[tuple(places.unbind(dim=1))].argsort(descending=True, stable=True)]
    if not of_each:
        return places[:most]
    places = places[places[:, 0].argsort(stable=True)]
    own = places[:, 0].contiguous()
    rank = torch.arange(len(own), device=own.device) - torch.searchsorted(own, own)  # among those of its map
    return places[rank < most]


def _highest_within(scores: Tensor, reach: int, axis: int) -> Tensor:
    """The maximum of up to ``reach`` neighbours on each side along an axis: one of shifted copies, which on a CPU
    takes an eighth of what torch's pooling does."""
    padding = [0] * (2 * scores.dim())
    padding[-2 * axis - 2] = padding[-2 * axis - 1] = reach
    padded = F.pad(scores, padding, value=-math.inf)
    count = scores.shape[axis]
    highest = padded.narrow(axis, 0, count).clone()
    for shift in range(1, 2 * reach + 1):
        torch.maximum(highest, padded.narrow(axis, shift, count), out=highest)
    return highest
