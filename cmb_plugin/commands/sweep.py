"""``nndet_sweep``."""

from __future__ import annotations

from collections.abc import Sequence

from .cli import add_overrides, command, parser
from .names import find_folds, find_model, find_task


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Choose the operating point of a fold: the score from which on a detection is reported.

    It is chosen on the fold's validation predictions; no detection is ever dropped for its size.

    Examples:
        nndet_sweep Task101_CMB CMBRetinaUNet_D3CMB_3d 0
        nndet_sweep 101 -o sweep_cfg.target=0.5                            at most 0.5 false positives per scan
        nndet_sweep 101 -o sweep_cfg.rule=sensitivity sweep_cfg.target=0.95
        nndet_sweep 101 -o sweep_cfg.rule=f1

    Settings (-o):
        sweep_cfg.rule=fp_per_scan|sensitivity|f1    what to aim at
        sweep_cfg.target=1.0                         false positives per scan, or a sensitivity (0.9 by default)
        eval_cfg.match_mm=5                          largest distance of the centres in mm

    Files: {fold}/operating_point.json, which nndet_predict and nndet_eval use from then on; it also keeps the scores
    for 0.25, 0.5, 1 and 2 false positives per scan, which nndet_predict --fp-per-scan takes.
    """
    arguments = parser(main.__doc__)
    arguments.add_argument("task", help="number, name or path of the Task folder")
    arguments.add_argument("model", nargs="?", help="name or path of the model folder; the only one by default")
    arguments.add_argument("fold", nargs="?", type=int, help="its number; the only trained one by default")
    add_overrides(arguments)
    args = arguments.parse_args(argv)
    from cmb_plugin.dataset import Dataset
    from cmb_plugin.evaluation import EvaluationConfig, SweepConfig
    from cmb_plugin.files import read_json
    from cmb_plugin.settings import Overrides
    from cmb_plugin.workflows.evaluate import sweep

    settings = Overrides.parse(args.overrides).apply(sweep_cfg=SweepConfig(), eval_cfg=EvaluationConfig())
    dataset = Dataset.load(find_task(args.task))
    model = find_folds(find_model(dataset.task, args.model), args.fold)
    result = sweep(dataset, model, settings["sweep_cfg"], settings["eval_cfg"]).sweep
    assert result is not None, "it was chosen just now"
    print(f"Operating point: score {result.score:.4g} ({result.why})")
    if result.ranking is not None:
        run = model.place.predictions("val") / "run.json"
        meanings = read_json(run).get("scores", {}) if run.is_file() else {}
        others = ", ".join(f"{name} {_shown(value)}" for name, value in result.froc_scores.items())
        print(f"Ranked by {result.ranking}: {meanings.get(result.ranking, 'not described')} (FROC scores: {others})")
    if result.class_scores:
        names = dataset.classes
        own = ", ".join(f"{names[label]} {score:.4g}" for label, score in result.class_scores.items())
        print(f"Each class has its own threshold: {own}; scores are brought to {result.score:.4g} for all")
    if result.sensitivity is not None:
        print(
            f"On {result.n_cases} validation scans with {result.n_lesions} lesions: "
            f"sensitivity {result.sensitivity:.3f} at {result.fp_per_scan:.2f} false positives per scan"
        )
    for rate in result.rates:
        reached = f"sensitivity {_shown(rate.sensitivity)} at {_shown(rate.fp_per_scan)}"
        print(f"nndet_predict --fp-per-scan {rate.target:g}: score {rate.score:.4g}, {reached} on these scans")
    return 0


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
