"""Folds and their ensemble at the operating point: does what single folds chose hold when they predict together?

    python -m benchmarks.accuracy.ensemble Task100_Phantom [MODEL] [--page docs/studies/ensemble.md]
    python -m benchmarks.accuracy.ensemble --simulate 100 [--page docs/studies/ensemble.md]

Measures the test scans of a task as each trained fold alone predicted them (nndet_predict TASK -f N) and as all
together did (nndet_predict TASK): by the mean of the folds' merged scores and thresholds, and by the vote of the folds.
Both read the same files, so that the rows differ in nothing but how a detection is decided on.

With --simulate so many ensembles of 5 simulated folds instead: each fold sees the logit of a lesion or mimic with noise
of its own, nothing below score 0.02, and chooses its threshold on 8 validation scans; 24 new scans are measured.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.tools.markdown import add_page, put_between_markers, table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.commands.names import find_folds, find_model, find_task
from cmb_plugin.dataset import Dataset, Truth
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import (
    Bootstrap,
    CaseResult,
    Estimate,
    EvaluationConfig,
    SweepConfig,
    bootstrap,
    measure,
    subject_counts,
)
from cmb_plugin.inference import InferenceConfig, merge_views
from cmb_plugin.inference.merging import WEIGHT
from cmb_plugin.models.operating_point import OperatingPoint
from cmb_plugin.models.scored_cases import PredictionSet
from cmb_plugin.models.trained import TrainedModel
from cmb_plugin.tabular import show_interval

NUMBERS = {"sensitivity": 3, "fp_per_scan": 2, "f1": 3, "froc_score": 3}
COMPARED = ("sensitivity", "fp_per_scan", "f1")


class Measurement:
    """One way of deciding, measured on the test scans."""

    def __init__(self, dataset: Dataset, truths: dict[str, Truth]) -> None:
        self.dataset = dataset
        self.truths = truths
        self.scans = self.lesions = 0

    def of(self, models: Sequence[TrainedModel], mean_of_scores: bool = False) -> Bootstrap:
        """Counts of every run, by patient; ``mean_of_scores`` decides as before the folds had a vote."""
        counts = []
        for model in models:
            predictions = PredictionSet.of_model(self.dataset, model, "test")
            if mean_of_scores:
                point: OperatingPoint = dataclasses.replace(predictions.operating_point, members=())
                predictions = dataclasses.replace(predictions, operating_point=point)
            scored = predictions.read(truths=self.truths)
            scored.check_complete()
            config, _ = scored.at_operating_point(EvaluationConfig())
            counts.append(
                subject_counts(scored.cases, config, self.dataset.patients([c.case_id for c in scored.cases]))
            )
            self.scans = len(scored.cases)
            self.lesions = int(sum((~case.possible).sum() for case in scored.cases))
        return bootstrap(counts, resamples=2000)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table, or writes it into a page."""
    arguments = parser(__doc__)
    arguments.add_argument("task", nargs="?", help="number, name or path of the Task folder")
    arguments.add_argument("model", nargs="?", help="name or path of the model folder; the only one by default")
    arguments.add_argument("--simulate", type=int, metavar="N", help="N simulated ensembles instead of a task")
    add_page(arguments)
    args = arguments.parse_args(argv)
    if (args.task is None) == (args.simulate is None):
        raise UserError("names neither a task nor --simulate, or both", remedy="give one of them")
    if args.simulate is not None:
        _show(args.page, "simulated-ensemble", _simulated(args.simulate))
        return 0
    dataset = Dataset.load(find_task(args.task))
    model = find_folds(find_model(dataset.task, args.model))
    measurement = Measurement(dataset, {})
    rows = {
        f"single folds (mean of {len(model.folds)})": measurement.of(model.each()),
        "ensemble, mean of scores": measurement.of([model], mean_of_scores=True),
        "ensemble, vote of the folds": measurement.of([model]),
    }
    _show(args.page, "ensemble", _table(rows, measurement, model))
    return 0


def _show(page: Path | None, marker: str, lines: Sequence[str]) -> None:
    text = "\n".join(lines)
    if page is None:
        print(text)
    else:
        put_between_markers(page, marker, text)


