"""The head without its compact sources: magnitude and field of tissue, vessels, bone and air on the fine grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import fft, ndimage

from .anatomy import AIR_CAVITIES, COARSE, to_index
from .deposits import AIR_PPM
from .head_tissue import HeadSlab, head_maps, head_slab
from .physics import averaged_slices, crop_kspace, dephasing, dipole_field, phase_of
from .protocols import Protocol
from .sources import Vessel, add_vessel
from .subject import Lattice, Subject
from .tissue import HEAD_MM, LATTICE_SOFT, SKULL_MM, Maps, TissueSlab, tissue_slab
from .tissue_constants import CHI_BONE, signal_of

SLAB = 8  # planes that are worked on at a time, to bound the memory


@dataclass
class Background:
    """What ``build_background`` computes, on the fine grid (sample j at j * spacing mm from the centre of voxel 0).

    Attributes:
        spacing: fine spacing z, y, x in mm.
        shape: samples of the fine grid over the whole scan.
        box: the part of them that holds the head, on which the arrays are kept; beyond it there is air.
        signal: complex64 [z, y, x], the gradient echo.
        susceptibility: float32 [z, y, x] ppm of tissue, iron and veins, or None when not asked for.
        spin_echo: float32 [z, y, x], a T2-weighted signal, or None when not asked for.
        lattice, mni: MNI RAS point float32 [3, z, y, x] of every point of a coarse lattice over the scan.
        white_signal: magnitude of white matter, the reference of the signal-to-noise ratio.
    """

    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]
    box: tuple[slice, slice, slice]
    signal: np.ndarray
    susceptibility: np.ndarray | None
    spin_echo: np.ndarray | None
    lattice: Lattice
    mni: np.ndarray
    white_signal: float

    def scanned(self, values: np.ndarray, shape: tuple[int, int, int], profile: tuple[int, int] = (0, 0)) -> np.ndarray:
        """``values`` on ``box`` as a scan of ``shape`` voxels over the same field of view measures them: cropped in
        k-space, in the slices of a 2D scan averaged across them (``Protocol.profile``)."""
        cropped = [given != wanted for given, wanted in zip(self.shape, shape, strict=True)]
        for axis in np.flatnonzero(cropped):
            whole = np.zeros([*values.shape[:axis], self.shape[axis], *values.shape[axis + 1 :]], values.dtype)
            whole[(slice(None),) * axis + (self.box[axis],)] = values
            if axis == 0 and profile[1]:
                values = averaged_slices(whole, shape[0], profile)
                continue
            values = crop_kspace(whole, tuple(shape[a] if a == axis else n for a, n in enumerate(whole.shape)))  # type: ignore[arg-type]
        if values.shape == shape:
            return values
        scan = np.zeros(shape, values.dtype)
        scan[tuple(slice(None) if done else part for done, part in zip(cropped, self.box, strict=True))] = values
        return scan

    def scan_box(self, spacing: Sequence[float], shape: tuple[int, int, int]) -> tuple[slice, slice, slice]:
        """The voxels of a scan of ``spacing`` and ``shape`` that lie in ``box``."""
        ends = [
            (int(part.start * fine / s), min(int(np.ceil(part.stop * fine / s)) + 1, n))
            for part, fine, s, n in zip(self.box, self.spacing, spacing, shape, strict=True)
        ]
        return tuple(slice(a, b) for a, b in ends)  # type: ignore[return-value]


def fine_shape(protocol: Protocol) -> tuple[int, int, int]:
    """Samples of the fine grid over the protocol's field of view, never fewer than its voxels."""
    shape = [
        n if s <= f * 1.01 else fft.next_fast_len(int(np.ceil(n * s / f)))
        for n, s, f in zip(protocol.shape, protocol.spacing, protocol.fine, strict=True)
    ]
    if protocol.profile[1]:
        shape[0] = protocol.shape[0] * protocol.profile[1]
    return tuple(shape)  # type: ignore[return-value]


def build_background(
    rng: np.random.Generator,
    subject: Subject,
    protocol: Protocol,
    vessels: Sequence[Vessel],
    *,
    want_susceptibility: bool,
    want_spin_echo: bool,
) -> Background:
    """Simulates the head without microbleeds and other compact sources."""
    shape = fine_shape(protocol)
    spacing = tuple(n * s / m for n, s, m in zip(protocol.shape, protocol.spacing, shape, strict=True))
    head = build_head(rng, subject, shape, spacing, vessels, protocol if not want_spin_echo else None)  # type: ignore[arg-type]
    return head.background(protocol, want_susceptibility=want_susceptibility, want_spin_echo=want_spin_echo, once=True)


