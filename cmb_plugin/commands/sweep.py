"""``nndet_sweep``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cmb_plugin.errors import UserError
from cmb_plugin.models.shipped import is_packed_name, packed_file

from .cli import add_overrides, command, parser
from .names import find_folds, find_model, find_task


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Choose the operating point of a fold: the score from which on a detection is reported.

    It is chosen on the fold's validation predictions; no detection is ever dropped for its size. With --predictions it
    is chosen on what a packed model found in labelled scans of a Task, say of a new scanner, and goes into a packed
    model of its own: the same network, which reports as these scans ask for.

    Examples:
        nndet_sweep Task101_CMB CMBRetinaUNet_D3CMB_3d 0
        nndet_sweep 101 -o sweep_cfg.target=0.5                            at most 0.5 false positives per scan
        nndet_sweep 101 -o sweep_cfg.rule=sensitivity sweep_cfg.target=0.95
        nndet_sweep 101 -o sweep_cfg.rule=f1
        nndet_predict 300 pretrained --input $det_data/Task300_Mine/raw_splitted/imagesTr --output found
        nndet_sweep 300 pretrained --predictions found --output mine.cmb   then nndet_predict mine.cmb --input ...

    Settings (-o):
        sweep_cfg.rule=fp_per_scan|sensitivity|f1    what to aim at
        sweep_cfg.target=1.0                         false positives per scan, or a sensitivity (0.9 by default)
        eval_cfg.match_mm=5                          largest distance of the centres in mm

    Files: {fold}/operating_point.json, or FILE.cmb, which nndet_predict and nndet_eval use from then on; it also keeps
    the scores for 0.25, 0.5, 1 and 2 false positives per scan, which nndet_predict --fp-per-scan takes. How many
    labelled scans that needs: docs/domains.md.
    """
    arguments = parser(main.__doc__)
    arguments.add_argument("task", help="number, name or path of the Task folder")
    arguments.add_argument("model", nargs="?", help="name or path of the model folder; the only one by default")
    arguments.add_argument("fold", nargs="?", type=int, help="its number; the only trained one by default")
    arguments.add_argument(
        "--predictions", metavar="DIR", help="what a packed model found in the Task's training scans"
    )
    arguments.add_argument("--output", metavar="FILE.cmb", help="packed model to write, with --predictions")
    add_overrides(arguments)
    args = arguments.parse_args(argv)
    from cmb_plugin.dataset import Dataset
    from cmb_plugin.evaluation import EvaluationConfig, SweepConfig
    from cmb_plugin.files import read_json
    from cmb_plugin.settings import Overrides
    from cmb_plugin.workflows.evaluate import sweep, sweep_packed

    settings = Overrides.parse(args.overrides).apply(sweep_cfg=SweepConfig(), eval_cfg=EvaluationConfig())
    rules = settings["sweep_cfg"], settings["eval_cfg"]
    dataset = Dataset.load(find_task(args.task))
    if args.predictions or args.output:
        target = Path(_needed(args.output, "--output FILE.cmb", "the packed model to write"))
        predictions = Path(_needed(args.predictions, "--predictions DIR", "what the packed model found"))
        point = sweep_packed(dataset, _packed(args.model, args.task), predictions, target, *rules)
        run = predictions / "run.json"
    else:
        model = find_folds(find_model(dataset.task, args.model), args.fold)
        point = sweep(dataset, model, *rules)
        run = model.place.predictions("val") / "run.json"
    result = point.sweep
    assert result is not None, "it was chosen just now"
    print(f"Operating point: score {result.score:.4g} ({result.why})")
    if result.ranking is not None:
        meanings = read_json(run).get("scores", {}) if run.is_file() else {}
        others = ", ".join(f"{name} {_shown(value)}" for name, value in result.froc_scores.items())
        print(f"Ranked by {result.ranking}: {meanings.get(result.ranking, 'not described')} (FROC scores: {others})")
    if result.class_scores:
        names = dataset.classes
        own = ", ".join(f"{names[label]} {score:.4g}" for label, score in result.class_scores.items())
        print(f"Each class has its own threshold: {own}; scores are brought to {result.score:.4g} for all")
    if result.sensitivity is not None:
        print(
            f"On {result.n_cases} {'labelled' if args.output else 'validation'} scans with {result.n_lesions} lesions: "
            f"sensitivity {result.sensitivity:.3f} at {result.fp_per_scan:.2f} false positives per scan"
        )
    for rate in result.rates:
        reached = f"sensitivity {_shown(rate.sensitivity)} at {_shown(rate.fp_per_scan)}"
        print(f"nndet_predict --fp-per-scan {rate.target:g}: score {rate.score:.4g}, {reached} on these scans")
    if args.output:
        print(f"Next: nndet_predict {args.output} --input SCANS --output DIR")
    return 0


def _needed(value: str | None, option: str, what: str) -> str:
    """An option that must be given with another one."""
    if value is None:
        raise UserError(f"{option} is missing, {what}", remedy="give --predictions and --output together")
    return value


def _packed(name: str | None, task: str) -> Path:
    """The packed model that is named.

    Raises:
        UserError: it is no packed model.
    """
    if not is_packed_name(name):
        remedy = f"name pretrained or FILE.cmb; nndet_pack {task} makes one of a trained model"
        raise UserError("--predictions: is for packed models only", remedy=remedy)
    return packed_file(str(name))


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
