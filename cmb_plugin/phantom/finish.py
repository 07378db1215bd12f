"""What may still befall an image between the scanner's coils and the archive."""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage

from .protocols import Finish


def zero_filled(signal: np.ndarray, kept: float, kept_slices: float = 1.0) -> np.ndarray:
    """``signal`` [z, y, x] complex with only the middle part ``kept`` (0..1) of its in-plane k-space, and
    ``kept_slices`` across the slices, the rest zero: measured coarser than it is stored, with the ringing that
    follows."""
    if kept_slices < 1:
        beyond = np.abs(np.fft.fftfreq(len(signal))) > kept_slices / 2
        for start in range(0, signal.shape[1], 16):
            spectrum = fft.fft(signal[:, start : start + 16], axis=0)
            spectrum[beyond] = 0
            signal[:, start : start + 16] = fft.ifft(spectrum, axis=0, overwrite_x=True)
    if kept >= 1:
        return signal
    outside = [np.abs(np.fft.fftfreq(n)) > kept / 2 for n in signal.shape[1:]]
    for plane in signal:
        spectrum = fft.fft2(plane)
        spectrum[outside[0]] = 0
        spectrum[:, outside[1]] = 0
        plane[:] = fft.ifft2(spectrum, overwrite_x=True)
    return signal


def finished(image: np.ndarray, brain: np.ndarray, finish: Finish) -> np.ndarray:
    """A magnitude-like image float32 [z, y, x] with the faults of ``finish``, in its own unit.

    Args:
        image: not negative.
        brain: uint8, nonzero where a skull-stripped image keeps its values.
        finish: what happens; the same ``finish`` does the same.
    """
    rng = np.random.default_rng(finish.seed)
    if finish.bias:
        coarse = ndimage.zoom(
            rng.normal(0, 1, (3, 4, 4)), [n / m for n, m in zip(_small(image), (3, 4, 4), strict=True)]
        )
        smooth = ndimage.zoom(coarse, [n / m for n, m in zip(image.shape, coarse.shape, strict=True)], order=1)
        image = image * np.exp(finish.bias / 2 * smooth / max(float(smooth.std()), 1e-6)).astype(np.float32)
    if finish.ghost:  # along the phase encoding, y, by half the field of view and by a third
        shifts = (image.shape[1] // 2, image.shape[1] // 3)
        image = image + np.float32(finish.ghost) * np.roll(image, shifts[int(rng.integers(2))], axis=1)
    if finish.slice_jump:
        image = image * np.exp(rng.normal(0, finish.slice_jump, (len(image), 1, 1))).astype(np.float32)
    if finish.stripped:
        image = image * (ndimage.binary_closing(brain > 0, iterations=2) | (brain > 0))
    top = float(np.percentile(image[brain > 0], 100 * (1 - finish.clipped))) if finish.clipped else float(image.max())
    if finish.clipped:
        image = np.minimum(image, np.float32(top))
    if finish.bits:
        steps = np.float32((2**finish.bits - 1) / max(top, 1e-9))
        image = np.round(np.minimum(image, np.float32(top)) * steps) / steps
    return image.astype(np.float32, copy=False)


def _small(image: np.ndarray) -> tuple[int, ...]:
    return tuple(max(3, n // 8) for n in image.shape)
