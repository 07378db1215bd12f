"""``nndet_eval``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmb_plugin.errors import UserError
from cmb_plugin.tabular import show_interval, show_number

from .cli import add_overrides, command, parser
from .names import find_folds, find_model, find_task, split_named

if TYPE_CHECKING:
    from rich.console import Console

    from cmb_plugin.models.results import EvaluationRun
    from cmb_plugin.models.scored_cases import PredictionSet


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure predictions: sensitivity, false positives per scan, FROC, average precision; tables and figures.

    Examples:
        nndet_eval Task101_CMB                                       validation scans of all trained folds
        nndet_eval 101 CMBRetinaUNet_D3CMB_3d 0 --test             test scans
        nndet_eval 101 --test                                        test scans, as nndet_predict 101 predicted them
        nndet_eval 101 --test --predictions out --output results     a folder that nndet_predict --output wrote
        nndet_eval 101 --test -o eval_cfg.match_mm=3                 a stricter matching
        nndet_eval 101 CMBRetinaUNet_D3CMB_3d_without-ukb --unseen   a domain that training left out (docs/domains.md)
        nndet_eval 101 --test --instances                            instance masks too, component by component
        nndet_eval --predictions out --labels masks                  any program's predictions, no Task or model

    Settings (-o):
        eval_cfg.operating_point=0.4     instead of the one that nndet_sweep chose
        eval_cfg.match_mm=5              largest distance of the centres in mm
        eval_cfg.iou=0.1                 smallest IoU for the second matching
        eval_cfg.fp_rates=[0.5,1,2]      false positives per scan at which the FROC curve is read
        eval_cfg.sensitivities=[0.8,0.9] sensitivities at which the false positives per scan are read
        eval_cfg.mimic_mm=3              a false positive is a mimic at most so far away (phantoms)
        eval_cfg.max_detections=100      per scan and class, for the average precision only
        eval_cfg.connectivity=26         neighbours of the components of masks: 6, 18 or 26
        eval_cfg.resamples=2000          of the bootstrap that gives the intervals; 0 for none

    Predictions of other programs: {case}_boxes.pkl of nnDetection, instance or binary masks and probability maps
    {case}.nii.gz, and tables of points (CSV, TSV) with a column case, x_ras_mm y_ras_mm z_ras_mm (or x_lps_mm ..., or
    the voxel i j k), and, if there is one, score, class, diameter_mm.

    Files: val_results, test_results or unseen_results of the fold, of several folds those of consolidated, or --output,
    hold metrics.json, detections.tsv, froc.png, gallery.png and report.html, one page with everything
    (docs/evaluation.md); of a model of regions metrics.json, regions.tsv and dice.png (docs/segmentation.md).
    Exit code 2 when a case had no readable predictions or label; the others are measured all the same, and a case
    without predictions counts as one in which nothing was found.
    """
    arguments = parser(main.__doc__)
    arguments.add_argument("task", nargs="?", help="number, name or path of the Task folder")
    arguments.add_argument("model", nargs="?", help="name or path of the model folder; the only one by default")
    arguments.add_argument(
        "fold", nargs="?", type=int, help="its number; -1 takes all trained folds together (default)"
    )
    arguments.add_argument("--test", action="store_true", help="test scans instead of the fold's validation scans")
    arguments.add_argument(
        "--unseen",
        action="store_true",
        help="scans of the domain that the model was trained without",
    )
    arguments.add_argument("--predictions", metavar="DIR", help="predictions elsewhere than in the model folder")
    arguments.add_argument("--labels", metavar="DIR", help="reference masks to measure --predictions against, no task")
    arguments.add_argument("--images", metavar="DIR", help="scans for the pictures, with --labels")
    arguments.add_argument(
        "--classes",
        metavar="NAME,...",
        help="class names, with --labels; default: those of our own files, else lesion",
    )
    arguments.add_argument("--output", metavar="DIR", help="where to write; the fold's results by default")
    arguments.add_argument(
        "-np", "--num_processes", type=int, default=0, metavar="N", help="processes that read labels"
    )
    add_overrides(arguments)
    for flag, effect in NNDETECTION_FLAGS.items():
        arguments.add_argument(f"--{flag}", action="store_true", help=f"nnDetection's flag: {effect}")
    args = arguments.parse_args(argv)
    from rich.console import Console

    from cmb_plugin.evaluation import EvaluationConfig
    from cmb_plugin.settings import Overrides
    from cmb_plugin.workflows.evaluate import evaluate

    if args.labels is not None and (args.task is not None or args.predictions is None):
        raise UserError(
            "--labels: goes with --predictions and no task", remedy="nndet_eval --predictions DIR --labels DIR"
        )
    if args.task is None and args.labels is None:
        raise UserError("names no task", remedy="nndet_eval TASK, or nndet_eval --predictions DIR --labels DIR")
    console = Console()
    for flag, effect in NNDETECTION_FLAGS.items():
        if getattr(args, flag):
            console.print(f"--{flag}: {effect}", markup=False, highlight=False, soft_wrap=True)
    run = evaluate(
        _predictions(args),
        Overrides.parse(args.overrides).apply(eval_cfg=EvaluationConfig())["eval_cfg"],
        None if args.output is None else Path(args.output),
        args.num_processes,
        masks=args.labels is not None or args.instances or args.seg,
    )
    show(run, console)
    return 0 if run.complete else 2


