"""Folds and their ensemble at the operating point: does what single folds chose hold when they predict together?

    python -m benchmarks.accuracy.ensemble Task100_Phantom [MODEL] [--page docs/studies/ensemble.md]

Measures the test scans of a task as each trained fold alone predicted them (nndet_predict TASK -f N) and as all
together did (nndet_predict TASK): by the mean of the folds' merged scores and thresholds, and by the vote of the folds.
Both read the same files, so that the rows differ in nothing but how a detection is decided on.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tools.markdown import add_page, put_between_markers, table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.commands.names import find_folds, find_model, find_task
from cmb_plugin.dataset import Dataset, Truth
from cmb_plugin.evaluation import Bootstrap, Estimate, EvaluationConfig, bootstrap, subject_counts
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
    arguments.add_argument("task", help="number, name or path of the Task folder")
    arguments.add_argument("model", nargs="?", help="name or path of the model folder; the only one by default")
    add_page(arguments)
    args = arguments.parse_args(argv)
    dataset = Dataset.load(find_task(args.task))
    model = find_folds(find_model(dataset.task, args.model))
    measurement = Measurement(dataset, {})
    rows = {
        f"single folds (mean of {len(model.folds)})": measurement.of(model.each()),
        "ensemble, mean of scores": measurement.of([model], mean_of_scores=True),
        "ensemble, vote of the folds": measurement.of([model]),
    }
    text = "\n".join(_table(rows, measurement, model))
    if args.page is None:
        print(text)
    else:
        put_between_markers(Path(args.page), "ensemble", text)
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