@dataclass
class Head:
    """What is the same in all scans of a subject that lie alike: tissue and field on a fine grid.

    Attributes:
        spacing, shape, box, lattice: as those of ``Background``.
        maps: smooth maps on the lattice.
        slabs: tissue of every ``SLAB`` planes in ``box``; None where only ``magnitude`` is kept.
        magnitude: float32 of one protocol, or None.
        susceptibility: float32 ppm of tissue, iron and veins in ``box``.
        field: float32 ppm, that of ``susceptibility``.
    """

    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]
    box: tuple[slice, slice, slice]
    lattice: Lattice
    maps: Maps
    slabs: list[TissueSlab | HeadSlab] | None
    magnitude: np.ndarray | None
    susceptibility: np.ndarray
    field: np.ndarray

    def background(
        self, protocol: Protocol, *, want_susceptibility: bool, want_spin_echo: bool, once: bool = False
    ) -> Background:
        """The head in a scan whose fine grid is this one, or as many of its first planes as the protocol's slices need.

        Args:
            once: the head is not needed any more, and its arrays may go.
        """
        inner = self.susceptibility.shape
        planes = protocol.shape[0] * protocol.profile[1] if protocol.profile[1] else self.shape[0]
        depth = min(inner[0], planes - self.box[0].start)
        magnitude = self.magnitude
        spin_echo = np.empty(inner, np.float32) if want_spin_echo else None
        if self.slabs is not None:
            magnitude = np.empty(inner, np.float32)
            for number, slab in enumerate(self.slabs):
                planes_of = slice(number * SLAB, (number + 1) * SLAB)
                magnitude[planes_of] = slab.magnitude(protocol)
                if spin_echo is not None:
                    spin_echo[planes_of] = slab.spin_echo(protocol)
        assert magnitude is not None
        kept = self.susceptibility if want_susceptibility else None
        if once:
            self.susceptibility = np.empty((0, 0, 0), np.float32)
        mm = tuple(np.arange(part.start, part.stop) * s for part, s in zip(self.box, self.spacing, strict=True))
        signal = _echo(magnitude[:depth], self.field[:depth], self.lattice, self.maps.field, mm, protocol)
        white = signal_of("white", protocol)
        box = (slice(self.box[0].start, self.box[0].start + depth), *self.box[1:])
        return Background(
            self.spacing,
            (planes, *self.shape[1:]),
            box,
            signal,
            (kept[:depth] if once else kept[:depth].copy()) if kept is not None else None,
            spin_echo[:depth] if spin_echo is not None else None,
            self.lattice,
            self.maps.mni,
            white,
        )


def build_head(
    rng: np.random.Generator,
    subject: Subject,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    vessels: Sequence[Vessel],
    protocol: Protocol | None = None,
) -> Head:
    """Tissue and field of a subject on a fine grid of ``shape``.

    Args:
        protocol: of the only scan that will be made: its magnitude is kept in place of the tissue.
    """
    lattice = Lattice.over(subject.grid)
    maps = _lattice_maps(rng, subject, lattice)
    box = _head_box(maps.head, lattice, spacing, shape)
    mm = tuple(np.arange(part.start, part.stop) * s for part, s in zip(box, spacing, strict=True))
    corner = np.array([m[0] for m in mm])
    inner = tuple(len(m) for m in mm)
    susceptibility = np.zeros(inner, np.float32)
    for vessel in vessels:
        add_vessel(susceptibility, spacing, replace(vessel, path=vessel.path - corner), vessel.susceptibility)
    venous = max((v.susceptibility for v in vessels), default=1.0)
    magnitude = np.empty(inner, np.float32) if protocol else None
    slabs: list[TissueSlab | HeadSlab] = []
    labelled = subject.atlas.head
    for start in range(0, inner[0], SLAB):
        planes = slice(start, start + SLAB)
        here = (mm[0][planes], mm[1], mm[2])
        slab = (
            tissue_slab(subject.atlas, lattice, maps, here, susceptibility[planes], venous)
            if labelled is None
            else head_slab(labelled, lattice, maps, here, susceptibility[planes], venous)
        )
        if magnitude is None or protocol is None:
            slabs.append(slab)
        else:
            magnitude[planes] = slab.magnitude(protocol)
    field = dipole_field(susceptibility, spacing, subject.main_field, padding_mm=10)
    kept = slabs if magnitude is None else None
    return Head(spacing, shape, box, lattice, maps, kept, magnitude, susceptibility, field)


def _head_box(
    head: np.ndarray, lattice: Lattice, spacing: Sequence[float], shape: tuple[int, int, int]
) -> tuple[slice, slice, slice]:
    """The part of the fine grid outside of which there is nothing but air."""
    within = head < HEAD_MM + LATTICE_SOFT
    ends = []
    for axis, (planes, s, n) in enumerate(zip(lattice.mm, spacing, shape, strict=True)):
        there = planes[within.any(axis=tuple(a for a in range(3) if a != axis))]
        first, last = (there[0], there[-1]) if len(there) else (planes[0], planes[-1])
        step = lattice.step[axis]
        low = min(max(int((first - step) / s), 0), n - 2)
        ends.append(slice(low, max(min(int(np.ceil((last + step) / s)) + 1, n), low + 2)))
    return tuple(ends)  # type: ignore[return-value]


