"""What lies in the brain besides tissue: compact sources (microbleeds, calcifications, iron, air) and vessels, and how
they are drawn on a grid so that their amount does not depend on the grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .anatomy import ellipsoid_distance


@dataclass(frozen=True)
class Blob:
    """A compact ellipsoidal source.

    Attributes:
        kind: ``cmb``, ``iron``, ``calcification`` or ``air_sinus``.
        centre: z, y, x in mm from the centre of voxel 0.
        axes: semi-axes in mm.
        rotation: [3, 3], rows are the directions of the semi-axes along z, y, x.
        susceptibility: ppm relative to tissue.
        density: part of the tissue's protons that are left inside.
        decay: additional R2* inside, in 1/s.
        site: anatomical name, for the reader of the files.
        softness: width in mm over which the amount falls from full to none at the surface; 0 for a sharp one.
    """

    kind: str
    centre: np.ndarray
    axes: np.ndarray
    rotation: np.ndarray
    susceptibility: float
    density: float
    decay: float
    site: str = ""
    softness: float = 0.0

    @property
    def diameter(self) -> float:
        """Diameter in mm of the sphere of the same volume."""
        return float(2 * np.prod(self.axes) ** (1 / 3))


@dataclass(frozen=True)
class Vessel:
    """A tube along a polyline.

    Attributes:
        kind: ``vein_straight``, ``vein_curved``, ``pial_vessel``, ``sinus`` (a dural sinus) or ``artery``.
        path: [N, 3] points z, y, x in mm from the centre of voxel 0.
        radius: mm.
        susceptibility: ppm relative to tissue.
    """

    kind: str
    path: np.ndarray
    radius: float
    susceptibility: float
    site: str = ""


def blob_coverage(blob: Blob, mm: Sequence[np.ndarray]) -> np.ndarray:
    """Fraction of every voxel that the blob fills.

    The surface is smoothed over one voxel and the sum is scaled to the exact volume, so a source smaller than a voxel,
    at any place between voxel centres, keeps its full amount.

    Args:
        mm: for z, y, x the voxel centres in mm; equally spaced.

    Returns:
        float32 [Z, Y, X], 0..1 (more only where the blob is smaller than a voxel's half).
    """
    voxel = float(np.prod([m[1] - m[0] for m in mm])) ** (1 / 3)
    axes = np.maximum(blob.axes, 0.6 * voxel)
    edge = max(voxel, blob.softness)
    reach = float(axes.max()) + edge
    near = [np.flatnonzero(np.abs(m - c) <= reach + (m[1] - m[0])) for m, c in zip(mm, blob.centre, strict=True)]
    coverage = np.zeros([len(m) for m in mm], np.float32)
    if not all(len(n) for n in near):
        return coverage
    box = tuple(slice(n[0], n[-1] + 1) for n in near)
    points = np.stack(np.meshgrid(*(m[b] for m, b in zip(mm, box, strict=True)), indexing="ij"), axis=-1)
    depth = -ellipsoid_distance(points, blob.centre, axes, blob.rotation)
    filled = np.clip(depth / edge + 0.5, 0, 1)
    total = float(filled.sum()) * float(np.prod([m[1] - m[0] for m in mm]))
    volume = 4 / 3 * np.pi * float(np.prod(blob.axes))
    coverage[box] = filled * (volume / total) if total > 0 else filled
    return coverage


def add_vessel(target: np.ndarray, spacing: Sequence[float], vessel: Vessel, value: float) -> None:
    """Draws a tube into ``target`` (the larger of both values stays), antialiased; a thin one keeps its amount per
    length.

    Args:
        target: float32 [z, y, x], changed in place; voxel i lies at i * spacing mm.
        value: what a voxel inside the tube gets.
    """
    step = np.asarray(spacing, dtype=np.float32)
    voxel = float(np.prod(step)) ** (1 / 3)
    drawn = max(vessel.radius, 0.6 * voxel)
    # The antialiased disc below has the area pi (drawn^2 + voxel^2 / 12).
    value = value * vessel.radius**2 / (drawn**2 + voxel**2 / 12)
    reach = drawn + 0.5 * voxel
    for start, stop in zip(vessel.path[:-1].astype(np.float32), vessel.path[1:].astype(np.float32), strict=True):
        low = np.maximum(np.floor((np.minimum(start, stop) - reach) / step), 0).astype(int)
        high = np.minimum(np.ceil((np.maximum(start, stop) + reach) / step).astype(int) + 1, target.shape)
        if (high <= low).any():
            continue
        z, y, x = (
            (np.arange(a, b, dtype=np.float32) * s - p) for a, b, s, p in zip(low, high, step, start, strict=True)
        )
        z, y, x = z[:, None, None], y[None, :, None], x[None, None, :]
        dz, dy, dx = stop - start
        length = max(float(dz * dz + dy * dy + dx * dx), 1e-9)
        along = np.clip((z * dz + y * dy + x * dx) * np.float32(1 / length), 0, 1)
        distance = np.sqrt((z - along * dz) ** 2 + (y - along * dy) ** 2 + (x - along * dx) ** 2)
        box = target[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        cover = np.clip((drawn - distance) * np.float32(1 / voxel) + np.float32(0.5), 0, 1)
        cover *= np.float32(value)
        np.maximum(box, cover, out=box)
