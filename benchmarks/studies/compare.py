"""Predictions of the same labelled scans, side by side: made by any models, anywhere, read from their folders.

    nndet_predict 771 pretrained --output alone
    nndet_predict 771 mine.cmb --output tuned0            and of two more seeds
    python -m benchmarks.studies.compare Task771_Csiro "as it is=alone" "trained on=tuned0,tuned1,tuned2"

Each row is TITLE=FOLDER[,FOLDER...]; folders are runs of one method, whose numbers are averaged. The scans are the test
scans of the Task, the operating point is that of each folder's predictions, differences are to the first row. Intervals
are over patients, the same resamples for all rows (docs/evaluation.md). With --page the table goes between the markers
of that page.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.tools.markdown import add_page, put_between_markers, table_head, table_row
from cmb_plugin.benchmark.table import show
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.commands.names import check_resamples, find_task
from cmb_plugin.dataset import Dataset
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import Bootstrap, EvaluationConfig, SubjectCounts, bootstrap, subject_counts
from cmb_plugin.evaluation.metrics import measure
from cmb_plugin.models.scored_cases import PredictionSet

RATES = (0.25, 0.5, 1.0, 2.0)
"""False positives per scan at which the sensitivity is read; packed models keep operating points for these."""


@dataclass(frozen=True)
class Row:
    """A method in the table.

    Attributes:
        title: first cell.
        runs: how many folders were averaged.
        statistics: over patients; ``froc_score`` is the mean sensitivity at ``RATES``.
        healthy: false positives per scan without lesions at the operating point; None where there is no such scan.
    """

    title: str
    runs: int
    statistics: Bootstrap
    healthy: float | None


def read_row(dataset: Dataset, text: str, resamples: int) -> Row:
    """A row of the table.

    Args:
        dataset: the Task with the scans.
        text: ``TITLE=FOLDER[,FOLDER...]``.
        resamples: of the bootstrap.

    Raises:
        UserError: it names no folder, or one without predictions of all test scans.
    """
    title, _, names = text.partition("=")
    folders = [Path(name) for name in names.split(",") if name]
    if not folders:
        raise UserError(f"{text}: names no folder of predictions", remedy="write TITLE=FOLDER[,FOLDER...]")
    counts, healthy = zip(*(_read_run(dataset, folder) for folder in folders), strict=True)
    known = [value for value in healthy if value is not None]
    statistics = bootstrap(counts, fp_rates=RATES, resamples=resamples)
    return Row(title, len(folders), statistics, float(np.mean(known)) if known else None)


def _read_run(dataset: Dataset, folder: Path) -> tuple[SubjectCounts, float | None]:
    scored = PredictionSet.of_folder(dataset, folder, "test").read()
    scored.check_complete()
    config, _ = scored.at_operating_point(EvaluationConfig())
    patients = dataset.patients([case.case_id for case in scored.cases])
    healthy = measure(scored.cases, dataset.classes, config)["healthy"]
    return subject_counts(scored.cases, config, patients), healthy["fp_per_scan"]


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown, differences to the first."""
    points = ("sensitivity", "FP per scan", "per healthy scan")
    lines = [
        table_head(
            "",
            "runs",
            "mean",
            *(f"at {rate:g} FP" for rate in RATES),
            *points,
            "Δ mean",
            "Δ sensitivity",
            "Δ FP per scan",
        )
    ]
    first = rows[0].statistics
    for row in rows:
        own = row.statistics
        differences = [
            "" if row is rows[0] else show(own.difference(first, name), decimals, signed=True)
            for name, decimals in (("froc_score", 3), ("sensitivity", 3), ("fp_per_scan", 2))
        ]
        at_rates = (show(own.estimate(f"sensitivity@{rate:g}"), 3) for rate in RATES)
        healthy = "-" if row.healthy is None else f"{row.healthy:.2f}"
        reached = (show(own.estimate("sensitivity"), 3), show(own.estimate("fp_per_scan"), 2), healthy)
        lines.append(
            table_row(row.title, row.runs, show(own.estimate("froc_score"), 3), *at_rates, *reached, *differences)
        )
    return "\n".join(lines)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table and writes it into the page."""
    arguments = parser(__doc__)
    arguments.add_argument("task", help="number, name or path of the Task folder that has the scans and their labels")
    arguments.add_argument(
        "rows", nargs="+", metavar="TITLE=FOLDER,...", help="the first is what others are compared with"
    )
    arguments.add_argument("--resamples", type=int, default=2000, help="of the bootstrap (default: %(default)s)")
    arguments.add_argument("--marker", default="comparison", help="of the page's part (default: %(default)s)")
    add_page(arguments)
    args = arguments.parse_args(argv)
    check_resamples(args.resamples)
    dataset = Dataset.load(find_task(args.task))
    text = table([read_row(dataset, row, args.resamples) for row in args.rows])
    print(text)
    if args.page is not None:
        put_between_markers(args.page, args.marker, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
