"""A scan that was measured, not simulated, and what has to be known of it before something is put into it: its noise,
how much of its k-space was measured, its phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from cmb_plugin.images.grid import Grid

from .physics import high_passed_phase

LEAST_EXTENT = 0.35
"""No scan is interpolated further than to about three times its measured matrix."""

EMPTY = 0.05
"""Power beyond the measured part of k-space, relative to the power just inside, below which it counts as empty."""

MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True)
class MeasuredScan:
    """A scan without microbleeds. Arrays are [z, y, x] on ``grid``.

    Attributes:
        grid: the scan's grid.
        images: by modality, of ``t2s``, ``swi`` (at least one of them, float32, not negative) and ``phase`` (float32
            radians).
        brain: bool, nonzero where there is brain, roughly.
        regions: uint8 as ``PhantomCase.regions``, or None where nobody knows.
        field_tesla, echo_ms: of the gradient echo.
    """

    grid: Grid
    images: dict[str, np.ndarray]
    brain: np.ndarray
    regions: np.ndarray | None = None
    field_tesla: float = 3.0
    echo_ms: float = 20.0

    @property
    def magnitude(self) -> np.ndarray:
        """The T2* magnitude; where there is none, the SWI."""
        return self.images["t2s" if "t2s" in self.images else "swi"]

    @property
    def main_field(self) -> np.ndarray:
        """Direction of the main field (world superior, the long axis of the scanner) along the array's z, y, x."""
        return np.asarray(self.grid.direction).reshape(3, 3)[2, ::-1]


def central_block(brain: np.ndarray) -> tuple[slice, slice, slice]:
    """The middle half, along every axis, of the box around a bool [z, y, x] brain: tissue without air; the middle half
    of the array where there is no brain."""
    found = ndimage.find_objects(brain.astype(np.uint8))
    box = found[0] if found else tuple(slice(0, n) for n in brain.shape)
    block = []
    for part in box:
        quarter = (part.stop - part.start) // 4
        block.append(slice(part.start + quarter, max(part.stop - quarter, part.start + quarter + 1)))
    return tuple(block)  # type: ignore[return-value]


def measured_extent(image: np.ndarray, block: tuple[slice, slice, slice]) -> tuple[float, float, float]:
    """Part of k-space along z, y, x, 0..1, that was measured; less than 1 for a scan that is interpolated or filled
    with zeros.

    Beyond the measured part there is no noise: the power falls off a cliff there. A smooth decrease is the anatomy's.

    Args:
        image: magnitude-like, float32.
        block: tissue without air, in which the magnitude is about linear in the complex signal.
    """
    tissue = np.asarray(image[block], np.float32)
    extents = []
    for axis, n in enumerate(tissue.shape):
        if n < 16:  # too few samples to tell
            extents.append(1.0)
            continue
        window = np.hanning(n + 2)[1:-1].astype(np.float32).reshape((-1,) + (1,) * (2 - axis))
        power = (np.abs(fft.rfft((tissue - tissue.mean()) * window, axis=axis)) ** 2).mean(
            axis=tuple(a for a in range(3) if a != axis)
        )
        extents.append(_cliff(power))
    return tuple(extents)  # type: ignore[return-value]


def _cliff(power: np.ndarray) -> float:
    """Where a power spectrum [frequencies, 0 up to the highest] falls to nothing, as a part of the highest."""
    last = len(power) - 1
    for edge in range(int(np.ceil(LEAST_EXTENT * last)), last):
        inside = power[max(int(0.85 * edge), 1) : edge]
        outside = power[edge + 2 :]  # the window spreads the edge over two samples
        if len(outside) and len(inside) and outside.max() < EMPTY * inside.mean():
            return edge / last
    return 1.0


def low_passed(values: np.ndarray, extent: Sequence[float]) -> np.ndarray:
    """``values`` [z, y, x] without what lies beyond ``extent`` (part of k-space along z, y, x)."""
    for axis, kept in enumerate(extent):
        if kept >= 1 or values.shape[axis] < 4:
            continue
        spectrum = fft.fft(values, axis=axis)
        beyond = np.abs(np.fft.fftfreq(values.shape[axis])) > kept / 2
        spectrum[(slice(None),) * axis + (beyond,)] = 0
        result = fft.ifft(spectrum, axis=axis, overwrite_x=True)
        values = result if np.iscomplexobj(values) else result.real
    return values


def noise_level(image: np.ndarray, block: tuple[slice, slice, slice], extent: Sequence[float]) -> float:
    """Standard deviation of the noise of either channel, in the image's unit.

    From second differences along x in tissue, by their median (Immerkaer 1996 has the idea): edges hardly count. Noise
    of an interpolated scan is smooth, so the same measure of white noise with the same ``extent`` is the yardstick.
    """
    tissue = np.asarray(image[block], np.float32)
    white = np.random.default_rng(0).standard_normal(tissue.shape, np.float32)
    smooth = low_passed(white, extent)
    return _detail(tissue) / max(_detail(smooth), 1e-9) * float(smooth.std())


def _detail(tissue: np.ndarray) -> float:
    difference = np.diff(tissue, 2, axis=2) if tissue.shape[2] > 2 else tissue - np.median(tissue)
    return float(MAD * np.median(np.abs(difference - np.median(difference))) / np.sqrt(6))


def is_filtered(phase: np.ndarray, spacing: Sequence[float], block: tuple[slice, slice, slice]) -> bool:
    """Whether a phase image (radians) has been high-passed: a further filter of 6 mm hardly changes it."""
    signal = np.exp(1j * phase[block[0]]).astype(np.complex64)
    again = high_passed_phase(signal, spacing, 6.0)
    inner = (slice(None), block[1], block[2])
    change = np.angle(np.exp(1j * (again[inner] - phase[block])))
    return bool(np.median(np.abs(change)) < 0.15)


def phase_sign(magnitude: np.ndarray, phase: np.ndarray, brain: np.ndarray) -> int:
    """1 where dark vessels have positive (filtered) phase, -1 on scanners that count phase the other way.

    Args:
        magnitude: SWI or T2* magnitude.
        phase: high-passed, in radians.
        brain: bool.
    """
    dark = magnitude < 0.8 * ndimage.uniform_filter(magnitude, (1, 9, 9))
    inside = ndimage.binary_erosion(brain, iterations=4) & dark
    if not inside.any():
        return 1
    return -1 if float(phase[inside].mean()) < 0 else 1