def _lattice_maps(rng: np.random.Generator, subject: Subject, lattice: Lattice) -> Maps:
    if subject.atlas.head is not None:
        mni, head, brain, air, chi, air_ppm = head_maps(subject, lattice)
    else:
        mni, head, brain, air, chi, air_ppm = _template_maps(rng, subject, lattice)
    # Blurred to the lattice's own resolution: a finer edge would leave beads of field along the skull.
    field = _shimmed_field(ndimage.gaussian_filter(chi, 0.9), lattice, subject.main_field, head < 0, air_ppm)
    texture = _texture(rng, subject, lattice)
    return Maps(mni.T.reshape(3, *lattice.shape).astype(np.float32), head, brain, air, field, texture)


def _template_maps(
    rng: np.random.Generator, subject: Subject, lattice: Lattice
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """As ``head_maps``, for a head that is drawn around the template's brain."""
    mni = subject.mm_to_mni(lattice.points())
    index = to_index(mni, COARSE)
    head, brain = (
        ndimage.map_coordinates(m, index, order=1, mode="nearest").reshape(lattice.shape).astype(np.float32)
        for m in (subject.atlas.head_distance, subject.atlas.brain_distance)
    )
    cavities = np.zeros(lattice.shape, np.float32)
    for place, axes, paired in AIR_CAVITIES.values():
        for side in (1, -1) if paired else (1,):
            centre = np.array(place) * (side, 1, 1) + rng.normal(0, 1.5, 3)
            scaled = (mni - centre) / (np.array(axes) * rng.uniform(0.75, 1.2))
            depth = (1 - np.sqrt((scaled**2).sum(1))) * np.min(axes)
            cavities = np.maximum(
                cavities, np.clip(depth / LATTICE_SOFT + 0.5, 0, 1).reshape(lattice.shape).astype(np.float32)
            )
    cavities *= np.clip(brain / 2, 0, 1)  # no air inside the brain
    outside = np.clip((head - HEAD_MM) / LATTICE_SOFT + 0.5, 0, 1)
    air = np.maximum(cavities, outside)
    bone = np.clip(brain - 2, 0, 1) * np.clip(SKULL_MM - head, 0, 1) * (1 - air)
    return mni, head, brain, air, AIR_PPM * air + CHI_BONE * bone, AIR_PPM


def _texture(rng: np.random.Generator, subject: Subject, lattice: Lattice) -> np.ndarray:
    """Patchiness of the tissue; that of a later scan is the first one's, at the same places of the head."""
    first = lattice if subject.first is None else Lattice.over(subject.first.grid)
    texture = ndimage.gaussian_filter(rng.normal(0, 1, first.shape), 1.2).astype(np.float32)
    texture *= 0.35 / texture.std()
    if subject.first is None:
        return texture
    mm = subject.mm_to_visit(lattice.points(), subject.first)
    index = (mm - [axis[0] for axis in first.mm]) / first.step
    moved = ndimage.map_coordinates(texture, index.T, order=1, mode="mirror")
    return moved.reshape(lattice.shape).astype(np.float32)


def _shimmed_field(
    chi: np.ndarray, lattice: Lattice, main_field: np.ndarray, inside: np.ndarray, air_ppm: float
) -> np.ndarray:
    """Field of the head's air and bone, less the second-order polynomial that shim coils would take away."""
    margin = 14
    # Beyond the scan the head goes on downwards; elsewhere there is air.
    padded = np.pad(chi, margin, mode="edge") - air_ppm
    field = dipole_field(padded, lattice.step, main_field, padding_mm=60)[(slice(margin, -margin),) * 3]
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in lattice.shape), indexing="ij")
    terms = np.stack([np.ones_like(z), z, y, x, z * y, y * x, z * x, z * z, y * y, x * x], axis=-1)
    weights, *_ = np.linalg.lstsq(terms[inside], field[inside], rcond=None)
    return (field - terms @ weights).astype(np.float32)


def _echo(
    magnitude: np.ndarray,
    field: np.ndarray,
    lattice: Lattice,
    smooth: np.ndarray,
    mm: Sequence[np.ndarray],
    protocol: Protocol,
) -> np.ndarray:
    """Complex signal from magnitude and field; the phase change inside a fine voxel dephases it."""
    signal = np.empty(magnitude.shape, np.complex64)
    depth = magnitude.shape[0]
    for start in range(0, depth, SLAB):
        # One plane more on either side, for the phase change along z.
        low, high = max(start - 1, 0), min(start + SLAB + 1, depth)
        total = field[low:high] + lattice.interpolate(smooth, (mm[0][low:high], mm[1], mm[2]), smooth=True)
        phase = phase_of(total, protocol.field_tesla, protocol.echo_ms)
        left = dephasing(phase)
        own = slice(start - low, start - low + min(SLAB, depth - start))
        amplitude = magnitude[start : start + SLAB] * left[own]
        np.multiply(np.cos(phase[own]), amplitude, out=signal[start : start + SLAB].real)
        np.multiply(np.sin(phase[own]), amplitude, out=signal[start : start + SLAB].imag)
    return signal
