"""One subject in one scanner: how the MNI anatomy is deformed, and how the scan lies over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from cmb_plugin.images.grid import Grid

from .anatomy import COARSE, Atlas, to_index
from .protocols import Protocol

KNOTS = 18.0  # mm between the control points of the random deformation
LATTICE = 3.0  # mm between the points at which smooth maps are computed before they are interpolated to the voxels
_FLIP = np.array([-1.0, -1.0, 1.0])  # LPS <-> RAS
VISIT_TURN_DEG = (6.0, 3.0, 4.0)  # spread of the head's turn about x, y, z between two scans of a subject


@dataclass(frozen=True)
class Subject:
    """The deformation scan -> world -> MNI of one subject.

    MNI point = q + displacement(q) with q = affine @ RAS point; the displacement enlarges the ventricles and adds a
    smooth random part.

    Attributes:
        grid: the scan.
        affine: [3, 4] RAS world mm -> MNI RAS mm before the displacement.
        knots: float32 [3, z, y, x] x, y, z displacement in mm at the control points (cubic spline coefficients).
        ventricle_mm: how far the walls of the ventricles are moved outwards.
        atlas: the anatomy.
        first: the same subject in the first of several scans; None for the first scan itself.
    """

    grid: Grid
    affine: np.ndarray
    knots: np.ndarray
    ventricle_mm: float
    atlas: Atlas
    first: Subject | None = None

    @property
    def main_field(self) -> np.ndarray:
        """Direction of the main field (world superior) along the array's z, y, x."""
        return np.asarray(self.grid.direction).reshape(3, 3)[2, ::-1]

    def mm_to_mni(self, points: np.ndarray) -> np.ndarray:
        """[N, 3] scan points z, y, x in mm from the centre of voxel 0 -> [N, 3] MNI RAS mm."""
        world = self.grid.to_world(points / np.asarray(self.grid.spacing) + 0.5) * _FLIP
        moved = world @ self.affine[:, :3].T + self.affine[:, 3]
        return moved + self._displacement(moved)

    def mni_to_mm(self, points: np.ndarray) -> np.ndarray:
        """Inverse of ``mm_to_mni``, by fixed-point iteration (to about 0.01 mm)."""
        points = np.asarray(points, dtype=float)
        moved = points.copy()
        for _ in range(12):
            moved = points - self._displacement(moved)
        world = np.linalg.solve(self.affine[:, :3], (moved - self.affine[:, 3]).T).T * _FLIP
        return (self.grid.from_world(world) - 0.5) * np.asarray(self.grid.spacing)

    def mm_to_visit(self, points: np.ndarray, other: Subject) -> np.ndarray:
        """[N, 3] scan points z, y, x in mm -> the same places of the head in another scan of the subject."""
        world = self.grid.to_world(points / np.asarray(self.grid.spacing) + 0.5) * _FLIP
        moved = world @ self.affine[:, :3].T + self.affine[:, 3]
        world = np.linalg.solve(other.affine[:, :3], (moved - other.affine[:, 3]).T).T * _FLIP
        return (other.grid.from_world(world) - 0.5) * np.asarray(other.grid.spacing)

    def _displacement(self, points: np.ndarray) -> np.ndarray:
        index = to_index(points, KNOTS)
        smooth = [ndimage.map_coordinates(k, index, order=3, prefilter=False, mode="nearest") for k in self.knots]
        displacement = np.stack(smooth, axis=-1)
        # A point at a distance r from the ventricles shows the anatomy that the template has nearer to them.
        distance, *gradient = self._ventricle_pull(points)
        return displacement - self.ventricle_mm * np.exp(-distance / 12)[:, None] * np.stack(gradient, axis=-1)

    def _ventricle_pull(self, points: np.ndarray) -> list[np.ndarray]:
        maps = self.atlas.ventricle_pull
        return [ndimage.map_coordinates(m, to_index(points, COARSE), order=1, mode="nearest") for m in maps]


def draw_subject(rng: np.random.Generator, protocol: Protocol, atlas: Atlas) -> Subject:
    """A random subject, placed in the scan of ``protocol`` with a slightly oblique direction and an origin off the
    centre."""
    grid = _draw_grid(rng, protocol)
    size = 1 / (rng.normal(1.0, 0.035) * rng.normal(1.0, 0.02, 3)).clip(0.88, 1.1) * atlas.scale
    affine = np.zeros((3, 4))
    affine[:, :3] = (
        np.diag(size)
        @ _rotation(rng.normal(0, (3.5, 3.0, 3.0)))
        @ (np.eye(3) + np.triu(rng.normal(0, 0.02, (3, 3)), 1))
    )
    # The middle of the head (not of the template's coordinates) lies near the middle of the scan.
    middle = grid.to_world(np.asarray(grid.shape)[None] / 2)[0] * _FLIP
    affine[:, 3] = np.array([0.0, -17.0, 4.0]) + rng.normal(0, (2.0, 2.5, 2.5)) - affine[:, :3] @ middle
    knots_shape = [int(np.ceil(n / KNOTS)) + 2 for n in atlas.brain.shape]
    knots = rng.normal(0, 1.0, (3, *knots_shape)).astype(np.float32) * 5.0
    return Subject(grid, affine, knots, float(rng.uniform(0.0, 4.0)), atlas)


