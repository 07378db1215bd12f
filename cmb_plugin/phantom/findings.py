"""What old brains show besides microbleeds: white matter lesions, perivascular spaces, old infarcts, rims of
haemosiderin, cavernomas, siderosis. Kinds and sizes are choices, from radiology textbooks; all are mimics."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from .anatomy import Atlas
from .deposits import Deposit, random_shape
from .vessel_path import VesselPath

KINDS = ("white_matter_lesion", "perivascular_space", "infarct", "haemosiderin_rim", "cavernoma", "siderosis")
SHARES = np.array([0.3, 0.3, 0.14, 0.1, 0.06, 0.1])


def draw_findings(rng: np.random.Generator, atlas: Atlas, mean: float) -> tuple[list[Deposit], list[VesselPath]]:
    """Other findings of one subject in MNI space: compact ones, and siderosis as paths along sulci.

    Args:
        rng: decides everything.
        atlas: the anatomy.
        mean: of their number; white matter lesions and perivascular spaces come in clusters of up to eight.
    """
    deposits: list[Deposit] = []
    paths: list[VesselPath] = []
    for kind in rng.choice(KINDS, int(rng.poisson(mean)), p=SHARES):
        if kind == "siderosis":
            paths += _siderosis(rng, atlas)
        elif kind in ("white_matter_lesion", "perivascular_space"):
            place = "white_matter" if kind == "white_matter_lesion" or rng.random() < 0.4 else "basal_ganglia"
            first = _point(rng, atlas, place)
            near = atlas.places[place][np.linalg.norm(atlas.places[place] - first, axis=1) < 15]
            draw = _white_matter_lesion if kind == "white_matter_lesion" else _perivascular_space
            deposits += [draw(rng, near[rng.integers(len(near))]) for _ in range(rng.integers(1, 9))]
        else:
            draw_some = {"infarct": _infarct, "haemosiderin_rim": _rim, "cavernoma": _cavernoma}[str(kind)]
            deposits += draw_some(rng, _point(rng, atlas, "white_matter" if rng.random() < 0.6 else "cortex"))
    return deposits, paths


def _point(rng: np.random.Generator, atlas: Atlas, place: str) -> np.ndarray:
    points = atlas.places[place]
    return points[rng.integers(len(points))] + rng.uniform(-0.5, 0.5, 3)


def _white_matter_lesion(rng: np.random.Generator, centre: np.ndarray) -> Deposit:
    """A little brighter than white matter, with a soft border."""
    axes, rotation = random_shape(rng, rng.uniform(1.2, 5.0), 0.3)
    return Deposit(KINDS[0], "", centre, axes, rotation, -0.01, rng.uniform(1.05, 1.25), 0.0, rng.uniform(1, 3))


def _perivascular_space(rng: np.random.Generator, centre: np.ndarray) -> Deposit:
    """A thin tube of fluid: bright at a short repetition time and a small flip angle, else dark."""
    _, rotation = random_shape(rng, 1.0, 0.0)
    radius = rng.uniform(0.4, 1.1)
    axes = np.array([rng.uniform(1.5, 5.0), radius, radius])
    return Deposit(KINDS[1], "", centre, axes, rotation, 0.0, rng.uniform(0.45, 1.35), 0.0)


def _infarct(rng: np.random.Generator, centre: np.ndarray) -> list[Deposit]:
    """A cavity filled with fluid, dark or bright, sometimes with blood at its border."""
    axes, rotation = random_shape(rng, rng.uniform(1.5, 6.0), 0.3)
    cavity = Deposit(KINDS[2], "", centre, axes, rotation, 0.0, rng.uniform(0.4, 1.3), 0.0, rng.uniform(0.5, 2))
    return [cavity, *(_rim(rng, centre, float(axes.mean())) if rng.random() < 0.3 else [])]


def _rim(rng: np.random.Generator, centre: np.ndarray, radius: float | None = None) -> list[Deposit]:
    """What an old larger bleed leaves: patches of haemosiderin on an ellipsoid."""
    radius = float(rng.uniform(3, 9)) if radius is None else radius
    axes, rotation = random_shape(rng, radius, 0.3)
    parts = []
    for _ in range(int(rng.integers(6, 16))):
        direction = rng.normal(0, 1, 3)
        place = centre + (direction / np.linalg.norm(direction) * axes) @ rotation
        patch, turn = random_shape(rng, rng.uniform(0.5, 1.6), 0.4)
        ppm = float(rng.uniform(0.3, 1.2))
        parts.append(Deposit(KINDS[3], "", place, patch, turn, ppm, 0.9, 80 * ppm, 0.5))
    return parts


def _cavernoma(rng: np.random.Generator, centre: np.ndarray) -> list[Deposit]:
    """A cluster of caverns, some bright inside, all with blood products around them."""
    parts = []
    for _ in range(int(rng.integers(3, 9))):
        axes, rotation = random_shape(rng, rng.uniform(0.8, 2.4), 0.3)
        ppm = float(rng.uniform(0.2, 1.0))
        density = rng.uniform(0.6, 1.3)
        parts.append(Deposit(KINDS[4], "", centre + rng.normal(0, 2.2, 3), axes, rotation, ppm, density, 60 * ppm, 0.4))
    return parts


def _siderosis(rng: np.random.Generator, atlas: Atlas) -> list[VesselPath]:
    """Haemosiderin on the surface of the gyri around one place: short paths along the sulci."""
    tree = cKDTree(atlas.sulci)
    centre = atlas.sulci[rng.integers(len(atlas.sulci))].astype(float)
    near = atlas.sulci[tree.query_ball_point(centre, rng.uniform(8, 22))].astype(float)
    ppm = float(rng.uniform(0.3, 0.8))
    paths = []
    for start in near[rng.choice(len(near), min(len(near), int(rng.integers(20, 70))), replace=False)]:
        _, nearest = tree.query(start + rng.normal(0, 2.5, 3))
        end = atlas.sulci[nearest].astype(float)
        if np.linalg.norm(end - start) > 0.8:
            path = np.stack([start, (start + end) / 2 + rng.normal(0, 0.2, 3), end])
            paths.append(VesselPath("siderosis", path, float(rng.uniform(0.3, 0.8)), ppm, "sulcus"))
    return paths
