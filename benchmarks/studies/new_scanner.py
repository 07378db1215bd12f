"""How many labelled scans of a new scanner does an operating point need? Chosen on a few, measured on the others.

    nndet_train 117 -o exp.fold=without:ukb
    nndet_train 117 -o exp.fold=without:valdo1
    python -m benchmarks.studies.new_scanner 117 CMBRetinaUNet_D3CMB_3d_without-ukb ..._without-valdo1

Each model was trained without one domain and has predicted its scans. Many times, scans of as many patients as --scans
says are drawn at random, the operating point is chosen on them as nndet_sweep does (1 false positive per scan), and
sensitivity and false positives are measured on all other patients. For 0 scans it is the one that was carried over
from the other domains. --page and --figure write the table and the picture.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.tools.markdown import add_page, put_between_markers, table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.commands.names import find_folds, find_model, find_task
from cmb_plugin.dataset import Dataset
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import CaseResult, EvaluationConfig, SweepConfig, subject_counts
from cmb_plugin.models.operating_point import OperatingPoint
from cmb_plugin.models.scored_cases import PredictionSet
from cmb_plugin.reporting.figures import BLUE, GREEN, ORANGE, PURPLE, VERMILION, save_figure, tidy

MOST_FALSE = 1.5  # false positives per scan at which a target of 1 still counts as kept
LOST = 0.1  # sensitivity that may be lost against the operating point chosen on all scans


@dataclass(frozen=True)
class Outcome:
    """What operating points chosen on so many patients reach on the others.

    Attributes:
        scans: patients that each was chosen on; 0 for the one carried over.
        sensitivity, fp_per_scan: [repeats] on all other patients.
    """

    scans: int
    sensitivity: np.ndarray
    fp_per_scan: np.ndarray

    @property
    def title(self) -> str:
        """First cell of its row."""
        if self.scans == 0:
            return "0, carried over"
        return str(self.scans) if len(self.sensitivity) > 1 else f"all {self.scans}, measured on themselves"

    def kept(self, best: float) -> float:
        """Share of the repeats that have few enough false positives and lose little of the sensitivity ``best``."""
        return float(np.mean((self.fp_per_scan <= MOST_FALSE) & (self.sensitivity >= best - LOST)))


def play(
    cases: Sequence[CaseResult], patients: dict[str, str], carried: OperatingPoint, counts: Sequence[int], repeats: int
) -> list[Outcome]:
    """The operating point carried over, chosen on few patients, and on all (which are then also measured).

    Args:
        cases: scans of the new domain with all candidates and the scores that the model gave them.
        patients: case -> patient.
        carried: the model's own.
        counts: of patients to choose on.
        repeats: draws for each.
    """
    names = sorted(set(patients.values()))
    everyone = set(names)
    outcomes = [_outcome(0, [_reached(cases, patients, everyone, carried)])]
    rng = np.random.default_rng(0)
    for count in counts:
        reached = []
        for _ in range(repeats):
            chosen = set(rng.choice(names, count, replace=False).tolist())
            point = _choose([case for case in cases if patients[case.case_id] in chosen])
            reached.append(_reached(cases, patients, everyone - chosen, point))
        outcomes.append(_outcome(count, reached))
    outcomes.append(_outcome(len(names), [_reached(cases, patients, everyone, _choose(cases))]))
    return outcomes


def _choose(cases: Sequence[CaseResult]) -> OperatingPoint:
    return OperatingPoint.choose(cases, SweepConfig(), EvaluationConfig(), "new")


def _reached(
    cases: Sequence[CaseResult], patients: dict[str, str], measured: set[str], point: OperatingPoint
) -> tuple[float, float]:
    """Sensitivity and false positives per scan of some patients' scans."""
    own = [
        dataclasses.replace(case, detections=point.apply(case.detections))
        for case in cases
        if patients[case.case_id] in measured
    ]
    counts = subject_counts(own, EvaluationConfig(operating_point=point.score), patients)
    lesions = counts.n_lesions.sum()
    sensitivity = counts.true_reported.sum() / lesions if lesions else np.nan
    return float(sensitivity), float(counts.false_reported.sum() / len(own))


def _outcome(scans: int, reached: Sequence[tuple[float, float]]) -> Outcome:
    sensitivity, fp_per_scan = np.array(reached).T
    return Outcome(scans, sensitivity, fp_per_scan)


