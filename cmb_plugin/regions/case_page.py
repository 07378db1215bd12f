"""One A4 page per scan: how many microbleeds, where they lie in a glass brain, the MARS table, each on three planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch

from cmb_plugin.anatomy.counts import SIDES, Lesion, burden, mars_rows, number, pattern
from cmb_plugin.anatomy.regions import CODES, GROUPS, UNKNOWN, RegionMap
from cmb_plugin.dataset import CasePredictions
from cmb_plugin.evaluation.listing import FALSE, Entry
from cmb_plugin.images import Grid, Mapping
from cmb_plugin.reporting.figures import BLUE, GREEN, GREY, VERMILION
from cmb_plugin.reporting.gallery import PLANES, crop_planes, draw_plane, intensity_window

COLOURS = {"lobar": BLUE, "deep": VERMILION, "infratentorial": GREEN, UNKNOWN: GREY}
INK, SOFT, RULE, WARN = "#1d2433", "#697386", "#d5dae3", "#a61b1b"
WARNING = "RESEARCH USE ONLY"
FOOTER = (
    "Research use only. This is no medical device: not for diagnosis or treatment. Every lesion needs a reader's eye."
)

# Inches
WIDTH, HEIGHT, EDGE = 8.27, 11.69, 0.55
INNER = WIDTH - 2 * EDGE
TILES, BRAINS, ROW, CAPTION, GAP = 0.74, 2.15, 0.168, 0.2, 0.03
LONG = "deep and periventricular white matter"
TITLE = 38  # characters of the title at its full size, left of the warning
VIEW_MM = 30.0  # field of view of a lesion's planes
GLASS_MM = 1.5  # voxels of the glass brain


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
    def possible_known(self) -> bool:
        """Whether a sweep said from which score on a lesion is possible."""
        return (self.predictions.regions or {}).get("possible_score") is not None


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
    model = predictions.model if len(predictions.model) <= 60 else f"{predictions.model[:57]}..."
    own = f"cmb_plugin {version('cmb_plugin')}"
    words = [own, model, f"reported from score {predictions.operating_point:.2f} on"]
    sheet.write(EDGE, 0.82, "   ·   ".join(word for word in words if word), fontsize=7.5, color=SOFT)
    sheet.box(WIDTH - EDGE - 1.62, 0.42, 1.62, 0.27, WARN)
    sheet.write(WIDTH - EDGE - 0.81, 0.558, WARNING, fontsize=8.5, color="white", weight="bold", ha="center")
    return 1.02


def _tiles(sheet: _Sheet, content: PageContent, top: float) -> float:
    """Big numbers of definite microbleeds."""
    lesions = content.lesions
    tiles = [("microbleeds", number(lesions), INK)]
    tiles += [(group, number(lesions, group), COLOURS[group]) for group in GROUPS]
    if number(lesions, UNKNOWN):
        tiles.append(("place unknown", number(lesions, UNKNOWN), GREY))
    width = (INNER - 0.12 * (len(tiles) - 1)) / len(tiles)
    for index, (name, count, colour) in enumerate(tiles):
        x = EDGE + index * (width + 0.12)
        sheet.box(x, top, width, TILES, "#f4f6f9")
        sheet.box(x, top, 0.06, TILES, colour)
        shown = str(count) if index == 0 or name not in GROUPS or content.regions.trusted else "–"
        sheet.write(x + 0.2, top + 0.31, shown, fontsize=21, weight="bold", color=colour)
        sheet.write(x + 0.2, top + 0.6, name, fontsize=8, color=SOFT)
        if index == 0 and content.possible_known:
            extra = f"+ {number(lesions, certainty='possible')} possible"
            sheet.write(x + width - 0.1, top + 0.33, extra, fontsize=8, color=SOFT, ha="right")
    return top + TILES + 0.24


def _glass_brains(sheet: _Sheet, content: PageContent, top: float) -> float:
    sheet.heading(EDGE, top, "Where they lie", "seen through the brain; size by diameter, hollow: possible")
    width = INNER / 3
    turned = Mapping.plan(content.predictions.grid)
    for index, (name, letter, down, right) in enumerate(PLANES):
        axes = sheet.axes(EDGE + index * width, top + 0.14, width, BRAINS)
        axes.set_axis_off()
        axes.set_aspect("equal")
        _draw_glass(axes, content, turned, down, right)
        axes.text(0.5, 0.0, name, transform=axes.transAxes, ha="center", fontsize=7, color=SOFT)
        axes.text(0.0, 0.5, letter, transform=axes.transAxes, va="center", fontsize=7.5, color=SOFT)
    return top + 0.14 + BRAINS + 0.2


def _draw_glass(axes: Axes, content: PageContent, turned: Mapping, down: int, right: int) -> None:
    """The brain as a shadow, its deep and infratentorial parts tinted, the lesions as points."""
    spacing = np.asarray(turned.oriented_spacing)
    steps = [max(1, round(GLASS_MM / side)) for side in spacing]
    thin = tuple(slice(None, None, step) for step in steps)
    across = 3 - down - right
    size = np.asarray(turned.oriented_shape) * spacing
    extent = (0, size[right], size[down], 0)
    low, high = np.zeros(3), size
    if content.brain is not None and content.brain.any():
        brain = turned.orient(content.brain)[thin]
        depth = brain.sum(axis=across)
        shade = np.sqrt(depth / depth.max())
        axes.imshow(shade, extent=extent, cmap="Greys", vmin=0, vmax=3.2, interpolation="bilinear", aspect="equal",
                    alpha=(depth > 0).astype(float))  # fmt: skip
        middles = [
            (np.arange(n) + 0.5) * size[axis] / n for axis, n in ((right, depth.shape[1]), (down, depth.shape[0]))
        ]
        if min(depth.shape) > 1:
            closed = np.pad(depth > 0, 1)  # the outline runs along the edge of a scan that ends within the brain
            around = [np.concatenate([[0.0], places, [end]]) for places, end in zip(middles, extent[1:3], strict=True)]
            axes.contour(*around, closed, levels=[0.5], colors=SOFT, linewidths=0.8)
            codes = turned.orient(content.regions.group_codes())[thin] if content.regions.trusted else None
            for group in GROUPS[1:]:
                part = (codes == CODES[group]).any(axis=across) if codes is not None else np.zeros_like(depth, bool)
                if part.any() and not part.all():
                    axes.contourf(*middles, part, levels=[0.5, 1.5], colors=[COLOURS[group]], alpha=0.10)
        found = [np.flatnonzero(brain.any(axis=tuple(k for k in range(3) if k != axis))) for axis in range(3)]
        low = np.array([a[0] for a in found]) * steps * spacing - 6
        high = (np.array([a[-1] for a in found]) + 1) * steps * spacing + 6
    rows = content.shown
    places = turned.points_to_network(content.predictions.detections.centres[rows]) * spacing
    for label, (row, lesion, place) in reversed(
        list(enumerate(zip(rows, content.lesions, places, strict=True), start=1))
    ):
        colour, area = COLOURS[lesion.group], 5.0 * content.predictions.diameters_mm[row] ** 1.3
        face = colour if lesion.certainty == "definite" else "none"
        axes.scatter(place[right], place[down], s=area, facecolor=face, edgecolor=colour, linewidth=0.9, alpha=0.85)
        if len(rows) <= 12:
            axes.annotate(str(label), (place[right], place[down]), (3.2, 3.2), textcoords="offset points", fontsize=6,
                          color=INK)  # fmt: skip
        low, high = np.minimum(low, place - 4), np.maximum(high, place + 4)
    axes.set_xlim(low[right], high[right])
    # The turned array's first axis runs up, its second towards the back: down in the axial plane.
    axes.set_ylim(*((high[down], low[down]) if down == 1 else (low[down], high[down])))


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
    previous = ""
    for group, region in mars_rows(content.lesions, content.regions.sub_regions):
        if group in GROUPS and not content.regions.trusted:
            continue  # a row of zeros would say that there are none
        if group != previous:
            sheet.line(left, y - ROW / 2 + 0.005, width)
            sheet.write(left, y, group, fontsize=7, weight="bold", color=COLOURS[group])
            previous = group
        name = region or ("place unknown" if group == UNKNOWN else "sub-region not known")
        name = name.replace(LONG, "deep, periventricular white m.")
        sheet.write(left + 0.88, y, name, fontsize=7.3)
        which = {"group": group, "region": region}
        values = [number(content.lesions, side=side, **which) for side in SIDES[:2]]
        cells: list[int | None] = [*values, number(content.lesions, **which)]
        cells.append(number(content.lesions, certainty="possible", **which) if content.possible_known else None)
        for x, value in zip(ends, cells, strict=True):
            _number(sheet, x, y, value)
        y += ROW
    sheet.line(left, y - ROW / 2 + 0.005, width, INK)
    sheet.write(left, y, "all", fontsize=7.5, weight="bold")
    totals: list[int | None] = [number(content.lesions, side=side) for side in SIDES[:2]]
    totals += [
        number(content.lesions),
        number(content.lesions, certainty="possible") if content.possible_known else None,
    ]
    for x, value in zip(ends, totals, strict=True):
        _number(sheet, x, y, value)
    return y + ROW / 2


def _number(sheet: _Sheet, x: float, y: float, value: int | None) -> None:
    """Zeros recede, so that the eye finds the lesions."""
    text = "–" if value is None else str(value)
    sheet.write(
        x, y, text, fontsize=7.5, ha="right", color=INK if value else "#b3bac7", weight="bold" if value else None
    )


def _facts(sheet: _Sheet, content: PageContent, left: float, top: float, width: float) -> float:
    regions, lesions = content.regions, content.lesions
    predictions = content.predictions
    name, why = pattern(lesions)
    gone = int((predictions.removed & predictions.reached(predictions.operating_point)).sum())
    quality = "" if regions.quality is None else f", quality {regions.quality:.2f}"
    plural = "" if number(lesions) == 1 else "s"
    facts = [
        ("Burden", burden(number(lesions)), "of 0, 1, 2-4, >=5", INK),
        ("Pattern (Boston 2.0)", name, why, INK),
        ("ARIA-H", f"{number(lesions)} microhaemorrhage{plural}", "severity counts new ones: needs a baseline", INK),
        ("Regions from", f"{regions.source}{quality}" if regions.trusted else "unknown", regions.why,
         INK if regions.trusted else WARN),
        ("Removed", f"{gone} in impossible places", "reasons stand in the report file" if gone else "", INK),
    ]  # fmt: skip
    if content.flags:
        plural = "" if len(content.flags) == 1 else "s"
        facts.append(("Quality", f"{len(content.flags)} doubt{plural}", " ".join(content.flags), WARN))
    sheet.heading(left, top, "What it amounts to")
    y = top + 0.26
    for label, value, aside, colour in facts:
        sheet.write(left, y, label.upper(), fontsize=6, color=SOFT)
        for line in _wrapped(value, 38)[:2]:
            y += 0.15
            sheet.write(left, y, line, fontsize=9, weight="bold", color=colour)
        columns, most = (54, 8) if label == "Quality" else (58, 3)
        for line in _wrapped(aside, columns)[:most]:
            y += 0.135
            sheet.write(left, y, line, fontsize=7, color=SOFT if colour == INK else colour)
        y += 0.215
    return y - 0.2


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width)


def _planes(sheet: _Sheet, content: PageContent, top: float) -> None:
    """Lesions on three planes, highest score first; where there are too many, also the lowest scores."""
    room = HEIGHT - 0.56 - top - 0.12
    rows = content.shown
    columns = 2 if len(rows) <= 4 else 3
    width = (INNER - 0.16 * (columns - 1)) / columns
    side = (width - 2 * GAP) / 3
    # Rather a line more of somewhat smaller planes than an empty end of the page.
    lines = max(1, int(room // (0.85 * side + CAPTION + 0.06)))
    side = min(side, room / lines - CAPTION - 0.06) if len(rows) > (lines - 1) * columns else side
    most = lines * columns
    chosen = list(range(len(rows)))
    aside = f"{VIEW_MM:g} mm, highest score first"
    if len(rows) > most:
        last = columns
        chosen = [*range(most - last), *range(len(rows) - last, len(rows))]
        aside = f"{most} of {len(rows)}: the {most - last} highest scores, then the {last} lowest; {VIEW_MM:g} mm"
    sheet.heading(EDGE, top, "The lesions", aside if rows else "")
    if not rows:
        sheet.write(EDGE, top + 0.3, "No microbleed was found.", fontsize=9, color=SOFT)
        return
    window = intensity_window(content.scan[0]) if content.scan is not None else (0.0, 1.0)
    for place, index in enumerate(chosen):
        x = EDGE + place % columns * (width + 0.16)
        y = top + 0.12 + place // columns * (side + CAPTION + 0.06)
        lesion, row = content.lesions[index], rows[index]
        colour = COLOURS[lesion.group]
        words = [
            lesion.side,
            lesion.region.replace(LONG, "deep white matter") or lesion.group,
            "(possible)" if lesion.certainty == "possible" else "",
        ]
        size, score = content.predictions.diameters_mm[row], content.predictions.detections.scores[row]
        sheet.write(x, y + CAPTION / 2, f"{index + 1}", fontsize=7.5, weight="bold", color=colour)
        offset = 0.06 + 0.07 * len(str(index + 1))
        sheet.write(x + offset, y + CAPTION / 2, " ".join(word for word in words if word), fontsize=7)
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
