"""``nndet_bids``."""

from __future__ import annotations

from collections.abc import Sequence

from cmb_plugin.documents import counted

from .cli import add_overrides, add_scheduler, command, parser
from .names import device_named, machines_named, predicting_model, region_choice

LEVELS = ("participant", "group")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Find microbleeds in a BIDS data set and write BIDS derivatives: a BIDS App.

    Examples:
        nndet_bids my_bids derivatives/microbleeds participant --task Task101_CMB
        nndet_bids my_bids derivatives/microbleeds participant --task 101 --participant_label 01 02 --regions auto
        nndet_bids my_bids derivatives/microbleeds participant --model pretrained --fp-per-scan 0.5
        nndet_bids my_bids derivatives/microbleeds participant --model pretrained --scheduler slurm:20
        nndet_bids my_bids derivatives/microbleeds group

    Of each session the scan that suits the model best is taken: swi before T2starw and GRE, the echo that shows iron
    best; minimum intensity projections are refused. inputs.tsv says what was passed over and why.

    In the derivatives: a numbered mask (..._desc-cmb_dseg.nii.gz) and a table of lesions (..._desc-cmb_lesions.tsv, its
    columns described in the JSON beside it) for each scan; nndet/ holds the predictions themselves. The level group
    makes group_microbleeds.tsv, a row per scan. Several processes may work on participants at the same time.
    """
    arguments = parser(main.__doc__)
    arguments.add_argument("bids_dir", help="the BIDS data set")
    arguments.add_argument("output_dir", help="folder of the derivatives")
    arguments.add_argument("level", choices=LEVELS, help="what to do")
    arguments.add_argument("--task", help="number, name or path of the Task whose model predicts")
    arguments.add_argument("--model", help="model folder, name or path; pretrained or FILE.cmb needs no --task")
    arguments.add_argument("--fp-per-scan", dest="fp_per_scan", type=float, metavar="RATE", help="as in nndet_predict")
    arguments.add_argument("-f", "--fold", type=int, default=-1, help="fold; -1 takes all trained folds (default)")
    arguments.add_argument(
        "--participant_label", nargs="+", default=[], metavar="LABEL", help="only these subjects, without sub-"
    )
    arguments.add_argument("--regions", default="none", metavar="SOURCE", help="as in nndet_predict")
    arguments.add_argument("--echo", type=int, metavar="N", help="of several echoes take number N, from 1")
    arguments.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: the GPU if there is one")
    arguments.add_argument(
        "--dry-run", dest="dry_run", action="store_true", help="only show what is taken, and why not"
    )
    arguments.add_argument("-npp", "--num_processes_preprocessing", type=int, metavar="N", help="as in nndet_predict")
    add_scheduler(arguments)
    add_overrides(arguments)
    args = arguments.parse_args(argv)
    import dataclasses
    from pathlib import Path

    from cmb_plugin.errors import UserError
    from cmb_plugin.exchange.bids import GROUP_TABLE, check_derivative, write_group

    raw, out = Path(args.bids_dir).resolve(), Path(args.output_dir).resolve()
    if not raw.is_dir() or not any(raw.glob("sub-*/")):
        raise UserError(f"{raw}: holds no folder sub-*", remedy="name the top folder of a BIDS data set")
    check_derivative(out, [raw])
    if args.level == "group":
        print(f"{counted(write_group(out), 'scan')}: {out / GROUP_TABLE}.tsv")
        return 0
    from cmb_plugin.intake import InputOptions
    from cmb_plugin.settings import Overrides
    from cmb_plugin.workflows.export import ExportTargets
    from cmb_plugin.workflows.predict import PredictOptions, predict
    from cmb_plugin.workflows.scan_selection import ScanSelection, select_for

    from .predict import show_input, show_report

    task, model = predicting_model(args.task, args.model, args.fold, args.fp_per_scan)
    config = Overrides.parse(args.overrides).apply(inference_cfg=model.inference_config())["inference_cfg"]
    labels = tuple(label.removeprefix("sub-") for label in args.participant_label)
    scans = ScanSelection(task, inputs=(raw,), options=InputOptions(participants=labels), echo=args.echo)
    if args.dry_run:
        return show_input(select_for(model, scans).rows)
    folder = out / "nndet" / ("_".join(f"sub-{label}" for label in labels) or "all")
    options = PredictOptions(
        config,
        device_named(args.device, here=args.scheduler is None),
        folder,
        region_choice(args.regions, task),
        args.num_processes_preprocessing,
        export=ExportTargets(derivatives=out, raw=raw),
    )
    with machines_named(args.scheduler) as machines:
        report = predict(model, scans, dataclasses.replace(options, machines=machines), log=print)
    return show_report(report)
