"""``nndet_active``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from cmb_plugin.errors import UserError

from .cli import add_overrides, command, parser
from .names import check_resamples, device_named, find_folds, find_model, find_task

ACQUIRE = 10


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Choose the unlabelled scans that are worth a reader's time, or play with labels that exist how that would go.

    Examples:
        nndet_active Task101_CMB --pool scans --acquire 10                      a queue of 10 scans of a folder
        nndet_active 101 --pool siemens=scans/a ge=scans/b --strategy corrections   two scanners, named
        nndet_review 101 --queue ${det_data}/Task101_CMB/active/queue_uncertainty.json      what then follows
        nndet_active 101 --simulate --rounds 4 --acquire 10 --seeds 3 -o train=fast      compare strategies
        nndet_active 101 --simulate --strategies random,diversity --start-domain ukb    begin with scans of one domain

    Strategies (docs/active_learning.md has their formulas and papers):
        random          chance
        uncertainty     entropy of the candidates' scores at the operating point
        disagreement    of the folds, or of the averaged, last and best weights of one fold
        corrections     expected number of candidates that a reader would correct
        diversity       unlike the labelled scans and each other, by distances to prototypes
        or any registered with cmb_plugin.plugins.register_strategy (-o additional_imports=[my_module])

    --pool is anything that nndet_predict --input reads; scans that the Task has already are passed over. Predictions
    and queues go to ${det_data}/{task}/active; the same command goes on where it was, and later rounds use the folder
    again.

    --simulate takes the labelled training scans as the pool and measures on the labelled test scans. -o are the
    settings of nndet_train for the start, --later what differs in further rounds, which train on from the weights of
    the round before. Killed, the same command goes on; strategies and seeds may be added. Files: active.md, active.tsv
    and active.png in --output, and a model folder per round.
    """
    arguments = parser(main.__doc__)
    arguments.add_argument("task", help="number, name or path of the Task folder")
    arguments.add_argument("model", nargs="?", help="name or path of the model folder; the only one by default")
    arguments.add_argument("-f", "--fold", type=int, default=-1, help="fold; -1 takes all trained folds (default)")
    arguments.add_argument("--pool", nargs="+", metavar="[NAME=]DIR", help="unlabelled scans, NAME is their domain")
    arguments.add_argument("--acquire", type=int, default=ACQUIRE, metavar="N", help="scans (default: %(default)s)")
    arguments.add_argument("--strategy", default="uncertainty", help="(default: %(default)s)")
    arguments.add_argument("--seed", type=int, default=0, metavar="N", help="of chance (default: %(default)s)")
    arguments.add_argument("--output", metavar="DIR", help="folder for predictions and queues, or of the simulation")
    arguments.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: the GPU if there is one")
    arguments.add_argument("--simulate", action="store_true", help="play rounds with the labels that exist")
    arguments.add_argument("--rounds", type=int, default=3, metavar="N", help="after the start (default: %(default)s)")
    arguments.add_argument("--start", type=int, default=10, metavar="N", help="labelled scans (default: %(default)s)")
    arguments.add_argument("--start-domain", default="", metavar="NAME", help="domain of the scans at the start")
    arguments.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default: %(default)s)")
    arguments.add_argument(
        "--strategies",
        default="random,uncertainty,disagreement,corrections,diversity",
        metavar="NAME,...",
        help="(default: %(default)s)",
    )
    arguments.add_argument("--pool-scans", type=int, metavar="N", help="at most so many training scans take part")
    arguments.add_argument("--test-scans", type=int, metavar="N", help="at most so many test scans are measured")
    arguments.add_argument("--later", nargs="+", default=[], metavar="KEY=VALUE", help="settings of further rounds")
    arguments.add_argument("--resamples", type=int, default=2000, help="of the bootstrap (default: %(default)s)")
    add_overrides(arguments)
    args = arguments.parse_args(argv)
    if args.simulate == bool(args.pool):
        raise UserError("neither or both of --pool and --simulate", remedy="give --pool DIR, or --simulate")
    check_resamples(args.resamples)
    return _simulate(args) if args.simulate else _acquire(args)


