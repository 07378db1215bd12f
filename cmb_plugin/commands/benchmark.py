"""``nndet_benchmark``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cmb_plugin.errors import UserError

from .cli import add_overrides, command, parser
from .names import check_resamples, find_task

if TYPE_CHECKING:
    from rich.console import Console

    from cmb_plugin.benchmark.domain_table import DomainRow
    from cmb_plugin.benchmark.entries import Benchmark
    from cmb_plugin.benchmark.run import BenchmarkRun
    from cmb_plugin.benchmark.table import Row


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train, predict and measure several methods on several tasks with the same budget and splits; one table.

    Examples:
        nndet_benchmark Task101_CMB                                      the trainers of this package
        nndet_benchmark 101 --models CMBRetinaUNet,nnunet --seeds 3      against nnU-Net v2, three seeds each
        nndet_benchmark 100 101 --budget 2000steps --jobs 2              two tasks; two networks train at a time
        nndet_benchmark 101 --models CMBRetinaUNet,path/to/predictions   against what another program predicted
        nndet_benchmark 101 --models "CMBRetinaUNet, FFM alone: CMBRetinaUNet model_cfg.hspl=false"    an ablation
        nndet_benchmark 200 --folds domains --models CMBRetinaUNet       each domain left out once, domain x domain
        nndet_benchmark 101 --only eval                                  the table of what is finished

    Models: a trainer (nndet_train module=), with another plan as Trainer:D3V001_3d; nnunet, the installed nnU-Net v2
    with its own commands; a folder of predictions of the task's test scans, in any format that nndet_eval reads. A
    trainer may have overrides of its own, and any of them a name for the tables: "NAME: TRAINER KEY=VALUE ...".

    Budget: 2000steps, or 30min or 2h of optimisation steps, from two short trials of each method; start-up, validation
    and prediction come on top. The same number of steps is not the same work: the table names patches and time.

    With --folds domains every network is trained on all domains but one, and measured on that one and on the others:
    domains.md, .csv and .html (docs/domains.md).

    Interrupted or killed, the same command goes on where it was. Test scans are measured, or, where the task has none,
    the validation scans of the folds, pooled. Files: --output holds benchmark.md, .csv and .html, and per task the
    records and logs (docs/benchmark.md). Exit code 2 when something failed; the table then holds the rest.
    """
    arguments = parser(main.__doc__)
    add_options(arguments, "RetinaUNetV001,CMBRetinaUNet", "benchmark")
    benchmark = benchmark_of(arguments.parse_args(argv), "benchmark")
    return 2 if run(benchmark).failed else 0


def add_options(arguments: argparse.ArgumentParser, models: str, name: str) -> None:
    """The options of a benchmark, which studies in benchmarks/ have too; ``name`` is that of its default folder."""
    arguments.add_argument("tasks", nargs="+", metavar="TASK", help="number, name or path of a Task folder")
    arguments.add_argument("--models", default=models, metavar="MODEL,...", help="(default: %(default)s)")
    arguments.add_argument("--folds", default="0", metavar="N,...", help="or domains (default: %(default)s)")
    arguments.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 0 to N - 1 (default: %(default)s)")
    arguments.add_argument("--budget", default="2000steps", help="of each training (default: %(default)s)")
    arguments.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="networks that train side by side, each with its share of the cores (default: %(default)s)",
    )
    arguments.add_argument(
        "--only", metavar="PHASE,...", help="of prep, train, predict, eval; eval writes the table (default: all)"
    )
    arguments.add_argument(
        "--output", metavar="DIR", help=f"its name also marks the model folders (default: ${{det_models}}/{name})"
    )
    arguments.add_argument(
        "--nnunet-memory", type=float, metavar="GB", help="that nnU-Net plans for; 8 with a GPU, 2 without by default"
    )
    arguments.add_argument("--resamples", type=int, default=2000, help="of the bootstrap (default: %(default)s)")
    add_overrides(arguments)


