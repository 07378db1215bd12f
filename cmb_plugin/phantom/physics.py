"""Formulas of susceptibility imaging: dipole field, phase, decay, k-space, high-passed phase, SWI, QSM noise.

Arrays are [z, y, x]; spacings in mm along z, y, x; directions are unit vectors along the array's z, y, x.

Sign convention: phase = +gamma * dB * TE, so a vein along the main field (its inside at higher field) has positive
phase, and
the SWI mask darkens **positive** phase. Scanners that count phase the other way store the negative of this and darken
the
negative phase: the SWI image is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import fft

GAMMA = 2 * np.pi * 42.577478518
"""Gyromagnetic ratio of the proton in rad / (s T) per 1e-6, so that GAMMA * ppm * tesla * seconds is a phase in
radians."""

Triple = tuple[int, int, int]


def dipole_field(
    susceptibility: np.ndarray,
    spacing: Sequence[float],
    main_field: Sequence[float] | np.ndarray,
    padding_mm: float = 0.0,
) -> np.ndarray:
    """Relative change of the main field, dB/B0, that a susceptibility distribution causes, in the Lorentz-sphere sense.

    dB/B0 = F^-1[(1/3 - (k.b)^2/k^2) F[chi]] (Salomir et al. 2003, Marques & Bowtell 2005); the mean is set to 0.
    Inside a
    sphere the result is 0, outside it is chi/3 (a/r)^3 (3 cos^2 theta - 1).

    Args:
        susceptibility: [z, y, x] in ppm, relative to the surroundings.
        spacing: mm along z, y, x.
        main_field: direction of the main field along z, y, x.
        padding_mm: air kept between the volume and its periodic copies.

    Returns:
        float32 [z, y, x] in ppm.
    """
    shape = susceptibility.shape
    padded = tuple(fft.next_fast_len(n + round(padding_mm / s), real=True) for n, s in zip(shape, spacing, strict=True))
    spectrum = fft.rfftn(np.asarray(susceptibility, np.float32), padded)
    kz, ky, kx = (
        f(n, s).astype(np.float32)
        for f, n, s in zip((np.fft.fftfreq, np.fft.fftfreq, np.fft.rfftfreq), padded, spacing, strict=True)
    )
    bz, by, bx = (np.float32(b) for b in np.asarray(main_field) / np.linalg.norm(main_field))
    along = by * ky[:, None] + bx * kx[None, :]
    square = ky[:, None] ** 2 + kx[None, :] ** 2
    for plane, k in zip(
        spectrum, kz, strict=True
    ):  # plane by plane: the kernel of a whole volume would double the memory
        plane *= np.float32(1 / 3) - (along + bz * k) ** 2 / np.maximum(square + k * k, np.float32(1e-12))
    spectrum[0, 0, 0] = 0
    field: np.ndarray = fft.irfftn(spectrum, padded, overwrite_x=True)[: shape[0], : shape[1], : shape[2]]
    return field


def phase_of(field_ppm: np.ndarray, tesla: float, echo_ms: float) -> np.ndarray:
    """Phase in radians at the echo: gamma * dB * TE (unwrapped)."""
    return field_ppm * np.float32(GAMMA * tesla * echo_ms * 1e-3)


def spoiled_gradient_echo(density: float, t1_ms: float, repetition_ms: float, flip_deg: float) -> float:
    """Steady-state signal of a spoiled gradient echo before its T2* decay (Ernst)."""
    e1, flip = np.exp(-repetition_ms / t1_ms), np.deg2rad(flip_deg)
    return float(density * np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1))


def dephasing(phase: np.ndarray) -> np.ndarray:
    """Signal left of a voxel across which the phase changes linearly: exp(-(dz^2 + dy^2 + dx^2) / 24).

    The change d per voxel multiplies the signal by sinc(d/2) along each axis; the Gaussian with the same curvature has
    no side lobes, which suits fields that are not exactly linear, and needs one exponential.
    """
    exponent = np.zeros(phase.shape, np.float32)
    for axis in range(3):
        change = np.diff(phase, axis=axis)
        change = np.minimum(change * change, np.float32(200.0))
        low: list[slice] = [slice(None)] * 3
        high: list[slice] = [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        exponent[tuple(low)] += change
        exponent[tuple(high)] += change
    exponent *= np.float32(-1 / 48)
    return np.exp(exponent, out=exponent)


def crop_kspace(signal: np.ndarray, shape: Triple) -> np.ndarray:
    """Keeps the low spatial frequencies: what a scan of ``shape`` voxels over the same field of view measures.

    Partial volume, blooming and Gibbs ringing follow from it. Sample 0 of the result lies on sample 0 of ``signal``,
    sample i on i * n_fine / n along each axis.

    Args:
        signal: [z, y, x] on the fine grid, real or complex.
        shape: no larger than ``signal``'s.

    Returns:
        [z, y, x] of ``shape``, real when ``signal`` is.
    """
    for axis, wanted in enumerate(shape):
        given = signal.shape[axis]
        if wanted == given:
            continue
        result = np.empty((*signal.shape[:axis], wanted, *signal.shape[axis + 1 :]), signal.dtype)
        rows = 1 if axis == 0 else 0
        for start in range(0, signal.shape[rows], 16):  # few rows at a time: no second spectrum of the whole volume
            part = (slice(None),) * rows + (slice(start, start + 16),)
            spectrum = fft.fft(signal[part], axis=axis)
            low = np.take(spectrum, np.r_[: (wanted + 1) // 2, given - wanted // 2 : given], axis=axis)
            cropped = fft.ifft(low, axis=axis, overwrite_x=True)
            cropped *= np.float32(wanted / given)
            result[part] = cropped if np.iscomplexobj(signal) else cropped.real
        signal = result
    return signal


def averaged_slices(signal: np.ndarray, slices: int, profile: tuple[int, int]) -> np.ndarray:
    """What excited slices measure: slice i is the mean of the m fine planes around plane i * n, of n for each slice.

    Args:
        signal: [slices * n, y, x].
        slices: how many.
        profile: (m, n), m odd: with m < n there are gaps.
    """
    m, n = profile
    rolled = np.roll(signal, m // 2, axis=0).reshape(slices, n, *signal.shape[1:])
    mean: np.ndarray = rolled[:, :m].mean(axis=1)
    return mean


def high_passed_phase(signal: np.ndarray, spacing: Sequence[float], sigma_mm: float = 3.0) -> np.ndarray:
    """Homodyne filter: the phase of each slice relative to its own low-pass filtered complex image (Haacke et al.
    2004).

    Args:
        signal: complex [z, y, x].
        sigma_mm: width of the Gaussian low-pass in the slice.

    Returns:
        float32 [z, y, x] radians in -pi..pi.
    """
    ky, kx = (np.fft.fftfreq(n, s).astype(np.float32) for n, s in zip(signal.shape[1:], spacing[1:], strict=True))
    window = np.exp(-2 * (np.pi * sigma_mm) ** 2 * (ky[:, None] ** 2 + kx[None, :] ** 2)).astype(np.float32)
    phase = np.empty(signal.shape, np.float32)
    for plane, out in zip(signal, phase, strict=True):
        low = fft.ifft2(fft.fft2(plane) * window, overwrite_x=True)
        np.conj(low, out=low)
        low *= plane
        out[:] = np.angle(low)
    return phase


def phase_mask(phase: np.ndarray) -> np.ndarray:
    """1 where the phase is negative, falling linearly to 0 at +pi (Haacke et al. 2004): darkens paramagnetic veins."""
    return np.clip(1 - phase * np.float32(1 / np.pi), 0, 1)


def masked_side(phase: np.ndarray, side: int) -> np.ndarray:
    """The phase as a mask sees it that darkens positive phase (1), negative (-1) or both (0)."""
    return phase if side > 0 else np.abs(phase) if side == 0 else -phase


def susceptibility_weighted(magnitude: np.ndarray, phase: np.ndarray, power: int = 4, side: int = 1) -> np.ndarray:
    """SWI = magnitude * mask^power, the mask of the phase's ``side``."""
    mask = phase_mask(masked_side(phase, side))
    if power == 4:
        mask *= mask
        mask *= mask
    else:
        mask **= power
    mask *= magnitude
    return mask


