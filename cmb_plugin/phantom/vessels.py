"""Vessels of one subject, as polylines in MNI RAS mm: dural sinuses and deep veins at their known places, medullary
veins that leave the ventricles and those under the cortex, small vessels of the basal ganglia, and trees of pial
vessels in the sulci."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from .anatomy import COARSE, DEEP, Atlas, to_index
from .vessel_path import VesselPath

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


UNLABELLED, UNLABELLED_MM = 0.5, 0.3
"""Of the small vessels of a phantom, the share that a head with labelled veins gets besides, and their largest radius
in mm: what is thinner than a voxel of the labels is not among these."""


def draw_vessels(rng: np.random.Generator, atlas: Atlas, more: float = 1.0) -> list[VesselPath]:
    """All vessels of one subject that its head does not bring with it, of the small ones ``more`` times the usual
    number. Oxygenation, and with it the susceptibility of venous blood, differs between subjects."""
    if atlas.veins is not None:
        return _draw_unlabelled(rng, atlas, more)
    ppm = rng.uniform(0.28, 0.44)
    vessels = [VesselPath("sinus", _smooth(np.array(p, float)), r, ppm, name) for name, (p, r) in _MIDLINE.items()]
    for name, (points, radius) in _PAIRED.items():
        for side in (1, -1):
            path = np.array(points, float) * (side, 1, 1)
            path[1:-1] += rng.normal(0, 0.8, path[1:-1].shape)
            kind = "sinus" if name == "transverse" else "vein_curved"
            vessels.append(VesselPath(kind, _smooth(path), radius * rng.uniform(0.75, 1.2), ppm, name))
    plenty = float(np.exp(rng.normal(0, 0.25)).clip(0.6, 1.6)) * more
    for draw, least, most in (
        (_deep_medullary, 90, 140),
        (_superficial_medullary, 480, 740),
        (_striate, 55, 95),
        (_pial, 280, 410),
    ):
        vessels += draw(rng, atlas, ppm, int(plenty * rng.integers(least, most)))
    return vessels


def _draw_unlabelled(rng: np.random.Generator, atlas: Atlas, more: float) -> list[VesselPath]:
    """Vessels too small for the labels of a head that has its veins labelled."""
    assert atlas.veins
    ppm = atlas.veins[0].ppm
    plenty = float(np.exp(rng.normal(0, 0.4)).clip(0.4, 2.0)) * more * UNLABELLED
    vessels: list[VesselPath] = []
    for draw, least, most in ((_deep_medullary, 90, 140), (_superficial_medullary, 480, 740), (_striate, 55, 95)):
        drawn = draw(rng, atlas, ppm, int(plenty * rng.integers(least, most)))
        vessels += [replace(v, radius=min(v.radius, UNLABELLED_MM)) for v in drawn]
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


def _deep_medullary(rng: np.random.Generator, atlas: Atlas, ppm: float, count: int) -> list[VesselPath]:
    """Veins of the white matter that fan out from the ventricles through the centrum semiovale, with branches that
    join them at an acute angle."""
    points = atlas.places["white_matter"]
    starts = points[rng.choice(len(points), 40 * count, replace=False)].astype(float)
    distance, outwards = _from_ventricles(atlas, starts)
    region = atlas.regions[tuple(to_index(starts).round().astype(int))]
    near = (distance > 2) & (distance < 7) & (starts[:, 2] > 4) & (np.abs(starts[:, 0]) > 7) & (region == DEEP)
    vessels = []
    for start, heading in zip(starts[near][:count], outwards[near][:count], strict=True):
        radius = _radius(rng, 0.37, 0.15, 0.9)
        stem = _fibre(rng, start, heading + rng.normal(0, 0.25, 3), rng.uniform(9, 34))
        vessels.append(_medullary(stem, radius, ppm))
        for _ in range(rng.poisson(0.8)):
            part = rng.uniform(0.15, 0.7)
            root = stem[int(part * (len(stem) - 1))]
            course = stem[-1] - stem[0]
            aside = np.cross(course, rng.normal(0, 1, 3))
            heading = course / np.linalg.norm(course) + rng.uniform(0.35, 0.9) * aside / np.linalg.norm(aside)
            branch = _fibre(rng, root, heading, rng.uniform(5, 15))
            vessels.append(_medullary(branch, radius * rng.uniform(0.55, 0.9), ppm))
    return vessels


def _superficial_medullary(rng: np.random.Generator, atlas: Atlas, ppm: float, count: int) -> list[VesselPath]:
    """Thin short veins between the cortex and the white matter under it, most of them along the line from the
    ventricles to the surface."""
    points = atlas.places["white_matter"]
    starts = points[rng.choice(len(points), 2 * count, replace=False)].astype(float)
    distance, outwards = _from_ventricles(atlas, starts)
    far = distance > 7
    return [
        _medullary(
            _fibre(rng, start, heading + rng.normal(0, 0.5, 3), rng.uniform(3, 16)), _radius(rng, 0.29, 0.1, 0.8), ppm
        )
        for start, heading in zip(starts[far][:count], outwards[far][:count], strict=True)
    ]


def _striate(rng: np.random.Generator, atlas: Atlas, ppm: float, count: int) -> list[VesselPath]:
    """Small vessels that rise through the basal ganglia and the thalamus, as the lenticulostriate ones do."""
    points = np.concatenate([atlas.places["basal_ganglia"], atlas.places["thalamus"]])
    starts = points[rng.choice(len(points), count, replace=False)].astype(float)
    vessels = []
    for start in starts:
        heading = np.array([0.3 * np.sign(start[0]), -0.1, 1.0]) + rng.normal(0, 0.35, 3)
        path = _fibre(rng, start - 4 * heading, heading, rng.uniform(4, 16), bend=0.18)
        vessels.append(VesselPath("vein_curved", path, _radius(rng, 0.22, 0.1, 0.45), ppm, "striate"))
    return vessels


def _medullary(path: np.ndarray, radius: float, ppm: float) -> VesselPath:
    return VesselPath(medullary_kind(path), path, radius, ppm, "medullary")


def medullary_kind(path: np.ndarray) -> str:
    """``vein_straight`` or ``vein_curved``, by how far the path [N, 3] leaves the line between its ends."""
    course = path[-1] - path[0]
    length = max(float(np.linalg.norm(course)), 1e-6)
    aside = np.linalg.norm(np.cross(path - path[0], course / length), axis=1).max()
    return "vein_curved" if aside > 0.08 * length else "vein_straight"


def _radius(rng: np.random.Generator, middle: float, smallest: float, largest: float) -> float:
    """A log-normal radius in mm."""
    return float(np.exp(rng.normal(np.log(middle), 0.35)).clip(smallest, largest))


def _fibre(
    rng: np.random.Generator, start: np.ndarray, heading: np.ndarray, length: float, bend: float | None = None
) -> np.ndarray:
    """A vessel's course [N, 3] of ``length`` mm from ``start``: about straight, with one bow (``bend`` is its height
    over the length; three of four have hardly any) and a fine winding."""
    heading = heading / np.linalg.norm(heading)
    along = np.linspace(0, 1, max(3, int(length / 2.5) + 1))[:, None]
    bow = np.cross(heading, rng.normal(0, 1, 3))
    bow /= np.linalg.norm(bow)
    if bend is None:
        bend = rng.uniform(0.12, 0.25) if rng.random() < 0.25 else rng.uniform(0, 0.05)
    winding = rng.normal(0, 0.25, (len(along), 3))
    winding[0] = 0
    return start + along * heading * length + 4 * along * (1 - along) * bow * bend * length + winding


def _from_ventricles(atlas: Atlas, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance [N] in mm of MNI points [N, 3] from the ventricles, and the direction [N, 3] in which it grows."""
    distance, *gradient = (ndimage.map_coordinates(m, to_index(points, COARSE), order=1) for m in atlas.ventricle_pull)
    outwards = np.stack(gradient, axis=-1)
    return distance, outwards / np.maximum(np.linalg.norm(outwards, axis=1, keepdims=True), 1e-6)


