"""A page that shows one phantom: every modality, its lesions and what looks like them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .case import PhantomCase

TITLES = {"swi": "SWI", "phase": "high-passed phase", "t2s": "T2* magnitude", "qsm": "QSM", "t2": "T2"}
COLOURS = {
    "cmb": "#ff3b30",
    "iron": "#ffcc00",
    "calcification": "#34c759",
    "vein_straight": "#5ac8fa",
    "vein_curved": "#007aff",
    "pial_vessel": "#af52de",
    "air_sinus": "#ff9500",
}


def phantom_figure(case: PhantomCase, half_mm: float = 12.0) -> Figure:
    """All modalities in the slice of the first lesion; SWI slices with everything marked; crops of a lesion and of
    each mimic.

    Args:
        case: with ``swi`` among its images, and at least one lesion.
        half_mm: half the side of a crop.
    """
    figure = Figure(figsize=(15, 16.6), facecolor="white")
    rows = np.ravel(np.asarray(figure.subfigures(3, 1, height_ratios=[3.9, 4.9, 7.8])))
    z = int(_central_lesion(case)["centre"][0])
    head = _head(case)
    panels = rows[0].subplots(1, len(case.images), gridspec_kw=_tight(0.93, 0.01))
    for axes, (name, image) in zip(np.ravel(panels), case.images.items(), strict=True):
        _show(axes, case, name, image[z][head], (1, 2))
        axes.set_title(TITLES[name], fontsize=11)
    _marked_slices(rows[1], case, z, head)
    _crops(rows[2], case, half_mm)
    return figure


def _tight(top: float, bottom: float, left: float = 0.005) -> dict[str, float]:
    return {"left": left, "right": 0.995, "top": top, "bottom": bottom, "wspace": 0.03, "hspace": 0.03}


def _head(case: PhantomCase) -> tuple[slice, slice]:
    """The part of every slice that holds the head: the brain and 20 mm around it."""
    where = np.nonzero(case.brain.any(axis=0))
    margins = [round(20 / s) for s in case.grid.spacing[1:]]
    y, x = (slice(max(int(w.min()) - m, 0), int(w.max()) + m) for w, m in zip(where, margins, strict=True))
    return y, x


def _central_lesion(case: PhantomCase) -> dict[str, Any]:
    """The lesion in the slice nearest to the basal ganglia, where most can be seen."""
    wanted = [m["centre"][0] for m in case.mimics if m["kind"] == "iron"] or [case.grid.shape[0] / 2]
    return min(case.lesions, key=lambda lesion: abs(lesion["centre"][0] - np.mean(wanted)))


def _window(case: PhantomCase, name: str) -> tuple[float, float]:
    if name in ("phase", "qsm"):
        return {"phase": (-1.2, 1.2), "qsm": (-0.12, 0.25)}[name]
    return 0.0, float(np.percentile(case.images[name][case.brain > 0], 99.7))


def _show(axes: Axes, case: PhantomCase, name: str, plane: np.ndarray, across: tuple[int, int]) -> None:
    low, high = _window(case, name)
    aspect = case.grid.spacing[across[0]] / case.grid.spacing[across[1]]
    origin: Literal["upper", "lower"] = "upper" if across[0] == 1 else "lower"
    axes.imshow(plane, cmap="gray", vmin=low, vmax=high, aspect=aspect, origin=origin, interpolation="nearest")
    axes.set_axis_off()


def _marked_slices(panel: Any, case: PhantomCase, z: int, head: tuple[slice, slice]) -> None:
    depth, spacing = case.grid.shape[0], case.grid.spacing
    panels = panel.subplots(1, 4, gridspec_kw=_tight(0.94, 0.07))
    for axes, plane in zip(panels[:3], (int(0.3 * depth), z, min(int(0.7 * depth), depth - 1)), strict=True):
        _show(axes, case, "swi", case.images["swi"][plane][head], (1, 2))
        for mark in [*case.mimics, *case.lesions]:
            _mark(axes, mark, plane, spacing[0], (head[0].start, head[1].start))
        axes.set_title(f"SWI, slice {plane}, with all that lies within 3 mm", fontsize=11)
    slab = max(1, round(6 / spacing[0]))
    _show(panels[3], case, "swi", case.images["swi"][z - slab : z + slab].min(axis=0)[head], (1, 2))
    panels[3].set_title(f"minimum of SWI over 12 mm around slice {z}", fontsize=11)
    handles = [
        Line2D([], [], marker="o", mec=c, mfc="none", ls="none", label=k.replace("_", " ")) for k, c in COLOURS.items()
    ]
    panel.legend(handles=handles, loc="lower center", ncols=len(handles), fontsize=11, frameon=False)


def _mark(axes: Axes, mark: dict[str, Any], plane: int, thickness: float, start: tuple[int, int]) -> None:
    """A ring around a compact source, a line along the part of a vessel that lies near ``plane``."""
    points = np.atleast_2d(mark.get("path", [mark["centre"]])) - 0.5 - (plane, *start)
    colour = COLOURS[mark.get("kind", mark.get("class", "cmb"))]
    if len(points) > 1:
        fine = np.linspace(0, len(points) - 1, 8 * len(points))
        points = np.stack([np.interp(fine, np.arange(len(points)), column) for column in points.T], axis=1)
        points[np.abs(points[:, 0]) * thickness > 3] = np.nan
        axes.plot(points[:, 2], points[:, 1], color=colour, lw=1.4, alpha=0.8)
    elif abs(points[0, 0]) * thickness <= 3:
        axes.plot(points[0, 2], points[0, 1], "o", mec=colour, mfc="none", ms=13, mew=1.8)


def _examples(case: PhantomCase) -> list[tuple[str, dict[str, Any]]]:
    """Two lesions and one mimic of each kind: vessels that cross the slice, calcifications and air as clear as there
    are."""
    lesions = sorted(case.lesions, key=lambda lesion: -lesion["cnr"])
    chosen = [(f"microbleed, {lesion['certainty']}", lesion) for lesion in (lesions[len(lesions) // 4], lesions[-1])]
    for kind in list(COLOURS)[1:]:
        found = [m for m in case.mimics if m["kind"] == kind]
        if not found:
            continue
        if "path" in found[0]:
            clear = [m for m in found if 1.0 <= m["diameter_mm"] <= 1.8 and _inside(case, m)] or found
            best = min(clear, key=lambda m: m["angle_to_slice_normal_deg"])
        else:
            best = max(found, key=lambda m: m.get("cnr", np.inf))
        chosen.append((kind.replace("_", " "), best))
    return chosen


def _inside(case: PhantomCase, mimic: dict[str, Any]) -> bool:
    """Whether there is brain all around the middle of a mimic."""
    reach = np.ceil(6 / np.asarray(case.grid.spacing)).astype(int)
    middle = np.floor(mimic["centre"]).astype(int)
    low, high = np.maximum(middle - reach, 0), middle + reach + 1
    return bool(case.brain[low[0] : high[0], low[1] : high[1], low[2] : high[2]].all())


def _crops(panel: Any, case: PhantomCase, half_mm: float) -> None:
    examples = _examples(case)
    spacing = np.asarray(case.grid.spacing)
    views = [("swi", 0, "SWI axial"), ("swi", 1, "SWI coronal"), ("phase", 0, "phase axial"), ("qsm", 0, "QSM axial")]
    views = [view for view in views if view[0] in case.images]
    grid = panel.subplots(len(views), len(examples), squeeze=False, gridspec_kw=_tight(0.95, 0.01, 0.025))
    half = np.round(half_mm / spacing).astype(int)
    for column, (title, mark) in enumerate(examples):
        middle = np.clip(np.floor(mark["centre"]).astype(int), 0, np.asarray(case.grid.shape) - 1)
        for row, (name, axis, label) in enumerate(views):
            box: list[Any] = [slice(max(m - h, 0), m + h + 1) for m, h in zip(middle, half, strict=True)]
            box[axis] = int(middle[axis])
            across = [a for a in range(3) if a != axis]
            axes = grid[row][column]
            _show(axes, case, name, case.images[name][tuple(box)], (across[0], across[1]))
            outline = case.mask[tuple(box)] > 0
            if row == 0 and outline.any():
                axes.contour(outline, levels=[0.5], colors=COLOURS["cmb"], linewidths=0.8)
            if row == 0:
                axes.set_title(title, fontsize=11)
            if column == 0:
                axes.text(
                    -0.08, 0.5, label, rotation=90, va="center", ha="right", transform=axes.transAxes, fontsize=11
                )