def invert_phase_noise(
    phase_noise: np.ndarray,
    spacing: Sequence[float],
    main_field: Sequence[float] | np.ndarray,
    radians_per_ppm: float,
    threshold: float = 0.15,
) -> np.ndarray:
    """What phase noise becomes in a susceptibility map made by truncated k-space division (Shmueli et al. 2009), in
    ppm.

    Args:
        phase_noise: [z, y, x] radians.
        threshold: smallest absolute value of the dipole kernel that is divided by; the kernel is held there below it.
    """
    kz, ky, kx = (
        f(n, s)
        for f, n, s in zip((np.fft.fftfreq, np.fft.fftfreq, np.fft.rfftfreq), phase_noise.shape, spacing, strict=True)
    )
    bz, by, bx = np.asarray(main_field) / np.linalg.norm(main_field)
    spectrum = fft.rfftn(phase_noise.astype(np.float32))
    along, square = by * ky[:, None] + bx * kx[None, :], ky[:, None] ** 2 + kx[None, :] ** 2
    for plane, k in zip(spectrum, kz, strict=True):
        kernel = 1 / 3 - (along + bz * k) ** 2 / np.maximum(square + k * k, 1e-12)
        plane /= (
            np.where(np.abs(kernel) < threshold, np.where(kernel < 0, -threshold, threshold), kernel) * radians_per_ppm
        )
    result: np.ndarray = fft.irfftn(spectrum, phase_noise.shape, overwrite_x=True)
    return result
