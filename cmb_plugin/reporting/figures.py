"""FROC, course of a training, Dice by region. Figures are drawn without a display and without pyplot's global state."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from cmb_plugin.files import atomic

# Okabe & Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, YELLOW, GREY = "#CC79A7", "#F0E442", "#7F7F7F"
CLASS_COLOURS = (GREEN, PURPLE, ORANGE)
LEFT, RIGHT = 1 / 16, 16.0  # false positives per scan at the edges of the figure
VALIDATION_LABELS = {
    "val_froc_score": "FROC score",
    "val_sensitivity": "sensitivity at 1 false positive per scan",
    "val_dice": "mean Dice",
}


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Writes a PNG, or a PDF where the name ends so, atomically; the same figure gives the same bytes."""
    _take_literally(figure)
    if path.suffix == ".pdf":
        with atomic(path) as temporary:
            figure.savefig(temporary, dpi=dpi, format="pdf", facecolor="white", metadata={"CreationDate": None})
        return
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png", facecolor="white")


def _take_literally(figure: Figure) -> None:
    """Names of cases may hold dollar signs, between which Matplotlib would look for a formula."""
    for text in figure.findobj(Text):
        if "$" in text.get_text() and "\\math" not in text.get_text():  # as labels of logarithmic axes have it
            text.set_parse_math(False)


@dataclass(frozen=True)
class Picture:
    """A figure inside a page.

    Attributes:
        description: for readers who do not see it.
        png: base64.
    """

    description: str
    png: str


def embed(figure: Figure, description: str, dpi: int = 100) -> Picture:
    """Turns a figure into a picture that a page holds itself."""
    _take_literally(figure)
    stream = io.BytesIO()
    figure.savefig(stream, dpi=dpi, format="png", facecolor="white")
    return Picture(description, base64.b64encode(stream.getvalue()).decode())


