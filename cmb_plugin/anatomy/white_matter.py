"""Cerebral white matter that a parcellation does not divide: deep near the ventricles, lobar elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from .label_tables import FIRST_FREE, LabelTable
from .regions import Place

PERIVENTRICULAR_MM = 10.0
"""White matter as near as this to the lateral or third ventricle is deep. MARS (Gregoire et al. 2009) counts "deep and
periventricular white matter" without a number; 10 mm is the rule by which white matter lesions are called
periventricular (Griffanti et al. 2018, NeuroImage 170:174-181), and what the built-in map uses too."""

DEEP_WHITE_MATTER = "deep and periventricular white matter"
STEP_MM = 2.0  # distances are measured on voxels of about this size
FOURTH_VENTRICLE = "4th"  # in the name of the label; it lies below the tentorium


def divide_white_matter(
    labels: np.ndarray, spacing: Sequence[float], table: LabelTable
) -> tuple[np.ndarray, Mapping[int, Place]]:
    """Gives white matter labels of their own: the deep part, and each lobe's.

    The lobe of lobar white matter is that of its label, else that of the nearest cortex of its side; "" where the
    parcellation has no lobes.

    Args:
        labels: uint16 [z, y, x].
        spacing: mm along z, y, x.

    Returns:
        the new labels, and what all labels stand for.
    """
    white = np.isin(labels, sorted(table.white_matter))
    if not white.any():
        return labels, table.places
    steps = tuple(max(1, round(STEP_MM / side)) for side in spacing)
    coarse = labels[tuple(slice(None, None, step) for step in steps)]
    sampling = [side * step for side, step in zip(spacing, steps, strict=True)]
    deep = _near_ventricles(coarse, sampling, table)
    places = dict(table.places)
    numbers: dict[Place, int] = {}

    where = np.nonzero(white)
    own = labels[where]
    at = tuple(index // step for index, step in zip(where, steps, strict=True))
    lobes = {side: _nearest_lobe(coarse, sampling, table, side) for side in ("left", "right", "")}
    new = own.copy()
    for value in np.unique(own):
        place = table.places[int(value)]
        these = own == value
        lobe, names = lobes[place.side]
        codes = lobe[tuple(index[these] for index in at)]
        is_deep = deep[tuple(index[these] for index in at)]
        for code in np.unique(codes):
            lobar = Place("lobar", place.region or names[code], place.side)
            for chosen, kind in (
                ((codes == code) & is_deep, Place("deep", DEEP_WHITE_MATTER, place.side)),
                ((codes == code) & ~is_deep, lobar),
            ):
                number = numbers.setdefault(kind, FIRST_FREE + len(numbers))
                places[number] = kind
                new[np.flatnonzero(these)[chosen]] = number
    divided = labels.copy()
    divided[where] = new
    return divided, places


def _near_ventricles(labels: np.ndarray, sampling: Sequence[float], table: LabelTable) -> np.ndarray:
    supratentorial = [
        value
        for value, place in table.places.items()
        if place.group == "ventricle" and not table.names[value].startswith(FOURTH_VENTRICLE)
    ]
    ventricles = np.isin(labels, supratentorial)
    if not ventricles.any():
        return np.zeros(labels.shape, bool)
    near: np.ndarray = ndimage.distance_transform_edt(~ventricles, sampling=sampling) <= PERIVENTRICULAR_MM
    return near


def _nearest_lobe(
    labels: np.ndarray, sampling: Sequence[float], table: LabelTable, side: str
) -> tuple[np.ndarray, list[str]]:
    """For each voxel the number of the lobe of the nearest cortex, and the names of the lobes; 0 is "" (none)."""
    names = [""]
    codes = np.zeros(int(labels.max(initial=0)) + 1, np.uint8)
    for value, place in table.places.items():
        cortex = place.group == "lobar" and place.region and value not in table.white_matter
        if cortex and side in ("", place.side) and value < len(codes):
            if place.region not in names:
                names.append(place.region)
            codes[value] = names.index(place.region)
    lobes = codes[labels]
    if not lobes.any():
        return np.zeros(labels.shape, np.uint8), names
    nearest = ndimage.distance_transform_edt(lobes == 0, sampling=sampling, return_distances=False, return_indices=True)
    return lobes[tuple(nearest)], names
