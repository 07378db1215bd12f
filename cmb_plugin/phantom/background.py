"""The head without its compact sources: magnitude and field of tissue, vessels, bone and air on the fine grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import fft, ndimage

from .anatomy import COARSE, ORIGIN, to_index
from .deposits import AIR_CAVITIES, AIR_PPM
from .physics import crop_kspace, dephasing, dipole_field, phase_of, spoiled_gradient_echo
from .protocols import Protocol
from .sources import Vessel, add_vessel
from .subject import Lattice, Subject

SLAB = 8  # planes that are worked on at a time, to bound the memory

CHI_WHITE, CHI_GREY, CHI_FLUID, CHI_BONE = -0.03, 0.015, 0.0, -1.2
IRON_DECAY = 140.0
"""R2* of iron in 1/s per ppm at 3 T (Langkammer et al. 2010)."""


@dataclass(frozen=True)
class Tissue:
    """Relative proton density, T1 in ms, R2* in 1/s and T2 in ms."""

    density: float
    t1: float
    decay: float
    t2: float


# Typical literature values; 1.5 T first, then 3 T.
TISSUES: dict[str, tuple[Tissue, Tissue]] = {
    "white": (Tissue(0.70, 600, 15, 75), Tissue(0.70, 830, 20, 70)),
    "grey": (Tissue(0.82, 1000, 11, 95), Tissue(0.82, 1330, 15, 90)),
    "fluid": (Tissue(1.00, 4000, 1, 1500), Tissue(1.00, 4000, 1.5, 1500)),
    "blood": (Tissue(0.85, 1400, 18, 120), Tissue(0.85, 1600, 40, 60)),
    "bone": (Tissue(0.12, 400, 60, 40), Tissue(0.12, 500, 90, 35)),
    "scalp": (Tissue(0.80, 350, 30, 70), Tissue(0.75, 400, 45, 60)),
}


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

    def scanned(self, values: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """``values`` on ``box`` as a scan of ``shape`` voxels over the same field of view measures them: cropped in
        k-space."""
        cropped = [given != wanted for given, wanted in zip(self.shape, shape, strict=True)]
        for axis in np.flatnonzero(cropped):
            whole = np.zeros([*values.shape[:axis], self.shape[axis], *values.shape[axis + 1 :]], values.dtype)
            whole[(slice(None),) * axis + (self.box[axis],)] = values
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


def tissue(name: str, protocol: Protocol) -> Tissue:
    """The constants of a tissue at the field strength of the protocol, of which 1.5 and 3 T are told apart."""
    return TISSUES[name][int(protocol.field_tesla > 2)]


def signal_of(name: str, protocol: Protocol) -> float:
    """Gradient-echo signal of a tissue at the echo."""
    t = tissue(name, protocol)
    start = spoiled_gradient_echo(t.density, t.t1, protocol.repetition_ms, protocol.flip_deg)
    return start * float(np.exp(-protocol.echo_ms * 1e-3 * t.decay))


def fine_shape(protocol: Protocol) -> tuple[int, int, int]:
    """Samples of the fine grid over the protocol's field of view, never fewer than its voxels."""
    shape = [
        n if s <= f * 1.01 else fft.next_fast_len(int(np.ceil(n * s / f)))
        for n, s, f in zip(protocol.shape, protocol.spacing, protocol.fine, strict=True)
    ]
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
    magnitude = np.empty(inner, np.float32)
    spin_echo = np.empty(inner, np.float32) if want_spin_echo else None
    for start in range(0, inner[0], SLAB):
        slab = slice(start, start + SLAB)
        _fill_slab(
            subject,
            protocol,
            lattice,
            maps,
            (mm[0][slab], mm[1], mm[2]),
            magnitude,
            susceptibility,
            spin_echo,
            slab,
            venous,
        )
    field = dipole_field(susceptibility, spacing, subject.main_field, padding_mm=10)
    kept = susceptibility if want_susceptibility else None
    del susceptibility
    signal = _echo(magnitude, field, lattice, maps.field, mm, protocol)
    white = signal_of("white", protocol)
    return Background(spacing, shape, box, signal, kept, spin_echo, lattice, maps.mni, white)  # type: ignore[arg-type]


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


@dataclass(frozen=True)
class _Maps:
    """Smooth maps on the lattice, float32 [z, y, x]: MNI points [3, ...], distances in mm, air fraction, field of head
    and air in ppm, texture of bone and scalp."""

    mni: np.ndarray
    head: np.ndarray
    brain: np.ndarray
    air: np.ndarray
    field: np.ndarray
    texture: np.ndarray


