"""What a simulation showed: sensitivity against the number of labelled scans, as a table and a figure."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from cmb_plugin.evaluation import Bootstrap, Estimate, EvaluationConfig, SubjectCounts, bootstrap, subject_counts
from cmb_plugin.files import write_text
from cmb_plugin.reporting.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, YELLOW, save_figure
from cmb_plugin.tabular import as_markdown, show_interval, write_table

from .simulation import ALL, RoundResult, Simulation

NUMBER = "sensitivity@1"
COLUMNS = (
    *("strategy", "round", "labelled", "lesions", "seeds", "sensitivity_at_1_fp", "low", "high", "by_seed"),
    *("less_all", "less_all_low", "less_all_high"),
)
RODEJA = (
    "Rodeja Ferrer et al. (arXiv 2301.09322) report 78 % recall, 80 % precision and 1.6 false positives per scan for "
    "their actively trained network, on other scans and at an operating point of its own: no rank follows from it."
)
RULE = (
    "Sensitivity at 1 false positive per scan on {scans} test scans, mean of the seeds; in brackets the 95 % interval "
    "of {resamples} resamples of the patients. Less all: the strategy less the model that has had all {pool} labels "
    "from the beginning and has been trained for as many steps, paired. An interval over patients says nothing of "
    "other seeds: the values of the seeds stand beside it."
)


@dataclass(frozen=True)
class CurvePoint:
    """A strategy after a round, all seeds together.

    Attributes:
        strategy, number: which; round 0 is the start.
        labelled: scans.
        lesions: labelled lesions, mean of the seeds.
        estimate: sensitivity at 1 false positive per scan.
        less_all: the same less that of ``all`` in its last round, paired; None of ``all`` itself.
    """

    strategy: str
    number: int
    labelled: int
    lesions: float
    estimate: Estimate
    less_all: Estimate | None


def measure(simulation: Simulation, results: Sequence[RoundResult], resamples: int = 2000) -> list[CurvePoint]:
    """Measures all rounds on the test scans.

    Args:
        simulation: as it was played.
        results: of ``Simulation.run``.
        resamples: of the bootstrap.
    """
    config = EvaluationConfig()
    names = list(dict.fromkeys(result.strategy for result in results))
    statistics: dict[tuple[str, int], tuple[Bootstrap, list[RoundResult]]] = {}
    measured: dict[Path, SubjectCounts] = {}
    for strategy in names:
        for number in sorted({result.number for result in results}):
            own = [result for result in results if (result.strategy, result.number) == (strategy, number)]
            counts = []
            for result in own:
                root = result.model.folder.root
                if root not in measured:
                    cases = simulation.measured(result)
                    patients = simulation.dataset.patients([case.case_id for case in cases])
                    point = result.model.operating_point().score
                    measured[root] = subject_counts(cases, dataclasses.replace(config, operating_point=point), patients)
                counts.append(measured[root])
            statistics[strategy, number] = bootstrap(counts, fp_rates=(1.0,), resamples=resamples), own
    reference = statistics[ALL, max(number for _, number in statistics)][0] if ALL in names else None
    points = []
    for (strategy, number), (values, own) in statistics.items():
        less = None if strategy == ALL or reference is None else values.difference(reference, NUMBER)
        lesions = sum(result.lesions for result in own) / len(own)
        points.append(CurvePoint(strategy, number, len(own[0].labelled), lesions, values.estimate(NUMBER), less))
    return points


def write_curve(simulation: Simulation, points: Sequence[CurvePoint], resamples: int = 2000) -> list[Path]:
    """Writes active.tsv, active.md and active.png into the folder of a simulation."""
    files = [simulation.output / f"active.{ending}" for ending in ("md", "tsv", "png")]
    write_text(files[0], markdown(simulation, points, resamples))
    rows = []
    for point in points:
        less = point.less_all or Estimate(None, None, None)
        values = (point.estimate.value, point.estimate.low, point.estimate.high)
        by_seed = " ".join(f"{value:.4f}" for value in point.estimate.runs if value is not None)
        first = (point.strategy, point.number, point.labelled, point.lesions, len(point.estimate.runs))
        rows.append((*first, *values, by_seed, less.value, less.low, less.high))
    write_table(files[1], COLUMNS, rows)
    save_figure(curve_figure(points, simulation.first.task.name), files[2])
    return files


def reaches_all(points: Sequence[CurvePoint]) -> dict[str, int | None]:
    """Strategy -> the fewest labelled scans with which it is at least as sensitive as with all labels; None where it
    never is."""
    last = max(point.number for point in points)
    goal = next((p.estimate.value for p in points if p.strategy == ALL and p.number == last), None)
    names = dict.fromkeys(point.strategy for point in points if point.strategy != ALL)
    fewest: dict[str, int | None] = {}
    for name in names:
        values = [(p.labelled, p.estimate.value) for p in points if p.strategy == name]
        reached = [n for n, value in values if goal is not None and value is not None and value >= goal - 1e-9]
        fewest[name] = min(reached, default=None)
    return fewest


def markdown(simulation: Simulation, points: Sequence[CurvePoint], resamples: int) -> str:
    """active.md."""
    config = simulation.config
    head = ["strategy", "labelled scans", "lesions", "sensitivity at 1 FP/scan", "by seed", "less all"]
    body = []
    for point in points:
        estimate, less = point.estimate, point.less_all
        body.append(
            (
                point.strategy,
                point.labelled,
                f"{point.lesions:.0f}",
                show_interval(estimate.value, estimate.low, estimate.high),
                ", ".join("-" if value is None else f"{value:.3f}" for value in estimate.runs),
                "" if less is None else show_interval(less.value, less.low, less.high, signed=True),
            )
        )
    rule = RULE.format(scans=len(simulation.test), resamples=resamples, pool=len(simulation.pool))
    start = f" of {config.start_domain}" if config.start_domain else ""
    played = (
        f"{simulation.first.task.name}: {config.start} scans{start} at the start, {config.rounds} rounds of "
        f"{config.acquire}, {config.seeds} seeds; every round trains on from the weights of the one before."
    )
    reached = [
        f"- {name}: {'never' if count is None else f'with {count} of {len(simulation.pool)} scans'} as sensitive as "
        "with all labels"
        for name, count in reaches_all(points).items()
    ]
    return "\n\n".join([played, as_markdown(head, body), "\n".join(reached), rule, RODEJA]) + "\n"


def curve_figure(points: Sequence[CurvePoint], title: str) -> Figure:
    """Sensitivity against labelled scans: a line per strategy with its interval, ``all`` as a level."""
    figure = Figure(figsize=(7.4, 5.2), layout="constrained")
    axes = figure.subplots()
    names = [name for name in dict.fromkeys(point.strategy for point in points) if name != ALL]
    colours = (GREY, BLUE, ORANGE, GREEN, PURPLE, VERMILION, YELLOW)
    last = max(point.number for point in points)
    for point in points:
        if point.strategy == ALL and point.number == last and point.estimate.value is not None:
            axes.axhline(point.estimate.value, color="black", lw=1.2, ls="--", label=f"all {point.labelled} labels")
            if point.estimate.low is not None and point.estimate.high is not None:
                axes.axhspan(point.estimate.low, point.estimate.high, color="black", alpha=0.06, lw=0)
    counts = sorted({point.labelled for point in points if point.strategy != ALL})
    steps = [after - before for before, after in itertools.pairwise(counts)]
    width = 0.12 * min(steps, default=1) / max(len(names), 1)
    for place, name in enumerate(names):
        own = [point for point in points if point.strategy == name and point.estimate.value is not None]
        colour, shift = colours[place % len(colours)], width * (place - (len(names) - 1) / 2)
        x = [point.labelled + shift for point in own]
        y = [float(point.estimate.value or 0) for point in own]
        axes.plot(x, y, "o-", color=colour, lw=2, ms=5, label=name)
        for at, point in zip(x, own, strict=True):
            if point.estimate.low is not None and point.estimate.high is not None:
                axes.plot([at, at], [point.estimate.low, point.estimate.high], color=colour, lw=1, alpha=0.6)
            runs = [value or 0 for value in point.estimate.runs]
            axes.plot([at] * len(runs), runs, ".", color=colour, ms=3, alpha=0.5)
    axes.set(xlabel="labelled scans", ylabel="sensitivity at 1 false positive per scan", ylim=(0, 1.02))
    axes.set_title(f"{title}\nlines: mean of the seeds, dots: seeds, bars: 95 % interval over patients", fontsize=10)
    axes.set_xticks(counts)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, frameon=False)
    return figure
