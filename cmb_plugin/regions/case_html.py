"""The page of one scan as HTML: what the A4 page shows, with every lesion in a table, and what was removed and why."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from cmb_plugin.dataset.predictions import REMOVED
from cmb_plugin.evaluation.listing import FALSE, Entry
from cmb_plugin.images import Mapping
from cmb_plugin.reporting.figures import Picture, embed
from cmb_plugin.reporting.gallery import PLANES, crop_planes, draw_plane, intensity_window
from cmb_plugin.reporting.pages import PageTable, render

from .case_content import (
    COLOURS,
    FOOTER,
    NO_BRAIN,
    QUALITY,
    SOFT,
    VIEW_MM,
    WARN,
    PageContent,
    facts,
    made_by,
    mars_table,
    place_of,
    tiles,
)
from .glass_brain import draw_glass_brain

PICTURES = 60  # lesions with pictures: some 20 kB each
SIDE = 1.1  # inches of a plane


def case_html(content: PageContent) -> str:
    """The page as text; it holds its pictures itself and loads nothing."""
    return render(
        "case",
        title=f"Cerebral microbleeds: {content.predictions.case_id}",
        footer=FOOTER,
        warn=WARN,
        made_by=made_by(content.predictions),
        tiles=tiles(content),
        flags=content.flags,
        brain=None if content.nothing_to_place else _glass_brains(content),
        no_brain=NO_BRAIN,
        mars=_mars(content),
        facts=[fact for fact in facts(content) if fact.label != QUALITY],
        lesions=_lesions(content),
        pictures=_pictures(content),
        view_mm=VIEW_MM,
        removed=_removed(content),
    )


def _glass_brains(content: PageContent) -> Picture:
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    turned = Mapping.plan(content.predictions.grid)
    for axes, (name, letter, down, right) in zip(np.ravel(figure.subplots(1, 3)), PLANES, strict=True):
        axes.set_axis_off()
        axes.set_aspect("equal")
        draw_glass_brain(axes, content, turned, down, right)
        axes.text(0.5, 0.0, name, transform=axes.transAxes, ha="center", fontsize=8, color=SOFT)
        axes.text(0.0, 0.5, letter, transform=axes.transAxes, va="center", fontsize=8, color=SOFT)
    shown = ", ".join(f"{tile.count} {tile.name}" for tile in tiles(content)[1:])
    return embed(figure, f"The brain from three sides with its microbleeds: {shown}")


def _mars(content: PageContent) -> PageTable:
    rows = [(f"{row.group}: {row.region}".removesuffix(": "), *row.counts) for row in mars_table(content)]
    return PageTable(("", "right", "left", "all", "possible"), rows)


def _lesions(content: PageContent) -> PageTable:
    predictions = content.predictions
    detections, world = predictions.detections, _world(content)
    rows = []
    for label, (row, lesion) in enumerate(zip(content.shown, content.lesions, strict=True), start=1):
        size, score = f"{predictions.diameters_mm[row]:.1f}", f"{detections.scores[row]:.2f}"
        rows.append((label, place_of(lesion), lesion.certainty, size, score, *world[row]))
    return PageTable(("", "place", "certainty", "diameter, mm", "score", "right", "front", "up"), rows)


def _world(content: PageContent) -> list[list[str]]:
    """Centres of all detections in RAS mm."""
    predictions = content.predictions
    places = predictions.grid.to_world(predictions.detections.centres) * (-1.0, -1.0, 1.0)
    return [[f"{value:.1f}" for value in place] for place in places.tolist()]


def _pictures(content: PageContent) -> list[Picture]:
    if content.scan is None:
        return []
    predictions, window = content.predictions, intensity_window(content.scan[0])
    pictures = []
    for label, (row, lesion) in enumerate(zip(content.shown[:PICTURES], content.lesions, strict=False), start=1):
        size = float(predictions.diameters_mm[row])
        entry = Entry("", FALSE, 0, predictions.detections.boxes[row], size)
        crop = crop_planes(*content.scan, entry, window, VIEW_MM)
        figure = Figure(figsize=(3 * SIDE, SIDE))
        for plane in range(len(PLANES)):
            axes = figure.add_axes((plane / 3 + 0.003, 0.0, 0.327, 1.0))
            draw_plane(axes, crop, plane, COLOURS[lesion.group], FALSE, with_names=label == 1)
        score = float(predictions.detections.scores[row])
        pictures.append(embed(figure, f"Lesion {label}, {place_of(lesion)}: {size:.1f} mm, score {score:.2f}"))
    return pictures


def _removed(content: PageContent) -> PageTable:
    predictions, world = content.predictions, _world(content)
    gone = np.flatnonzero(predictions.withheld).tolist()
    rows = []
    for row in gone:
        size, score = f"{predictions.diameters_mm[row]:.1f}", f"{predictions.detections.scores[row]:.2f}"
        rows.append((str(predictions.detections.columns[REMOVED][row]), size, score, *world[row]))
    return PageTable(("why", "diameter, mm", "score", "right", "front", "up"), rows)
