"""Deposits and vessels painted into a patch: what they are, apart from how one simulation makes them look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from cmb_plugin.planning import Plan

EXTREME = {"dark": -3.0, "bright": 1.0}
"""What a deposit can reach at least, in normalised values: tissue is about 0 with a standard deviation of 1 in
magnitudes, and a microbleed about 1 in QSM (``preparation.schemes``). A channel of any other polarity, phase for
instance, stays as it is."""

DARKEST_TISSUE = -1.5  # normalised; air and most of the bone are darker

# Choices. Microbleeds are described as of 2 to 10 mm (Greenberg et al. 2009).
MOST_BALLS, MOST_TUBES = 3, 5
DIAMETER_MM, ELONGATION = (1.6, 9.0), (1.0, 1.9)
RADIUS_MM, LENGTH_MM = (0.3, 1.6), (8.0, 60.0)
STEP_MM = 0.4  # between the points of a tube
GAP_MM = 2.0  # between a painted deposit and any other lesion
TRIES = 10  # places for a deposit


def can_be_painted(plan: Plan) -> bool:
    """Whether the plan is for lesions, and one of its modalities shows them dark or bright."""
    return plan.target == "lesions" and any(polarity in EXTREME for polarity in plan.polarities)


@dataclass(frozen=True)
class Ball:
    """A soft ellipsoid.

    Attributes:
        centre: mm from the outer corner of the patch, z, y, x.
        axes: [3, 3] columns: unit vectors of its axes.
        semi_mm: lengths of the half axes, to where it has half its effect.
        softness: width of its edge, in half axes.
        contrast: share of the signal that it takes in its middle.
    """

    centre: np.ndarray
    axes: np.ndarray
    semi_mm: np.ndarray
    softness: float
    contrast: float

    @classmethod
    def drawn(cls, centre: np.ndarray, rng: np.random.Generator) -> Ball:
        """One of any size, shape, edge and contrast."""
        diameter = np.exp(rng.uniform(*np.log(DIAMETER_MM)))
        longer = rng.uniform(*ELONGATION) ** np.array([2 / 3, -1 / 3, -1 / 3])  # keeps the volume
        axes, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        return cls(centre, axes, diameter / 2 * longer, float(rng.uniform(0.2, 1.0)), float(rng.uniform(0.5, 1)))

    def window(self, mm: np.ndarray, margin: float) -> tuple[slice, ...]:
        """The voxels within ``margin`` mm of where it has any effect, z, y, x."""
        reach = self.semi_mm.max() * (1 + self.softness / 2) + margin
        low = np.maximum(np.floor((self.centre - reach) / mm), 0).astype(int)
        high = np.maximum(np.ceil((self.centre + reach) / mm), 0).astype(int)
        return tuple(map(slice, low, high))

    def distance(self, window: Sequence[slice], shape: Sequence[int], mm: np.ndarray) -> np.ndarray:
        """Distance of each voxel's middle from the centre, in half axes, in a window of a patch of this shape."""
        indices = (np.arange(*part.indices(side)) + 0.5 for part, side in zip(window, shape, strict=True))
        offsets = np.stack(np.meshgrid(*indices, indexing="ij"), -1) * mm - self.centre
        scaled: np.ndarray = np.linalg.norm(offsets @ self.axes / self.semi_mm, axis=-1)
        return scaled

    def share(self, distance: np.ndarray) -> np.ndarray:
        """Share of the signal that is taken at these distances; half of ``contrast`` at 1."""
        taken: np.ndarray = self.contrast * np.clip(0.5 + (1 - distance) / self.softness, 0, 1)
        return taken


