"""``Grid``: where the voxels of a scan lie in the world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

AXES = "LPS"  # letters of the positive directions of the world's x, y, z


@dataclass(frozen=True)
class Grid:
    """Shape and place of a scan.

    Array axes are z, y, x (``array[z, y, x]``, as SimpleITK's ``GetArrayFromImage`` gives them); world axes are
    x, y, z in LPS millimetres, as in ITK and DICOM.

    Attributes:
        shape: number of voxels along z, y, x.
        spacing: voxel size in mm along z, y, x.
        origin: world x, y, z of the centre of voxel (0, 0, 0).
        direction: 9 numbers, ITK's row-major matrix whose columns are the world directions of the x, y and z axis.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @property
    def affine(self) -> np.ndarray:
        """[4, 4] maps voxel-edge coordinates (z, y, x, 1) to world (x, y, z, 1); the centre of voxel 0 is edge 0.5."""
        columns = np.asarray(self.direction, dtype=float).reshape(3, 3) * np.asarray(self.spacing[::-1])
        matrix = np.eye(4)
        matrix[:3, :3] = columns[:, ::-1]
        matrix[:3, 3] = np.asarray(self.origin) - matrix[:3, :3] @ np.full(3, 0.5)
        return matrix

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """[N, 3] voxel-edge coordinates z, y, x -> [N, 3] world x, y, z in LPS mm."""
        matrix = self.affine
        return np.asarray(points, dtype=float) @ matrix[:3, :3].T + matrix[:3, 3]

    def from_world(self, points: np.ndarray) -> np.ndarray:
        """[N, 3] world x, y, z in LPS mm -> [N, 3] voxel-edge coordinates z, y, x."""
        matrix = self.affine
        return np.linalg.solve(matrix[:3, :3], (np.asarray(points, dtype=float) - matrix[:3, 3]).T).T

    @property
    def axis_codes(self) -> str:
        """Nearest world direction of array axes z, y, x, for instance ``SPL``."""
        matrix = self.affine[:3, :3]
        opposite = {"L": "R", "P": "A", "S": "I"}
        codes = ""
        for column in matrix.T:
            world = int(np.argmax(np.abs(column)))
            codes += AXES[world] if column[world] > 0 else opposite[AXES[world]]
        return codes

    def matches(self, other: Grid, tolerance_mm: float = 0.01) -> bool:
        """True when both have one shape and no corner lies farther apart than ``tolerance_mm``."""
        return self.shape == other.shape and self.corner_distance(other) <= tolerance_mm

    def same_as(self, other: Grid, tolerance: float = 0.5) -> bool:
        """True when a voxel of this grid stands for the voxel of the same index in ``other``.

        Args:
            other: the reference, such as the grid of the label.
            tolerance: corners lie less than so many of its voxels apart, measured by their shortest side. From half a
                voxel on, a voxel may lie nearer to its neighbour than to its own.
        """
        return self.shape == other.shape and self.corner_distance(other) < tolerance * min(other.spacing)

    def corner_distance(self, other: Grid) -> float:
        """Largest distance in mm between corresponding outer corners."""
        corners = np.array(np.meshgrid(*[(0.0, 1.0)] * 3)).reshape(3, -1).T
        ours = self.to_world(corners * np.asarray(self.shape))
        theirs = other.to_world(corners * np.asarray(other.shape))
        return float(np.linalg.norm(ours - theirs, axis=1).max())

    def to_json(self) -> dict[str, Any]:
        """Plain data, which ``from_json`` reads."""
        return {
            "shape": list(self.shape),
            "spacing": list(self.spacing),
            "origin": list(self.origin),
            "direction": list(self.direction),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Sequence[float]]) -> Grid:
        """What ``to_json`` gave.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: ``data`` describes no grid.
        """
        z, y, x = (int(n) for n in data["shape"])
        spacing, origin, direction = (np.array(data[key], dtype=float) for key in ("spacing", "origin", "direction"))
        if (spacing.shape, origin.shape, direction.shape) != ((3,), (3,), (9,)) or min(z, y, x) < 1:
            raise ValueError("a grid has 3 sides, 3 spacings, 3 numbers of its origin and 9 of its direction")
        if not (np.isfinite([*origin, *direction]).all() and (spacing > 0).all() and np.isfinite(spacing).all()):
            raise ValueError("a grid is made of finite numbers, and its spacing is positive")
        return cls((z, y, x), *(tuple(float(v) for v in data[key]) for key in ("spacing", "origin", "direction")))  # type: ignore[arg-type]
