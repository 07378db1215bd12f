"""The place of each detection: its region and side, and its distances in mm to borders, surface and CSF."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from cmb_plugin.detections import Detections
from cmb_plugin.images import Grid

from .regions import CODES, GROUPS, NOT_TISSUE, OUTSIDE, UNKNOWN, Place, RegionMap

TISSUE = [CODES[group] for group in GROUPS]
FLUID = [CODES["ventricle"], CODES["csf"]]
NOT_BRAIN = [CODES["csf"], CODES["outside"]]
COLUMNS = (
    *("region_group", "region", "side", "nearest_group", "nearest_region"),
    *("border_mm", "surface_mm", "csf_mm", "tissue_mm"),
)
"""What ``locate`` adds to detections."""

MARGIN_VOXELS = 2  # kept around the brain and the detections, so that the brain's surface lies within the crop


def locate(detections: Detections, regions: RegionMap, outlines: np.ndarray | None = None) -> Detections:
    """Adds to each detection where in the brain it lies.

    The region is that of most of the lesion's volume: of its outline, or of the ellipsoid that fills its box; where two
    have as much of it, that of the voxel nearest to the centre, and unknown where even that does not tell. Distances
    run from the lesion's centre to the centre of the nearest voxel of the kind, so they are right to half a voxel.

    Args:
        detections: boxes in voxels of ``regions.grid``.
        outlines: int [z, y, x] on the same grid, i + 1 in the voxels of detection i; a detection without voxels
            falls back to its ellipsoid.

    Returns:
        The detections with the columns

        - ``region_group``: one of ``GROUPS``, ``NOT_TISSUE`` or ``UNKNOWN``; ``region``: sub-region or ""; ``side``:
          ``left``, ``right`` or "" (untrusted map);
        - ``nearest_group``, ``nearest_region``: the same where the group is tissue, otherwise those of the nearest
          tissue: what a lesion counts as that lies a little beside the brain;
        - ``border_mm``: to the nearest tissue of another group than ``nearest_group``;
        - ``surface_mm``: to the surface of the brain (tissue and ventricles), positive inside, negative outside;
        - ``csf_mm``: to the nearest ventricle or CSF;
        - ``tissue_mm``: to the nearest tissue, 0 within it: how deep in a ventricle, or how far outside.

        A distance is NaN where the map holds nothing to measure to, all are for a map that is not trusted.
    """
    if not len(detections):
        return _with_columns(detections, [], [], [], np.zeros((0, 4)))
    if not regions.trusted or not regions.labels.size:
        unknown = [Place(UNKNOWN)] * len(detections)
        return _with_columns(
            detections, unknown, unknown, [""] * len(detections), np.full((len(detections), 4), np.nan)
        )
    codes = regions.group_codes()
    volumes = _volumes(detections, regions.grid, outlines)
    found = [
        _main_place(regions, codes, voxels, centre) for voxels, centre in zip(volumes, detections.centres, strict=True)
    ]

    centres = detections.centres * np.asarray(regions.grid.spacing)
    surroundings = _Surroundings(codes, regions, detections)
    distance_to_tissue, nearest_labels = surroundings.nearest(centres, TISSUE)
    nearest = [
        regions.place(int(label)) if place.group in NOT_TISSUE and np.isfinite(distance) else place
        for place, label, distance in zip(found, nearest_labels, distance_to_tissue, strict=True)
    ]
    border = np.full(len(detections), np.nan)
    for group in {place.group for place in nearest}:
        chosen = np.array([place.group == group for place in nearest])
        border[chosen] = surroundings.nearest(centres[chosen], [code for code in TISSUE if code != CODES[group]])[0]
    to_fluid = surroundings.nearest(centres, FLUID)[0]
    brain = [code for code in CODES.values() if code not in NOT_BRAIN]
    surface = surroundings.nearest(centres, NOT_BRAIN)[0]
    outside = surroundings.nearest(centres, brain)[0]
    surface = np.where(outside > 0, -outside, surface)
    plane = regions.midplane or middle_plane(codes != CODES["outside"], regions.grid)
    left = regions.grid.to_world(detections.centres) @ np.array(plane[:3]) + plane[3] > 0
    sides = [place.side or ("left" if value else "right") for place, value in zip(nearest, left, strict=True)]
    distances = np.stack([border, surface, to_fluid, distance_to_tissue], axis=1)
    return _with_columns(detections, found, nearest, sides, distances)


class _Surroundings:
    """Distances to the nearest voxel of some groups, in the part of the map that holds the brain and the detections.

    Only voxels at the surface of a group are kept: from any point outside, the nearest voxel is one of them. That
    makes a search tree of 10^5 points of a scan of 4 * 10^7 voxels, where a distance transform takes minutes.
    """

    def __init__(self, codes: np.ndarray, regions: RegionMap, detections: Detections) -> None:
        low, high = _extent(codes != CODES["outside"])
        low = np.minimum(low, np.floor(detections.boxes[:, :3].min(axis=0)).astype(int)) - MARGIN_VOXELS
        high = np.maximum(high, np.ceil(detections.boxes[:, 3:].max(axis=0)).astype(int)) + MARGIN_VOXELS
        self.low = np.clip(low, 0, codes.shape)
        crop = tuple(slice(a, max(a, b)) for a, b in zip(self.low, np.clip(high, 0, codes.shape), strict=True))
        self.codes, self.labels = codes[crop], regions.labels[crop]
        self.spacing = np.asarray(regions.grid.spacing)

    def nearest(self, points: np.ndarray, groups: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Distance of each point [N, 3] (z, y, x in mm of the grid) to the nearest voxel of ``groups``, and its label.

        The distance is 0 for a point within such a voxel, NaN where there is none.
        """
        from scipy.spatial import cKDTree

        table = np.zeros(len(CODES), dtype=bool)
        table[list(groups)] = True
        wanted = table[self.codes]
        voxels = np.argwhere(_shell(wanted))
        if not len(voxels) or not len(points):
            return np.full(len(points), np.nan), np.zeros(len(points), dtype=int)
        tree = cKDTree((voxels + self.low + 0.5) * self.spacing)
        distances, indices = tree.query(points)
        labels = self.labels[tuple(voxels[indices].T)].astype(int)
        own = np.floor(points / self.spacing).astype(int) - self.low
        within = ((own >= 0) & (own < wanted.shape)).all(axis=1)
        within[within] = wanted[tuple(own[within].T)]
        labels[within] = self.labels[tuple(own[within].T)]
        return np.where(within, 0.0, distances), labels


