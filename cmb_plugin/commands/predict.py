"""``nndet_predict``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cmb_plugin.documents import counted

from .cli import add_overrides, add_scheduler, command, parser
from .names import (
    device_named,
    file_patterns,
    find_folds,
    machines_named,
    model_of,
    region_choice,
    split_named,
)

if TYPE_CHECKING:
    from cmb_plugin.intake import InputRow
    from cmb_plugin.workflows.export import ExportTargets
    from cmb_plugin.workflows.predict import PredictReport


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Find lesions in scans with a trained model.

    Examples:
        nndet_predict Task101_CMB                             imagesTs, with the only model and all its trained folds
        nndet_predict 101 CMBRetinaUNet_D3CMB_3d -f 0       one model, one fold
        nndet_predict 101 --input scans --output found        files, a BIDS data set, or a folder of DICOM files
        nndet_predict pretrained --input scans --output found     the model of this package: no Task, no training
        nndet_predict mine.cmb --input scans --output found --fp-per-scan 0.5     a packed model, fewer false positives
        nndet_predict pretrained --input site1 site2/*.nii.gz --output found      several at once
        nndet_predict pretrained --input cohort.tsv --output found    a line per case: case, path
        nndet_predict 101 --input scans --dry-run             only the table of what would be taken, and why not
        nndet_predict 101 --input scans --output found --channels swi=*_swi.nii.gz,phase=*_phase.nii.gz
        nndet_predict 101 --input dicoms --output found --dicom-out for_pacs      a DICOM segmentation and a report
        nndet_predict 101 --input my_bids --output found --bids-derivatives my_bids/derivatives/microbleeds
        nndet_predict 101 --scheduler slurm:20 --device cuda  in 20 jobs of a Slurm cluster (docs/cluster.md)
        nndet_predict 101 --regions auto                      and say where in the brain each lesion lies
        nndet_predict 101 DeepMIRUNet_D3CMB_3d --without QSM,T2 --output swi_alone    as if there were no such files

    Files, for each case: {case}_boxes.json (all candidates, in voxels of the scan and world mm) and
    {case}_instances.nii.gz (the reported lesions, numbered, on the scan's own grid); for the run: lesions.tsv,
    summary.tsv and run.json. Without --output they stand in the model folder: fold{N}/test_predictions, or
    consolidated/test_predictions for several folds. docs/predictions.md describes them all.

    With --regions each detection gets its region, side and distance to the border, what lies outside the brain or in a
    ventricle is removed (marked, not deleted), and there are {case}_report.json, {case}_report.png and cohort.tsv with
    the counts: docs/anatomy.md. Without it lesions have no places, and nothing takes longer.

    Settings (-o): inference_cfg.overlap, batch_size, nms_iou, wbc_iou, min_score, max_detections, foreground.

    A lesion is reported when its score reaches the operating point that nndet_sweep chose, or 0.5; --fp-per-scan takes
    another one that it kept. A packed model (nndet_pack; docs/pretrained.md) knows what scans it has seen: those unlike
    all of them are predicted with a warning, which {case}_boxes.json and the report keep. Finished cases are
    kept; a scan that cannot be read is named in summary.tsv, the others go on, and the exit code is 2.
    """
    arguments = parser(main.__doc__)
    arguments.add_argument(
        "task", help="number, name or path of the Task folder; or a packed model: pretrained, FILE.cmb"
    )
    arguments.add_argument(
        "model", nargs="?", help="model folder, name or path, or a packed model; may be left out when there is only one"
    )
    arguments.add_argument(
        "-f", "--fold", type=int, default=-1, help="fold; -1 takes all trained folds together (default)"
    )
    arguments.add_argument(
        "--input",
        nargs="+",
        metavar="PATH",
        help="scans to predict instead of imagesTs: image files, folders of them, a BIDS data set, DICOM files, or a "
        "table of scans (.tsv): a line per case under the names case and path, or case and each modality "
        "(docs/exchange.md)",
    )
    arguments.add_argument(
        "--channels",
        metavar="NAME=PATTERN,...",
        help="which files in --input show which modality; what * stands for names the case",
    )
    arguments.add_argument("--echo", type=int, metavar="N", help="of several echoes take number N, from 1")
    arguments.add_argument(
        "--dry-run", dest="dry_run", action="store_true", help="only show what of --input is taken, and why not"
    )
    arguments.add_argument("--output", metavar="DIR", help="folder for the results; needed with --input")
    arguments.add_argument(
        "--fp-per-scan",
        dest="fp_per_scan",
        type=float,
        metavar="RATE",
        help="report as for so many false positives per scan on validation: 0.25, 0.5, 1 or 2",
    )
    arguments.add_argument(
        "-ntta",
        "--num_tta",
        type=int,
        metavar="N",
        help="mirrorings of every tile, 1 (none) to 8; default 8 on a GPU, but no more than the operating point was "
        "chosen with, and 1 on a CPU",
    )
    arguments.add_argument("-nmodels", "--num_models", type=int, metavar="N", help="use only the first N trained folds")
    arguments.add_argument("--ckpt", choices=("last", "best"), default="last", help="checkpoint of each fold")
    arguments.add_argument(
        "--test_split", action="store_true", help="predict the cases of the training data that the fold held out"
    )
    arguments.add_argument(
        "--unseen", action="store_true", help="predict the scans of the domain that the model was trained without"
    )
    arguments.add_argument(
        "-npp", "--num_processes_preprocessing", type=int, metavar="N", help="processes that preprocess scans meanwhile"
    )
    arguments.add_argument(
        "--regions",
        default="none",
        metavar="SOURCE",
        help="map of brain regions: auto, model:NAME, parcellation:DIR, atlas:FILE[:LABELS.tsv], atlas:builtin; "
        "default: none, because a map takes 10 to 30 s per scan and removes detections",
    )
    arguments.add_argument(
        "--without",
        metavar="NAME,...",
        help="modalities to leave out of every case, for models that can do without; such models also take cases of "
        "which some files are missing",
    )
    arguments.add_argument(
        "--bids-derivatives",
        dest="bids_derivatives",
        metavar="DIR",
        help="also write masks and tables as BIDS has them",
    )
    arguments.add_argument(
        "--dicom-out",
        dest="dicom_out",
        metavar="DIR",
        help="of DICOM series also write a DICOM segmentation and a structured report",
    )
    add_scheduler(arguments)
    arguments.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: the GPU if there is one")
    arguments.add_argument("--overwrite", action="store_true", help="predict finished cases again")
    arguments.add_argument(
        "--no_preprocess",
        action="store_true",
        help="accepted for nnDetection's scripts: prepared scans are always used where they are current",
    )
    add_overrides(arguments)
    args = arguments.parse_args(argv)
    import dataclasses
    from pathlib import Path

    from cmb_plugin.intake import InputOptions
    from cmb_plugin.plugins import import_additional
    from cmb_plugin.settings import Overrides, check_ranges
    from cmb_plugin.workflows.predict import PredictOptions, predict
    from cmb_plugin.workflows.scan_selection import ScanSelection, select_for

    overrides = Overrides.parse(args.overrides)
    import_additional(overrides.take_imports())
    task, folder = model_of(args.task, args.model, args.input is not None)
    model = dataclasses.replace(find_folds(folder, args.fold, args.ckpt), fp_per_scan=args.fp_per_scan)
    if args.num_models and args.num_models > 0:
        model = dataclasses.replace(model, folds=model.folds[: args.num_models])
    scans = ScanSelection(
        task,
        split_named({"val": args.test_split, "unseen": args.unseen}, "test"),
        tuple(Path(path) for path in args.input or ()),
        tuple(name.strip() for name in args.without.split(",")) if args.without else (),
        None if args.channels is None else InputOptions(file_patterns(args.channels)),
        args.echo,
    )
    if args.dry_run:
        return show_input(select_for(model, scans).rows)
    config = overrides.apply(inference_cfg=model.inference_config())["inference_cfg"]
    if args.num_tta is not None:
        config = dataclasses.replace(config, tta=args.num_tta)
        check_ranges(config, "inference_cfg")
    options = PredictOptions(
        config,
        device_named(args.device, here=args.scheduler is None),
        None if args.output is None else Path(args.output),
        region_choice(args.regions, task),
        args.num_processes_preprocessing,
        args.overwrite,
        export=_targets(args.bids_derivatives, args.dicom_out, args.input),
    )
    with machines_named(args.scheduler) as machines:
        report = predict(model, scans, dataclasses.replace(options, machines=machines), log=print)
    return show_report(report)