def with_painted(
    image: Tensor, instances: Tensor, spacing: Sequence[float], polarity: Sequence[str], seed: int, last: int = 0
) -> tuple[Tensor, Tensor]:
    """A patch with up to three deposits more, which are lesions, and up to five vessels more, which are none.

    Deposits are soft ellipsoids, vessels tubes along a walk at random. Each takes a share of the signal, down to the
    lowest of the patch, or adds one up to the highest where microbleeds are bright: no dipole, no blooming, and no
    anatomy but that they begin in tissue. Synthetic microbleeds without physics have taught detectors before (Momeni et
    al. 2021, Comput Methods Programs Biomed 207:106127).

    Args:
        image: [C, Z, Y, X] float32.
        instances: integers [Z, Y, X], 0 or less where no lesion is.
        spacing: mm per voxel, z, y, x.
        polarity: of each channel, one of the plan's; at least one is a key of ``EXTREME``.
        seed: of everything painted.
        last: the highest number that a lesion of the patch's surroundings has; deposits have those after it.

    Returns:
        both, new ones. No lesion that was there is painted over.
    """
    rng, mm = np.random.default_rng(seed), np.asarray(spacing, dtype=float)
    tissue = _tissue(image, polarity)
    mask = instances.numpy().copy()
    taken = np.zeros(mask.shape, np.float32)
    places = np.argwhere(tissue)
    if not len(places):
        return image, instances
    for _ in range(rng.integers(MOST_TUBES + 1)):
        _add_tube(taken, (places[rng.integers(len(places))] + 0.5) * mm, mm, rng)
    number = max(0, last, int(mask.max()))
    for _ in range(rng.integers(MOST_BALLS + 1)):
        ball = _free_place(mask, places, mm, rng)
        if ball is not None:
            number += 1
            window = ball.window(mm, 0)
            distance = ball.distance(window, mask.shape, mm)
            taken[window] = np.maximum(taken[window], ball.share(distance))
            mask[window][(distance < 1) | (distance == distance.min())] = number
    taken = ndimage.gaussian_filter(taken, rng.uniform(0, 0.6))  # voxels that are full in part, and scans that are soft
    share, result = torch.from_numpy(taken), image.clone()
    for channel, kind in zip(result, polarity, strict=True):
        if kind == "dark":
            channel += share * (min(float(channel.min()), EXTREME[kind]) - channel)
        elif kind == "bright":
            channel += share * (max(float(channel.max()), EXTREME[kind]) - channel)
    return result, torch.from_numpy(mask)


def _tissue(image: Tensor, polarity: Sequence[str]) -> np.ndarray:
    """[Z, Y, X] False where lesions are dark and there is none to be seen: in air and bone."""
    where = np.ones(image.shape[1:], dtype=bool)
    for channel, kind in zip(image.numpy(), polarity, strict=True):
        if kind == "dark":
            smooth = ndimage.uniform_filter(channel, 3)
            darkest = smooth.min() + 0.4 * (np.percentile(smooth, 90) - smooth.min())
            where &= smooth > max(DARKEST_TISSUE, darkest)
    return where


def _free_place(mask: np.ndarray, places: np.ndarray, mm: np.ndarray, rng: np.random.Generator) -> Ball | None:
    """A deposit that no lesion is near to; None after some tries."""
    for _ in range(TRIES):
        ball = Ball.drawn((places[rng.integers(len(places))] + rng.random(3)) * mm, rng)
        if not (mask[ball.window(mm, GAP_MM)] > 0).any():
            return ball
    return None


def _add_tube(taken: np.ndarray, point: np.ndarray, mm: np.ndarray, rng: np.random.Generator) -> None:
    """A walk from a point to both sides, each direction a little off the one before."""
    radius, contrast = np.exp(rng.uniform(*np.log(RADIUS_MM))), rng.uniform(0.3, 1)
    bend, begin, points = rng.uniform(0, 0.15), rng.standard_normal(3), [point]
    for sense in (1, -1):
        way, here = sense * begin / np.linalg.norm(begin), point
        for _ in range(int(rng.uniform(*LENGTH_MM) / 2 / STEP_MM)):
            way = way + bend * rng.standard_normal(3)
            way /= np.linalg.norm(way)
            here = here + STEP_MM * way
            points.append(here)
    middles = np.stack(points)
    width = float(np.cbrt(mm.prod()))  # over which the edge of a tube falls, as voxels are full in part
    reach = np.ceil((radius + width / 2) / mm).astype(int)
    around = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), -1).reshape(-1, 3)
    voxels = np.floor(middles / mm).astype(int)[:, None] + around
    distance = np.linalg.norm((voxels + 0.5) * mm - middles[:, None], axis=-1)
    inside = ((voxels >= 0) & (voxels < taken.shape)).all(-1)
    # What is thinner than a voxel takes no more of it than it fills.
    share = contrast * np.clip(0.5 + (radius - distance[inside]) / width, 0, 1) * min(1.0, 2 * radius / width)
    np.maximum.at(taken, tuple(voxels[inside].T), share.astype(np.float32))