def benchmark_of(args: argparse.Namespace, name: str) -> Benchmark:
    """What the options ask for; ``name`` as for ``add_options``.

    Raises:
        UserError: an option that cannot be understood.
    """
    import re
    from pathlib import Path

    from cmb_plugin.benchmark.entries import PHASES, Benchmark, Budget, parse_methods
    from cmb_plugin.paths import models_root
    from cmb_plugin.plugins import import_additional, suggest
    from cmb_plugin.settings import Overrides

    phases = tuple(args.only.split(",")) if args.only else PHASES
    for phase in phases:
        if phase not in PHASES:
            raise UserError(f"--only {phase}: no such phase", remedy=suggest(phase, PHASES))
    by_domain = args.folds == "domains"
    if not (by_domain or re.fullmatch(r"\d+(,\d+)*", args.folds)) or args.seeds < 1 or args.jobs < 1:
        raise UserError("--folds, --seeds or --jobs: not understood", remedy="give for instance --folds 0,1 --seeds 3")
    check_resamples(args.resamples)
    output = Path(args.output).expanduser().resolve() if args.output else models_root() / name
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", output.name):
        raise UserError(f"--output {output.name}: cannot mark model folders", remedy="use letters, digits, _ . -")
    import_additional(Overrides.parse(args.overrides).take_imports())
    return Benchmark(
        tasks=tuple(find_task(task) for task in args.tasks),
        methods=parse_methods(args.models),
        folds=(0,) if by_domain else tuple(int(fold) for fold in args.folds.split(",")),
        seeds=tuple(range(args.seeds)),
        budget=Budget.parse(args.budget),
        overrides=tuple(args.overrides),
        output=output,
        phases=phases,
        nnunet_memory_gb=args.nnunet_memory,
        resamples=args.resamples,
        jobs=args.jobs,
        by_domain=by_domain,
    )


def run(benchmark: Benchmark) -> BenchmarkRun:
    """Runs it and prints the table, what failed, and the files."""
    import time

    from rich.console import Console

    from cmb_plugin.benchmark.run import run_benchmark

    console = Console()

    def log(text: str) -> None:
        """Prints a line as it is, whatever its length."""
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    def timed(text: str) -> None:
        """Prints a line with the time of day."""
        log(f"[{time.strftime('%H:%M:%S')}] {text}")

    done = run_benchmark(benchmark, log=timed)
    if done.table:
        _show(done.table, console)
    if done.domains:
        _show_domains(done.domains, console)
    for name, path in done.failed.items():
        log(f"failed: {name}, see {path}")
    for file in done.files:
        log(f"wrote {file}")
    return done


def _show(rows: Sequence[Row], console: Console) -> None:
    """One table per task, turned on its side: methods are columns, numbers are rows."""
    from rich import box
    from rich.table import Table

    from cmb_plugin.benchmark.table import COSTS, cells, costs, headings

    for task in dict.fromkeys(row.task for row in rows):
        own = [row for row in rows if row.task == task]
        table = Table(
            box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=f"{task}: {own[0].n_cases} scans", title_justify="left"
        )
        table.add_column("")
        for row in own:
            table.add_column(row.method, justify="right")
        for index, heading in enumerate(headings(own)[1:], start=1):
            table.add_row(heading, *(cells(row)[index] for row in own))
        for index, heading in enumerate(COSTS[1:], start=1):
            table.add_row(heading, *(costs(row)[index] for row in own))
        console.print(table)


def _show_domains(rows: Sequence[DomainRow], console: Console) -> None:
    """Domain x domain for the first number, and the operating points; domains.md has the others."""
    from rich import box
    from rich.table import Table

    from cmb_plugin.benchmark.domain_table import NUMBERS, groups_of, matrix, points

    name, title, decimals = NUMBERS[0]
    for task, method, own in groups_of(rows):
        tables = ((f"{task}, {method}: {title}", matrix(own, name, decimals)), ("Operating points", points(own)))
        for heading, (columns, lines) in tables:
            table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=heading, title_justify="left")
            for column in columns:
                table.add_column(column, justify="right" if column else "left")
            for line in lines:
                table.add_row(*(cell.strip("*") for cell in line))
            console.print(table)
