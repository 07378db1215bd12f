"""What kind of mimic a false positive is, where the data set lists the mimics (phantoms do)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmb_plugin.dataset import Mimic

from .cases import CaseResult, EvaluationConfig
from .listing import FALSE, list_entries

NONE = "none"
REACH_MM = 3.0
_CHUNK = 512  # points at a time: distances to some thousand pieces of vessels are held for each


def mimic_kinds(
    points_voxel: np.ndarray, mimics: Sequence[Mimic], spacing: Sequence[float], reach_mm: float = REACH_MM
) -> list[str]:
    """The kind of the mimic that each point lies on.

    Args:
        points_voxel: [N, 3] voxel-edge coordinates z, y, x in the scan's own voxels, such as ``Detections.centres``.
        mimics: those of the scan (``cmb_plugin.dataset.read_mimics``).
        spacing: mm along z, y, x.
        reach_mm: a point belongs to the nearest mimic if its surface is at most so far away.

    Returns:
        N kinds; ``none`` where no mimic is within reach. Inside several mimics the one whose middle line or centre
        is nearer counts.
    """
    points = np.asarray(points_voxel, dtype=float).reshape(-1, 3)
    if not len(points) or not mimics:
        return [NONE] * len(points)
    # Of the thousands of mimics of a scan few are within reach: only points in their boxes are measured.
    surface, middle = np.full((2, len(points), len(mimics)), np.inf)
    reach = (reach_mm + 1e-6) / np.asarray(spacing, dtype=float)
    low, high = np.array([_bounds(mimic, spacing) for mimic in mimics]).swapaxes(0, 1)
    inside = np.ones((len(points), len(mimics)), dtype=bool)
    for axis in range(3):
        place = points[:, axis, None]
        inside &= (place >= low[:, axis] - reach[axis]) & (place <= high[:, axis] + reach[axis])
    for index in np.flatnonzero(inside.any(axis=0)).tolist():
        near = inside[:, index]
        own = mimic_distances(points[near], [mimics[index]], spacing)
        surface[near, index], middle[near, index] = own[0][:, 0], own[1][:, 0]
    order = np.lexsort((middle.T, surface.T), axis=0)[0]
    within = surface[np.arange(len(points)), order] <= reach_mm
    return [mimics[index].kind if near else NONE for index, near in zip(order, within, strict=True)]


def false_positive_kinds(cases: Sequence[CaseResult], config: EvaluationConfig) -> dict[str, np.ndarray]:
    """How many false positives each scan has of each kind, at the operating point and matching by centre distance.

    Args:
        cases: scans; one whose mimics are not listed has NaN.
        config: ``operating_point``, ``match_mm`` and ``mimic_mm``.

    Returns:
        kind -> [len(cases)], for every kind that any of the scans holds, in alphabetical order, and ``none`` last.
    """
    known = sorted({mimic.kind for case in cases for mimic in case.mimics or ()})
    counts = {kind: np.zeros(len(cases)) for kind in [*known, NONE]}
    for index, case in enumerate(cases):
        if case.mimics is None:
            for values in counts.values():
                values[index] = np.nan
            continue
        boxes = np.array([entry.box for entry in list_entries([case], config) if entry.status == FALSE]).reshape(-1, 6)
        centres = (boxes[:, :3] + boxes[:, 3:]) / 2
        for kind in mimic_kinds(centres, case.mimics, case.spacing, config.mimic_mm):
            counts[kind][index] += 1
    return counts


def mimic_distances(
    points: np.ndarray, mimics: Sequence[Mimic], spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of points from the surface and from the middle of mimics, in mm.

    A vessel is a tube around its course. A compact mimic is the ellipsoid in its box; the distance from it is
    measured along the line to its centre, so it is exact for spheres and at most a little long for others.

    Args:
        points: [N, 3] voxel-edge coordinates.
        mimics: M mimics.
        spacing: mm along z, y, x.

    Returns:
        [N, M] distances from the surface, 0 inside, and [N, M] from the course or the centre.
    """
    scale = np.asarray(spacing, dtype=float)
    places = np.asarray(points, dtype=float).reshape(-1, 3) * scale
    surface, middle = np.empty((2, len(places), len(mimics)))
    compact = np.array([mimic.path is None for mimic in mimics], dtype=bool)
    boxes = np.array([mimic.box for mimic in mimics], dtype=float).reshape(-1, 6)[compact]
    centres = (boxes[:, :3] + boxes[:, 3:]) / 2 * scale
    half = np.maximum((boxes[:, 3:] - boxes[:, :3]) / 2 * scale, 1e-6)
    courses = [mimic.path * scale for mimic in mimics if mimic.path is not None]
    radii = np.array([mimic.diameter_mm / 2 for mimic in mimics if mimic.path is not None])
    for start in range(0, len(places), _CHUNK):
        part = slice(start, start + _CHUNK)
        offset = places[part, None] - centres
        distance = np.linalg.norm(offset, axis=-1)
        outward = np.maximum(np.linalg.norm(offset / half, axis=-1), 1.0)  # 1 on the surface of the ellipsoid
        middle[part, compact] = distance
        surface[part, compact] = distance * (1 - 1 / outward)
        if courses:
            along = _distance_to_courses(places[part], courses)
            middle[part, ~compact] = along
            surface[part, ~compact] = np.maximum(along - radii, 0.0)
    return surface, middle


def _bounds(mimic: Mimic, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Low and high corner of what holds a mimic, in voxels."""
    if mimic.path is None:
        box = np.asarray(mimic.box, dtype=float)
        return box[:3], box[3:]
    radius = mimic.diameter_mm / 2 / np.asarray(spacing, dtype=float)
    return mimic.path.min(axis=0) - radius, mimic.path.max(axis=0) + radius


def _distance_to_courses(points: np.ndarray, courses: Sequence[np.ndarray]) -> np.ndarray:
    """[N, 3] points and polylines of at least two points, all in mm -> [N, number of polylines]."""
    starts = np.concatenate([course[:-1] for course in courses])
    steps = np.concatenate([np.diff(course, axis=0) for course in courses])
    offset = points[:, None] - starts
    length2 = np.maximum((steps**2).sum(-1), 1e-12)
    place = np.clip((offset * steps).sum(-1) / length2, 0.0, 1.0)
    distance = np.linalg.norm(offset - place[..., None] * steps, axis=-1)
    first = np.cumsum([0] + [len(course) - 1 for course in courses[:-1]])
    nearest: np.ndarray = np.minimum.reduceat(distance, first, axis=1)
    return nearest
