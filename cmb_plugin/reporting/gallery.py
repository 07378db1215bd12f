"""The gallery: found, missed and false detections as crops of the scan in three planes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from cmb_plugin.errors import UserError
from cmb_plugin.evaluation.listing import FALSE, FOUND, MISSED, Entry
from cmb_plugin.images import Grid, Mapping

from .figures import BLUE, GREEN, VERMILION, YELLOW, save_figure

WIDTH_MM = 40.0  # field of view of a crop
MARGIN_MM = 1.0  # boxes are drawn so much wider on each side, or they would hide what they enclose
PER_ROW, ROWS = 3, 2  # entries per row, rows per section and page
# Name, letter at the left edge, axis that runs down, axis that runs right (arrays are turned to z, y, x = S, P, L).
PLANES = (("axial", "R", 1, 2), ("coronal", "R", 0, 2), ("sagittal", "A", 0, 1))

# Inches
SIDE, GAP, BETWEEN, CAPTION, HEADING, TITLE, EDGE = 1.25, 0.04, 0.22, 0.24, 0.34, 0.5, 0.2

ReadScan = Callable[[str], tuple[np.ndarray, Grid]]


@dataclass(frozen=True)
class Section:
    """Entries under one heading, drawn in one colour."""

    heading: str
    colour: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Crop:
    """Three planes through the centre of an entry's box.

    Attributes:
        images: one array [down, right] per plane.
        extents: (left, right, bottom, top) of each in mm from the centre.
        box, lesion_box: [6] in mm from the centre, along z, y, x of the turned array.
        window: darkest and brightest intensity to show.
        width_mm: field of view.
    """

    images: tuple[np.ndarray, ...]
    extents: tuple[tuple[float, float, float, float], ...]
    box: np.ndarray
    lesion_box: np.ndarray | None
    window: tuple[float, float]
    width_mm: float = WIDTH_MM


def write_gallery(
    folder: Path, entries: Sequence[Entry], classes: Sequence[str], read_scan: ReadScan, title: str = "", pages: int = 4
) -> list[Path]:
    """Writes ``gallery.png`` and, where there is more to see, ``gallery_2.png``, ...; returns their paths.

    The first page shows found lesions of the highest and of the lowest scores; missed lesions (largest first) and false
    detections (highest score first) go on over the pages.

    Args:
        folder: where to write; pages of an earlier run are removed.
        entries: from ``list_entries``.
        classes: class names by index.
        read_scan: case name -> array [z, y, x] and its grid; called once per case and page.
        title: first line of the first page.
        pages: at most so many pages.
    """
    for old in folder.glob("gallery*.png"):
        old.unlink()
    paths = []
    for number, sections in enumerate(_pages(entries)[:pages], start=1):
        path = folder / ("gallery.png" if number == 1 else f"gallery_{number}.png")
        save_figure(gallery_figure(sections, classes, read_scan, title), path)
        paths.append(path)
    return paths


def _pages(entries: Sequence[Entry]) -> list[list[Section]]:
    found, missed, false = ([e for e in entries if e.status == status] for status in (FOUND, MISSED, FALSE))
    found.sort(key=lambda e: -(e.score or 0.0))
    missed.sort(key=lambda e: -e.diameter_mm)
    false.sort(key=lambda e: -(e.score or 0.0))
    size = PER_ROW * ROWS
    shown = found if len(found) <= size else found[:PER_ROW] + found[-PER_ROW:]
    choice = "" if len(found) <= size else f": the {PER_ROW} highest scores, then the {PER_ROW} lowest"
    n_lesions = len(found) + len(missed)
    first = [
        Section(f"Found: {len(found)} of {n_lesions} lesions{choice}", GREEN, tuple(shown)),
        Section(f"Missed: {len(missed)} of {n_lesions} lesions, largest first", BLUE, tuple(missed[:size])),
        Section(f"False: {len(false)} detections, highest score first", VERMILION, tuple(false[:size])),
    ]
    pages = [first]
    for start in range(size, max(len(missed), len(false)), size):
        more = [
            Section(f"Missed, {start + 1} and following", BLUE, tuple(missed[start : start + size])),
            Section(f"False, {start + 1} and following", VERMILION, tuple(false[start : start + size])),
        ]
        pages.append([section for section in more if section.entries])
    return pages


def gallery_figure(sections: Sequence[Section], classes: Sequence[str], read_scan: ReadScan, title: str = "") -> Figure:
    """One page: every entry as an axial, a coronal and a sagittal crop of 40 mm, in radiological view.

    The detection's box is drawn in the colour of its section, the box of the lesion that it found dashed in yellow.
    """
    crops = _read_crops([entry for section in sections for entry in section.entries], read_scan)
    item = len(PLANES) * SIDE + (len(PLANES) - 1) * GAP
    rows = [max(1, -(-len(section.entries) // PER_ROW)) if section.entries else 0 for section in sections]
    width = 2 * EDGE + PER_ROW * item + (PER_ROW - 1) * BETWEEN
    height = TITLE + EDGE + len(sections) * HEADING + sum(rows) * (CAPTION + SIDE + BETWEEN / 2)
    figure = Figure(figsize=(width, height))

    def write(x: float, top: float, text: str, **style: object) -> None:
        """Text at ``x`` inches from the left and ``top`` inches from the upper edge."""
        figure.text(x / width, 1 - top / height, text, va="center", **style)  # type: ignore[arg-type]

    write(EDGE, TITLE * 0.4, title, fontsize=12, weight="bold")
    note = (
        f"{WIDTH_MM:g} mm crops; solid: detection, dashed: reference; boxes drawn {MARGIN_MM:g} mm wider on each side"
    )
    write(width - EDGE, TITLE * 0.4, note, fontsize=8, color="0.4", ha="right")
    top = TITLE
    for section, n_rows in zip(sections, rows, strict=True):
        write(EDGE, top + HEADING / 2, section.heading, fontsize=11, weight="bold", color=section.colour)
        top += HEADING
        for number, entry in enumerate(section.entries):
            row, column = divmod(number, PER_ROW)
            x = EDGE + column * (item + BETWEEN)
            y = top + row * (CAPTION + SIDE + BETWEEN / 2)
            write(x, y + CAPTION / 2, _caption(entry, classes), fontsize=8)
            crop = crops.get(id(entry))
            for plane in range(len(PLANES)):
                left, bottom = x + plane * (SIDE + GAP), height - (y + CAPTION + SIDE)
                axes = figure.add_axes((left / width, bottom / height, SIDE / width, SIDE / height))
                draw_plane(axes, crop, plane, section.colour, entry.status, with_names=number == 0)
        top += n_rows * (CAPTION + SIDE + BETWEEN / 2)
    return figure


def _caption(entry: Entry, classes: Sequence[str]) -> str:
    case = entry.case_id if len(entry.case_id) <= 28 else f"...{entry.case_id[-25:]}"
    parts = [case, classes[entry.label]]
    if entry.score is not None:
        parts.append(f"score {entry.score:.2f}")
    parts.append(f"{entry.diameter_mm:.1f} mm")
    if entry.status == FOUND:
        parts.append(f"{entry.distance_mm:.1f} mm off")
    return "  ".join(parts)


def _read_crops(entries: Sequence[Entry], read_scan: ReadScan) -> dict[int, Crop]:
    """Crops by ``id`` of the entry; a case whose scan cannot be read has none."""
    crops = {}
    for case_id in dict.fromkeys(entry.case_id for entry in entries):
        try:
            array, grid = read_scan(case_id)
        except UserError:
            continue
        window = intensity_window(array)
        for entry in entries:
            if entry.case_id == case_id:
                crops[id(entry)] = crop_planes(array, grid, entry, window)
    return crops


def intensity_window(array: np.ndarray) -> tuple[float, float]:
    """The 1st and the 99.5th percentile of what is not background."""
    values = array[::2, ::2, ::2]
    values = values[np.isfinite(values) & (values != 0)]
    if not len(values):
        return 0.0, 1.0
    low, high = np.percentile(values, [1.0, 99.5])
    return float(low), float(max(high, low + 1e-6))


def crop_planes(
    array: np.ndarray, grid: Grid, entry: Entry, window: tuple[float, float], width_mm: float = WIDTH_MM
) -> Crop:
    """Cuts three planes through the centre of ``entry.box`` out of a scan of any orientation."""
    turned = Mapping.plan(grid)
    oriented = turned.orient(array)
    spacing = np.asarray(turned.oriented_spacing)
    box = turned.boxes_to_network(np.asarray(entry.box)[None])[0]
    centre = (box[:3] + box[3:]) / 2
    shape = np.asarray(oriented.shape)
    half = width_mm / 2 / spacing
    start = np.clip(np.floor(centre - half), 0, shape - 1).astype(int)
    stop = np.clip(np.ceil(centre + half), start + 1, shape).astype(int)
    index = np.clip(np.floor(centre), 0, shape - 1).astype(int)
    low, high = (start - centre) * spacing, (stop - centre) * spacing
    images, extents = [], []
    for _, _, down, right in PLANES:
        across = 3 - down - right
        window_of = [slice(a, b) for a, b in zip(start, stop, strict=True)]
        window_of[across] = slice(index[across], index[across] + 1)
        images.append(np.nan_to_num(np.squeeze(oriented[tuple(window_of)], axis=across).astype(np.float32)))
        extents.append((low[right], high[right], high[down], low[down]))
    lesion = None
    if entry.lesion_box is not None:
        lesion = turned.boxes_to_network(np.asarray(entry.lesion_box)[None])[0]
        lesion = (lesion - np.tile(centre, 2)) * np.tile(spacing, 2)
    return Crop(
        images=tuple(images),
        extents=tuple(extents),
        box=(box - np.tile(centre, 2)) * np.tile(spacing, 2),
        lesion_box=lesion,
        window=window,
        width_mm=width_mm,
    )


def draw_plane(axes: Axes, crop: Crop | None, plane: int, colour: str, status: str, with_names: bool) -> None:
    """Draws one of ``PLANES`` of a crop, with its boxes; an empty frame where there is no crop."""
    name, letter, down, right = PLANES[plane]
    axes.set(xticks=[], yticks=[], facecolor="black")
    for spine in axes.spines.values():
        spine.set_visible(False)
    half = (WIDTH_MM if crop is None else crop.width_mm) / 2
    axes.set_xlim(-half, half)
    # The turned array's first axis runs up, its second towards the back: down in the axial plane.
    axes.set_ylim(*((half, -half) if down == 1 else (-half, half)))
    if crop is None:
        if plane == 0:
            axes.text(0, 0, "scan not readable", color="0.7", fontsize=7, ha="center")
        return
    low, high = crop.window
    left, right_edge, bottom, top = crop.extents[plane]
    # imshow takes the extent as left, right, edge of the last row, edge of the first row, whichever way the axis runs.
    axes.imshow(
        crop.images[plane],
        extent=(left, right_edge, bottom, top),
        origin="upper",
        cmap="gray",
        vmin=low,
        vmax=high,
        interpolation="bicubic",
        aspect="auto",
    )
    axes.set_xlim(-half, half)
    axes.set_ylim(*((half, -half) if down == 1 else (-half, half)))
    if crop.lesion_box is not None and status != FALSE and status != MISSED:
        _draw_box(axes, crop.lesion_box, down, right, YELLOW, "--", 0.9)
    _draw_box(axes, crop.box, down, right, colour, "--" if status == MISSED else "-", 1.2)
    if with_names:
        for y, label in ((0.06, name), (0.5, letter)):
            text = axes.text(0.03, y, label, color="white", fontsize=7, va="center", transform=axes.transAxes)
            text.set_path_effects([withStroke(linewidth=1.5, foreground="black")])  # legible on bright tissue too


def _draw_box(axes: Axes, box: np.ndarray, down: int, right: int, colour: str, style: str, width: float) -> None:
    x, y = box[right] - MARGIN_MM, box[down] - MARGIN_MM
    across, along = box[3 + right] - box[right] + 2 * MARGIN_MM, box[3 + down] - box[down] + 2 * MARGIN_MM
    axes.add_patch(Rectangle((x, y), across, along, fill=False, edgecolor=colour, linestyle=style, linewidth=width))
