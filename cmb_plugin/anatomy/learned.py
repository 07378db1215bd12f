"""Maps whose numbers are the regions that a data set names: what they stand for, and what speaks against one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cmb_plugin.images import Grid
from cmb_plugin.preparation.brain import PLAUSIBLE_ML

from .regions import GROUPS, NOT_TISSUE, OUTSIDE, UNKNOWN, Place


def places_of(names: Sequence[str]) -> dict[int, Place]:
    """What the numbers 0, 1, 2, ... of a map stand for: 0 is outside; a name that is no group is tissue of unknown
    group.

    Args:
        names: of the numbers from 1 (``Dataset.regions``, ``Plan.classes``).
    """
    known = (*GROUPS, *NOT_TISSUE)
    named = {number: Place(name) if name in known else Place(UNKNOWN, name) for number, name in enumerate(names, 1)}
    return {0: OUTSIDE, **named}


def doubts(labels: np.ndarray, grid: Grid, places: Mapping[int, Place]) -> str:
    """Why a map that a network made cannot be right, as a sentence; empty where nothing speaks against it.

    A network answers whatever it is shown. A slab, a scan whose header names the wrong axes, or no head at all is told
    by the volume of the brain, and by a cerebellum that does not lie below the cerebrum.

    Args:
        labels: integers [z, y, x] from 0.
        grid: of the scan.
        places: what the numbers stand for.
    """
    counts = np.bincount(labels.ravel(), minlength=len(places))
    values = {place.group: value for value, place in places.items() if place.group in GROUPS}
    if not values:  # regions of the data set's own: nobody knows how much of the brain they are
        return ""
    tissue = [value for value, place in places.items() if place.group not in NOT_TISSUE]
    millilitres = sum(counts[value] for value in tissue) * float(np.prod(grid.spacing)) / 1000
    if not PLAUSIBLE_ML[0] <= millilitres <= PLAUSIBLE_ML[1]:
        return f"the model finds {millilitres:.0f} ml of brain: is it a scan of the whole head?"
    missing = [name for name, value in values.items() if not counts[value]]
    if missing:
        return f"the model finds nothing {' and nothing '.join(missing)}: is it a scan of the whole head?"
    if {"lobar", "infratentorial"} <= set(values):
        upper, lower = (_height(labels == values[name], grid) for name in ("lobar", "infratentorial"))
        if lower > upper:
            return "the model finds the cerebellum above the cerebrum: is the orientation in the header right?"
    return ""


def _height(mask: np.ndarray, grid: Grid) -> float:
    """Mean world z (superior) of a mask's voxels in mm."""
    middle = []
    for axis in range(3):
        along = mask.sum(axis=tuple(other for other in range(3) if other != axis)).astype(float)
        middle.append(float(along @ (np.arange(len(along)) + 0.5) / along.sum()))
    return float(grid.to_world(np.array([middle]))[0, 2])
