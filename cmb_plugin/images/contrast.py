"""What a scan shows, told by its DICOM header, its BIDS suffix or its file's name."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAGNITUDE, PHASE, SWI, QSM = "magnitude", "phase", "swi", "qsm"
MINIP, PROJECTION, MAP = "minip", "projection", "map"
REAL, IMAGINARY, ANATOMY, MASK, UNKNOWN = "real", "imaginary", "anatomy", "mask", "unknown"
CONTRASTS = (MAGNITUDE, PHASE, SWI, QSM, MINIP, PROJECTION, MAP, REAL, IMAGINARY, ANATOMY, MASK, UNKNOWN)

WHY_NOT = {
    MINIP: "a minimum intensity projection: it shows the darkest of several slices, so veins look like rows of "
    "microbleeds, and places along the slices are lost",
    PROJECTION: "a projection through many slices, not a scan",
    MAP: "a map of relaxation times, not a scan",
    REAL: "the real part of a complex image",
    IMAGINARY: "the imaginary part of a complex image",
    PHASE: "a phase image",
    MAGNITUDE: "a magnitude image",
    SWI: "a susceptibility weighted image",
    QSM: "a map of susceptibility",
    ANATOMY: "no T2*-weighted image",
    MASK: "a mask by its name",
}
"""Why a scan of a contrast is not taken, as the middle of a sentence."""

# Words of a description or file name, the first pattern that fits decides. Siemens' "mIP_Images(SW)" is a minimum.
_WORDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (MINIP, re.compile(r"(?<![a-z])(mn|min|m)[ _-]?ip(?![a-z])")),
    (QSM, re.compile(r"(?<![a-z])(qsm|chi|chimap|susceptibility[ _-]?map)(?![a-z])")),
    (MAP, re.compile(r"(?<![a-z])[rt]2(\*|s|star)?[ _-]?map(?![a-z])|(?<![a-z])r2(\*|s|star)(?![a-z])")),
    (PHASE, re.compile(r"(?<![a-z])(pha|phase|ph)(?![a-z])")),
    (MAGNITUDE, re.compile(r"(?<![a-z])(mag|magnitude)(?![a-z])")),
    (SWI, re.compile(r"(?<![a-z])(swi|swip|swan|venobold|svenbold|sw[ _-]?images)(?![a-z])")),
    (MAGNITUDE, re.compile(r"(?<![a-z])(t2(\*|s|star)w?|hemo)(?![a-z])")),
    (
        ANATOMY,
        re.compile(
            r"(?<![a-z])(t1|t1w|t2w|pd|pdw|flair|mprage|mp2rage|tse|space|dwi|dti|adc|trace|tof|angio|localizer"
            r"|localiser|scout|survey|pilot|bold|fmri|perf|asl)(?![a-z0-9])"
            r"|(?<![a-z])t2(?![a-z0-9*])(?![ _-]?(s|star)(?![a-z]))"
        ),
    ),
    (MAGNITUDE, re.compile(r"(?<![a-z])(gre|ffe|fl2d|fl3d)(?![a-z])")),
)
_MASKS = re.compile(r"(?<![a-z])(mask|dseg|seg|label|labels|instances|probseg)$")
_SUFFIXES = {
    **dict.fromkeys(("T2starw", "GRE", "MEGRE", "T2star", "FLASH"), MAGNITUDE),
    **dict.fromkeys(("swi", "SWI", "swan"), SWI),
    **dict.fromkeys(("minIP", "minip", "mIP", "mip"), MINIP),
    **dict.fromkeys(("Chimap", "QSM", "qsm"), QSM),
    **dict.fromkeys(("phase", "phase1", "phase2", "phasediff"), PHASE),
    **dict.fromkeys(("T2starmap", "R2starmap", "T1map", "T2map", "R1map", "R2map", "S0map", "M0map", "fieldmap"), MAP),
    **dict.fromkeys(("T1w", "T2w", "PDw", "FLAIR", "PDT2", "UNIT1", "MP2RAGE", "inplaneT2", "angio"), ANATOMY),
    **dict.fromkeys(("mask", "dseg", "probseg"), MASK),
}  # fmt: skip
_PARTS = {"phase": PHASE, "real": REAL, "imag": IMAGINARY}


def contrast_of_suffix(suffix: str, part: str = "") -> str:
    """By the suffix of a BIDS name and its entity ``part``, which decides where the suffix is a gradient echo's."""
    contrast = _SUFFIXES.get(suffix, UNKNOWN)
    return _PARTS.get(part, contrast) if contrast in (MAGNITUDE, SWI, UNKNOWN) else contrast


def contrast_of_name(text: str) -> str:
    """By the words of a file's name without its ending, or of a series' description."""
    lower = text.lower()
    if _MASKS.search(lower):
        return MASK
    return next((contrast for contrast, pattern in _WORDS if pattern.search(lower)), UNKNOWN)


def contrast_of_header(
    image_type: Sequence[str], description: str, sequence: Sequence[str] = (), component: str = "", ge_type: str = ""
) -> str:
    """By what a DICOM header says.

    Args:
        image_type: values of ImageType (0008,0008), or of FrameType of an enhanced image.
        description: SeriesDescription (0008,103E), with the ProtocolName where it is empty.
        sequence: values of ScanningSequence (0018,0020).
        component: ComplexImageComponent (0008,9208) of an enhanced image.
        ge_type: GE's private (0043,102F): 0 magnitude, 1 phase, 2 real, 3 imaginary.
    """
    words = {word.strip().upper() for word in image_type[2:]}
    described = contrast_of_name(description)
    if words & {"MNIP", "MINIP", "MIN IP", "MIN_IP"} or described == MINIP:
        return MINIP
    if words & {"PROJECTION IMAGE", "MIP", "PROJECTION", "VOLUME_RENDER"} or component.upper() == "MIXED":
        return PROJECTION
    if words & {"QSM", "SUSCEPTIBILITY", "CHI"} or described == QSM:
        return QSM
    if any(re.fullmatch(r"[RT][12]_?(STAR|\*)?[ _]?MAP", word) for word in words) or described == MAP:
        return MAP
    stated = _stated_component(words, component, ge_type)
    if stated in (PHASE, REAL, IMAGINARY):
        return stated
    if stated is None and described == PHASE:
        return PHASE
    if words & {"SWI", "SWIP", "SWAN"} or described == SWI:
        return SWI
    kinds = {word.strip().upper() for word in sequence}
    if described == ANATOMY or (kinds and "GR" not in kinds) or kinds >= {"GR", "IR"}:
        return ANATOMY
    return MAGNITUDE


def _stated_component(words: set[str], component: str, ge_type: str) -> str | None:
    """Which part of the complex image a header names; None where it names none."""
    if ge_type.strip() in ("0", "1", "2", "3"):
        return (MAGNITUDE, PHASE, REAL, IMAGINARY)[int(ge_type)]
    words = words | {component.strip().upper()}
    for contrast, names in (
        (PHASE, {"P", "PHASE", "PHASE MAP", "PHASE_MAP"}),
        (REAL, {"R", "REAL"}),
        (IMAGINARY, {"I", "IMAGINARY"}),
        (MAGNITUDE, {"M", "MAGNITUDE", "M_FFE", "M_SE"}),
    ):
        if words & names:
            return contrast
    return None
