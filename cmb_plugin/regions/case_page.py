"""One A4 page per scan: how many microbleeds, where they lie in a glass brain, the MARS table, each on three planes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch

from cmb_plugin.evaluation.listing import FALSE, Entry
from cmb_plugin.images import Mapping
from cmb_plugin.reporting.gallery import PLANES, crop_planes, draw_plane, intensity_window

from .case_content import (
    COLOURS,
    FOOTER,
    INK,
    NO_BRAIN,
    QUALITY,
    RULE,
    SOFT,
    VIEW_MM,
    WARN,
    WARNING,
    PageContent,
    facts,
    made_by,
    mars_table,
    place_of,
    tiles,
)
from .glass_brain import draw_glass_brain

# Inches
WIDTH, HEIGHT, EDGE = 8.27, 11.69, 0.55
INNER = WIDTH - 2 * EDGE
TILES, BRAINS, ROW, CAPTION, GAP = 0.74, 2.15, 0.168, 0.2, 0.03
LONG = "deep and periventricular white matter"
CUT = " ..."  # at the end of what is longer than its place
TITLE = 38  # characters of the title at its full size, left of the warning


class _Sheet:
    """A figure of A4 whose places are given in inches from the upper left corner."""

    def __init__(self) -> None:
        self.figure = Figure(figsize=(WIDTH, HEIGHT))

    def write(self, x: float, y: float, text: str, **style: object) -> None:
        """Text whose left end is at ``x`` and whose middle is at ``y``; ``style`` as for ``Figure.text``."""
        style = {"fontsize": 8, "color": INK, "va": "center", **style}
        self.figure.text(x / WIDTH, 1 - y / HEIGHT, text, **style)  # type: ignore[arg-type]

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes for a picture, their upper left corner at ``x``, ``y``."""
        return self.figure.add_axes((x / WIDTH, 1 - (y + height) / HEIGHT, width / WIDTH, height / HEIGHT))

    def line(self, x: float, y: float, width: float, colour: str = RULE, weight: float = 0.8) -> None:
        """A horizontal rule; ``weight`` in points."""
        ends = ([x / WIDTH, (x + width) / WIDTH], [1 - y / HEIGHT] * 2)
        self.figure.add_artist(Line2D(*ends, color=colour, linewidth=weight, transform=self.figure.transFigure))

    def box(self, x: float, y: float, width: float, height: float, colour: str, edge: str = "none") -> None:
        """A filled rectangle with round corners, its upper left one at ``x``, ``y``."""
        place = (x / WIDTH, 1 - (y + height) / HEIGHT)
        style = "round,pad=0,rounding_size=0.006"
        patch = FancyBboxPatch(place, width / WIDTH, height / HEIGHT, boxstyle=style, facecolor=colour, edgecolor=edge,
                               mutation_aspect=WIDTH / HEIGHT, transform=self.figure.transFigure)  # fmt: skip
        self.figure.add_artist(patch)

    def heading(self, x: float, y: float, text: str, aside: str = "", width: float = INNER) -> None:
        """A bold line, with a small one in grey at the right end of ``width``."""
        self.write(x, y, text, fontsize=9.5, weight="bold")
        if aside:
            self.write(x + width, y, aside, fontsize=7, color=SOFT, ha="right")


def case_page(content: PageContent) -> Figure:
    """The page; it holds every lesion in its counts and glass brain, and as many on three planes as have room."""
    sheet = _Sheet()
    top = _header(sheet, content)
    top = _tiles(sheet, content, top)
    top = _glass_brains(sheet, content, top)
    top = _tables(sheet, content, top)
    _planes(sheet, content, top)
    sheet.line(EDGE, HEIGHT - 0.46, INNER)
    sheet.write(EDGE, HEIGHT - 0.32, FOOTER, fontsize=7.5, color=WARN, weight="bold")
    return sheet.figure


def _header(sheet: _Sheet, content: PageContent) -> float:
    predictions = content.predictions
    case = predictions.case_id if len(predictions.case_id) <= 44 else f"...{predictions.case_id[-41:]}"
    title = f"Cerebral microbleeds: {case}"
    sheet.write(EDGE, 0.56, title, fontsize=15 * min(1.0, TITLE / len(title)), weight="bold")
    words = [word if len(word) <= 60 else f"{word[:57]}..." for word in made_by(predictions)]
    sheet.write(EDGE, 0.82, "   ·   ".join(words), fontsize=7.5, color=SOFT)
    sheet.box(WIDTH - EDGE - 1.62, 0.42, 1.62, 0.27, WARN)
    sheet.write(WIDTH - EDGE - 0.81, 0.558, WARNING, fontsize=8.5, color="white", weight="bold", ha="center")
    return 1.02