def show_report(report: PredictReport) -> int:
    """Prints what became of the cases and returns the exit code."""
    for remark in report.remarks:  # first: of a large cohort there are many, and errors shall be seen
        print(f"warning: {remark}", file=sys.stderr)
    unpredicted = [
        (failure.item.case.case_id, failure.error, failure.is_bug, failure.details) for failure in report.failures
    ]
    unplaced = [(failure.item.case_id, failure.error, failure.is_bug, failure.details) for failure in report.unplaced]
    unwritten = [(failure.item.case_id, failure.error, failure.is_bug, failure.details) for failure in report.unwritten]
    for name, error, is_bug, details in (*unpredicted, *unplaced, *unwritten):
        print(f"error: {name}: {error}", file=sys.stderr)
        if is_bug:
            print(details, file=sys.stderr)
    for case_id, why in report.unknown.items():
        print(f"Note: {case_id}: regions unknown: {why}")
    kept = f", {report.kept} kept from an earlier run" if report.kept else ""
    failed = f", {len(report.failures)} failed" if report.failures else ""
    lesions = counted(report.lesions, "lesion")
    print(f"{counted(report.predicted, 'case')} predicted{kept}{failed}: {lesions} reported")
    for folder in report.folders:
        print(folder)
    if not (report.predicted or report.kept or report.failures):
        print("error: no scan is one that the model reads - inputs.tsv says why", file=sys.stderr)
        return 2
    return report.exit_code


def show_input(rows: Sequence[InputRow]) -> int:
    """Prints the table of an input; exit code 2 where nothing can be predicted or a scan cannot be read."""
    from cmb_plugin.intake import TAKEN, UNUSABLE, count_text, table_text

    if not rows:
        print("--dry-run shows what --input holds; the scans of a task are those in imagesTs")
        return 0
    print(table_text(rows))
    print(count_text(rows))
    statuses = {row.status for row in rows}
    return 2 if UNUSABLE in statuses or TAKEN not in statuses else 0


def _targets(derivatives: str | None, dicom: str | None, inputs: Sequence[str] | None) -> ExportTargets | None:
    """Where predictions are written in other forms; None for nowhere."""
    if derivatives is None and dicom is None:
        return None
    from pathlib import Path

    from cmb_plugin.workflows.export import ExportTargets

    source = Path(inputs[0]) if inputs and len(inputs) == 1 else None
    raw = source.resolve() if source is not None and any(source.glob("sub-*/")) else None
    paths = [None if path is None else Path(path) for path in (derivatives, dicom)]
    return ExportTargets(paths[0], paths[1], raw)
