"""``RegionMap``: which part of the brain each voxel of a scan belongs to, and how far that can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cmb_plugin.images import Grid

GROUPS = ("lobar", "deep", "infratentorial")
"""What counts are made of (MARS, Gregoire et al. 2009)."""

NOT_TISSUE = ("ventricle", "csf", "outside")
"""Places where no microbleed lies."""

UNKNOWN = "unknown"
"""Tissue of which nobody knows the group: a label without a row in its table, or all of a map that is not trusted."""


@dataclass(frozen=True)
class Place:
    """What a label stands for: one row of a label table.

    Attributes:
        group: one of ``GROUPS``, ``NOT_TISSUE`` or ``UNKNOWN``.
        region: the MARS sub-region where known, for instance ``thalamus`` or ``frontal``; "" otherwise.
        side: ``left``, ``right``, or "" where the label lies on both sides.
    """

    group: str
    region: str = ""
    side: str = ""


OUTSIDE = Place("outside")


@dataclass(frozen=True)
class RegionMap:
    """The regions of one scan, on its own grid.

    Attributes:
        labels: uint16 [z, y, x], values of ``places``.
        grid: the scan's.
        places: what every value that occurs in ``labels`` stands for, 0 included.
        source: where the map comes from: ``model:...``, ``parcellation:...``, ``atlas:...``.
        quality: 0..1 where a registration made the map, None otherwise.
        trusted: False when the map may be wrong: every place is then ``UNKNOWN``.
        why: the reason of the mistrust, for the report.
        findings: sentences on what else is odd, for instance labels without a row in the table.
        midplane: (a, b, c, d) of the plane between the halves of the brain: a point x, y, z (world LPS mm) is on the
            left where ``a x + b y + c z + d > 0``. None: the plane through the middle of the brain, across the scan's
            left-right direction.
    """

    labels: np.ndarray
    grid: Grid
    places: Mapping[int, Place]
    source: str
    quality: float | None = None
    trusted: bool = True
    why: str = ""
    findings: tuple[str, ...] = ()
    midplane: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        if tuple(self.labels.shape) != tuple(self.grid.shape):
            raise ValueError(f"labels {self.labels.shape} do not lie on the grid {self.grid.shape}")

    def place(self, label: int) -> Place:
        """What a label stands for; unknown tissue where nothing is said."""
        return self.places.get(label, Place(UNKNOWN))

    @property
    def sub_regions(self) -> tuple[str, ...]:
        """Names of the sub-regions that the map tells apart; none of a map that is not trusted."""
        return tuple(sorted({place.region for place in self.places.values() if place.region and self.trusted}))

    def group_codes(self) -> np.ndarray:
        """uint8 [z, y, x]: index of each voxel's group in ``(*GROUPS, *NOT_TISSUE, UNKNOWN)``."""
        return codes_of(self.places, int(self.labels.max(initial=0)))[self.labels]


CODES = {group: code for code, group in enumerate((*GROUPS, *NOT_TISSUE, UNKNOWN))}


def codes_of(places: Mapping[int, Place], largest: int) -> np.ndarray:
    """uint8 [largest + 1]: the code of each label's group; that of ``UNKNOWN`` where nothing is said."""
    table = np.full(largest + 1, CODES[UNKNOWN], dtype=np.uint8)
    for value, place in places.items():
        if value <= largest:
            table[value] = CODES[place.group]
    return table