def _tiles(sheet: _Sheet, content: PageContent, top: float) -> float:
    """Big numbers of definite microbleeds."""
    shown = tiles(content)
    width = (INNER - 0.12 * (len(shown) - 1)) / len(shown)
    for index, tile in enumerate(shown):
        x = EDGE + index * (width + 0.12)
        sheet.box(x, top, width, TILES, "#f4f6f9")
        sheet.box(x, top, 0.06, TILES, tile.colour)
        sheet.write(x + 0.2, top + 0.31, tile.count, fontsize=21, weight="bold", color=tile.colour)
        sheet.write(x + 0.2, top + 0.6, tile.name, fontsize=8, color=SOFT)
        sheet.write(x + width - 0.1, top + 0.33, tile.remark, fontsize=8, color=SOFT, ha="right")
    return top + TILES + 0.24


def _glass_brains(sheet: _Sheet, content: PageContent, top: float) -> float:
    sheet.heading(EDGE, top, "Where they lie", "seen through the brain; size by diameter, hollow: possible")
    if content.nothing_to_place:
        sheet.write(EDGE, top + 0.3, NO_BRAIN, fontsize=9, color=WARN)
        return top + 0.6
    width = INNER / 3
    turned = Mapping.plan(content.predictions.grid)
    for index, (name, letter, down, right) in enumerate(PLANES):
        axes = sheet.axes(EDGE + index * width, top + 0.14, width, BRAINS)
        axes.set_axis_off()
        axes.set_aspect("equal")
        draw_glass_brain(axes, content, turned, down, right)
        axes.text(0.5, 0.0, name, transform=axes.transAxes, ha="center", fontsize=7, color=SOFT)
        axes.text(0.0, 0.5, letter, transform=axes.transAxes, va="center", fontsize=7.5, color=SOFT)
    return top + 0.14 + BRAINS + 0.2


def _tables(sheet: _Sheet, content: PageContent, top: float) -> float:
    """The MARS table on the left, what it amounts to on the right; the lower end of the longer of the two."""
    width = INNER * 0.56
    low = _mars(sheet, content, EDGE, top, width)
    right = _facts(sheet, content, EDGE + width + 0.3, top, INNER - width - 0.3)
    return max(low, right) + 0.2


def _mars(sheet: _Sheet, content: PageContent, left: float, top: float, width: float) -> float:
    sheet.heading(left, top, "Microbleed Anatomical Rating Scale")
    ends = [left + width * share for share in (0.66, 0.77, 0.88, 1.0)]
    y = top + 0.2
    for x, word in zip(ends, ("right", "left", "all", "possible"), strict=True):
        sheet.write(x, y, word, fontsize=7, color=SOFT, ha="right")
    y += 0.13
    *rows, last = mars_table(content)
    previous = ""
    for row in rows:
        if row.group != previous:
            sheet.line(left, y - ROW / 2 + 0.005, width)
            sheet.write(left, y, row.group, fontsize=7, weight="bold", color=COLOURS[row.group])
            previous = row.group
        sheet.write(left + 0.88, y, row.region.replace(LONG, "deep, periventricular white m."), fontsize=7.3)
        for x, value in zip(ends, row.counts, strict=True):
            _number(sheet, x, y, value)
        y += ROW
    sheet.line(left, y - ROW / 2 + 0.005, width, INK)
    sheet.write(left, y, last.group, fontsize=7.5, weight="bold")
    for x, value in zip(ends, last.counts, strict=True):
        _number(sheet, x, y, value)
    return y + ROW / 2


def _number(sheet: _Sheet, x: float, y: float, value: int | None) -> None:
    """Zeros recede, so that the eye finds the lesions."""
    text = "–" if value is None else str(value)
    sheet.write(
        x, y, text, fontsize=7.5, ha="right", color=INK if value else "#b3bac7", weight="bold" if value else None
    )


