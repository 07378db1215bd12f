"""Compact sources of one subject: microbleeds, calcifications, iron in the pallida, air cells, drawn at random in MNI
space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .anatomy import AIR_CAVITIES, CMB_PLACES, Atlas
from .physics import GAMMA
from .protocols import Lesions, Protocol

# Counts of the 253 microbleeds of VALDO by place (docs/phantom.md), in the order of CMB_PLACES.
_PLACE_COUNTS = np.array([98, 96, 31, 13, 11, 4])

# Right side MNI RAS mm, spread in mm, probability per scan, semi-axes range in mm. Choroid plexus, pineal gland and
# falx are where most brains of old age are calcified, the basal ganglia about one in five (choices, from radiology
# textbooks).
_CALCIFICATIONS: tuple[
    tuple[str, tuple[float, float, float], tuple[float, float, float], float, tuple[float, float]], ...
] = (
    ("choroid_plexus_right", (25, -42, 10), (3, 4, 5), 0.6, (0.8, 2.0)),
    ("choroid_plexus_left", (-25, -42, 10), (3, 4, 5), 0.6, (0.8, 2.0)),
    ("pineal", (0, -33, 2), (0.7, 1, 1), 0.7, (1.0, 2.2)),
    ("falx", (0, 25, 45), (0.8, 25, 14), 0.5, (0.8, 2.2)),
    ("pallidum_right", (18, -3, -1), (1.5, 3, 2), 0.2, (0.7, 1.6)),
    ("pallidum_left", (-18, -3, -1), (1.5, 3, 2), 0.2, (0.7, 1.6)),
    ("cortex", (0, 0, 0), (0, 0, 0), 0.35, (0.6, 1.4)),
)

FAINT_SHARE = 0.1
"""Share of the microbleeds that hold little blood product and are hard to see."""

AIR_PPM = 9.4
"""Susceptibility of air relative to tissue (+0.36 against -9.05)."""


@dataclass(frozen=True)
class Deposit:
    """A compact source in MNI space; lengths in mm, ``rotation`` rows are the directions of the semi-axes along MNI
    x, y, z."""

    kind: str
    site: str
    centre: np.ndarray
    axes: np.ndarray
    rotation: np.ndarray
    ppm: float
    density: float
    decay: float
    softness: float = 0.0


def blooming(ppm: float, tesla: float = 3.0, echo_ms: float = 20.0) -> float:
    """How much wider than itself a source looks: the radius, in units of its own, at which the phase on the equator
    is 1 rad.

    The field of a sphere at distance r on the equator is chi/3 (a/r)^3, so the factor is (gamma B0 TE chi / 3)^(1/3).
    """
    return float(max(1.0, (GAMMA * tesla * echo_ms * 1e-3 * abs(ppm) / 3) ** (1 / 3)))


def draw_microbleeds(
    rng: np.random.Generator, atlas: Atlas, protocol: Protocol, count: int, in_scan: Callable[[np.ndarray], bool]
) -> list[Deposit]:
    """``count`` microbleeds at places as in VALDO, at least 7 mm apart, where ``in_scan`` (of an MNI point [3]) is
    true.
    """
    deposits: list[Deposit] = []
    share = _PLACE_COUNTS / _PLACE_COUNTS.sum()
    while len(deposits) < count:
        points = atlas.places[CMB_PLACES[rng.choice(len(CMB_PLACES), p=share)]]
        centre = points[rng.integers(len(points))] + rng.uniform(-0.5, 0.5, 3)
        if any(np.linalg.norm(centre - d.centre) < 7 for d in deposits) or not in_scan(centre):
            continue
        deposits.append(draw_microbleed(rng, protocol.lesions, centre))
    return deposits


def draw_microbleed(rng: np.random.Generator, lesions: Lesions, centre: np.ndarray) -> Deposit:
    """A microbleed at ``centre`` [3] in mm.

    The data sets' diameters are those of outlines, blooming included. The deposit itself is smaller: by the blooming
    factor of a 3 T scan with TE 20 ms, so that the same lesion looks larger at a longer TE and smaller at a lower
    field; to the power 0.8, for outlines on SWI do not reach as far as 1 rad (docs/phantom.md has the volumes).
    """
    ppm = float(np.exp(rng.normal(np.log(1.2), 0.5)).clip(0.4, 3.0))
    diameter = lesions.diameter(rng.random()) / blooming(ppm) ** 0.8
    if rng.random() < FAINT_SHARE:
        ppm, diameter = rng.uniform(0.4, 0.6), diameter * rng.uniform(0.5, 0.8)
    if lesions.diffuse and rng.random() < lesions.diffuse:
        return _diffuse(rng, lesions, centre)
    axes, rotation = random_shape(rng, diameter / 2, 0.12)
    return Deposit("cmb", "", centre, axes, rotation, ppm, 0.8, 80 * ppm)


def _diffuse(rng: np.random.Generator, lesions: Lesions, centre: np.ndarray) -> Deposit:
    """Blood products so finely spread that signal is lost where they are and hardly around: a soft dark ellipsoid, as
    those that Hsu et al. 2026 draw into scans. Its diameter is that of its outline."""
    axes, rotation = random_shape(rng, lesions.diameter(rng.random()) / 2, 0.2)
    ppm, density = rng.uniform(0.02, 0.15), rng.uniform(0.5, 0.9)
    return Deposit("cmb", "", centre, axes, rotation, ppm, density, rng.uniform(15, 120), rng.uniform(0.4, 1.6))


def draw_iron(rng: np.random.Generator, atlas: Atlas) -> list[Deposit]:
    """A deposit of iron in each pallidum, on top of the nucleus' own iron."""
    deposits = []
    ppm = rng.uniform(0.1, 0.28)
    for name, (centre, axes, rotation) in zip(("pallidum_right", "pallidum_left"), atlas.pallida, strict=True):
        size = axes * rng.uniform(0.5, 0.9) * rng.uniform(0.85, 1.15, 3)
        middle = centre + rng.uniform(-0.25, 0.25, 3) * axes @ rotation
        strength = float(ppm * rng.uniform(0.8, 1.2))
        deposits.append(
            Deposit("iron", name, middle, size, rotation, strength, 1.0, 130 * strength, rng.uniform(2, 3.5))
        )
    return deposits


