"""``nndet_consolidate``."""

from __future__ import annotations

from collections.abc import Sequence

from cmb_plugin.documents import counted

from .cli import add_overrides, command, parser
from .names import find_folds, find_model, find_task


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Bring the folds of a model together: measure them on all validation scans, and pack them to hand over.

    nndet_predict takes all trained folds together without it. It is for the numbers of a whole cross-validation, each
    scan by the fold that had not seen it, and for a copy of the model that predicts on another machine: the weights
    alone, a third of the size, without the names of the patients that it was trained on.

    Examples:
        nndet_consolidate Task101_CMB CMBRetinaUNet_D3CMB_3d
        nndet_consolidate 101 --num_folds 1                          a model of fold 0 alone
        nndet_consolidate 101 --sweep_boxes -o sweep_cfg.target=0.5  choose the operating points first
        nndet_predict Task101_CMB PATH/CMBRetinaUNet_D3CMB_3d --input scans --output found     the packed one, elsewhere

    Settings (-o): eval_cfg.*, as for nndet_eval; with --sweep_boxes also sweep_cfg.*, as for nndet_sweep.

    Files: in the model folder, consolidated/val_results (metrics.json, report.html; of a single fold its own)
    and consolidated/{model}.
    """
    arguments = parser(main.__doc__)
    arguments.add_argument("task", help="number, name or path of the Task folder")
    arguments.add_argument("model", nargs="?", help="name or path of the model folder; the only one by default")
    arguments.add_argument(
        "--num_folds", type=int, metavar="N", help="folds 0 to N-1 make the model; default: as many as the splits have"
    )
    arguments.add_argument("--ckpt", choices=("last", "best"), default="last", help="checkpoint that is packed")
    arguments.add_argument(
        "-c",
        "--consolidate",
        choices=("export", "copy"),
        default="export",
        help="export packs the weights (default), copy whole checkpoints, optimiser included",
    )
    arguments.add_argument("--no_model", action="store_true", help="measure only, pack nothing")
    arguments.add_argument("--sweep_boxes", action="store_true", help="choose each fold's operating point again first")
    add_overrides(arguments)
    args = arguments.parse_args(argv)
    from rich.console import Console

    from cmb_plugin.dataset import Dataset
    from cmb_plugin.evaluation import EvaluationConfig, SweepConfig
    from cmb_plugin.settings import Overrides
    from cmb_plugin.workflows.consolidate import ConsolidateOptions, consolidate

    from .eval import show

    settings = Overrides.parse(args.overrides).apply(sweep_cfg=SweepConfig(), eval_cfg=EvaluationConfig())
    dataset = Dataset.load(find_task(args.task))
    model = find_folds(find_model(dataset.task, args.model), checkpoint=args.ckpt)
    options = ConsolidateOptions(
        num_folds=args.num_folds,
        sweep=settings["sweep_cfg"] if args.sweep_boxes else None,
        pack=not args.no_model,
        whole=args.consolidate == "copy",
    )
    done = consolidate(dataset, model, settings["eval_cfg"], options)
    show(done.evaluation, Console())
    for number, point in done.points.items():
        print(f"fold{number}: operating point {point.score:.4g} ({point.sweep.why if point.sweep else point.origin})")
    if done.packed is not None:
        print(f"packed {counted(len(done.folds), 'fold')}: {done.packed}")
    return 0 if done.evaluation.complete else 2
