"""What a page on one scan shows, whatever it is drawn as: counts, what they amount to, what makes them doubtful."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from cmb_plugin.anatomy.counts import SIDES, Lesion, burden, mars_rows, number, pattern
from cmb_plugin.anatomy.regions import GROUPS, UNKNOWN, RegionMap
from cmb_plugin.anatomy.registration import MIN_QUALITY
from cmb_plugin.dataset import CasePredictions
from cmb_plugin.documents import counted
from cmb_plugin.images import Grid
from cmb_plugin.reporting.figures import BLUE, GREEN, GREY, VERMILION

COLOURS = {"lobar": BLUE, "deep": VERMILION, "infratentorial": GREEN, UNKNOWN: GREY}
INK, SOFT, RULE, WARN = "#1d2433", "#697386", "#d5dae3", "#a61b1b"
WARNING = "RESEARCH USE ONLY"
NO_BRAIN = "No brain was found in the scan: look at the scan before you believe the counts."
FOOTER = (
    "Research use only. This is no medical device: not for diagnosis or treatment. Every lesion needs a reader's eye."
)
QUALITY = "Quality"
VIEW_MM = 30.0  # field of view of a lesion's planes


@dataclass(frozen=True)
class PageContent:
    """What the page shows.

    Attributes:
        predictions: of the scan, with the columns of ``locate`` and ``removed``.
        certainty: [N] ``definite``, ``possible`` or "" for each detection.
        lesions: those that count, in the order of the detections.
        regions: where the places come from.
        scan: array [z, y, x] and grid of the scan that is shown; None shows no planes.
        brain: bool [z, y, x] on the grid of the predictions, for the glass brain; None draws none.
        flags: what makes the counts doubtful, as sentences.
    """

    predictions: CasePredictions
    certainty: Sequence[str]
    lesions: Sequence[Lesion]
    regions: RegionMap
    scan: tuple[np.ndarray, Grid] | None = None
    brain: np.ndarray | None = None
    flags: Sequence[str] = ()

    @property
    def shown(self) -> list[int]:
        """Rows of the detections that count, highest score first."""
        return [row for row, word in enumerate(self.certainty) if word]

    @property
    def nothing_to_place(self) -> bool:
        """Whether there is neither a brain nor a lesion for a glass brain."""
        return not self.shown and (self.brain is None or not self.brain.any())

    @property
    def possible_known(self) -> bool:
        """Whether a sweep said from which score on a lesion is possible."""
        return (self.predictions.regions or {}).get("possible_score") is not None


@dataclass(frozen=True)
class Tile:
    """A big number of definite microbleeds.

    Attributes:
        name: of what.
        count: as text; a dash where nobody knows.
        colour: of the group.
        remark: what else is to be said beside it.
    """

    name: str
    count: str
    colour: str
    remark: str = ""


def tiles(content: PageContent) -> list[Tile]:
    """All microbleeds, those of each group, and those whose place is unknown where there are any."""
    lesions = content.lesions
    possible = f"+ {number(lesions, certainty='possible')} possible" if content.possible_known else ""
    result = [Tile("microbleeds", str(number(lesions)), INK, possible)]
    for group in GROUPS:
        shown = str(number(lesions, group)) if content.regions.trusted else "–"
        result.append(Tile(group, shown, COLOURS[group]))
    if number(lesions, UNKNOWN):
        result.append(Tile("place unknown", str(number(lesions, UNKNOWN)), COLOURS[UNKNOWN]))
    return result


@dataclass(frozen=True)
class MarsRow:
    """A row of the MARS table; None where nobody knows.

    Attributes:
        group, region: ``region`` is a sub-region, or what stands for it.
        counts: right, left, all, possible.
    """

    group: str
    region: str
    counts: tuple[int | None, ...]


def mars_table(content: PageContent) -> list[MarsRow]:
    """The rows of the MARS table, the last of them of all lesions (group ``all``).

    Groups and sides of a map that is not trusted are left out: zeros would say that there are none.
    """
    lesions, rows = content.lesions, []
    for group, region in mars_rows(lesions, content.regions.sub_regions):
        if group in GROUPS and not content.regions.trusted:
            continue
        name = region or ("place unknown" if group == UNKNOWN else "sub-region not known")
        rows.append(MarsRow(group, name, _counts(content, group=group, region=region)))
    return [*rows, MarsRow("all", "", _counts(content))]


def _counts(content: PageContent, **which: str) -> tuple[int | None, ...]:
    lesions, possible, sided = content.lesions, content.possible_known, content.regions.trusted
    sides = [number(lesions, side=side, **which) if sided else None for side in SIDES[:2]]
    return (*sides, number(lesions, **which), number(lesions, certainty="possible", **which) if possible else None)


@dataclass(frozen=True)
class Fact:
    """One thing that the counts amount to.

    Attributes:
        label: what it is about.
        value: in a few words.
        remarks: sentences that explain it.
        doubtful: whether it is a warning.
    """

    label: str
    value: str
    remarks: Sequence[str] = ()
    doubtful: bool = False


def facts(content: PageContent) -> list[Fact]:
    """Burden, pattern, ARIA-H, where the places come from, what was removed, and what makes all that doubtful."""
    regions, lesions = content.regions, content.lesions
    predictions = content.predictions
    name, why = pattern(lesions)
    gone = int(predictions.withheld.sum())
    quality = "" if regions.quality is None else f", agreement {regions.quality:.2f}, trusted from {MIN_QUALITY:g} on"
    source = f"{regions.source}{quality}" if regions.trusted else "unknown"
    result = [
        Fact("Burden", burden(number(lesions)), ["of 0, 1, 2-4, >=5; a network counted, no reader: some may be false"]),
        Fact("Pattern (Boston 2.0)", name, [why]),
        Fact("ARIA-H", counted(number(lesions), "microhaemorrhage"), ["severity counts new ones: needs a baseline"]),
        Fact("Regions from", source, [regions.why] if regions.why else [], not regions.trusted),
        Fact("Removed", f"{gone} in impossible places", ["reasons stand in the report file"] if gone else []),
    ]
    if content.flags:
        result.append(Fact(QUALITY, counted(len(content.flags), "doubt"), list(content.flags), True))
    return result


def place_of(lesion: Lesion) -> str:
    """Side and region of a lesion, and that it is possible only."""
    remark = "(possible)" if lesion.certainty == "possible" else ""
    return " ".join(word for word in (lesion.side, lesion.region or lesion.group, remark) if word)


def made_by(predictions: CasePredictions) -> list[str]:
    """Program, model and operating point, as words."""
    words = [f"cmb_plugin {version('cmb_plugin')}", predictions.model]
    possible = (predictions.regions or {}).get("possible_score")
    scores = f"definite from score {predictions.operating_point:.2f} on"
    scores += "" if possible is None else f", possible from {possible:.2f} on"
    return [word for word in (*words, scores) if word]
