"""The figure of a study: FROC curves with bands, and what the remaining false positives lie on."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmb_plugin.reporting.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, YELLOW, tidy

from .ablation_runs import RATES, Study

ROW_COLOURS = (GREY, ORANGE, BLUE, VERMILION, GREEN, PURPLE)
KIND_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, YELLOW)


def study_figure(study: Study) -> Figure:
    """Left: sensitivity against false positives per scan, the mean over seeds with its 95 % band over subjects, and the
    swept operating points. Right: false positives per scan by kind of mimic, all rows at the same sensitivity."""
    figure = Figure(figsize=(12.5, 5.2) if study.kinds else (7.4, 5.2), layout="constrained")
    panels = figure.subplots(1, 2, width_ratios=(1.25, 1)) if study.kinds else [figure.subplots()]
    _curves(panels[0], study)
    if study.kinds:
        _kinds(panels[1], study)
    for axes in panels[1:]:
        tidy(axes, grid=False)
    return figure


def _curves(axes: Axes, study: Study) -> None:
    for row, colour in zip(study.rows, ROW_COLOURS * 9, strict=False):
        one = study.statistics[row]["definite"]
        estimates = [one.estimate(f"sensitivity@{rate:g}") for rate in RATES]
        if any(estimate.value is None for estimate in estimates):
            continue
        values, low, high = (np.array([getattr(e, key) for e in estimates]) for key in ("value", "low", "high"))
        score = one.estimate("froc_score").value
        axes.fill_between(RATES, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(RATES, values, color=colour, linewidth=2, label=f"{row}: {score:.3f}")
        for rate, found in zip(one.estimate("fp_per_scan").runs, one.estimate("sensitivity").runs, strict=True):
            if rate is not None and found is not None:
                x = min(max(rate, RATES[0]), RATES[-1])
                axes.plot([x], [found], "D", color=colour, markersize=6, markeredgecolor="white", clip_on=False)
    axes.set_xscale("log", base=2)
    ticks = [2.0**power for power in range(-4, 5)]
    axes.set_xticks(ticks, [f"1/{round(1 / tick)}" if tick < 1 else f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlim=(RATES[0], RATES[-1]), ylim=(0, 1.02), xlabel="false positives per scan", ylabel="sensitivity")
    tidy(axes)
    axes.legend(title="FROC score", loc="lower right", frameon=False)
    seeds = f"mean of {len(study.seeds)} seeds" if len(study.seeds) > 1 else "one seed"
    axes.set_title(f"{seeds}, 95 % band over subjects; diamonds: operating points", fontsize=10, loc="left")


def _kinds(axes: Axes, study: Study) -> None:
    rows = study.rows[::-1]  # the first row on top
    left = np.zeros(len(rows))
    for kind, colour in zip(study.kinds, KIND_COLOURS, strict=False):
        _bars(axes, study, rows, kind, colour, left)
    for kind in study.kinds[len(KIND_COLOURS) :]:
        _bars(axes, study, rows, kind, GREY, left)
    for place, total in enumerate(left):
        axes.text(total, place, f" {total:.2f}", va="center", fontsize=9)
    axes.set_xlim(0, 1.15 * max(left.max(), 0.01))
    axes.set_xlabel("false positives per scan")
    axes.set_title(
        f"where {100 * study.sensitivity['definite']:.2f} % of the lesions are found", fontsize=10, loc="left"
    )
    # Beside the bars: inside it would cover the longest of them.
    axes.legend(title="lies on", frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _bars(axes: Axes, study: Study, rows: list[str], kind: str, colour: str, left: np.ndarray) -> None:
    values = np.array([study.statistics[row]["definite"].values[f"equal:{kind}_per_scan"][0] for row in rows])
    axes.barh(rows, values, left=left.copy(), color=colour, label=kind.replace("_", " "), height=0.6)
    left += values
