"""What tissues are: susceptibility, relaxation, and the signal that they give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .physics import spoiled_gradient_echo
from .protocols import Protocol

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


def tissue(name: str, protocol: Protocol) -> Tissue:
    """The constants of a tissue at the field strength of the protocol, of which 1.5 and 3 T are told apart."""
    return TISSUES[name][int(protocol.field_tesla > 2)]


def signal_of(name: str, protocol: Protocol) -> float:
    """Gradient-echo signal of a tissue at the echo."""
    t = tissue(name, protocol)
    start = spoiled_gradient_echo(t.density, t.t1, protocol.repetition_ms, protocol.flip_deg)
    decay = t.decay * protocol.venous_decay if name == "blood" else t.decay
    return start * float(np.exp(-protocol.echo_ms * 1e-3 * decay)) * (protocol.inflow if name == "blood" else 1.0)