def _lattice_maps(rng: np.random.Generator, subject: Subject, lattice: Lattice) -> _Maps:
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
    # Blurred to the lattice's own resolution: a finer edge would leave beads of field along the skull.
    chi = ndimage.gaussian_filter(AIR_PPM * air + CHI_BONE * bone, 0.9)
    field = _shimmed_field(chi, lattice, subject.main_field, head < 0)
    texture = _texture(rng, subject, lattice)
    return _Maps(mni.T.reshape(3, *lattice.shape).astype(np.float32), head, brain, air, field, texture)


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


LATTICE_SOFT = 3.0
SKULL_MM = 7.0
HEAD_MM = 12.0


def _shimmed_field(chi: np.ndarray, lattice: Lattice, main_field: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Field of the head's air and bone, less the second-order polynomial that shim coils would take away."""
    margin = 14
    # Beyond the scan the head goes on downwards; elsewhere there is air.
    padded = np.pad(chi, margin, mode="edge") - AIR_PPM
    field = dipole_field(padded, lattice.step, main_field, padding_mm=60)[(slice(margin, -margin),) * 3]
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in lattice.shape), indexing="ij")
    terms = np.stack([np.ones_like(z), z, y, x, z * y, y * x, z * x, z * z, y * y, x * x], axis=-1)
    weights, *_ = np.linalg.lstsq(terms[inside], field[inside], rcond=None)
    return (field - terms @ weights).astype(np.float32)


def _fill_slab(
    subject: Subject,
    protocol: Protocol,
    lattice: Lattice,
    maps: _Maps,
    mm: Sequence[np.ndarray],
    magnitude: np.ndarray,
    susceptibility: np.ndarray,
    spin_echo: np.ndarray | None,
    slab: slice,
    venous: float,
) -> None:
    """Fills planes ``slab`` of magnitude, susceptibility (which holds the vessels so far) and spin echo."""
    head, brain_mm, air, texture = (lattice.interpolate(m, mm) for m in (maps.head, maps.brain, maps.air, maps.texture))
    atlas = subject.atlas
    near = brain_mm < 2
    mni = lattice.interpolate(maps.mni, mm)
    index = [mni[i][near] - np.float32(o) for i, o in zip((2, 1, 0), ORIGIN, strict=True)]
    grey, white, brain = (
        ndimage.map_coordinates(m, index, order=1, output=np.float32) for m in (atlas.grey, atlas.white, atlas.brain)
    )
    iron = np.zeros(len(grey), np.float32)
    nuclei = np.logical_and.reduce(
        [(k > b.start) & (k < b.stop - 1) for k, b in zip(index, atlas.iron_box, strict=True)]
    )
    iron[nuclei] = ndimage.map_coordinates(atlas.iron, [k[nuclei] for k in index], order=1, output=np.float32)
    iron *= 1 + np.float32(0.8) * texture[near]  # patchy, as nuclei are
    fluid = np.clip(brain - grey - white, 0, 1)
    echo = protocol.echo_ms * 1e-3
    value = {name: signal_of(name, protocol) for name in TISSUES}

    # Outside the brain: fluid that surrounds it, bone, scalp, air.
    shell = np.clip((SKULL_MM - head) + 0.5, 0, 1)  # 1 inside the outer table of the skull
    meninges = np.clip(2.5 - brain_mm, 0, 1)
    around = meninges * value["fluid"] + (1 - meninges) * (shell * value["bone"] + (1 - shell) * value["scalp"]) * (
        1 + texture
    )
    around *= 1 - air
    inside = white * value["white"] + grey * value["grey"] + fluid * value["fluid"]
    inside *= 1 + np.float32(0.07) * texture[near]
    inside *= np.exp(-echo * IRON_DECAY * protocol.field_tesla / 3 * iron)
    around[near] = around[near] * (1 - brain) + inside

    vein = susceptibility[slab] / np.float32(venous)
    np.clip(vein, 0, 1, out=vein)
    magnitude[slab] = around * (1 - vein) + vein * value["blood"]
    chi = white * CHI_WHITE + grey * CHI_GREY + fluid * CHI_FLUID + iron
    susceptibility[slab][near] += chi * (1 - vein[near])
    if spin_echo is not None:
        late = {n: tissue(n, protocol).density * float(np.exp(-90 / tissue(n, protocol).t2)) for n in TISSUES}
        weighted = meninges * late["fluid"] + (1 - meninges) * (shell * late["bone"] + (1 - shell) * late["scalp"]) * (
            1 + texture
        )
        weighted *= 1 - air
        iron_t2 = np.exp(-0.09 * 12 * iron)
        weighted[near] = (
            weighted[near] * (1 - brain)
            + (white * late["white"] + grey * late["grey"]) * iron_t2
            + fluid * late["fluid"]
        )
        spin_echo[slab] = weighted * (1 - 0.8 * vein)  # flow void


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