def _shell(mask: np.ndarray) -> np.ndarray:
    """The voxels of ``mask`` that have a face to its outside or to that of the array."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        np.moveaxis(inner, axis, 0)[[0, -1]] = False
    for axis in range(mask.ndim):
        first, last = ([slice(None)] * mask.ndim for _ in range(2))
        first[axis], last[axis] = slice(None, -1), slice(1, None)
        inner[tuple(first)] &= mask[tuple(last)]
        inner[tuple(last)] &= mask[tuple(first)]
    return mask & ~inner


def _extent(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last index of ``mask`` along each axis; an empty mask gives the whole array."""
    spans = []
    for axis in range(mask.ndim):
        used = np.flatnonzero(mask.any(axis=tuple(k for k in range(mask.ndim) if k != axis)))
        spans.append((used[0], used[-1] + 1) if len(used) else (0, mask.shape[axis]))
    return np.array([a for a, _ in spans]), np.array([b for _, b in spans])


def _volumes(detections: Detections, grid: Grid, outlines: np.ndarray | None) -> list[np.ndarray]:
    """The voxels [M, 3] of each detection that lie on the grid."""
    shape = np.asarray(grid.shape)
    drawn: dict[int, np.ndarray] = {}
    if outlines is not None:
        voxels = np.argwhere(outlines > 0)
        numbers = outlines[tuple(voxels.T)]
        drawn = {int(n): voxels[numbers == n] for n in np.unique(numbers)}
    volumes = []
    for number, box in enumerate(detections.boxes.astype(float), start=1):
        voxels = drawn[number] if number in drawn else ellipsoid_voxels(box)
        volumes.append(voxels[((voxels >= 0) & (voxels < shape)).all(axis=1)])
    return volumes


