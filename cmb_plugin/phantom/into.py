"""Microbleeds, and what looks like them, put into a scan that was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .background import Background
from .deposits import draw_microbleed, random_shape
from .insertion import insert
from .measure import Patch
from .measured import MeasuredScan, central_block, is_filtered, low_passed, measured_extent, noise_level, phase_sign
from .outline import largest_piece, outline
from .physics import high_passed_phase, phase_mask
from .protocols import CSIRO, CUHK, VALDO, Lesions, Protocol
from .records import blob_record, lesion_record
from .sites import draw_sites
from .sources import Blob
from .subject import Lattice

FILTER_MM, MASK_POWER = 3.0, 4
"""Of the high-pass and of the phase mask with which most SWI is made; a finished SWI does not tell its own."""

COHORTS = (VALDO, CUHK, CSIRO)

WHOLE_LITRES = 1.0
"""From this much brain on a scan shows as many microbleeds as the cohort's do."""


@dataclass
class PlacedCase:
    """A measured scan with lesions. Arrays are [z, y, x] on the scan's grid.

    Attributes:
        images: float32 by modality; a voxel that no source reaches keeps its value.
        mask: uint16 instance mask, 1..N.
        lesions, mimics: a dictionary each, as ``PhantomCase`` has them.
    """

    images: dict[str, np.ndarray]
    mask: np.ndarray
    lesions: list[dict[str, Any]]
    mimics: list[dict[str, Any]]


def place_lesions(
    rng: np.random.Generator,
    scan: MeasuredScan,
    modality: str,
    *,
    healthy: bool = False,
    mimics: float = 0.0,
    mean: int = 0,
) -> PlacedCase:
    """Puts microbleeds into a scan: sizes and number as in a cohort, drawn anew for each scan.

    The effect of each deposit is computed on a grid finer than the scan's (``insert``), multiplies the measured signal
    there, and is measured as the scan was: cropped to its voxels and to the part of k-space that was measured. Where
    a deposit takes signal away the scan's noise goes with it, so as much noise is added as is missing. SWI takes the
    phase mask of the deposit's high-passed phase besides.

    Args:
        rng: decides everything.
        scan: without microbleeds.
        modality: of the scan's; lesions are outlined on it.
        healthy: place no microbleed.
        mimics: mean number of calcifications and of pieces of vein, together, that are put in as mimics.
        mean: of the number of microbleeds in a whole brain; 0 for as many as in cohorts.
    """
    lesions: Lesions = COHORTS[rng.integers(len(COHORTS))]
    wanted = 0 if healthy else _part_of(lesions.count(rng.random(), mean), scan)
    others = int(rng.poisson(mimics))
    sites = draw_sites(rng, scan, wanted + others)
    blobs = [_microbleed(rng, lesions, site) for site in sites[: min(wanted, len(sites))]]
    blobs += [_mimic(rng, site) for site in sites[wanted:]]
    images = {name: image.astype(np.float32) for name, image in scan.images.items()}  # copies
    case = PlacedCase(images, np.zeros(scan.grid.shape, np.uint16), [], [])
    protocol = _protocol(scan, lesions)
    patches = _put_in(rng, scan, blobs, protocol, images, modality) if blobs else []
    regions = scan.regions if scan.regions is not None else np.zeros(scan.grid.shape, np.uint8)
    for patch in patches:
        drawn = outline(patch, modality, scan.grid.spacing)
        if drawn.blob.kind != "cmb":
            case.mimics.append(blob_record(drawn, scan.grid))
            continue
        free = largest_piece(drawn.voxels & (case.mask[drawn.box] == 0))
        if not free.any():
            continue
        drawn.voxels = free
        record = lesion_record(len(case.lesions) + 1, drawn, scan.grid, regions)
        if scan.regions is None:
            del record["region"]
        case.lesions.append(record)
        case.mask[drawn.box][free] = len(case.lesions)
    return case


def _part_of(count: int, scan: MeasuredScan) -> int:
    """As many of a whole brain's microbleeds as the scan's part of it has; at least one."""
    litres = np.count_nonzero(scan.brain) * float(np.prod(scan.grid.spacing)) / 1e6
    return max(1, round(count * min(1.0, litres / WHOLE_LITRES)))


def _protocol(scan: MeasuredScan, lesions: Lesions) -> Protocol:
    """What ``insert`` and ``outline`` ask for; nothing here depends on repetition time, flip angle and the range of
    the noise."""
    return Protocol(
        spacing=scan.grid.spacing,
        shape=scan.grid.shape,
        fine=scan.grid.spacing,
        field_tesla=scan.field_tesla,
        echo_ms=scan.echo_ms,
        repetition_ms=30.0,
        flip_deg=15.0,
        snr=(1.0, 1.0),
        lesions=lesions,
        mask_power=MASK_POWER,
        filter_mm=FILTER_MM,
    )


def _microbleed(rng: np.random.Generator, lesions: Lesions, site: np.ndarray) -> Blob:
    deposit = draw_microbleed(rng, lesions, site)
    return Blob("cmb", site, deposit.axes, deposit.rotation, deposit.ppm, deposit.density, deposit.decay)


def _mimic(rng: np.random.Generator, site: np.ndarray) -> Blob:
    """A calcification (a third), or a piece of vein: 5 to 16 mm long, 0.5 to 1.1 mm wide, of any direction."""
    if rng.random() < 1 / 3:
        axes, rotation = random_shape(rng, rng.uniform(0.6, 1.5), 0.2)
        ppm, density, decay = -rng.uniform(0.6, 3.0), rng.uniform(0.2, 0.5), rng.uniform(20, 60)
        return Blob("calcification", site, axes, rotation, ppm, density, decay)
    _, rotation = random_shape(rng, 1.0, 0.0)
    radius = rng.uniform(0.25, 0.55)
    axes = np.array([rng.uniform(2.5, 8.0), radius, radius])
    return Blob("vein_straight", site, axes, rotation, rng.uniform(0.28, 0.44), 1.0, 25.0)


