"""A scan of a person at one time with what was predicted on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.dataset import CasePredictions, read_case_predictions
from cmb_plugin.dataset.predictions import microbleed_labels
from cmb_plugin.errors import UserError
from cmb_plugin.files import digest
from cmb_plugin.images import Grid, read_scan


@dataclass(frozen=True)
class Visit:
    """One time point.

    Attributes:
        name: of the time point.
        case: name of the scan in its predictions.
        scan: the file that is registered and shown.
        boxes: its ``{case}_boxes.json``.
        problem: why it cannot be compared, where that is known before it is read.
    """

    name: str
    case: str
    scan: Path
    boxes: Path
    problem: str = ""

    def key(self) -> str:
        """Changes when the scan or its predictions do."""
        facts: list[Any] = [self.name, self.case, self.problem]
        for path in (self.scan, self.boxes):
            stat = path.stat() if path.is_file() else None
            facts.append([path.name, None if stat is None else [stat.st_size, stat.st_mtime_ns]])
        return digest(facts)


@dataclass(frozen=True)
class Person:
    """A person with the visits in the order of time."""

    name: str
    visits: tuple[Visit, ...]


class Scan:
    """The voxels of a visit and the candidates that a network saw there.

    Args:
        visit: whose.

    Raises:
        UserError: the scan or its predictions cannot be read, or are of different grids.
    """

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        if visit.problem:
            raise UserError(visit.problem)
        if not visit.scan.is_file():
            raise UserError(f"{visit.scan}: no such file", remedy="check the path of the scan")
        if not visit.boxes.is_file():
            remedy = "summary.tsv in its folder may say why"
            raise UserError(f"{visit.boxes}: is not there, the scan was not predicted", remedy=remedy)
        self.predictions: CasePredictions = read_case_predictions(visit.boxes)
        self.image, self.grid = read_scan(visit.scan)
        if not self.grid.same_as(self.predictions.grid):
            raise UserError(
                f"{visit.scan}: is not the scan that {visit.boxes.name} was predicted on", remedy="name the same files"
            )

    @property
    def point(self) -> float:
        """Score from which on a candidate is reported."""
        return self.predictions.operating_point

    @property
    def thickness_mm(self) -> float:
        """The longest side of a voxel."""
        return max(self.grid.spacing)

    @cached_property
    def rows(self) -> np.ndarray:
        """Numbers of the detections that may be microbleeds: of that class."""
        return np.flatnonzero(np.isin(self.predictions.detections.labels, microbleed_labels(self.predictions.classes)))

    @cached_property
    def scores(self) -> np.ndarray:
        """[N] of ``rows``, rounded as the file has them."""
        return np.round(self.predictions.detections.scores[self.rows].astype(float), 6)

    @cached_property
    def reported(self) -> np.ndarray:
        """[N] bool of ``rows``: what reaches the operating point, and was removed by no rule."""
        return (self.scores >= self.point) & ~self.predictions.removed[self.rows]

    @cached_property
    def world(self) -> np.ndarray:
        """[N, 3] centres of ``rows`` in world x, y, z (LPS mm)."""
        return self.grid.to_world(self.predictions.detections.centres[self.rows])

    def covers(self, points: np.ndarray) -> np.ndarray:
        """[N] True where world points [N, 3] lie within the scan, a voxel from its edge, and not in its padding."""
        return covered(self.image, self.grid, points)


def covered(image: np.ndarray, grid: Grid, points: np.ndarray) -> np.ndarray:
    """[N] True where world points [N, 3] lie at least a voxel within a scan, and not where it was filled with zeros."""
    edges = grid.from_world(points)
    inside = np.asarray(((edges >= 1) & (edges <= np.asarray(grid.shape) - 1)).all(axis=1))
    for number in np.flatnonzero(inside):
        low = np.floor(edges[number]).astype(int) - 1
        around = image[tuple(slice(a, a + 3) for a in low)]
        inside[number] = bool(np.nan_to_num(around).any())
    return inside
