"""Each new lesion on three planes, in the scan before and in the scan that shows it, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

from cmb_plugin.evaluation.listing import FALSE, MISSED
from cmb_plugin.images import Grid
from cmb_plugin.reporting.figures import GREEN, GREY, VERMILION
from cmb_plugin.reporting.gallery import PLANES, Crop, draw_plane, intensity_window

from .comparison import Track
from .registration import Alignment
from .visits import Scan

VIEW_MM, STEP_MM = 36.0, 0.5  # field of view, and distance of the points at which both scans are read
PER_PAGE = 10
FOOTER = "Research use only. Solid: what the network marks; dashed: the same place in the scan before."

# Inches
SIDE, GAP, BETWEEN, CAPTION, TITLE, EDGE = 1.3, 0.04, 0.3, 0.26, 0.62, 0.22


@dataclass(frozen=True)
class NewLesion:
    """What is drawn of one lesion.

    Attributes:
        caption: its number, scores and size.
        names: of the scan before and of the scan that shows it.
        crops: of both, cut along the world's axes of the later scan.
    """

    caption: str
    names: tuple[str, str]
    crops: tuple[Crop, Crop]

    @classmethod
    def of(
        cls, number: int, track: Track, scans: Sequence[Scan], alignments: Sequence[Alignment], before: int
    ) -> NewLesion:
        """Cuts both scans around a lesion.

        Args:
            number: of the lesion.
            track: new at some visit.
            scans, alignments: as in ``compare``.
            before: the visit that is shown beside.
        """
        assert track.new_at is not None
        later = scans[track.new_at]
        row = track.rows[track.new_at]
        centre = later.grid.to_world(later.predictions.detections.centres[row : row + 1])[0]
        half = VIEW_MM / 2
        steps = np.arange(-half + STEP_MM / 2, half, STEP_MM)
        up, back, left = np.meshgrid(steps, steps, steps, indexing="ij")
        points = np.stack([left, back, up], axis=-1).reshape(-1, 3) + centre  # world L, P, S
        moved = alignments[track.new_at - 1].to_first(points)
        if before:
            moved = alignments[before - 1].to_other(moved)
        # Half the sides in mm of the box along S, P, L: what the detection's box in voxels becomes along the world.
        sides = later.predictions.detections.sizes[row] * np.asarray(later.grid.spacing)
        axes = np.abs(np.reshape(later.grid.direction, (3, 3)))[::-1, ::-1]
        reach = axes @ sides / 2
        box = np.concatenate([-reach, reach])
        crops = (_crop(scans[before], moved, box, len(steps)), _crop(later, points, box, len(steps)))
        earlier = track.scores.get(before, 0.0)
        caption = (
            f"Lesion {number}    score {earlier:.2f} before, {track.scores[track.new_at]:.2f} now    "
            f"{later.predictions.diameters_mm[row]:.1f} mm"
        )
        places = [str(later.predictions.detections.columns[name][row]) for name in ("region_group", "side")
                  if name in later.predictions.detections.columns]  # fmt: skip
        caption += "    " + " ".join(place for place in places if place)
        return cls(caption.rstrip(), (scans[before].visit.name, later.visit.name), crops)


def _crop(scan: Scan, points: np.ndarray, box: np.ndarray, side: int) -> Crop:
    cube = _read(scan.image, scan.grid, points).reshape(side, side, side)
    half = VIEW_MM / 2
    middle = side // 2
    images = []
    for _, _, down, right in PLANES:
        index: list[slice | int] = [slice(None)] * 3
        index[3 - down - right] = middle
        images.append(cube[tuple(index)])
    extents = ((-half, half, half, -half),) * 3
    return Crop(tuple(images), extents, box, None, intensity_window(scan.image), VIEW_MM)


def _read(image: np.ndarray, grid: Grid, points: np.ndarray) -> np.ndarray:
    """The scan at world points, linear between voxels, 0 beyond it."""
    index = grid.from_world(points) - 0.5
    low = np.clip(np.floor(index.min(axis=0)).astype(int) - 1, 0, np.asarray(grid.shape) - 1)
    high = np.clip(np.ceil(index.max(axis=0)).astype(int) + 2, low + 1, grid.shape)
    part = np.nan_to_num(image[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(np.float32))
    values: np.ndarray = ndimage.map_coordinates(part, (index - low).T, order=1, mode="constant")
    return values


def new_lesions_figure(person: str, lesions: Sequence[NewLesion], total: int) -> Figure:
    """One row for each lesion: three planes before, three planes now, in radiological view.

    Args:
        person: for the title.
        lesions: of this page.
        total: number of new lesions on all pages.
    """
    group = len(PLANES) * SIDE + (len(PLANES) - 1) * GAP
    width = 2 * EDGE + 2 * group + BETWEEN
    height = TITLE + len(lesions) * (CAPTION + SIDE + 0.06) + 0.4
    figure = Figure(figsize=(width, height))

    def write(x: float, top: float, text: str, **style: object) -> None:
        """Text at ``x`` inches from the left and ``top`` inches from the upper edge."""
        figure.text(x / width, 1 - top / height, text, va="center", **style)  # type: ignore[arg-type]

    plural = "" if total == 1 else "s"
    write(EDGE, 0.25, f"{person}: {total} new microbleed{plural}", fontsize=12, weight="bold")
    write(width - EDGE, 0.25, f"{VIEW_MM:g} mm crops", fontsize=8, color="0.4", ha="right")
    for number, lesion in enumerate(lesions):
        top = TITLE + number * (CAPTION + SIDE + 0.06)
        write(EDGE, top - 0.02, lesion.caption, fontsize=8.5, weight="bold")
        if not number or lesion.names != lesions[number - 1].names:
            before, now = (name if len(name) <= 24 else f"...{name[-21:]}" for name in lesion.names)
            label = f"left: {before}    right: {now}"  # the caption needs the left half for itself
            write(width - EDGE, top - 0.02, label, fontsize=8, color="0.35", ha="right")
        for column, crop in enumerate(lesion.crops):
            x = EDGE + column * (group + BETWEEN)
            for plane in range(len(PLANES)):
                left, bottom = x + plane * (SIDE + GAP), height - (top + CAPTION / 2 + SIDE)
                axes = figure.add_axes((left / width, bottom / height, SIDE / width, SIDE / height))
                colour, status = (VERMILION, FALSE) if column else (GREEN, MISSED)
                draw_plane(axes, crop, plane, colour, status, with_names=number == 0)
    write(EDGE, height - 0.16, FOOTER, fontsize=7.5, color=GREY)
    return figure
