"""The scans that phantoms imitate: voxel, matrix, field strength, echo time, and the lesions seen on such scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.plugins import suggest

DRAWN = ("random", "wide")
"""Protocols that are drawn anew for every scan; ``wide`` knows more of what befalls scans and heads."""

MODALITIES = ("swi", "phase", "t2s", "qsm", "t2")

LARGE_MM = (4.0, 10.0)
"""Outlined diameters of large microbleeds: from where those of most cohorts end to where microbleeds end by definition
(Greenberg et al. 2009)."""


@dataclass(frozen=True)
class Lesions:
    """How many microbleeds of what size the scans of a cohort show (docs/phantom.md).

    Attributes:
        diameters: p5, p25, p50, p75, p95 of the outlined diameter in mm.
        counts: p50, p90 and maximum of the microbleeds per positive scan.
        large: share of them that are large instead, evenly of ``LARGE_MM``: a detector that sees none misses them.
        diffuse: share that is dark by itself, softly and without a dipole's field around it.
    """

    diameters: tuple[float, float, float, float, float]
    counts: tuple[int, int, int]
    large: float = 0.0
    diffuse: float = 0.0

    def diameter(self, u: float) -> float:
        """The diameter in mm at quantile ``u`` (0..1)."""
        if u > 1 - self.large:
            return float(np.interp(u, (1 - self.large, 1), LARGE_MM))
        u /= 1 - self.large
        smallest, largest = self.diameters[0] * 0.9, self.diameters[-1] * 1.3
        return float(np.interp(u, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1), (smallest, *self.diameters, largest)))

    def count(self, u: float, mean: int = 0) -> int:
        """The number of microbleeds in a positive scan at quantile ``u``; between the known quantiles its logarithm
        is linear. With a ``mean`` it is that of no cohort: evenly from half to one and a half of it."""
        if mean:
            return max(1, round(mean * (0.5 + u)))
        median, many, most = self.counts
        return max(1, round(float(np.exp(np.interp(u, (0, 0.5, 0.9, 1), np.log((0.6, median, many, most)))))))


VALDO = Lesions((2.0, 2.5, 2.7, 3.3, 4.9), (1, 11, 83))
CUHK = Lesions((1.9, 2.4, 3.1, 3.4, 4.1), (2, 11, 13))
CSIRO = Lesions((2.3, 2.6, 2.8, 3.0, 3.2), (1, 5, 17))


@dataclass(frozen=True)
class Finish:
    """What happens to a magnitude or SWI after the coils; the defaults change nothing.

    Attributes:
        kept: part of the in-plane k-space that was measured; the rest is filled with zeros.
        bias: spread of the logarithm of a smooth brightness, times two.
        ghost: strength of a copy that is displaced along the phase encoding.
        slice_jump: spread of the logarithm of every slice's brightness.
        stripped: the skull is removed.
        bits: of the export, or 0 for one without loss.
        clipped: share of the brain's brightest voxels that the export cuts.
        seed: of what is random in these.
        kept_slices: part of k-space across the slices that was measured.
    """

    kept: float = 1.0
    bias: float = 0.0
    ghost: float = 0.0
    slice_jump: float = 0.0
    stripped: bool = False
    bits: int = 0
    clipped: float = 0.0
    seed: int = 0
    kept_slices: float = 1.0


@dataclass(frozen=True)
class Protocol:
    """One scan protocol. Tuples are along z, y, x.

    Attributes:
        spacing: voxel in mm.
        shape: matrix.
        fine: voxel in mm on which the physics is computed before k-space is cropped.
        field_tesla, echo_ms, repetition_ms, flip_deg: the gradient echo.
        snr: range of the signal-to-noise ratio of white matter on the magnitude.
        lesions: sizes and counts.
        tilt_deg: spread of the scan's turn about x, y, z.
        mask_power: how often the phase mask multiplies the magnitude in SWI; 0 leaves a T2* magnitude.
        filter_mm: width of the high-pass of the phase.
        phase_sign: 1, or -1 for a scanner that counts phase the other way (the SWI is the same).
        finish: what happens to magnitude and SWI afterwards.
        profile: for 2D scans, (m, n): a slice is the mean of the middle m (odd) of the n fine planes that there are for
            each slice; (0, 0) for a 3D scan, whose slices are phase encoded.
        mask_side: phase that the mask of the SWI darkens: 1 that of veins, -1 the other, 0 both.
        inversion: threshold of the k-space division that makes the QSM from the field; 0 blurs the true map instead.
        vessels: factor of the number of small vessels.
        venous_decay: factor of the R2* of venous blood; its oxygenation varies.
        inflow: factor of the signal of blood that has just flown in.
        findings: mean number of other findings (old infarcts, rims of haemosiderin, siderosis, ...).
    """

    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]
    fine: tuple[float, float, float]
    field_tesla: float
    echo_ms: float
    repetition_ms: float
    flip_deg: float
    snr: tuple[float, float]
    lesions: Lesions
    tilt_deg: tuple[float, float, float] = (6.0, 1.5, 2.5)
    mask_power: int = 4
    filter_mm: float = 3.0
    phase_sign: int = 1
    finish: Finish = Finish()
    profile: tuple[int, int] = (0, 0)
    mask_side: int = 1
    inversion: float = 0.0
    vessels: float = 1.0
    venous_decay: float = 1.0
    inflow: float = 1.0
    findings: float = 0.0


# Voxel and matrix are those of the data sets that docs/phantom.md lists. Field, echo and flip angle are typical
# of such scans where a data set does not publish them; they are choices, within the ranges of docs/phantom.md. ``tiny``
# imitates nothing: it makes whole cases in a second or two, for tests of everything that needs files.
PROTOCOLS: dict[str, Protocol] = {
    "tiny": Protocol((2.5, 2.0, 2.0), (60, 110, 92), (1.7, 1.35, 1.35), 3.0, 20, 28, 15, (25, 40), CUHK),
    "demo": Protocol((1.5, 1.2, 1.2), (100, 184, 152), (1.0, 0.8, 0.8), 3.0, 20, 28, 15, (25, 40), CUHK),
    "cuhk": Protocol((1.0, 0.45, 0.45), (150, 512, 512), (0.5, 0.45, 0.45), 3.0, 24, 35, 15, (15, 30), CUHK),
    "csiro": Protocol((1.75, 0.94, 0.94), (80, 256, 176), (0.7, 0.7, 0.7), 3.0, 20, 27, 20, (20, 35), CSIRO),
    "ukb": Protocol((3.0, 0.8, 0.8), (48, 288, 256), (0.75, 0.6, 0.6), 3.0, 20, 27, 15, (20, 35), VALDO),
    "valdo1": Protocol((4.0, 0.45, 0.45), (35, 512, 512), (0.67, 0.45, 0.45), 3.0, 20, 1300, 18, (20, 40), VALDO),
    "valdo2": Protocol((0.8, 0.49, 0.49), (192, 512, 512), (0.53, 0.49, 0.49), 1.5, 31, 45, 13, (15, 25), VALDO),
    "valdo3": Protocol((3.5, 1.0, 1.0), (39, 256, 256), (0.7, 0.7, 0.7), 3.0, 23, 1300, 15, (20, 40), VALDO),
}


def resolve_protocols(words: str | Sequence[str]) -> tuple[str, ...]:
    """Protocol names from ``demo``, ``mixed`` (all data sets), ``random`` and ``wide`` (every scan its own) or a comma
    list; cases take them in turn.

    Raises:
        UserError: a name is unknown or there is none.
    """
    names = [word.strip() for word in (words.split(",") if isinstance(words, str) else words) if word.strip()]
    known = [*PROTOCOLS, "mixed", *DRAWN]
    for name in names:
        if name not in known:
            raise UserError(f"--protocol: unknown protocol '{name}'", remedy=suggest(name, known))
    if not names:
        raise UserError("--protocol: no protocol named", remedy=f"known: {', '.join(known)}")
    everything = [name for name in PROTOCOLS if name not in ("tiny", "demo")]
    return tuple(name for word in names for name in (everything if word == "mixed" else [word]))


def resolve_modalities(words: str | Sequence[str]) -> tuple[str, ...]:
    """Modality names from a comma list, in the order given: the first one is the one that lesions are outlined on.

    Raises:
        UserError: a name is unknown or given twice, or there is none.
    """
    names = [word.strip().lower() for word in (words.split(",") if isinstance(words, str) else words) if word.strip()]
    for name in names:
        if name not in MODALITIES:
            raise UserError(f"--modalities: unknown modality '{name}'", remedy=suggest(name, MODALITIES))
    if not names or len(set(names)) != len(names):
        raise UserError("--modalities: name each modality once", remedy=f"known: {', '.join(MODALITIES)}")
    return tuple(names)
