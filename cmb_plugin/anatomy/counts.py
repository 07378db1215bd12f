"""What clinicians count: the MARS table, burden, the pattern of the Boston criteria, microhaemorrhages for ARIA-H.

Sources: MARS, the Microbleed Anatomical Rating Scale (Gregoire et al. 2009); Boston criteria 2.0 (Charidimou et al.
2022); ARIA-H as in the trials of antibodies against amyloid.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from cmb_plugin.detections import Detections

from .regions import GROUPS, UNKNOWN

SUB_REGIONS = {
    "infratentorial": ("brainstem", "cerebellum"),
    "deep": (
        *("basal ganglia", "thalamus", "internal capsule", "external capsule", "corpus callosum"),
        "deep and periventricular white matter",
    ),
    "lobar": ("frontal", "parietal", "temporal", "occipital", "insula"),
}
"""The rows of the MARS table by group, in its order."""

SIDES = ("right", "left", "")
CERTAINTIES = ("definite", "possible")

ARIA_H_NOTE = (
    "All microhaemorrhages of this scan. The severity of ARIA-H (mild 1-4, moderate 5-9, severe >= 10) counts new ones "
    "against a baseline scan, which was not given, and superficial siderosis apart."
)


@dataclass(frozen=True)
class Lesion:
    """One microbleed as it is counted.

    Attributes:
        group: one of ``GROUPS`` or ``UNKNOWN``.
        region: MARS sub-region, "" where it is not known.
        side: ``left``, ``right`` or "".
        certainty: ``definite`` or ``possible``.
    """

    group: str
    region: str = ""
    side: str = ""
    certainty: str = "definite"


def lesions_of(located: Detections, certainty: Sequence[str]) -> list[Lesion]:
    """The lesions of located detections; one that lies a little beside the brain counts where it is nearest to.

    Args:
        located: N detections with the columns of ``locate``.
        certainty: [N] ``definite``, ``possible`` or "" for what does not count.
    """
    if not len(located):
        return []  # read from a file, a scan without a detection has no columns
    columns = zip(
        *(located.columns[name].tolist() for name in ("nearest_group", "nearest_region", "side")),
        certainty,
        strict=True,
    )
    return [
        Lesion(group if group in GROUPS else UNKNOWN, region, side, word)
        for group, region, side, word in columns
        if word
    ]


def number(
    lesions: Sequence[Lesion],
    group: str | None = None,
    region: str | None = None,
    side: str | None = None,
    certainty: str | None = "definite",
) -> int:
    """How many there are; None asks for all of a kind."""
    return sum(
        (group is None or lesion.group == group)
        and (region is None or lesion.region == region)
        and (side is None or lesion.side == side)
        and (certainty is None or lesion.certainty == certainty)
        for lesion in lesions
    )


def mars_rows(lesions: Sequence[Lesion], known: Collection[str]) -> list[tuple[str, str]]:
    """(group, region) of the rows of the MARS table.

    Args:
        lesions: of one scan; those without a sub-region get a row of their own.
        known: sub-regions that the map of the scan tells apart: of the others nobody can say that they hold none.
    """
    rows = []
    for group in (*SUB_REGIONS, UNKNOWN):
        found = {lesion.region for lesion in lesions if lesion.group == group}
        named = [region for region in SUB_REGIONS.get(group, ()) if region in {*known, *found}]
        rows += [(group, region) for region in (*named, *sorted(found - {*named, ""}))]
        if "" in found or (group in GROUPS and not named):
            rows.append((group, ""))
    return rows


def burden(count: int) -> str:
    """``0``, ``1``, ``2-4`` or ``>=5``: the categories in which microbleeds are usually reported."""
    return ">=5" if count >= 5 else "2-4" if count >= 2 else str(count)


def pattern(lesions: Sequence[Lesion]) -> tuple[str, str]:
    """Where the definite microbleeds lie by the Boston criteria 2.0, and why it is called so.

    The cerebellum is neither lobar nor deep and decides nothing; the brainstem counts as deep.

    Returns:
        ``none``, ``strictly lobar``, ``strictly deep``, ``mixed``, ``cerebellar only``, or ``undetermined`` where
        lesions whose place is not known, or that may lie in brainstem or cerebellum, would decide; and a sentence.
    """
    lobar = number(lesions, "lobar")
    deep = number(lesions, "deep") + number(lesions, "infratentorial", "brainstem")
    cerebellar = number(lesions, "infratentorial", "cerebellum")
    either = number(lesions, "infratentorial") - cerebellar - number(lesions, "infratentorial", "brainstem")
    unknown = number(lesions) - lobar - deep - cerebellar - either
    aside = f"; {cerebellar} in the cerebellum, which counts as neither" if cerebellar else ""
    if lobar and deep:
        return "mixed", f"{lobar} lobar, {deep} deep or in the brainstem{aside}"
    if unknown:
        return "undetermined", f"the place of {unknown} is not known"
    if either and not deep:
        return "undetermined", f"{either} infratentorial, in the brainstem (deep) or the cerebellum (neither)"
    if lobar:
        return "strictly lobar", f"{lobar} lobar, none deep or in the brainstem{aside}"
    if deep:
        return "strictly deep", f"{deep} deep or in the brainstem, none lobar{aside}"
    return (
        ("cerebellar only", "the cerebellum counts as neither lobar nor deep") if cerebellar else ("none", "none found")
    )


def summary(lesions: Sequence[Lesion], known: Collection[str], possible_known: bool = True) -> dict[str, Any]:
    """All counts as plain data (docs/anatomy.md).

    Args:
        lesions: of one scan.
        known: sub-regions that its map tells apart.
        possible_known: False where nobody said from which score on a lesion is possible: those counts are then None.
    """

    def by_certainty(**which: Any) -> dict[str, int | None]:
        """Certainty -> number of the lesions that ``which`` selects; None where it is not known."""
        return {
            word: number(lesions, certainty=word, **which) if possible_known or word == "definite" else None
            for word in CERTAINTIES
        }

    name, why = pattern(lesions)
    return {
        "total": by_certainty(),
        "groups": {group: by_certainty(group=group) for group in (*GROUPS, UNKNOWN)},
        "sides": {side or UNKNOWN: by_certainty(side=side) for side in SIDES},
        "mars": [
            {
                "group": group,
                "region": region or UNKNOWN,
                **{side or "unknown_side": by_certainty(group=group, region=region, side=side) for side in SIDES},
            }
            for group, region in mars_rows(lesions, known)
        ],
        "burden": burden(number(lesions)),
        "pattern": {"name": name, "why": why},
        "aria_h": {"microhaemorrhages": number(lesions), "severity": None, "note": ARIA_H_NOTE},
    }


COHORT_COLUMNS = (
    *("definite", "possible", *GROUPS, UNKNOWN, "right", "left", "burden", "pattern"),
    *(region.replace(" ", "_") for regions in SUB_REGIONS.values() for region in regions),
)


def cohort_row(lesions: Sequence[Lesion], known: Collection[str], possible_known: bool = True) -> dict[str, Any]:
    """The same as one row of a table with ``COHORT_COLUMNS``; all but ``possible`` count definite lesions."""
    return {
        "definite": number(lesions),
        "possible": number(lesions, certainty="possible") if possible_known else None,
        **{group: number(lesions, group) for group in (*GROUPS, UNKNOWN)},
        **{side: number(lesions, side=side) for side in ("right", "left")},
        "burden": burden(number(lesions)),
        "pattern": pattern(lesions)[0],
        **{
            region.replace(" ", "_"): number(lesions, group, region) if region in known else None
            for group, regions in SUB_REGIONS.items()
            for region in regions
        },
    }
