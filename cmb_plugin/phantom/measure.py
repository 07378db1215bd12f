"""From the simulated signal to images: coils, noise, and the images that a scanner's software makes of the signal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .background import SLAB, Background
from .finish import finished, zero_filled
from .insertion import Insertion
from .physics import (
    GAMMA,
    dipole_field,
    high_passed_phase,
    invert_phase_noise,
    masked_side,
    phase_mask,
    susceptibility_weighted,
)
from .protocols import Finish, Protocol
from .subject import Subject


@dataclass
class Patch:
    """The surroundings of one source, noise-free, on the voxels of ``insertion.box``; for outlining it.

    Attributes:
        insertion: the source; its ``change`` is as the coils see it.
        signal: complex64, with all sources.
        reference: float32, phase that the high-pass filter takes away, in radians.
        spin_echo: float32, T2-weighted signal without the source, or None.
        measured: float32, the first modality as measured, noise included, in the unit of ``appearance``.
        mask_power, mask_side: of the protocol.
    """

    insertion: Insertion
    signal: np.ndarray
    reference: np.ndarray
    spin_echo: np.ndarray | None
    measured: np.ndarray
    mask_power: int = 4
    mask_side: int = 1


def appearance(
    modality: str, signal: np.ndarray, reference: np.ndarray, mask_power: int = 4, mask_side: int = 1
) -> np.ndarray:
    """A noise-free signal as ``swi``, ``t2s`` or ``phase`` shows it, in the units of the signal or in radians."""
    if modality == "t2s":
        return np.abs(signal)
    phase = np.angle(signal * np.exp(-1j * reference))
    if modality == "phase":
        return phase
    return np.abs(signal) * phase_mask(masked_side(phase, mask_side)) ** mask_power


def measure(
    rng: np.random.Generator,
    subject: Subject,
    protocol: Protocol,
    modalities: tuple[str, ...],
    background: Background,
    insertions: list[Insertion],
    brain: np.ndarray,
) -> tuple[dict[str, np.ndarray], list[Patch]]:
    """Images of all ``modalities`` by name, as ``PhantomCase.images`` describes them, and a patch per insertion."""
    signal = background.scanned(background.signal, protocol.shape, protocol.profile)
    background.signal = np.empty((0, 0, 0), np.complex64)  # the largest array: not needed any more
    for insertion in insertions:
        signal[insertion.box] += insertion.change
    coils = _coils(rng, subject, protocol, background)
    signal *= coils
    for insertion in insertions:
        insertion.change *= coils[insertion.box]
    clean = [signal[i.box].copy() for i in insertions]
    sigma = background.white_signal / rng.uniform(*protocol.snr)
    for start in range(0, len(signal), SLAB):
        part = signal[start : start + SLAB]
        part += (rng.standard_normal((*part.shape, 2), np.float32) * np.float32(sigma)).view(np.complex64)[..., 0]
    signal = zero_filled(signal, protocol.finish.kept, protocol.finish.kept_slices)
    phase = high_passed_phase(signal, protocol.spacing, protocol.filter_mm)
    references = [np.angle(signal[i.box]) - phase[i.box] for i in insertions]
    magnitude = np.abs(signal)
    del signal
    gain = np.float32(rng.uniform(500, 1400) / background.white_signal)  # a scanner's units are arbitrary
    images: dict[str, np.ndarray] = {}
    raw: dict[str, np.ndarray] = {"t2s": magnitude, "phase": phase}
    if "swi" in modalities:
        raw["swi"] = susceptibility_weighted(magnitude, phase, protocol.mask_power, protocol.mask_side)
    if "qsm" in modalities:
        raw["qsm"] = _susceptibility_map(rng, subject, protocol, background, insertions, brain, magnitude, sigma)
    spin_echoes: list[np.ndarray | None] = [None] * len(insertions)
    if "t2" in modalities:
        raw["t2"], spin_echoes = _spin_echo(rng, protocol, background, insertions, coils)
    patches = [
        Patch(i, c, r, s, raw[modalities[0]][i.box].copy(), protocol.mask_power, protocol.mask_side)
        for i, c, r, s in zip(insertions, clean, references, spin_echoes, strict=True)
    ]
    for name in modalities:
        images[name] = raw.pop(name)
        if name in ("swi", "t2s") and protocol.finish != Finish():
            images[name] = finished(images[name], brain, protocol.finish)
        if name == "phase" and protocol.phase_sign < 0:
            images[name] = -images[name]
        if name in ("swi", "t2s"):
            images[name] = _whole_numbers(images[name] * gain)
        elif name == "t2":
            images[name] = _whole_numbers(images[name] * np.float32(1000))
        else:  # in steps far below the noise, for the sake of smaller files
            steps = np.float32(256 if name == "phase" else 2048)
            np.multiply(images[name], steps, out=images[name])
            np.round(images[name], out=images[name])
            images[name] /= steps
    return images, patches


def _whole_numbers(array: np.ndarray) -> np.ndarray:
    return np.clip(np.round(array), 0, 32767).astype(np.int16)


def _coils(rng: np.random.Generator, subject: Subject, protocol: Protocol, background: Background) -> np.ndarray:
    """Sensitivity of the receive coils: brighter near the surface, uneven from side to side; float32, 1 on average."""
    lattice = background.lattice
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in lattice.shape), indexing="ij")
    tilt = rng.normal(0, 0.06, 3)
    surface = rng.uniform(0.05, 0.2) * (z**2 + y**2 + x**2)
    uneven = ndimage.gaussian_filter(rng.normal(0, 1, lattice.shape), 8)
    field = np.exp(tilt[0] * z + tilt[1] * y + tilt[2] * x + surface + 0.03 * uneven / uneven.std())
    field /= field.mean()
    mm = [np.arange(n) * s for n, s in zip(protocol.shape, protocol.spacing, strict=True)]
    return lattice.interpolate(field.astype(np.float32), mm)


def _susceptibility_map(
    rng: np.random.Generator,
    subject: Subject,
    protocol: Protocol,
    background: Background,
    insertions: list[Insertion],
    brain: np.ndarray,
    magnitude: np.ndarray,
    sigma: float,
) -> np.ndarray:
    """QSM: the true susceptibility at the scan's voxels, blurred, plus what the inversion makes of the phase noise; or,
    where the protocol has a threshold, the inversion of the brain's noisy field, with its streaks."""
    assert background.susceptibility is not None
    chi = background.scanned(background.susceptibility, protocol.shape, protocol.profile)
    background.susceptibility = None
    for insertion in insertions:
        chi[insertion.box] += insertion.susceptibility
    if not protocol.inversion:
        chi = ndimage.gaussian_filter(chi, 0.6)
    noise = rng.standard_normal(chi.shape, np.float32) * np.float32(sigma) / np.maximum(magnitude, np.float32(sigma))
    noise *= brain
    radians_per_ppm = GAMMA * protocol.field_tesla * protocol.echo_ms * 1e-3
    if protocol.inversion:
        # The brain's own field, as if that of air and skull had been taken away without a trace, and the noise.
        noise += dipole_field(chi * brain, protocol.spacing, subject.main_field, 10.0) * np.float32(radians_per_ppm)
        noise *= brain
        chi = invert_phase_noise(noise, protocol.spacing, subject.main_field, radians_per_ppm, protocol.inversion)
    else:
        chi += invert_phase_noise(noise, protocol.spacing, subject.main_field, radians_per_ppm)
    chi *= brain
    return chi


def _spin_echo(
    rng: np.random.Generator, protocol: Protocol, background: Background, insertions: list[Insertion], coils: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """T2-weighted image: a spin echo refocuses the field, so a source only shows by its fewer protons and its own
    decay."""
    assert background.spin_echo is not None
    image = background.scanned(background.spin_echo, protocol.shape, protocol.profile)
    image *= coils
    background.spin_echo = None
    without: list[np.ndarray | None] = []
    for insertion in insertions:
        without.append(image[insertion.box].copy())
        image[insertion.box] *= 1 - np.clip(insertion.coverage, 0, 1) * (1 - 0.5 * insertion.blob.density)
    sigma = np.float32(0.25 / rng.uniform(*protocol.snr))
    real, imaginary = (rng.standard_normal(image.shape, np.float32) * sigma for _ in range(2))
    return np.hypot(image + real, imaginary), without