def _acquire(args: argparse.Namespace) -> int:
    from cmb_plugin.active.acquire import acquire
    from cmb_plugin.dataset import Dataset
    from cmb_plugin.plugins import import_additional
    from cmb_plugin.settings import Overrides

    overrides = Overrides.parse(args.overrides)
    import_additional(overrides.take_imports())
    dataset = Dataset.load(find_task(args.task))
    folders = pools_named(args.pool)
    model = find_folds(find_model(dataset.task, args.model), args.fold)
    config = overrides.apply(inference_cfg=model.inference_config())["inference_cfg"]
    output = Path(args.output) if args.output else dataset.task.root / "active"
    report = acquire(
        dataset,
        model,
        folders,
        output.expanduser().resolve(),
        strategy=args.strategy,
        count=args.acquire,
        seed=args.seed,
        config=config,
        device=device_named(args.device),
        log=print,
    )
    for case_id, reason in report.failures.items():
        print(f"failed {case_id}: {reason}")
    if report.passed_over:
        print(f"passed over {report.passed_over} scans that {dataset.task.name} has already")
    for rank, scan in enumerate(report.queue.scans, start=1):
        domain = f" ({scan.domain})" if scan.domain else ""
        print(f"{rank:4d}  {scan.case_id}{domain}  {args.strategy} {scan.value:.4g}, {scan.reported} reported")
    print(f"{len(report.queue.scans)} of {report.pool} scans: {report.files[1]}; all of them: {report.ranking}")
    print(f"Next: nndet_review {dataset.task.name} --queue {report.files[0]}")
    return report.exit_code


def _simulate(args: argparse.Namespace) -> int:
    from cmb_plugin.active.curve import markdown, measure, write_curve
    from cmb_plugin.active.simulation import Simulation, SimulationConfig
    from cmb_plugin.paths import models_root
    from cmb_plugin.settings import Overrides
    from cmb_plugin.workflows.training_run import resolve

    task = find_task(args.task)
    first = resolve(task, Overrides.parse(args.overrides))
    later = resolve(task, Overrides.parse([*args.overrides, *args.later]))
    config = SimulationConfig(
        strategies=tuple(name for name in args.strategies.split(",") if name),
        rounds=args.rounds,
        acquire=args.acquire,
        start=args.start,
        start_domain=args.start_domain,
        seeds=args.seeds,
        pool_scans=args.pool_scans,
        test_scans=args.test_scans,
    )
    output = Path(args.output) if args.output else models_root() / task.name / "active"
    simulation = Simulation(config, first, later, output.expanduser().resolve(), print)
    points = measure(simulation, simulation.run(), args.resamples)
    files = write_curve(simulation, points, args.resamples)
    print(markdown(simulation, points, args.resamples))
    print(f"Written: {', '.join(map(str, files))}")
    return 0


def pools_named(texts: Sequence[str]) -> dict[str, Path]:
    """Domain -> folder of what ``--pool [NAME=]DIR ...`` means; folders without a name are numbered from the second on.

    Raises:
        UserError: a folder is not there, or a name cannot be a folder's or is given twice.
    """
    folders: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or Path(text).exists():
            name, folder = "" if not folders else f"pool{len(folders) + 1}", text
        elif not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise UserError(f"--pool {text}: {name!r} cannot name a domain", remedy="use letters, digits, _ . and -")
        path = Path(folder).expanduser()
        if not path.exists():
            raise UserError(f"--pool {text}: no such folder", remedy="name a folder of scans, or NAME=FOLDER")
        if name in folders:
            raise UserError(f"--pool {text}: the name is given twice", remedy="give each folder a name of its own")
        folders[name] = path
    return folders
