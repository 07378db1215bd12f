"""How a dense map of centres is laid out for the lesions of a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .anchors import by_diameter
from .plan import Architecture, CentreFit, Centres, Spacing, Triple

TYPICAL_MM = 2.8
"""Diameter of the median microbleed of public data sets."""

SIGMA_OF_WIDTH = 0.43
"""Standard deviation of the target, in widths of the median lesion: 1.2 mm for one of 2.8 mm."""

REACH_OF_SIGMA = 1.25
"""Distance from a centre, in sigmas, up to which locations learn the box."""

WIDEST_TARGET = 3.5
"""A lesion wider than the median has a target as much wider, up to so many times: all of a wide lesion looks alike, and
but for its target most of it would be the hardest of negatives. As far as that of a lesion of 10 mm, the widest that is
a microbleed (Greenberg et al. 2009)."""

WIDEST_REACH = 2.0
"""Its reach is as much wider too, but no more than so many times, since with the third power of it grows how many
locations learn its box."""

COARSEST_MM = 6.5
"""No stage of the light network has longer locations, but for thick slices: its coarsest sees about 3 cm, and what
tells a lesion from a vessel is nearer than that. Stages beyond it would widen the halo of every tile."""


def plan_centres(
    architecture: Architecture,
    spacing: Spacing,
    level: int,
    sides_mm: Spacing,
    box_sizes: np.ndarray,
    *,
    features: int = 16,
    widest: int = 64,
    channels: int = 16,
) -> Centres:
    """The centres of a plan.

    Args:
        architecture: the planned network, of whose stages the finer ones are taken.
        spacing: mm per network voxel.
        level: stage whose map's locations are looked at.
        sides_mm: the median lesion along the network's z, y, x.
        box_sizes: [N, 3] sides of the lesions in network voxels.
        features: channels of the first stage, doubled at each further one up to ``widest``.
        widest: most channels of a stage.
        channels: channels of the maps that the head reads.
    """
    strides = [architecture.stride_of(stage) for stage in range(len(architecture.strides))]
    stages = sum(
        stage <= level or min(step * mm for step, mm in zip(stride, spacing, strict=True)) <= COARSEST_MM
        for stage, stride in enumerate(strides)
    )
    sigma = SIGMA_OF_WIDTH * sides_mm[2]  # the slice axis, which tells less of a lesion's size, is the first
    reach = REACH_OF_SIGMA * sigma
    return Centres(
        level=level,
        features=tuple(min(features * 2**stage, widest) for stage in range(stages)),
        channels=channels,
        sigma_mm=round(sigma, 3),
        reach_mm=round(reach, 3),
        sides_mm=sides_mm,
        by_size=centre_fit(box_sizes, strides[level], spacing, reach, sides_mm[2]),
    )


def default_centres(architecture: Architecture, spacing: Spacing) -> Centres:
    """For a plan that has none: those of typical microbleeds, on its first detection level."""
    level = architecture.detection_levels[0] if architecture.detection_levels else 0
    return plan_centres(architecture, spacing, level, (TYPICAL_MM,) * 3, np.zeros((0, 3)))


def centre_fit(
    box_sizes: np.ndarray, stride: Triple, spacing: Sequence[float], reach_mm: float, typical_mm: float
) -> tuple[CentreFit, ...]:
    """What lesions of each size get: how many locations their box covers, and how many learn it.

    Means over where a lesion may lie between the locations, which are quotients of volumes: of its box, or of a ball
    of ``reach_mm``, and of a location; one location always learns.

    Args:
        box_sizes: [N, 3] sides of the boxes in network voxels, z, y, x.
        stride: network voxels per location.
        spacing: mm per network voxel.
        reach_mm: how far from a centre locations learn its box.
        typical_mm: lesions whose shortest side is longer reach farther (``WIDEST_REACH``).
    """
    if not len(box_sizes):
        return ()
    cell_mm3 = math.prod(step * mm for step, mm in zip(stride, spacing, strict=True))
    fits = []
    for name, sizes in by_diameter(box_sizes, spacing):
        reach = reach_mm * np.clip((sizes * spacing).min(axis=1) / typical_mm, 1, WIDEST_REACH)
        balls = np.maximum(1.0, 4 / 3 * math.pi * reach**3 / cell_mm3)
        learned = float(balls.mean()) if len(sizes) else 0.0
        cells = float(np.mean(sizes.prod(axis=1)) / math.prod(stride)) if len(sizes) else 0.0
        fits.append(CentreFit(name, len(sizes), round(cells, 1), round(learned, 1)))
    return tuple(fits)