def _table(rows: dict[str, Bootstrap], measurement: Measurement, model: TrainedModel) -> list[str]:
    first = next(iter(rows.values()))
    thresholds = ", ".join(f"{point.score:.3f}" for point in model.operating_point().members)
    lines = [
        f"{measurement.scans} test scans with {measurement.lesions} lesions, {model.title}; thresholds of the folds "
        f"{thresholds}. {measured_on('torch', 'numpy')}.",
        "",
        table_head("", *NUMBERS, *(f"Δ {name}" for name in COMPARED)),
    ]
    for name, statistics in rows.items():
        cells = [_shown(statistics.estimate(key), decimals) for key, decimals in NUMBERS.items()]
        differences = [
            "" if statistics is first else _shown(statistics.difference(first, key), NUMBERS[key], signed=True)
            for key in COMPARED
        ]
        lines.append(table_row(name, *cells, *differences))
    return lines


def _shown(estimate: Estimate, decimals: int, signed: bool = False) -> str:
    return show_interval(estimate.value, estimate.low, estimate.high, decimals, signed)


STRENGTHS = {"weak": 1.6, "middling": 1.9, "strong": 2.3}  # half the distance of the mean logits
NOISE = {"folds agree": 1.0, "folds differ": 2.5}  # standard deviation of what is a fold's own, in logits
FOLDS, VALIDATION, TEST = 5, 8, 24


def _scan(rng: np.random.Generator, strength: float, noise: float) -> tuple[list[Detections], np.ndarray]:
    """What each fold sees in a scan of 3 lesions on average and 12 mimics, far apart; and the lesions' boxes [N, 6]."""
    lesions, mimics = int(rng.poisson(3)), int(rng.poisson(12))
    own = np.concatenate([rng.normal(strength, 1.0, lesions), rng.normal(-strength, 1.2, mimics)])
    corners = np.arange(lesions + mimics)[:, None] * [20.0, 0.0, 0.0]
    boxes = np.hstack([corners, corners + 3])
    folds = []
    for _ in range(FOLDS):
        scores = 1 / (1 + np.exp(-(own + rng.normal(0, noise, len(own)))))
        seen = scores >= InferenceConfig().min_score
        columns = {WEIGHT: np.ones(int(seen.sum()))}
        folds.append(Detections(boxes[seen], scores[seen], np.zeros(int(seen.sum())), columns))
    return folds, boxes[:lesions]


def _case(detections: Detections, lesions: np.ndarray) -> CaseResult:
    plain = Detections(detections.boxes, detections.scores, detections.labels).by_score()
    return CaseResult("scan", plain, lesions, np.zeros(len(lesions)), (1.0, 1.0, 1.0))


def _simulated(repeats: int) -> list[str]:
    lines = [f"{repeats} simulated ensembles of {FOLDS} folds. {measured_on('numpy')}.", ""]
    lines.append(table_head("detectors", *("single folds", "ensemble, mean of scores", "ensemble, vote of the folds")))
    for (name, strength), (spread, noise) in product(STRENGTHS.items(), NOISE.items()):
        rng = np.random.default_rng(0)
        reached: list[list[tuple[float, float]]] = [[], [], []]
        for _ in range(repeats):
            validation = [_scan(rng, strength, noise) for _ in range(VALIDATION * FOLDS)]
            points = []
            for fold in range(FOLDS):  # each fold has validation scans of its own
                own = validation[fold * VALIDATION : (fold + 1) * VALIDATION]
                cases = [_case(folds[fold], lesions) for folds, lesions in own]
                points.append(OperatingPoint.choose(cases, SweepConfig(), EvaluationConfig(), f"fold{fold}"))
            test = [_scan(rng, strength, noise) for _ in range(TEST)]
            for fold, point in enumerate(points):
                reached[0].append(_at(point.score, [_case(folds[fold], lesions) for folds, lesions in test]))
            together = OperatingPoint.mean(points)
            for row, point in ((1, dataclasses.replace(together, members=())), (2, together)):
                merged = [(merge_views(folds, InferenceConfig(), FOLDS), lesions) for folds, lesions in test]
                cases = [_case(point.apply(found), lesions) for found, lesions in merged]
                reached[row].append(_at(together.score, cases))
        cells = [f"{np.mean(values, axis=0)[0]:.3f} at {np.mean(values, axis=0)[1]:.2f}" for values in reached]
        lines.append(table_row(f"{name}, {spread}", *cells))
    return [*lines, "", "Mean sensitivity at mean false positives per scan."]


def _at(score: float, cases: list[CaseResult]) -> tuple[float, float]:
    """Sensitivity and false positives per scan."""
    numbers = measure(cases, ["cmb"], EvaluationConfig(operating_point=score))
    return numbers["sensitivity"], numbers["fp_per_scan"]


if __name__ == "__main__":
    sys.exit(main())
