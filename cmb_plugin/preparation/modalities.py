"""What a modality's name says about it: how its intensities behave, and which way a microbleed stands out."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAGNITUDE, PHASE, SUSCEPTIBILITY, ANATOMY, UNKNOWN = "magnitude", "phase", "susceptibility", "anatomy", "unknown"

# Whole words of a name, in the order in which they decide: "swi_phase" is a phase image, "SWI_T2s" a magnitude.
_WORDS: tuple[tuple[str, frozenset[str]], ...] = (
    (SUSCEPTIBILITY, frozenset({"qsm", "chi", "chimap", "susceptibility", "tkd", "medi"})),
    (PHASE, frozenset({"phase", "pha", "phs", "ph", "filtphase", "hpf"})),
    (
        MAGNITUDE,
        frozenset(
            {"swi", "swan", "t2s", "t2*", "t2star", "t2sw", "t2*w", "t2starw", "gre", "ffe", "mag", "magnitude", "m"}
            | {"mip", "minip", "venobold", "r2s", "bold"}
        ),
    ),
    (ANATOMY, frozenset({"t1", "t1w", "t2", "t2w", "flair", "pd", "pdw", "mprage", "tse", "se"})),
)
_DARK_ANATOMY = frozenset({"t2", "t2w", "tse"})
_BRIGHT_MAGNITUDE = frozenset({"r2s"})


def modality_kind(name: str) -> str:
    """One of ``magnitude`` (SWI, T2*, any gradient echo), ``phase``, ``susceptibility`` (QSM), ``anatomy`` (T1, T2,
    FLAIR) and ``unknown``, by the words of a modality's name in any case."""
    words = _words(name)
    return next((kind for kind, known in _WORDS if words & known), UNKNOWN)


def modality_polarity(name: str) -> str:
    """How a microbleed shows: ``dark`` or ``bright`` against its surroundings, ``signed`` (phase: both, side by side),
    or ``unknown``.

    Iron shortens T2* and T2, so magnitudes lose signal; it is paramagnetic, so QSM is bright.
    """
    kind, words = modality_kind(name), _words(name)
    if kind == PHASE:
        return "signed"
    if kind == SUSCEPTIBILITY or (kind == MAGNITUDE and words & _BRIGHT_MAGNITUDE):
        return "bright"
    if kind == MAGNITUDE or (kind == ANATOMY and words & _DARK_ANATOMY):
        return "dark"
    return "unknown"


def brain_channel(names: Sequence[str]) -> int | None:
    """The modality on which the brain is best found: the first magnitude, else the first anatomy, else the first of
    unknown kind; None where there are only phase and QSM, in which the head has no edge."""
    kinds = [modality_kind(name) for name in names]
    return next((kinds.index(kind) for kind in (MAGNITUDE, ANATOMY, UNKNOWN) if kind in kinds), None)


def _words(name: str) -> set[str]:
    return {word for word in re.split(r"[^a-z0-9*]+", name.lower()) if word}