def _pial(rng: np.random.Generator, atlas: Atlas, ppm: float, count: int) -> list[VesselPath]:
    """Vessels on the brain's surface and in its sulci: stems, their branches and the twigs of these."""
    tree = cKDTree(atlas.sulci)
    places = atlas.sulci[rng.choice(len(atlas.sulci), count, replace=False)].astype(float)
    radii = np.exp(rng.normal(np.log(0.65), 0.35, count)).clip(0.25, 1.4)
    lengths = rng.integers(4, 16, count)
    vessels: list[VesselPath] = []
    for more, shorter in ((1.6, 0.5), (1.2, 0.5), (0.0, 0.0)):
        tracks = _tracks(rng, atlas.sulci, tree, places, lengths)
        kept = [i for i, track in enumerate(tracks) if len(track) > 2]
        vessels += [VesselPath("pial_vessel", _wound(rng, tracks[i]), float(radii[i]), ppm, "sulcus") for i in kept]
        parents = rng.choice(kept, int(more * len(kept)))
        places = np.array([tracks[i][rng.integers(len(tracks[i]))] for i in parents]).reshape(-1, 3)
        radii = (radii[parents] * rng.uniform(0.4, 0.8, len(parents))).clip(0.12, 1.0)
        lengths = (lengths[parents] * shorter * rng.uniform(0.6, 1.6, len(parents))).astype(int) + 2
    return vessels


def _tracks(
    rng: np.random.Generator, sulci: np.ndarray, tree: cKDTree, places: np.ndarray, lengths: np.ndarray
) -> list[np.ndarray]:
    """Walks [N, 3] in steps of about 2.5 mm from ``places`` as far as the sulcus lets them, at most ``lengths``
    steps."""
    if not len(places):
        return []
    heading = rng.normal(0, 1, places.shape)
    heading /= np.linalg.norm(heading, axis=1, keepdims=True)
    paths = [places]
    for _ in range(lengths.max()):
        _, nearest = tree.query(places + 2.5 * heading)
        following = sulci[nearest]
        step = following - places
        size = np.linalg.norm(step, axis=1, keepdims=True)
        # A vessel that finds no way on stays where it is and ends there.
        places = np.where(size > 0.8, following, places)
        heading = np.where(size > 0.8, 0.6 * heading + 0.4 * step / np.maximum(size, 1e-6), heading)
        heading += rng.normal(0, 0.15, heading.shape)
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        paths.append(places)
    tracks = []
    for track, length in zip(np.stack(paths, axis=1), lengths, strict=True):
        moved = np.linalg.norm(np.diff(track[: length + 1], axis=0), axis=1) > 0.8
        tracks.append(track[: length + 1][np.concatenate([[True], moved])])
    return tracks


def _wound(rng: np.random.Generator, track: np.ndarray) -> np.ndarray:
    """The track rounded off, and winding about itself by less than a millimetre."""
    path = _smooth(track, 2.5)
    path[1:-1] += rng.normal(0, 0.35, path[1:-1].shape)
    return path
