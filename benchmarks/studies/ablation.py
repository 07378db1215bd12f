"""The ablation of Kim et al. 2023 on phantoms: what feature fusion and hard-sample prototypes add to the baseline.

    nndet_example --task Task110_Mixed --protocol mixed --train 42 --test 42 --healthy 0.25
    python -m benchmarks.studies.ablation Task110_Mixed --jobs 2              prepare, train, predict, tables and figure
    python -m benchmarks.studies.ablation Task110_Mixed --rows baseline,both --seeds 1
    python -m benchmarks.studies.ablation Task110_Mixed --only eval           tables and figure of what is finished
    python -m benchmarks.studies.ablation Task110_Mixed --budget 20000steps -o train=v001      with a GPU

It is nndet_benchmark with these rows as its models (the first is the reference of ratios) and a longer report; its
options and how it goes on after a stop are described in docs/benchmark.md. All rows have the same plan, scans, seeds,
steps and patches. Rows: vanilla and baseline (RetinaUNetV001 with random and with hard negatives); dense, ffm, hspl,
both (CMBRetinaUNet by focal loss alone, with these parts); hard, default (with hard negatives, without and with HSPL);
deep_mir, two_step; --models gives others.

Records, logs, runs.csv, table.md and froc.png land in --output (${det_models}/ablation) below the task's name. The
report also goes between the markers of --page (docs/studies/ablation.md) and to --figure (docs/images/ablation.png),
where they are given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tools.markdown import add_page
from cmb_plugin.benchmark.entries import Benchmark
from cmb_plugin.commands.benchmark import add_options, benchmark_of, run
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.errors import UserError
from cmb_plugin.plugins import suggest

from .ablation_report import write_report

ROWS = {  # name on the command line: as nndet_benchmark --models takes it
    "vanilla": "RPN with random negatives: RetinaUNetV001 model_cfg.negative_pool=null",
    "baseline": "RetinaUNetV001",
    "dense": "dense: CMBRetinaUNet model_cfg.hard_negatives=0 model_cfg.ffm=false model_cfg.hspl=false",
    "ffm": "dense + FFM: CMBRetinaUNet model_cfg.hard_negatives=0 model_cfg.ffm=true model_cfg.hspl=false",
    "hspl": "dense + HSPL: CMBRetinaUNet model_cfg.hard_negatives=0 model_cfg.ffm=false model_cfg.hspl=true",
    "both": "dense + FFM + HSPL: CMBRetinaUNet model_cfg.hard_negatives=0 model_cfg.ffm=true model_cfg.hspl=true",
    "hard": "dense + hard negatives: CMBRetinaUNet model_cfg.ffm=false model_cfg.hspl=false",
    "default": "dense + HSPL + hard negatives: CMBRetinaUNet",
    "deep_mir": "DeepMIRUNet",
    "two_step": "TwoStepKD",
}


def study_options(doc: str, name: str, rows: Sequence[str] = tuple(ROWS)) -> argparse.ArgumentParser:
    """Those of nndet_benchmark and of the report; ``rows`` are the default ones, ``name`` is its folder's."""
    arguments = parser(doc)
    add_options(arguments, ", ".join(ROWS[row] for row in rows), name)
    arguments.add_argument(
        "--rows", metavar="NAME,...", help=f"instead of --models: {', '.join(ROWS)}, or some of them"
    )
    add_page(arguments)
    arguments.add_argument("--figure", type=Path, metavar="FILE", help="PNG of the FROC curves")
    arguments.set_defaults(seeds=3, budget="1200steps")  # for two CPU cores
    return arguments


def study(args: argparse.Namespace, name: str) -> Benchmark:
    """The benchmark that the options ask for; ``name`` as for ``study_options``.

    Raises:
        UserError: an unknown row, several tasks or folds.
    """
    rows = args.rows.split(",") if args.rows else []
    for row in rows:
        if row not in ROWS:
            raise UserError(f"--rows: no row '{row}'", remedy=suggest(row, ROWS))
    if rows:
        args.models = ", ".join(ROWS[row] for row in rows)
    benchmark = benchmark_of(args, name)
    if len(benchmark.tasks) > 1 or len(benchmark.folds) > 1:
        raise UserError("a study is of one task and one fold", remedy="call it for each, with an --output of its own")
    return benchmark


def run_and_report(benchmark: Benchmark, args: argparse.Namespace, marker: str) -> int:
    """Returns the exit code."""
    failed = run(benchmark).failed
    if "eval" in benchmark.phases:
        (task,) = benchmark.tasks
        files = write_report(
            benchmark.entries(task),
            benchmark.output / task.name,
            page=args.page,
            figure=args.figure,
            resamples=benchmark.resamples,
            marker=marker,
        )
        for path in files:
            print(f"wrote {path}")
    return 2 if failed else 0


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study and writes its report."""
    args = study_options(__doc__ or "", "ablation").parse_args(argv)
    return run_and_report(study(args, "ablation"), args, "ablation")


if __name__ == "__main__":
    sys.exit(main())