def _put_in(
    rng: np.random.Generator,
    scan: MeasuredScan,
    blobs: list[Blob],
    protocol: Protocol,
    images: dict[str, np.ndarray],
    modality: str,
) -> list[Patch]:
    """Changes ``images`` in place; returns a patch per source that reaches the scan."""
    spacing = scan.grid.spacing
    block = central_block(scan.brain)
    magnitude = np.asarray(scan.magnitude, np.float32)
    extent = measured_extent(magnitude, block)
    sigma = np.float32(noise_level(magnitude, block, extent))
    background = _background(scan, magnitude)
    insertions = [i for i in (insert(b, background, protocol, scan.main_field) for b in blobs) if i is not None]
    slices = np.zeros(scan.grid.shape[0], bool)
    for insertion in insertions:
        insertion.change = low_passed(insertion.change, extent).astype(np.complex64)
        slices[insertion.box[0]] = True
    where = np.flatnonzero(slices)
    row = np.cumsum(slices) - 1  # slice of the scan -> slice of the arrays below, which hold the changed ones alone
    signal = magnitude[where].astype(np.complex64)
    for insertion in insertions:
        z, y, x = insertion.box
        signal[row[z], y, x] += insertion.change
    clean = signal.copy()
    left = np.clip(np.abs(signal) / np.maximum(magnitude[where], sigma + np.float32(1e-9)), 0, 1)
    touched = left < 1 - 1e-4
    noise = rng.standard_normal((*signal.shape, 2), np.float32).view(np.complex64)[..., 0]
    # The slices lie together, not in the scan's order: the noise is filtered in the slice alone.
    noise = low_passed(noise, (1.0, *extent[1:]))
    noise *= sigma / max(float(noise.real.std()), 1e-9)
    signal += np.sqrt(1 - left**2) * noise
    filtered = high_passed_phase(signal, spacing, protocol.filter_mm)
    for insertion in insertions:  # where the phase turns and no signal is lost, an image changes too
        z, y, x = insertion.box
        touched[row[z], y, x] |= np.abs(insertion.change) > 1e-3 * np.abs(magnitude[insertion.box])
    _write(scan, images, where, touched, signal, filtered, block)
    patches = []
    reference = np.angle(signal) - filtered
    for insertion in insertions:
        z, y, x = insertion.box
        inner = (row[z], y, x)
        measured = images[modality][insertion.box].copy()
        patches.append(Patch(insertion, clean[inner], reference[inner], None, measured, protocol.mask_power))
    return patches


def _background(scan: MeasuredScan, magnitude: np.ndarray) -> Background:
    """The scan as ``insert`` takes it; its own phase plays no part in what a small source does."""
    whole = tuple(slice(0, n) for n in scan.grid.shape)
    nowhere = np.zeros((3, 2, 2, 2), np.float32)
    return Background(
        spacing=scan.grid.spacing,
        shape=scan.grid.shape,
        box=whole,  # type: ignore[arg-type]
        signal=magnitude.astype(np.complex64),
        susceptibility=None,
        spin_echo=None,
        lattice=Lattice((np.arange(2.0),) * 3),
        mni=nowhere,
        white_signal=1.0,
    )


def _write(
    scan: MeasuredScan,
    images: dict[str, np.ndarray],
    where: np.ndarray,
    touched: np.ndarray,
    signal: np.ndarray,
    filtered: np.ndarray,
    block: tuple[slice, slice, slice],
) -> None:
    """Fills in the touched voxels of slices ``where``.

    Args:
        signal: complex, of these slices, with the sources.
        filtered: its high-passed phase: that of the sources, for the scan's own is left out.
        block: tissue.
    """
    own: np.ndarray | None = None
    if "phase" in images:
        phase, spacing = images["phase"], scan.grid.spacing
        raw = not is_filtered(phase, spacing, block)
        turn = np.exp(1j * phase).astype(np.complex64)
        passed = high_passed_phase(scan.magnitude * turn, spacing, FILTER_MM) if raw else phase
        sign = np.float32(phase_sign(scan.magnitude, passed, scan.brain))
        own = passed[where] * sign
        turn = turn[where] * np.exp(1j * sign * (np.angle(signal) if raw else filtered))
        phase[where] = np.where(touched, np.angle(turn), phase[where])
    if "t2s" in images:
        images["t2s"][where] = np.where(touched, np.abs(signal), images["t2s"][where])
    if "swi" in images:
        before = np.float32(1) if own is None else phase_mask(own)
        after = phase_mask(filtered if own is None else np.angle(np.exp(1j * (own + filtered))).astype(np.float32))
        ratio = np.clip(after / np.maximum(before, np.float32(0.05)), 0, 1) ** MASK_POWER
        darker = np.abs(signal) if "t2s" not in images else _scaled(scan, where, signal)
        images["swi"][where] = np.where(touched, darker * ratio, images["swi"][where])


def _scaled(scan: MeasuredScan, where: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """The SWI as the magnitude ``signal`` leaves it before the mask: both lose the same part."""
    magnitude = np.maximum(scan.images["t2s"][where], np.float32(1e-6))
    result: np.ndarray = scan.images["swi"][where] * np.minimum(np.abs(signal) / magnitude, 1)
    return result