def _range(values: np.ndarray) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    low, middle, high = np.nanquantile(values, [0.05, 0.5, 0.95])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def table(domains: dict[str, list[Outcome]]) -> str:
    """A row for each number of scans, and for each domain what is reached."""
    heads = [f"{domain}: {what}" for domain in domains for what in ("sensitivity", "FP per scan", "kept")]
    lines = [table_head("labelled scans", *heads)]
    for row in zip(*domains.values(), strict=True):
        cells: list[str] = []
        for outcome, outcomes in zip(row, domains.values(), strict=True):
            cells += [_range(outcome.sensitivity), _range(outcome.fp_per_scan)]
            cells.append(f"{outcome.kept(float(outcomes[-1].sensitivity[0])):.0%}")
        lines.append(table_row(row[0].title, *cells))
    return "\n".join(lines)


def figure_of(domains: dict[str, list[Outcome]]) -> Figure:
    """Sensitivity and false positives per scan against the number of labelled scans; bands hold nine in ten draws."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (domain, outcomes), colour in zip(domains.items(), (BLUE, VERMILION, GREEN, ORANGE, PURPLE) * 9, strict=False):
        drawn = [outcome for outcome in outcomes if len(outcome.sensitivity) > 1]
        counts = [outcome.scans for outcome in drawn]
        for axes, name in ((left, "sensitivity"), (right, "fp_per_scan")):
            low, middle, high = np.nanquantile([getattr(o, name) for o in drawn], [0.05, 0.5, 0.95], axis=1)
            axes.fill_between(counts, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(counts, middle, "o-", color=colour, linewidth=2, markersize=4, label=domain)
            axes.plot([0], getattr(outcomes[0], name), "D", color=colour, markersize=7, markeredgecolor="white")
    left.set(xlabel="labelled scans of the new scanner", ylabel="sensitivity on its other scans", ylim=(0, 1.02))
    right.set(xlabel="labelled scans of the new scanner", ylabel="false positives per scan on its other scans")
    right.set_ylim(bottom=0)
    right.axhline(1, color="0.6", linewidth=1, linestyle="--")
    left.legend(title="scanner", frameon=False, loc="lower right")
    left.set_title("diamonds: carried over from other scanners", fontsize=10, loc="left")
    for axes in (left, right):
        tidy(axes)
    return figure


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table and writes page and figure."""
    arguments = parser(__doc__)
    arguments.add_argument("task", help="number, name or path of the Task folder")
    arguments.add_argument(
        "models", nargs="+", metavar="MODEL", help="trained without a domain, whose scans it predicted"
    )
    arguments.add_argument("--scans", default="2,4,6,8,12,16", metavar="N,...", help="(default: %(default)s)")
    arguments.add_argument("--repeats", type=int, default=200, help="draws (default: %(default)s)")
    add_page(arguments)
    arguments.add_argument("--figure", type=Path, metavar="FILE", help="PNG to write")
    args = arguments.parse_args(argv)
    dataset = Dataset.load(find_task(args.task))
    domains: dict[str, list[Outcome]] = {}
    counts = [int(count) for count in args.scans.split(",")]
    for name in args.models:
        model = find_folds(find_model(dataset.task, name), 0)
        scored = PredictionSet.of_model(dataset, model, "unseen").read(before_sweep=True)
        scored.check_complete()
        domain = {case.domain for case in scored.source.cases}
        if len(domain) != 1:
            raise UserError(f"{name}: its unseen scans are of {len(domain)} domains", remedy="train without one domain")
        patients = dataset.patients([case.case_id for case in scored.cases])
        if 2 * max(counts) > len(set(patients.values())):
            raise UserError(
                f"--scans {max(counts)}: leaves less than half of {domain.pop()}", remedy="name fewer scans"
            )
        title = f"{domain.pop()} ({len(scored.cases)} scans)"
        domains[title] = play(scored.cases, patients, model.operating_point(), counts, args.repeats)
    text = f"{table(domains)}\n\n{measured_on('numpy', 'scipy')}; {args.repeats} draws"
    print(text)
    if args.page is not None:
        put_between_markers(args.page, "new scanner", text)
    if args.figure is not None:
        save_figure(figure_of(domains), args.figure, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