def draw_visit(rng: np.random.Generator, subject: Subject, protocol: Protocol) -> Subject:
    """The same subject in a later scan: a new grid, and the head turned and shifted in it.

    Args:
        rng: of the visit.
        subject: in the first scan.
        protocol: of the later scan.
    """
    grid = _draw_grid(rng, protocol)
    turn = _rotation(rng.normal(0, VISIT_TURN_DEG))
    here, there = (g.to_world(np.asarray(g.shape)[None] / 2)[0] * _FLIP for g in (grid, subject.grid))
    # World of the later scan -> of the first: turned about the middle of the scans, which may lie anywhere.
    shift = there + rng.normal(0, 3.0, 3) - turn @ here
    affine = np.zeros((3, 4))
    affine[:, :3] = subject.affine[:, :3] @ turn
    affine[:, 3] = subject.affine[:, :3] @ shift + subject.affine[:, 3]
    return replace(subject, grid=grid, affine=affine, first=subject)


def _draw_grid(rng: np.random.Generator, protocol: Protocol) -> Grid:
    rotation = _rotation(rng.normal(0, protocol.tilt_deg))
    z, y, x = protocol.spacing
    extent = np.array([x, y, z]) * (np.array(protocol.shape[::-1]) - 1)
    origin = rng.normal(0, (4.0, 10.0, 15.0)) - rotation @ extent / 2
    as_tuple = tuple(round(float(v), 6) for v in origin)
    direction = tuple(float(v) for v in rotation.ravel())
    return Grid(protocol.shape, protocol.spacing, as_tuple, direction)  # type: ignore[arg-type]


def _rotation(degrees: np.ndarray) -> np.ndarray:
    """[3, 3] turn about x, then y, then z."""
    rotation = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        rotation = turn @ rotation
    return rotation


@dataclass(frozen=True)
class Lattice:
    """A coarse lattice over the scan, on which smooth maps are computed and from which they are interpolated linearly.

    Attributes:
        mm: for z, y, x the places of the lattice planes in mm from the centre of voxel 0.
    """

    mm: tuple[np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def over(cls, grid: Grid) -> Lattice:
        """Covers the grid and a voxel beyond it; its planes are at most ``LATTICE`` mm apart."""
        ends = [(-s, n * s) for n, s in zip(grid.shape, grid.spacing, strict=True)]
        axes = tuple(np.linspace(a, b, int(np.ceil((b - a) / LATTICE)) + 1) for a, b in ends)
        return cls(axes)  # type: ignore[arg-type]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of planes along z, y, x."""
        return tuple(len(axis) for axis in self.mm)  # type: ignore[return-value]

    @property
    def step(self) -> tuple[float, float, float]:
        """Distance of the planes along z, y, x in mm."""
        return tuple(float(axis[1] - axis[0]) for axis in self.mm)  # type: ignore[return-value]

    def points(self) -> np.ndarray:
        """[N, 3] z, y, x in mm."""
        return np.stack(np.meshgrid(*self.mm, indexing="ij"), axis=-1).reshape(-1, 3)

    def interpolate(self, values: np.ndarray, mm: Sequence[np.ndarray], *, smooth: bool = False) -> np.ndarray:
        """Values at the crossing of planes ``mm`` (z, y, x): float32 [..., Z, Y, X] from [..., z, y, x].

        Linear, or with ``smooth`` cubic (Catmull-Rom): the kinks of a linearly interpolated field show as stripes in
        SWI.
        """
        along = cubic_axis if smooth else interpolate_axis
        for axis in (-3, -1, -2):  # a slab needs few planes: z first, y last, where whole rows are copied
            values = along(values, (mm[axis] - self.mm[axis][0]) / self.step[axis], axis)
        return values


def cubic_axis(values: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """As ``interpolate_axis``, with Catmull-Rom's cubic through the four nearest values."""
    last = values.shape[axis] - 1
    low = np.clip(np.floor(places).astype(int), 0, max(last - 1, 0))
    t = np.clip(places - low, 0, 1)
    weights = (
        (-t + 2 * t**2 - t**3) / 2,
        (2 - 5 * t**2 + 3 * t**3) / 2,
        (t + 4 * t**2 - 3 * t**3) / 2,
        (t**3 - t**2) / 2,
    )
    result: np.ndarray | None = None
    for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
        part = np.take(values, np.clip(low + offset, 0, last), axis=axis)
        part *= weight.astype(np.float32).reshape((-1,) + (1,) * (-axis - 1))
        result = part if result is None else np.add(result, part, out=result)
    assert result is not None
    return result


def interpolate_axis(values: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation of ``values`` along ``axis`` at fractional indices ``places`` [N]; held constant outside."""
    low = np.clip(np.floor(places).astype(int), 0, max(values.shape[axis] - 2, 0))
    part = np.clip(places - low, 0, 1).astype(np.float32).reshape((-1,) + (1,) * (-axis - 1))
    below = np.take(values, low, axis=axis)
    above = np.take(values, np.minimum(low + 1, values.shape[axis] - 1), axis=axis)
    above -= below
    above *= part
    above += below
    return above
