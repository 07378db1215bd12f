"""Were the points read as they were meant? Read otherwise, would they hit darker places?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmb_plugin.images import Grid

from .instances import edges_of
from .source import PointLabel

AROUND_MM = 5.0
LEAST_POINTS = 6
LEAST_GAIN = 0.5
"""In deviations of the surroundings: so much darker must another reading be on average."""
LEAST_T = 4.0
"""So many standard errors must the gain be."""

Readings = dict[str, list[float | None]]


def score_readings(image: np.ndarray, grid: Grid, label: PointLabel, bright: bool = False) -> Readings:
    """How far each point stands out when read as it was, one voxel lower or higher, or with swapped axes.

    Args:
        image: [z, y, x], finite.
        grid: its grid.
        label: points inside the image.
        bright: lesions are brighter than their surroundings.

    Returns:
        reading -> per point the deviations by which its voxel is darker than its surroundings; None outside the image.
        Empty where points are in mm, which can only be meant in one way.
    """
    if not label.space.startswith("voxel"):
        return {}
    edges = edges_of(label.points, label.space, grid)
    other = {"voxel1": ("count from 0", edges + 1), "voxel0": ("count from 1", edges - 1)}[label.space]
    readings = {"as read": edges, other[0]: other[1], "are in the order z, y, x": edges[:, ::-1]}
    readings["are in the order y, x, z"] = edges[:, [0, 2, 1]]
    return {name: [_stands_out(image, point, grid, bright) for point in points] for name, points in readings.items()}


def doubt(readings: Sequence[Readings]) -> str:
    """What the points of a data set look like instead, empty where they look right.

    Args:
        readings: of all its cases.
    """
    as_read = np.array([value for case in readings for value in case.get("as read", ())], dtype=float)
    for name in dict.fromkeys(name for case in readings for name in case if name != "as read"):
        empty = [[None] * len(case.get("as read", ())) for case in readings]
        own = [case.get(name, none) for case, none in zip(readings, empty, strict=True)]
        values = np.array([value for row in own for value in row], dtype=float)
        gain = (values - as_read)[np.isfinite(values - as_read)]
        if len(gain) < max(LEAST_POINTS, len(as_read) / 2):
            continue
        error = float(gain.std(ddof=1)) / np.sqrt(len(gain))
        if gain.mean() > LEAST_GAIN and gain.mean() > LEAST_T * error:
            return name
    return ""


def _stands_out(image: np.ndarray, point: np.ndarray, grid: Grid, bright: bool) -> float | None:
    index = np.floor(point).astype(int)
    if (index < 0).any() or (index >= np.asarray(image.shape)).any():
        return None
    reach = np.ceil(AROUND_MM / np.asarray(grid.spacing)).astype(int)
    lower, upper = np.maximum(index - reach, 0), index + reach + 1
    around = image[tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))].astype(float)
    spread = float(around.std())
    difference = float(image[tuple(index)]) - float(np.median(around))
    return round((difference if bright else -difference) / spread, 3) if spread > 0 else 0.0