def ellipsoid_voxels(box: np.ndarray) -> np.ndarray:
    """[M, 3] voxels whose centres lie in the ellipsoid that fills a box [6]; at least that of the box's centre."""
    centre, half = (box[:3] + box[3:]) / 2, np.maximum((box[3:] - box[:3]) / 2, 0.5)
    axes = [np.arange(np.floor(c - h), np.ceil(c + h)) for c, h in zip(centre, half, strict=True)]
    z, y, x = ((axis + 0.5 - c) / h for axis, c, h in zip(axes, centre, half, strict=True))
    inside = z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2 <= 1
    if not inside.any():
        return np.floor(centre).astype(int)[None]
    return np.argwhere(inside) + np.array([int(axis[0]) for axis in axes])


def _main_place(regions: RegionMap, codes: np.ndarray, voxels: np.ndarray, centre: np.ndarray) -> Place:
    """The group that most of the voxels [M, 3] belong to, and the most frequent place of that group among them.

    Of groups with equally many voxels the one nearest to ``centre`` (z, y, x in voxels) counts. If that is two kinds of
    tissue alike, the group is unknown: a guess could make a patient strictly lobar.
    """
    if not len(voxels):
        return OUTSIDE
    distances = np.linalg.norm((voxels + 0.5 - centre) * np.asarray(regions.grid.spacing), axis=1)
    groups = codes[tuple(voxels.T)]
    first = _most_frequent(groups, distances)
    tissue = [code for code in first if code in (*TISSUE, CODES[UNKNOWN])]
    if len(tissue) > 1:
        return Place(UNKNOWN)
    inside = groups == (tissue or first)[0]
    places = [regions.place(int(n)) for n in _most_frequent(regions.labels[tuple(voxels[inside].T)], distances[inside])]
    region, side = ({getattr(place, name) for place in places} for name in ("region", "side"))
    return Place(places[0].group, region.pop() if len(region) == 1 else "", side.pop() if len(side) == 1 else "")


def _most_frequent(values: np.ndarray, distances: np.ndarray) -> list[int]:
    """The most frequent value; of several the one with the smallest distance, all of them where that is the same."""
    found, counts = np.unique(values, return_counts=True)
    tied = found[counts == counts.max()]
    if len(tied) == 1:
        return [int(tied[0])]
    nearest = np.array([distances[values == value].min() for value in tied])
    return [int(value) for value in tied[nearest <= nearest.min() + 1e-4]]


def middle_plane(brain: np.ndarray, grid: Grid) -> tuple[float, float, float, float]:
    """The plane through the centre of a mask [z, y, x], across the array axis that runs most from right to left."""
    matrix = grid.affine[:3, :3]
    axis = int(np.argmax(np.abs(matrix[0])))
    normal = matrix[:, axis] / np.linalg.norm(matrix[:, axis]) * np.sign(matrix[0, axis])
    counts = [brain.sum(axis=tuple(k for k in range(3) if k != axis)) for axis in range(3)]
    total = counts[0].sum()
    if not total:
        centre = np.asarray(brain.shape) / 2
    else:
        centre = np.array([(np.arange(len(n)) + 0.5) @ n / total for n in counts])
    a, b, c = (float(v) for v in normal)
    return (a, b, c, -float(normal @ grid.to_world(centre[None])[0]))


def _with_columns(
    detections: Detections, found: list[Place], nearest: list[Place], sides: list[str], distances: np.ndarray
) -> Detections:
    columns = {
        "region_group": np.array([place.group for place in found], dtype=str),
        "region": np.array([place.region for place in found], dtype=str),
        "side": np.array(sides, dtype=str),
        "nearest_group": np.array([place.group for place in nearest], dtype=str),
        "nearest_region": np.array([place.region for place in nearest], dtype=str),
        "border_mm": distances[:, 0],
        "surface_mm": distances[:, 1],
        "csf_mm": distances[:, 2],
        "tissue_mm": distances[:, 3],
    }
    return dataclasses.replace(detections, columns={**detections.columns, **columns})
