"""Codes of the DICOM output: SNOMED CT and DICOM terms as the standard's context groups have them.

SNOMED has no concept for a microbleed as a shape; the segments are ``Hemorrhage`` (context group 7159), the finding of
the report is ``Silent micro-hemorrhage of brain``; that and ``Magnetic resonance imaging of brain`` are in no context
group. What neither has is coded in a scheme of our own.
"""

from __future__ import annotations

from typing import Any

OWN_SCHEME = "99CMBPLUGIN"

HEMORRHAGE = ("50960005", "SCT", "Hemorrhage")
ABNORMAL = ("49755003", "SCT", "Morphologically Abnormal Structure")
MICROBLEED = ("723857007", "SCT", "Silent micro-hemorrhage of brain")
BRAIN_MRI = ("816077007", "SCT", "Magnetic resonance imaging of brain")
DIAMETER = ("81827009", "SCT", "Diameter")
VOLUME = ("118565006", "SCT", "Volume")
QUANTITY = ("246205007", "SCT", "Quantity")
BRAIN = ("12738006", "SCT", "Brain")
HEMISPHERE = ("372073000", "SCT", "Cerebral hemisphere")
SIDES = {"left": ("7771000", "SCT", "Left"), "right": ("24028007", "SCT", "Right")}
MILLIMETRE = ("mm", "UCUM", "millimeter")
CUBIC_MILLIMETRE = ("mm3", "UCUM", "cubic millimeter")
NO_UNIT = ("1", "UCUM", "no units")
ARTIFICIAL_INTELLIGENCE = ("123110", "DCM", "Artificial Intelligence")
SCORE = ("score", OWN_SCHEME, "Detection score")
BURDEN = ("burden", OWN_SCHEME, "Microbleed burden category")
PATTERN = ("pattern", OWN_SCHEME, "Microbleed distribution pattern")
GROUP = ("group", OWN_SCHEME, "Microbleed region group (MARS)")
CENTRE = tuple((f"centre {axis}", OWN_SCHEME, f"Centre {axis} in patient coordinates") for axis in "xyz")

REGIONS = {
    "frontal": ("83251001", "SCT", "Frontal lobe"),
    "parietal": ("16630005", "SCT", "Parietal lobe"),
    "temporal": ("78277001", "SCT", "Temporal lobe"),
    "occipital": ("31065004", "SCT", "Occipital lobe"),
    "insula": ("36169008", "SCT", "Insula"),
    "basal ganglia": ("basal ganglia", OWN_SCHEME, "Basal ganglia"),
    "thalamus": ("42695009", "SCT", "Thalamus"),
    "internal capsule": ("85637007", "SCT", "Internal capsule"),
    "external capsule": ("10517005", "SCT", "External capsule"),
    "corpus callosum": ("88442005", "SCT", "Corpus callosum"),
    "deep and periventricular white matter": ("68523003", "SCT", "Cerebral White Matter"),
    "brainstem": ("119238007", "SCT", "Brain Stem"),
    "cerebellum": ("113305005", "SCT", "Cerebellum"),
}
"""MARS sub-region -> where it lies."""


def site(region: str, group: str) -> tuple[str, str, str]:
    """Code of a MARS sub-region; the hemisphere or the brain where only its group or nothing is known."""
    return REGIONS.get(region, HEMISPHERE if group in ("lobar", "deep") else BRAIN)


def code(triple: tuple[str, str, str]) -> Any:
    """As highdicom takes it."""
    from highdicom.sr import CodedConcept

    return CodedConcept(*triple)


def own(text: str) -> tuple[str, str, str]:
    """A value of our own scheme."""
    return text[:16], OWN_SCHEME, text