def tidy(axes: Axes, grid: bool = True) -> None:
    """Axes without a frame above and on the right, and with a faint grid below the curves."""
    if grid:
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def froc_figure(metrics: Mapping[str, Any], title: str = "") -> Figure:
    """Sensitivity against false positives per scan on a log2 axis, with the seven rates and the operating point.

    Args:
        metrics: what ``measure`` returned, with ``intervals`` where there are any.
        title: for instance task, model and split.
    """
    figure = Figure(figsize=(7.4, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    distance, iou = metrics["overall"]["distance"], metrics["overall"]["iou"]
    if not distance["n_lesions"] or not metrics["n_cases"]:
        axes.text(0.5, 0.5, "no lesion to find:\nsensitivity is undefined", transform=axes.transAxes, ha="center")
    else:
        rule = metrics["matching"]
        label = f"centres ≤ {rule['match_mm']:g} mm apart: FROC score {distance['froc_score']:.3f}"
        _draw_curve(axes, distance, BLUE, label, width=2.4, order=4)
        band = (metrics.get("intervals") or {}).get("band")
        if band and None not in band["low"] and None not in band["high"]:
            label = f"{100 * metrics['intervals']['level']:g} % interval over patients"
            axes.fill_between(band["fp_per_scan"], band["low"], band["high"], color=BLUE, alpha=0.15, lw=0, label=label)
        rates = [float(rate) for rate in distance["froc"]]
        axes.plot(rates, list(distance["froc"].values()), "o", color=BLUE, markersize=5, zorder=5)
        if len(metrics["per_class"]) > 1:
            for (name, blocks), colour in zip(metrics["per_class"].items(), CLASS_COLOURS * 9, strict=False):
                if blocks["distance"]["n_lesions"]:
                    score = blocks["distance"]["froc_score"]
                    _draw_curve(axes, blocks["distance"], colour, f"only {name}: {score:.3f}", width=1.2)
        label = f"IoU of boxes ≥ {rule['iou']:g}: {iou['froc_score']:.3f}"
        _draw_curve(axes, iou, GREY, label, width=1.4, style="--")
        _draw_operating_point(axes, metrics)
        # Outside: wherever it stood inside it would cover some detector's curve.
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    ticks = [2.0**power for power in range(-4, 5)]
    axes.set_xticks(ticks, [f"1/{round(1 / tick)}" if tick < 1 else f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlim=(LEFT, RIGHT), ylim=(0, 1.03), xlabel="false positives per scan", ylabel="sensitivity")
    axes.set_yticks(np.linspace(0, 1, 11))
    tidy(axes)
    scans = f"{metrics['n_cases']} scans, {metrics['n_healthy']} of them healthy, {metrics['n_lesions']} lesions"
    if metrics["n_possible"]:
        scans += f" ({metrics['n_possible']} possible ones not counted)"
    axes.set_title(f"{title}\n{scans}" if title else scans, fontsize=10, loc="left")
    return figure


def _draw_curve(
    axes: Axes, block: Mapping[str, Any], colour: str, label: str, width: float, style: str = "-", order: int = 3
) -> None:
    rates = np.concatenate([[0.0], block["curve"]["fp_per_scan"]])
    sensitivity = np.concatenate([[0.0], block["curve"]["sensitivity"]])
    at = np.geomspace(LEFT, RIGHT, 600)  # straight between thresholds on a linear axis, so drawn bent on this one
    measured = at <= max(rates[-1], LEFT)
    values = np.interp(at, rates, sensitivity)
    axes.plot(at[measured], values[measured], style, color=colour, linewidth=width, label=label, zorder=order)
    # Beyond the last detection there is nothing more to report: level, as the readings take it, but drawn faintly.
    axes.plot(at[~measured], values[~measured], ":", color=colour, linewidth=width, alpha=0.6, zorder=order)


def _draw_operating_point(axes: Axes, metrics: Mapping[str, Any]) -> None:
    rate, sensitivity, score = metrics["fp_per_scan"], metrics["sensitivity"], metrics["operating_point"]["score"]
    x = min(max(rate, LEFT), RIGHT)
    label = f"operating point, score {score:.3g}: {sensitivity:.3f} at {rate:.2f} per scan"
    axes.plot(
        [x],
        [sensitivity],
        "D",
        color=VERMILION,
        markersize=9,
        markeredgecolor="white",
        zorder=6,
        clip_on=False,
        label=label,
    )


def progress_figure(rows: Sequence[Mapping[str, float | None]]) -> Figure:
    """Losses above, validation below, over epochs.

    Args:
        rows: one per epoch, from ``epoch`` 1 on; ``val_*`` are measured on validation scans, ``learning_rate`` is not
            drawn, everything else is a loss. A loss or measurement may be missing in some epochs.
    """
    figure = Figure(figsize=(8, 7), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    known = {"epoch", "learning_rate"}
    names = dict.fromkeys(name for row in rows for name in row)  # in later epochs others may be learned
    losses = [name for name in names if name not in known and not name.startswith("val_")]
    for name in losses:
        style = {"color": "black", "linewidth": 2} if name == "loss" else {"linewidth": 1}
        points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
        top.plot(*zip(*points, strict=True), label=name, **style)
    top.set(ylabel="training loss", yscale="log")
    top.legend(loc="best", fontsize="small")
    for name in (name for name in names if name.startswith("val_")):
        label = VALIDATION_LABELS.get(name) or name.removeprefix("val_").replace("_", " ").replace("dice", "Dice")
        points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            bottom.plot(*zip(*points, strict=True), marker="o", label=label)
    bottom.set(xlabel="epoch", ylabel="validation", ylim=(-0.02, 1.02))
    if bottom.lines:
        bottom.legend(loc="lower right", fontsize="small")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    return figure


def dice_figure(dice: np.ndarray, regions: Sequence[str], title: str = "") -> Figure:
    """Dice of every scan, region by region, with the mean as a line.

    Args:
        dice: [N, K] of N scans; NaN where a region is in neither map.
        regions: K names.
        title: for instance task, model and split.
    """
    figure = Figure(figsize=(1.5 + 1.6 * len(regions), 4), layout="constrained")
    axes = figure.subplots()
    jitter = np.random.default_rng(0).uniform(-0.15, 0.15, size=len(dice))
    for number, column in enumerate(dice.T):
        axes.plot(number + jitter, column, "o", alpha=0.5)
        axes.plot([number - 0.3, number + 0.3], [np.nanmean(column)] * 2, color="black")
    axes.set_xticks(range(len(regions)), regions)
    axes.set(ylabel="Dice", ylim=(min(0.5, float(np.nanmin(dice))), 1.0))
    axes.set_title(title, fontsize="small")
    axes.grid(axis="y", alpha=0.3)
    return figure
