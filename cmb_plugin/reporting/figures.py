"""The FROC figure. Figures are drawn without a display and without pyplot's global state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmb_plugin.files import atomic

# Okabe & Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, YELLOW, GREY = "#CC79A7", "#F0E442", "#7F7F7F"
CLASS_COLOURS = (GREEN, PURPLE, ORANGE)
LEFT, RIGHT = 1 / 16, 16.0  # false positives per scan at the edges of the figure


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Writes a PNG, atomically."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png", facecolor="white")


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
            words = f"{100 * metrics['intervals']['level']:g} % interval over patients"
            axes.fill_between(band["fp_per_scan"], band["low"], band["high"], color=BLUE, alpha=0.15, lw=0, label=words)
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
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
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
