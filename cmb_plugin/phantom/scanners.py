"""A scanner of its own for every scan: the protocol ``random``. The ranges are wide on purpose (docs/phantom.md)."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

from .protocols import CSIRO, CUHK, PROTOCOLS, VALDO, Finish, Protocol

FINE_MM, FINE_SLICE_MM = 0.65, 0.8
"""The physics is computed on voxels no larger than this in the slice and across it."""

# Field in tesla: share, echo times in ms, signal-to-noise ratios of white matter.
_FIELDS: dict[float, tuple[float, tuple[float, float], tuple[float, float]]] = {
    1.5: (0.3, (22, 45), (8, 25)),
    3.0: (0.55, (14, 32), (10, 35)),
    7.0: (0.15, (8, 20), (12, 35)),
}


def protocol_named(name: str, rng: np.random.Generator) -> Protocol:
    """The protocol of this name; ``random`` and ``wide`` are drawn."""
    draw = {"random": draw_scanner, "wide": draw_wide_scanner}.get(name)
    return draw(rng) if draw else PROTOCOLS[name]


def draw_scanner(rng: np.random.Generator) -> Protocol:
    """A random protocol: thin slices (0.5 to 2 mm, a fast 3D sequence) or thick ones (2 to 5 mm, half of them 2D)."""
    field = float(rng.choice(list(_FIELDS), p=[share for share, *_ in _FIELDS.values()]))
    _, echoes, snr = _FIELDS[field]
    in_plane = round(float(np.exp(rng.uniform(np.log(0.4), np.log(1.2)))), 3)
    thick = rng.random() < 0.4
    slices = round(float(rng.uniform(2, 5) if thick else np.exp(rng.uniform(np.log(max(0.5, in_plane)), np.log(2)))), 3)
    width, height = rng.uniform(195, 235), rng.uniform(225, 256)
    depth = rng.uniform(85, 125) if rng.random() < 0.2 else rng.uniform(130, 165)  # a fifth covers part of the brain
    shape = tuple(2 * round(mm / s / 2) for mm, s in ((depth, slices), (height, in_plane), (width, in_plane)))
    two_dimensional = thick and rng.random() < 0.5
    low = float(rng.uniform(*snr))
    power = int(rng.choice([0, 2, 3, 4, 5], p=[0.3, 0.1, 0.1, 0.4, 0.1]))
    shortest, longest = echoes
    if power == 0:  # without the phase a longer echo has to make the contrast
        shortest, longest = (shortest + longest) / 2, 1.2 * longest
    return Protocol(
        spacing=(slices, in_plane, in_plane),
        shape=shape,  # type: ignore[arg-type]
        fine=(_divided(slices, FINE_SLICE_MM), *(2 * (_divided(in_plane, FINE_MM),))),
        field_tesla=field,
        echo_ms=round(float(rng.uniform(shortest, longest)), 1),
        repetition_ms=round(float(rng.uniform(500, 1500) if two_dimensional else rng.uniform(28, 60)), 1),
        flip_deg=round(float(rng.uniform(15, 35) if two_dimensional else rng.uniform(8, 22)), 1),
        snr=(low, low),
        lesions=(VALDO, CUHK, CSIRO)[rng.integers(3)],
        tilt_deg=(12.0, 4.0, 5.0),
        mask_power=power,
        filter_mm=round(float(rng.uniform(1.8, 5.0)), 2),
        phase_sign=1 if rng.random() < 0.5 else -1,
        finish=_draw_finish(rng, two_dimensional),
    )


def draw_wide_scanner(rng: np.random.Generator) -> Protocol:
    """As ``draw_scanner``, with more of what tells scanners and heads apart: slice profiles and gaps of 2D scans,
    slices filled with zeros, masks of the other side, an inversion's QSM, dark blood, inflow, other findings, and large
    and diffuse microbleeds."""
    base = draw_scanner(rng)
    profile = (0, 0)
    if base.repetition_ms > 200:  # a 2D scan: slices as they are excited, half with a gap of 20 to 40 %
        n = int(np.clip(np.ceil(base.spacing[0] / FINE_SLICE_MM), 3, 7))
        odd = [m for m in range(1, n + 1, 2) if m / n >= 0.59]
        profile = (odd[int(rng.integers(len(odd)))], n)
    kept_slices = float(rng.uniform(0.5, 0.9)) if not profile[1] and rng.random() < 0.35 else 1.0
    magnitude = base.mask_power == 0
    return replace(
        base,
        fine=(base.spacing[0] / profile[1], *base.fine[1:]) if profile[1] else base.fine,
        profile=profile,
        mask_side=int(rng.choice([1, -1, 0], p=[0.8, 0.06, 0.14])),
        inversion=round(float(rng.uniform(0.08, 0.25)), 3),
        # Without a phase mask only the blood's own decay, and the field around it, show a vessel.
        vessels=round(float(np.exp(rng.uniform(*np.log((1.6, 3.2) if magnitude else (0.8, 2.0))))), 3),
        venous_decay=round(float(rng.uniform(*((1.2, 3.0) if magnitude else (0.8, 2.2)))), 3),
        inflow=round(float(rng.uniform(1.0, 1.8)), 3) if rng.random() < 0.25 else 1.0,
        lesions=replace(base.lesions, large=0.2, diffuse=0.3),
        findings=4.0 if rng.random() < 0.6 else 0.0,
        finish=replace(base.finish, kept_slices=round(kept_slices, 3)),
    )


def _divided(spacing: float, largest: float) -> float:
    return spacing / np.ceil(spacing / largest - 1e-6)


def _draw_finish(rng: np.random.Generator, two_dimensional: bool) -> Finish:
    """Each fault is absent from most scans."""

    def sometimes(share: float, low: float, high: float) -> float:
        """A strength between ``low`` and ``high`` in this share of the scans, else 0."""
        present, size = rng.random() < share, rng.uniform(low, high)
        return round(float(size), 4) if present else 0.0

    return Finish(
        kept=round(float(rng.uniform(0.6, 0.9)), 3) if rng.random() < 0.35 else 1.0,
        bias=sometimes(0.6, 0.1, 0.6),
        ghost=sometimes(0.25, 0.02, 0.12),
        slice_jump=sometimes(0.6, 0.01, 0.06) if two_dimensional else 0.0,
        stripped=bool(rng.random() < 0.35),
        bits=int(rng.choice([0, 8, 12], p=[0.6, 0.15, 0.25])),
        clipped=sometimes(0.2, 0.001, 0.01),
        seed=int(rng.integers(2**31)),
    )


def describe(protocol: Protocol) -> dict[str, Any]:
    """The drawn protocol as plain data, for the case's file; tuples are along z, y, x."""
    known = _told(protocol)
    known["finish"] = _told(protocol.finish)
    return {k: known[k] for k in known if k not in ("lesions", "fine")} | {"snr": round(protocol.snr[0], 1)}


_UNSAID = {"kept_slices", "profile", "mask_side", "inversion", "vessels", "venous_decay", "inflow", "findings"}
"""Written down where they are not as usual; ``random`` never draws them."""


def _told(values: Protocol | Finish) -> dict[str, Any]:
    usual = {f.name: f.default for f in fields(values) if f.name in _UNSAID}
    return {k: v for k, v in asdict(values).items() if k not in usual or v != usual[k]}