def _predictions(args: argparse.Namespace) -> PredictionSet:
    """What the command line names."""
    from cmb_plugin.dataset import Dataset
    from cmb_plugin.models.scored_cases import PredictionSet

    folder = None if args.predictions is None else Path(args.predictions)
    if args.labels is not None:
        assert folder is not None
        images = None if args.images is None else Path(args.images)
        classes = args.classes.split(",") if args.classes else ()
        return PredictionSet.of_masks(folder, Path(args.labels), images, classes)
    dataset = Dataset.load(find_task(args.task))
    split = split_named({"test": args.test, "unseen": args.unseen}, "val")
    if folder is not None:
        return PredictionSet.of_folder(dataset, folder, split)
    return PredictionSet.of_model(dataset, find_folds(find_model(dataset.task, args.model), args.fold), split)


NNDETECTION_FLAGS = {
    "boxes": "no effect, boxes are always measured",
    "analyze_boxes": "no effect, detections.tsv and the gallery are always written",
    "case": "no effect, every case is in detections.tsv",
    "seg": "compares instance masks too, component by component",
    "instances": "compares instance masks too, component by component",
}


def show(run: EvaluationRun, console: Console) -> None:
    """Prints the main numbers, the notes and the files."""
    from rich import box
    from rich.table import Table

    def line(text: str) -> None:
        """Prints a line as it is, whatever its length."""
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    metrics = run.metrics
    line(run.title)
    if metrics.get("target") == "regions":
        _show_regions(metrics, console, line)
        _show_files(run, line)
        return
    line(
        f"{metrics['n_cases']} scans, {metrics['n_healthy']} healthy; "
        f"reported from score {metrics['operating_point']['score']:.3g} on"
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))  # fits into 80 columns
    for column in ("", "found", "sensitivity", "precision", "F1", "FP/scan", "FROC", "AP"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    matching = metrics["matching"]
    names = {
        "distance": f"within {matching['match_mm']:g} mm",
        "iou": f"IoU >= {matching['iou']:g}",
        "centre_inside": "centre inside",
    }
    several = len(metrics["per_class"]) > 1
    for kind, name in names.items():
        table.add_row(name, *_cells(metrics["overall"][kind]))
        for class_name, blocks in metrics["per_class"].items() if several else ():
            table.add_row(f"  {class_name}", *_cells(blocks[kind]))
    console.print(table)

    froc = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    froc.add_column("sensitivity at FP/scan of", no_wrap=True)
    for rate in metrics["froc"]:
        fraction = 1 / float(rate)  # 1/8 is shorter than 0.125; 0.3 is no fraction of one
        froc.add_column(f"1/{fraction:.0f}" if fraction > 1 and fraction.is_integer() else rate, justify="right")
    for kind, name in names.items():
        froc.add_row(name, *(show_number(value) for value in metrics["overall"][kind]["froc"].values()))
    console.print(froc)

    _show_intervals(metrics, line)
    if metrics["n_possible"]:
        found = metrics["overall"]["distance"]["ignored"]
        line(f"{found} of {metrics['n_possible']} possible lesions were found; they count neither way above")
    _show_files(run, line)


def _show_files(run: EvaluationRun, line: Callable[[str], None]) -> None:
    for note in run.notes:
        line(f"note: {note}")
    for file in run.files:
        line(f"wrote {file}")


def _show_regions(metrics: dict[str, Any], console: Console, line: Callable[[str], None]) -> None:
    """Dice of every region, and how many lesions were put into their own."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("region", "Dice", "95 % interval", "lowest"):
        table.add_column(column, justify="left" if column == "region" else "right", no_wrap=True)
    for name, block in metrics["regions"].items():
        interval = "-" if block["interval"] is None else "-".join(f"{end:.3f}" for end in block["interval"])
        table.add_row(name, show_number(block["dice"]), interval, show_number(block["lowest"]))
    line(f"{metrics['n_cases']} scans, mean Dice {show_number(metrics['mean_dice'])}")
    console.print(table)
    for which, counts in metrics["lesions"].items():
        line(
            f"lesions, {which.replace('_', ' ')}: {counts['n']}, in the right region {show_number(counts['accuracy'])}"
        )


def _show_intervals(metrics: dict[str, Any], line: Callable[[str], None]) -> None:
    """One line each: the headline with its intervals, scans and patients, VALDO's numbers, components."""
    intervals = metrics["intervals"]
    if intervals:
        shown = []
        for name, key, decimals in (
            ("sensitivity", "sensitivity", 3),
            ("precision", "precision", 3),
            ("F1", "f1", 3),
            ("FP/scan", "fp_per_scan", 2),
            ("FROC", "froc_score", 3),
        ):
            low, high = intervals[key] or (None, None)
            shown.append(f"{name} {show_interval(metrics[key], low, high, decimals)}")
        line(f"{100 * intervals['level']:g} % intervals over {intervals['n_patients']} patients: {', '.join(shown)}")
    counts, patients, valdo = metrics["counts"], metrics["patients"], metrics["valdo"]
    line(
        f"patients: AUC {show_number(patients['auc'])}; lesion counts: ICC(2,1) {show_number(counts['icc'])}, "
        f"kappa of 0, 1, 2-4, >= 5 {show_number(counts['burden']['kappa'])}"
    )
    f1, difference = valdo["f1"], valdo["count_difference"]
    line(
        f"VALDO: F1 per subject {show_number(f1['median'])} ({show_number(f1['q1'])}-{show_number(f1['q3'])}), "
        f"count difference {show_number(difference['median'], 1)}: median and quartiles"
    )
    if (parts := metrics["components"]) is not None:
        line(
            f"components that overlap ({parts['connectivity']} neighbours): {parts['true_positives']} of "
            f"{parts['n_lesions']} found, {show_number(parts['fp_per_scan'], 2)} FP/scan, F1 {show_number(parts['f1'])}"
        )


def _cells(block: dict[str, Any]) -> list[str]:
    precision = next((value for key, value in block.items() if key.startswith("AP_")), None)
    return [
        f"{block['true_positives']}/{block['n_lesions']}",
        *(show_number(block[key]) for key in ("sensitivity", "precision", "f1")),
        show_number(block["fp_per_scan"], 2),
        show_number(block["froc_score"]),
        show_number(precision),
    ]
