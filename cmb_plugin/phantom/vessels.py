"""Vessels of one subject, as polylines in MNI RAS mm: dural sinuses and deep veins at their known places, medullary
veins that leave the ventricles, pial vessels that run in the sulci."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from .anatomy import COARSE, DEEP, Atlas, to_index

# Right side; x = 0 is the midline. Radii in mm.
_MIDLINE = {
    "superior_sagittal": (
        (
            (0, 72, 2),
            (0, 66, 32),
            (0, 48, 58),
            (0, 22, 73),
            (0, -10, 80.5),
            (0, -42, 80),
            (0, -68, 66),
            (0, -89, 42),
            (0, -101, 16),
            (0, -103, -6),
        ),
        2.8,
    ),
    "straight": (((0, -40, 4), (0, -58, 3), (0, -76, -6), (0, -93, -15), (0, -103, -14)), 1.8),
}
_PAIRED = {
    "transverse": (
        ((0, -102, -14), (18, -97, -20), (38, -86, -28), (54, -68, -33), (60, -50, -36), (54, -42, -48)),
        3.0,
    ),
    "internal_cerebral": (((2.5, 4, 8), (2.0, -8, 14), (2.0, -22, 14), (1.5, -33, 9), (0, -40, 4)), 0.9),
    "thalamostriate": (((20, -24, 20), (17, -12, 20), (11, 0, 17), (6, 6, 12), (2.5, 4, 8)), 0.6),
    "septal": (((9, 30, 8), (4.5, 22, 10), (2.5, 12, 9), (2.5, 4, 8)), 0.45),
    "basal": (((14, 2, -16), (16, -9, -16), (19, -20, -12), (15, -31, -6), (7, -38, 0), (0, -40, 4)), 0.7),
}


@dataclass(frozen=True)
class VesselPath:
    """A vessel in MNI space: ``kind`` as in ``sources.Vessel``, ``path`` [N, 3] MNI RAS mm, ``radius`` mm, ``ppm``."""

    kind: str
    path: np.ndarray
    radius: float
    ppm: float
    site: str


def draw_vessels(rng: np.random.Generator, atlas: Atlas) -> list[VesselPath]:
    """All vessels of one subject. Oxygenation, and with it the susceptibility of venous blood, differs between
    subjects."""
    ppm = rng.uniform(0.28, 0.44)
    vessels = [VesselPath("sinus", _smooth(np.array(p, float)), r, ppm, name) for name, (p, r) in _MIDLINE.items()]
    for name, (points, radius) in _PAIRED.items():
        for side in (1, -1):
            path = np.array(points, float) * (side, 1, 1)
            path[1:-1] += rng.normal(0, 0.8, path[1:-1].shape)
            kind = "sinus" if name == "transverse" else "vein_curved"
            vessels.append(VesselPath(kind, _smooth(path), radius * rng.uniform(0.75, 1.2), ppm, name))
    vessels += _medullary(rng, atlas, ppm, int(rng.integers(55, 85)))
    vessels += _pial(rng, atlas, ppm, int(rng.integers(90, 140)))
    return vessels


def _smooth(path: np.ndarray, step: float = 4.0) -> np.ndarray:
    """The same polyline with rounded corners and points about ``step`` mm apart."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    fine = np.linspace(0, length[-1], max(3, int(length[-1] / 1.0)))
    dense = np.stack([np.interp(fine, length, column) for column in path.T], axis=1)
    rounded = ndimage.gaussian_filter1d(dense, 3.0, axis=0, mode="nearest")
    rounded[0], rounded[-1] = path[0], path[-1]
    keep = np.linspace(0, len(fine) - 1, max(2, round(length[-1] / step) + 1)).round().astype(int)
    return rounded[keep]


def _medullary(rng: np.random.Generator, atlas: Atlas, ppm: float, count: int) -> list[VesselPath]:
    """Veins of the white matter that run to the ventricles; three of four are straight, the others bend."""
    points = atlas.places["white_matter"]
    starts = points[rng.choice(len(points), 40 * count, replace=False)]
    index = to_index(starts, COARSE)
    distance, *gradient = (ndimage.map_coordinates(m, index, order=1) for m in atlas.ventricle_pull)
    region = atlas.regions[tuple(to_index(starts).round().astype(int))]
    near = np.flatnonzero(
        (distance > 2) & (distance < 7) & (starts[:, 2] > 4) & (np.abs(starts[:, 0]) > 7) & (region == DEEP)
    )[:count]
    vessels = []
    for i in near:
        direction = np.array([g[i] for g in gradient]) + rng.normal(0, 0.25, 3)
        direction /= np.linalg.norm(direction)
        length, along = rng.uniform(9, 28), np.linspace(0, 1, 7)[:, None]
        bend = np.cross(direction, rng.normal(0, 1, 3))
        curved = rng.random() < 0.25
        bend *= (rng.uniform(3, 6) if curved else rng.uniform(0, 0.5)) / np.linalg.norm(bend)
        path = starts[i] + along * direction * length + 4 * along * (1 - along) * bend
        kind = "vein_curved" if curved else "vein_straight"
        radius = float(np.exp(rng.normal(np.log(0.38), 0.35)).clip(0.18, 0.8))
        vessels.append(VesselPath(kind, path if curved else path[[0, -1]], radius, ppm, "medullary"))
    return vessels


def _pial(rng: np.random.Generator, atlas: Atlas, ppm: float, count: int) -> list[VesselPath]:
    """Vessels on the brain's surface: from a random place in a sulcus they go on as far as the sulcus lets them."""
    tree = cKDTree(atlas.sulci)
    places = atlas.sulci[rng.choice(len(atlas.sulci), count, replace=False)].astype(float)
    heading = rng.normal(0, 1, places.shape)
    heading /= np.linalg.norm(heading, axis=1, keepdims=True)
    paths = [places]
    lengths = rng.integers(4, 16, count)
    for _ in range(lengths.max()):
        _, nearest = tree.query(places + 2.5 * heading)
        following = atlas.sulci[nearest]
        step = following - places
        size = np.linalg.norm(step, axis=1, keepdims=True)
        # A vessel that finds no way on stays where it is and ends there.
        places = np.where(size > 0.8, following, places)
        heading = np.where(size > 0.8, 0.6 * heading + 0.4 * step / np.maximum(size, 1e-6), heading)
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        paths.append(places)
    vessels = []
    for track, length in zip(np.stack(paths, axis=1), lengths, strict=True):
        moved = np.linalg.norm(np.diff(track[: length + 1], axis=0), axis=1) > 0.8
        points = track[: length + 1][np.concatenate([[True], moved])]
        if len(points) < 3:
            continue
        radius = float(np.exp(rng.normal(np.log(0.6), 0.35)).clip(0.25, 1.3))
        vessels.append(VesselPath("pial_vessel", _smooth(points, 3.0), radius, ppm, "sulcus"))
    return vessels
