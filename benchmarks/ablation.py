"""The ablation of Kim et al. 2023 on phantoms: what feature fusion and hard-sample prototypes add to the baseline.

    nndet_example --task Task110_Mixed --protocol mixed --train 42 --test 42 --healthy 0.25
    nndet_prep Task110_Mixed -o planner=D3CMB
    python benchmarks/ablation.py Task110_Mixed --jobs 2                  train, predict, evaluate, report
    python benchmarks/ablation.py Task110_Mixed --rows baseline,both --seeds 0
    python benchmarks/ablation.py Task110_Mixed --only report             tables and figure of what is finished
    python benchmarks/ablation.py Task110_Mixed --overrides train=fast    another schedule, the same for all rows

Rows (--rows): baseline (RetinaUNetV001), ffm, hspl, both (CMBRetinaUNet with these parts). All rows have the same plan,
scans, seeds, steps and patches. Seeds are worked off one after the other, each with all rows, so that a study that was
stopped early compares all rows on the seeds that it has. Run it again to go on.

Other rows: --row NAME module=X model_cfg.y=z (repeatable) replaces them; the first row is the reference of ratios.

Records, logs, runs.csv and table.md land in ${det_models}/{task}/ablation (--output). The report goes between the
markers of --page (docs/ablation.md) and to --figure (docs/images/ablation.png), where they are given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from runs import Run, check_plan, run_all, say

from cmb_plugin.commands.cli import command, parser
from cmb_plugin.errors import UserError
from cmb_plugin.paths import find_task, models_root
from cmb_plugin.plugins import suggest

CMB = "module=CMBRetinaUNet"
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {  # name on the command line: name in tables, overrides
    "baseline": ("RetinaUNetV001", ("module=RetinaUNetV001",)),
    "ffm": ("+ FFM", (CMB, "model_cfg.ffm=true", "model_cfg.hspl=false")),
    "hspl": ("+ HSPL", (CMB, "model_cfg.ffm=false", "model_cfg.hspl=true")),
    "both": ("+ FFM + HSPL", (CMB, "model_cfg.ffm=true", "model_cfg.hspl=true")),
}

# A schedule for two CPU cores; on a GPU give --overrides train=fast, or train=v001 for nnDetection's own.
OVERRIDES = ("train=demo", "trainer_cfg.epochs=16", "trainer_cfg.steps_per_epoch=75")


def add_study_options(arguments: argparse.ArgumentParser, study: str) -> None:
    """The options that every study of several runs has; ``study`` names its folder."""
    arguments.add_argument("--plan", default="D3CMB_3d", help="of all rows (default: %(default)s)")
    arguments.add_argument("--rows", metavar="NAME,...", help=f"of {', '.join(ROWS)}; default: all")
    arguments.add_argument(
        "--row", action="append", nargs="+", default=[], metavar="WORD", help="a row of your own: name, then overrides"
    )
    arguments.add_argument("--seeds", default="0,1,2", metavar="N,...", help="(default: %(default)s)")
    arguments.add_argument("--fold", type=int, default=0, help="(default: %(default)s)")
    arguments.add_argument(
        "--overrides",
        nargs="*",
        default=list(OVERRIDES),
        metavar="KEY=VALUE",
        help=f"settings of every training, instead of: {' '.join(OVERRIDES)}",
    )
    arguments.add_argument(
        "--predict-overrides", nargs="*", default=[], metavar="KEY=VALUE", help="such as inference_cfg.overlap=0.25"
    )
    arguments.add_argument("--eval-overrides", nargs="*", default=[], metavar="KEY=VALUE", help="eval_cfg.*")
    arguments.add_argument("--suffix", default="", help="of the model folders' names, to keep several studies apart")
    arguments.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: %(default)s)")
    arguments.add_argument("--only", choices=("run", "report"), help="one half of the work")
    arguments.add_argument(
        "--output", type=Path, metavar="DIR", help=f"default: ${{det_models}}/TASK/{study}, plus the suffix"
    )
    arguments.add_argument("--page", type=Path, metavar="FILE", help="Markdown page whose marked part is replaced")
    arguments.add_argument("--figure", type=Path, metavar="FILE", help="PNG of the FROC curves")
    arguments.add_argument("--resamples", type=int, default=2000, help="of the bootstrap (default: %(default)s)")


def study_runs(args: argparse.Namespace, task: str, output: Path, rows: Sequence[str] = tuple(ROWS)) -> list[Run]:
    """The runs that the options ask for, all rows of one seed before the next.

    Raises:
        UserError: an unknown row, or a seed that is no number.
    """
    chosen = {row[0]: (row[0], tuple(row[1:])) for row in args.row}
    for name, (_, words) in chosen.items():
        if not any(word.startswith("module=") for word in words):
            raise UserError(f"--row {name}: names no module", remedy="add module=RetinaUNetV001 or another trainer")
    if not chosen:
        names = args.rows.split(",") if args.rows else list(rows)
        for name in names:
            if name not in ROWS:
                raise UserError(f"--rows: no row '{name}'", remedy=suggest(name, ROWS))
        chosen = {name: ROWS[name] for name in names}
    if not all(seed.isdecimal() for seed in args.seeds.split(",")):
        raise UserError(f"--seeds {args.seeds}: not numbers", remedy="give for instance 0,1,2")
    suffix = f"_{args.suffix}" if args.suffix else ""
    return [
        Run(
            row=title,
            tag=f"{name}_seed{seed}{suffix}",
            seed=int(seed),
            task=task,
            words=(*words, f"plan={args.plan}", *args.overrides),
            fold=args.fold,
            predict_words=tuple(args.predict_overrides),
            eval_words=tuple(args.eval_overrides),
            output=output,
        )
        for seed in args.seeds.split(",")
        for name, (title, words) in chosen.items()
    ]


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("task", help="number, name or path of a prepared Task folder")
    add_study_options(arguments, "ablation")
    args = arguments.parse_args(argv)
    task = find_task(args.task).name if args.only == "report" else check_plan(args.task, args.plan)
    output = args.output or models_root() / task / ("ablation" + (f"_{args.suffix}" if args.suffix else ""))
    runs = study_runs(args, task, output)
    failed = 0
    if args.only == "report":
        runs = [run.as_recorded() for run in runs]
    else:
        failed = run_all(runs, args.jobs)
    if args.only != "run":
        from ablation_report import write_report

        for path in write_report(runs, output, page=args.page, figure=args.figure, resamples=args.resamples):
            say(f"wrote {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