def draw_calcifications(rng: np.random.Generator, atlas: Atlas) -> list[Deposit]:
    """Calcifications at their usual places, at least one per subject."""
    present = rng.random(len(_CALCIFICATIONS)) < [c[3] for c in _CALCIFICATIONS]
    present[rng.integers(3)] |= not present.any()
    deposits = []
    for there, (site, place, spread, _, sizes) in zip(present, _CALCIFICATIONS, strict=True):
        centre = np.array(place) + rng.normal(0, 1, 3) * spread
        if site == "cortex":
            centre = atlas.places["cortex"][rng.integers(len(atlas.places["cortex"]))].astype(float)
        axes, rotation = random_shape(rng, rng.uniform(*sizes), 0.2)
        ppm, density, decay = -rng.uniform(0.6, 3.0), rng.uniform(0.2, 0.5), rng.uniform(20, 60)
        if there:
            deposits.append(Deposit("calcification", site, centre, axes, rotation, ppm, density, decay))
    return deposits


def draw_air_cells(rng: np.random.Generator, atlas: Atlas) -> list[Deposit]:
    """Small air cells in the bone just outside the brain, near the mastoid, the petrous bone and the frontal base."""
    edge = np.concatenate([atlas.places["cortex"], atlas.places["cerebellum"]])
    deposits = []
    for name in ("mastoid", "petrous", "ethmoid"):
        for side in (1, -1):
            place, axes, _ = AIR_CAVITIES[name]
            middle = np.array(place) * (side, 1, 1) + rng.normal(0, 0.5, 3) * axes
            nearest = edge[np.argmin(((edge - middle) ** 2).sum(1))]
            towards = (middle - nearest) / max(np.linalg.norm(middle - nearest), 1e-6)
            radius = rng.uniform(0.8, 1.6)
            cell = Deposit(
                "air_sinus",
                f"{name}_cell",
                nearest + towards * (radius + rng.uniform(0.5, 2)),
                *random_shape(rng, radius, 0.1),
                AIR_PPM,
                0.0,
                0.0,
            )
            if rng.random() < 0.5:
                deposits.append(cell)
    return deposits


def random_shape(rng: np.random.Generator, radius: float, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Semi-axes with geometric mean ``radius`` and a random rotation."""
    ratios = np.exp(rng.normal(0, spread, 3))
    rotation, _ = np.linalg.qr(rng.normal(0, 1, (3, 3)))
    return radius * ratios / np.prod(ratios) ** (1 / 3), rotation
