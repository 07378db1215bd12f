"""Several scans of one subject from one simulation of its head: every scan from a scanner of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from cmb_plugin.images.grid import Grid

from .background import build_head
from .case import PhantomCase, PhantomConfig, draw_scene, scan, vessels_in_scan
from .protocols import Finish, Protocol
from .scanners import protocol_named
from .subject import Subject

STREAM = 0x5E  # keeps the random numbers of further scans apart from those of the subject
FINE_MM = (0.5, 0.65)
"""Voxel in the slice of the grid on which a head is simulated, drawn for each subject; no scan of it is finer."""
FINE_SLICE_MM = 0.75


def make_scans(
    seed: int, index: int, config: PhantomConfig, scans: int, *, healthy: bool = False
) -> Iterator[PhantomCase]:
    """Simulates ``scans`` scans of subject ``index``. Pure, as ``make_case`` is.

    Head, vessels, lesions, the position in the scanner and the field of view are the subject's; voxel, field strength,
    echo, noise, coils and all faults are each scan's own. What depends on the subject alone is computed once: tissue,
    vessels and dipole field.

    Args:
        seed, index, config, healthy: as for ``make_case``; each protocol is a drawn one (``DRAWN``).
        scans: how many.
    """
    first, tissue_rng, _ = draw_scene(seed, index, config, healthy=healthy)
    streams = np.random.SeedSequence([seed, index, STREAM]).spawn(2 * scans + 1)
    size = np.random.default_rng(streams[-1]).uniform(*FINE_MM)
    fine = _resampled(first.protocol, (min(FINE_SLICE_MM, first.protocol.spacing[0]), size, size))
    subject = _on(first.subject, fine)
    vessels = vessels_in_scan(first.vessels, subject)
    head = build_head(tissue_rng, subject, fine.shape, fine.spacing, vessels)
    for number in range(scans):
        scanner_rng, noise_rng = (np.random.default_rng(s) for s in streams[2 * number : 2 * number + 2])
        protocol = first.protocol if number == 0 else protocol_named(first.name, scanner_rng)
        own = {name: getattr(first.protocol, name) for name in ("lesions", "vessels", "findings")}  # the subject's
        protocol = _within(dataclasses.replace(protocol, **own), fine)
        scene = dataclasses.replace(first, protocol=protocol, subject=_on(first.subject, protocol))
        yield scan(scene, config, tissue_rng, noise_rng, head)


def _resampled(protocol: Protocol, spacing: tuple[float, float, float]) -> Protocol:
    """The protocol's field of view in voxels of about this size: whole, even numbers of them."""
    field_of_view = [n * s for n, s in zip(protocol.shape, protocol.spacing, strict=True)]
    shape = tuple(2 * max(1, round(mm / s / 2)) for mm, s in zip(field_of_view, spacing, strict=True))
    exact = tuple(mm / n for mm, n in zip(field_of_view, shape, strict=True))
    return dataclasses.replace(protocol, spacing=exact, shape=shape, fine=exact, profile=(0, 0), finish=Finish())  # type: ignore[arg-type]


def _within(protocol: Protocol, fine: Protocol) -> Protocol:
    """The protocol with the field of view of the grid ``fine``, and voxels no smaller than its."""
    field_of_view = [n * s for n, s in zip(fine.shape, fine.spacing, strict=True)]
    shape, spacing = [], []
    for mm, wanted, smallest, most in zip(field_of_view, protocol.spacing, fine.spacing, fine.shape, strict=True):
        count = most if wanted <= 1.01 * smallest else min(most, 2 * round(mm / wanted / 2))
        shape.append(count)
        spacing.append(mm / count)
    profile = protocol.profile
    if profile[1]:  # slices of whole planes of the grid
        n = max(3, round(protocol.spacing[0] / fine.spacing[0]))
        part = profile[0] / profile[1]
        m = min((m for m in range(1, n + 1, 2)), key=lambda m: abs(m / n - part))
        profile = (m, n)
        shape[0], spacing[0] = fine.shape[0] // n, n * fine.spacing[0]
    return dataclasses.replace(
        protocol,
        spacing=(spacing[0], spacing[1], spacing[2]),
        shape=(shape[0], shape[1], shape[2]),
        fine=fine.spacing,
        profile=profile,
    )


def _on(subject: Subject, protocol: Protocol) -> Subject:
    """The subject in the same place of the scanner, on the grid of another protocol: voxel 0 has the same centre."""
    grid = Grid(protocol.shape, protocol.spacing, subject.grid.origin, subject.grid.direction)
    return dataclasses.replace(subject, grid=grid)
