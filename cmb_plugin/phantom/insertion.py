"""Compact sources put into a scan: each on a small grid of its own, finer than the head's, so that a source smaller
than a voxel is exact and its effect is known alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .background import Background
from .physics import averaged_slices, crop_kspace, dephasing, dipole_field, phase_of
from .protocols import Protocol
from .sources import Blob, blob_coverage
from .subject import interpolate_axis

OVERSAMPLING_MM = 0.4
"""The small grid divides the scan's voxels until they are about this small."""


@dataclass
class Insertion:
    """The effect of one source on the scan.

    Attributes:
        blob: the source.
        box: where the effect lies in the scan, as slices z, y, x.
        change: complex64, what the source adds to the noise-free signal inside ``box``.
        susceptibility: float32, what it adds to the susceptibility there, in ppm.
        coverage: float32, how much of every voxel there it fills.
    """

    blob: Blob
    box: tuple[slice, slice, slice]
    change: np.ndarray
    susceptibility: np.ndarray
    coverage: np.ndarray


def reach_mm(blob: Blob, protocol: Protocol) -> float:
    """Distance beyond which the source turns the phase by less than 0.05 rad (at least 6 mm, at most 14 mm)."""
    phase = abs(float(phase_of(np.asarray(blob.susceptibility), protocol.field_tesla, protocol.echo_ms))) * 2 / 3
    radius = float(np.max(blob.axes))
    return float(np.clip(radius * (phase / 0.05) ** (1 / 3), 6.0, 14.0))


def insert(blob: Blob, background: Background, protocol: Protocol, main_field: np.ndarray) -> Insertion | None:
    """Simulates the scan around ``blob`` with and without it; the difference, cropped in k-space as the scan is.

    Returns:
        None when the source lies outside the scan.
    """
    spacing, shape = np.asarray(protocol.spacing), np.asarray(protocol.shape)
    middle = np.round(blob.centre / spacing).astype(int)
    half = np.ceil(reach_mm(blob, protocol) / spacing).astype(int) + 2
    low, high = middle - half, middle + half + 1
    inner_low, inner_high = np.maximum(low, 0), np.minimum(high, shape)
    if (inner_high <= inner_low).any():
        return None
    factor = np.maximum(2, np.ceil(spacing / OVERSAMPLING_MM)).astype(int)
    planes = 0  # of the fine grid that a slice of a 2D scan is the mean of
    if protocol.profile[1]:
        m, n = protocol.profile
        odd = 1 if spacing[0] / n <= 1.2 * OVERSAMPLING_MM else 3
        planes, factor[0] = m * odd, n * odd
    fine = tuple(int(n) for n in (high - low) * factor)
    mm = [(a + np.arange(n) / f) * s for a, n, f, s in zip(low, fine, factor, spacing, strict=True)]
    coverage = blob_coverage(blob, mm)
    step = spacing / factor
    field = dipole_field(
        coverage * np.float32(blob.susceptibility), step, main_field, padding_mm=float((half * spacing).max()) / 2
    )
    phase = phase_of(field, protocol.field_tesla, protocol.echo_ms)
    inside = np.clip(coverage, 0, 1)
    left = 1 - inside * np.float32(1 - blob.density * np.exp(-protocol.echo_ms * 1e-3 * blob.decay))
    # The phase is let go to zero at the patch's border, so that the difference is periodic.
    left *= dephasing(phase)
    phase *= _taper(fine)
    factor_map = np.empty(fine, np.complex64)
    np.multiply(left, np.cos(phase), out=factor_map.real)
    np.multiply(left, np.sin(phase), out=factor_map.imag)
    factor_map -= 1
    z, y, x = (int(n) for n in high - low)
    change, filled = _sampled(background, mm) * factor_map, coverage
    if planes:
        change, filled = (averaged_slices(v, z, (planes, int(factor[0]))) for v in (change, filled))
    change, filled = (crop_kspace(v, (z, y, x)) for v in (change, filled))
    part = tuple(slice(a, b) for a, b in zip(inner_low - low, inner_high - low, strict=True))
    box = tuple(slice(int(a), int(b)) for a, b in zip(inner_low, inner_high, strict=True))
    susceptibility = filled[part] * np.float32(blob.susceptibility)
    return Insertion(blob, box, change[part], susceptibility, filled[part])  # type: ignore[arg-type]


def _taper(shape: tuple[int, ...]) -> np.ndarray:
    """1 in the middle, falling to 0 over the outer eighth of every side."""
    weight = np.ones((), np.float32)
    for n in shape:
        ramp = np.clip(np.minimum(np.arange(n) + 0.5, n - np.arange(n) - 0.5) / (n / 8), 0, 1)
        weight = weight[..., None] * (np.sin(ramp * np.pi / 2) ** 2).astype(np.float32)
    return weight


def _sampled(background: Background, mm: list[np.ndarray]) -> np.ndarray:
    """The background's complex signal at the crossing of planes ``mm``, linear between its samples."""
    places = [m / s - part.start for m, s, part in zip(mm, background.spacing, background.box, strict=True)]
    shape = background.signal.shape
    low = [max(min(int(np.floor(p[0])), n - 1), 0) for p, n in zip(places, shape, strict=True)]
    high = [max(int(np.ceil(p[-1])) + 1, a + 1) for p, a in zip(places, low, strict=True)]
    sampled = background.signal[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    for axis in (-1, -2, -3):
        sampled = interpolate_axis(sampled, places[axis] - low[axis], axis)
    return sampled