def _facts(sheet: _Sheet, content: PageContent, left: float, top: float, width: float) -> float:
    sheet.heading(left, top, "What it amounts to")
    y = top + 0.26
    for fact in facts(content):
        colour = WARN if fact.doubtful else INK
        sheet.write(left, y, fact.label.upper(), fontsize=6, color=SOFT)
        for line in textwrap.wrap(fact.value, 38, max_lines=2, placeholder=CUT):
            y += 0.15
            sheet.write(left, y, line, fontsize=9, weight="bold", color=colour)
        for line in remark_lines(fact.remarks, *((54, 8) if fact.label == QUALITY else (58, 3))):
            y += 0.135
            sheet.write(left, y, line, fontsize=7, color=WARN if fact.doubtful else SOFT)
        y += 0.215
    return y - 0.2


def remark_lines(remarks: Sequence[str], width: int, most: int) -> list[str]:
    """Sentences in at most so many lines: as many as have room, and how many more there are.

    Args:
        remarks: the sentences.
        width: characters of a line.
        most: lines.
    """
    for shown in range(len(remarks), 0, -1):
        more = [f"({len(remarks) - shown} more on the HTML page)"] if shown < len(remarks) else []
        lines = textwrap.wrap(" ".join([*remarks[:shown], *more]), width)
        if len(lines) <= most:
            return lines
    return textwrap.wrap(" ".join(remarks), width, max_lines=most, placeholder=CUT)


def lesions_on_planes(certainty: Sequence[str], most: int, lowest: int) -> tuple[list[int], str]:
    """Which lesions are shown, and how they were chosen in words: no possible one in place of a definite one.

    Args:
        certainty: ``definite`` or ``possible``, highest score first.
        most: number of places.
        lowest: how many of them go to the lowest scores of the definite ones, where these are too many.
    """
    definite = [index for index, word in enumerate(certainty) if word == "definite"]
    if len(certainty) <= most:
        return [*range(len(certainty))], "highest score first"
    if len(definite) <= most:
        possible = [index for index, word in enumerate(certainty) if word != "definite"]
        return sorted([*definite, *possible[: most - len(definite)]]), f"{most} of {len(certainty)}: the highest scores"
    lowest = min(lowest, most // 2)
    chosen = [*definite[: most - lowest], *definite[len(definite) - lowest :]]
    choice = f"the {most - lowest} highest scores and the {lowest} lowest of the definite"
    return chosen, f"{most} of {len(certainty)}: {choice}"


def _planes(sheet: _Sheet, content: PageContent, top: float) -> None:
    """Lesions on three planes, as many as there is room for."""
    room = HEIGHT - 0.56 - top - 0.12
    rows = content.shown
    columns = 2 if len(rows) <= 4 else 3
    width = (INNER - 0.16 * (columns - 1)) / columns
    side = (width - 2 * GAP) / 3
    # Rather a line more of somewhat smaller planes than an empty end of the page.
    lines = max(1, int(room // (0.85 * side + CAPTION + 0.06)))
    side = min(side, room / lines - CAPTION - 0.06) if len(rows) > (lines - 1) * columns else side
    chosen, choice = lesions_on_planes([content.certainty[row] for row in rows], lines * columns, columns)
    sheet.heading(EDGE, top, "The lesions", f"{choice}; diameter and score; planes of {VIEW_MM:g} mm" if rows else "")
    if not rows:
        sheet.write(EDGE, top + 0.3, "No microbleed was found.", fontsize=9, color=SOFT)
        return
    window = intensity_window(content.scan[0]) if content.scan is not None else (0.0, 1.0)
    for place, index in enumerate(chosen):
        x = EDGE + place % columns * (width + 0.16)
        y = top + 0.12 + place // columns * (side + CAPTION + 0.06)
        lesion, row = content.lesions[index], rows[index]
        colour = COLOURS[lesion.group]
        size, score = content.predictions.diameters_mm[row], content.predictions.detections.scores[row]
        sheet.write(x, y + CAPTION / 2, f"{index + 1}", fontsize=7.5, weight="bold", color=colour)
        offset = 0.06 + 0.07 * len(str(index + 1))
        sheet.write(x + offset, y + CAPTION / 2, place_of(lesion).replace(LONG, "deep white matter"), fontsize=7)
        sheet.write(
            x + 3 * side + 2 * GAP, y + CAPTION / 2, f"{size:.1f} mm  {score:.2f}", fontsize=6.5, color=SOFT, ha="right"
        )
        crop = None
        if content.scan is not None:
            box = content.predictions.detections.boxes[row]
            crop = crop_planes(*content.scan, Entry("", FALSE, 0, box, float(size)), window, VIEW_MM)
        for plane in range(3):
            axes = sheet.axes(x + plane * (side + GAP), y + CAPTION, side, side)
            draw_plane(axes, crop, plane, colour, FALSE, with_names=place == 0)
