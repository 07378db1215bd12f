"""``nndet_follow``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmb_plugin.documents import counted

from .cli import add_overrides, add_scheduler, command, parser
from .names import device_named, machines_named, predicting_model, region_choice

if TYPE_CHECKING:
    import argparse

    from cmb_plugin.cluster import Cluster
    from cmb_plugin.followup.visits import Person
    from cmb_plugin.workflows.follow import Predictor


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Tell new microbleeds from those that were there before, in two or more scans of a person.

    Examples:
        nndet_follow visit1.nii.gz visit2.nii.gz --model pretrained --output out   two scans of one person, no Task
        nndet_follow dicom_2024 dicom_2025 dicom_2026 --task 101 --output out      three DICOM examinations
        nndet_follow my_bids --task 101 --output out                               all sessions of a BIDS data set
        nndet_follow visits.tsv --task 101 --output out                            a cohort in a table
        nndet_follow visits.tsv --predictions found --output out                   the same, predicted before
        nndet_follow visits.tsv --task 101 --output out --scheduler local:8        in eight processes (docs/cluster.md)
        nndet_follow found1 found2 --scans scans1 scans2 --output out              what nndet_predict wrote

    The first time point is the baseline. A table of visits has the columns subject, visit and scan, a row for each scan
    in the order of time; the files of several channels are separated by commas: a_swi.nii.gz,a_phase.nii.gz.

    Scans are laid over the first one by a rigid registration; one that does not fit (another person, another part of
    the head, a wrong header) is refused, with the reason. Lesions are matched one-to-one within a tolerance of 2 mm,
    plus half of the thicker slice, plus twice the registration's error. A lesion is new when its score reaches the
    operating point and no earlier scan that covers its place has even a quarter of it there: a lesion just below the
    operating point at baseline is not new.

    Files: followup.tsv (a row per visit: new, stable, gone, not covered, category of ARIA-H by the new ones),
    lesions.tsv (a row per lesion and visit), and for each person {person}_followup.json and {person}_new.png, each new
    lesion in both scans side by side. docs/followup.md describes them. Run again to continue: what is finished is kept.
    Research use only.
    """
    arguments = parser(main.__doc__)
    arguments.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="scans, DICOM or predictions folders in the order of time; or one BIDS data set or table of visits",
    )
    arguments.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    arguments.add_argument("--task", help="number, name or path of the Task whose model predicts the scans")
    arguments.add_argument("--model", help="model folder, name or path; pretrained or FILE.cmb needs no --task")
    arguments.add_argument("--fp-per-scan", dest="fp_per_scan", type=float, metavar="RATE", help="as in nndet_predict")
    arguments.add_argument("-f", "--fold", type=int, default=-1, help="fold; -1 takes all trained folds (default)")
    arguments.add_argument("--predictions", metavar="DIR", help="predictions of the scans in a table of visits")
    arguments.add_argument("--scans", nargs="+", default=[], metavar="DIR", help="scans of each predictions folder")
    arguments.add_argument(
        "--person", metavar="NAME", default="person", help="name of whose scans are named one by one"
    )
    arguments.add_argument("--regions", default="none", metavar="SOURCE", help="as in nndet_predict")
    arguments.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: the GPU if there is one")
    arguments.add_argument(
        "-np", "--num_processes", type=int, default=1, metavar="N", help="persons compared at a time"
    )
    add_scheduler(arguments)
    add_overrides(arguments)
    args = arguments.parse_args(argv)
    from cmb_plugin.workflows.follow import follow

    output = Path(args.output)
    with machines_named(args.scheduler) as machines:
        report = follow(_persons(args, output, machines), output, workers=machines or args.num_processes)
    for failure in report.failures:
        print(f"error: {failure.item.name}: {failure.error}", file=sys.stderr)
        if failure.is_bug:
            print(failure.details, file=sys.stderr)
    for row in report.rows:
        if row["status"] in ("refused", "failed") and row.get("visit"):
            print(f"error: {row['person']}, {row['visit']}: {row['status']}: {row['why']}", file=sys.stderr)
    compared = [row for row in report.rows if row["status"] == "compared"]
    for row in compared:
        if row["why"]:
            print(f"warning: {row['person']}, {row['visit']}: {row['why']}", file=sys.stderr)
    kept = f", {report.kept} kept from an earlier run" if report.kept else ""
    print(
        f"{counted(report.done, 'person')} compared{kept}: {counted(len(compared), 'later scan')}, "
        f"{', '.join(f'{sum(row[name] for row in compared)} {name}' for name in ('new', 'stable', 'gone'))}\n{output}"
    )
    return report.exit_code


def _persons(args: argparse.Namespace, output: Path, machines: Cluster | None) -> list[Person]:
    """What the inputs mean."""
    from cmb_plugin.dataset import predicted_cases
    from cmb_plugin.errors import UserError
    from cmb_plugin.followup.sources import (
        TimePoint,
        bad_name,
        persons_of_folders,
        persons_of_points,
        time_points_of_table,
    )
    from cmb_plugin.images import image_stem

    paths = [Path(text) for text in args.inputs]
    if problem := bad_name(args.person):
        raise UserError(f"--person {problem}")
    for text in args.inputs:
        for part in text.split(","):
            if not Path(part).exists():
                raise UserError(
                    f"{part}: no such file or folder", remedy="name scans, predictions or a table of visits"
                )
            if output.resolve() == Path(part).resolve():
                raise UserError(f"{output}: is an input too", remedy="choose another output folder")
    if len(paths) == 1 and paths[0].suffix.lower() in (".tsv", ".csv"):
        points = time_points_of_table(paths[0])
        if args.predictions:
            return persons_of_points(points, Path(args.predictions))
        return _predictor(args, machines).points(points, output)
    if len(paths) == 1 and any(paths[0].glob("sub-*/")):
        return _predictor(args, machines).bids(paths[0], output)
    if len(paths) == 1:
        remedy = "name two scans or more, a BIDS data set (sub-*), or a table of visits (.tsv)"
        raise UserError(f"{paths[0]}: one time point has nothing to be compared with", remedy=remedy)
    if all(path.is_dir() and predicted_cases(path) for path in paths):
        return persons_of_folders(paths, [Path(text) for text in args.scans])
    if all(image_stem(Path(part)) is not None for text in args.inputs for part in text.split(",")):
        files = [tuple(Path(part) for part in text.split(",")) for text in args.inputs]
        names = [str(image_stem(group[0])) for group in files]
        numbered = len(set(names)) < len(names)
        points = [
            TimePoint(args.person, f"{n}_{name}" if numbered else name, f"{args.person}_{n}", group)
            for n, (name, group) in enumerate(zip(names, files, strict=True), start=1)
        ]
        return _predictor(args, machines).points(points, output)
    return _predictor(args, machines).paths(paths, args.person, output)


def _predictor(args: argparse.Namespace, machines: Cluster | None) -> Predictor:
    from cmb_plugin.settings import Overrides
    from cmb_plugin.workflows.follow import Predictor
    from cmb_plugin.workflows.predict import PredictOptions

    task, model = predicting_model(args.task, args.model, args.fold, args.fp_per_scan)
    config = Overrides.parse(args.overrides).apply(inference_cfg=model.inference_config())["inference_cfg"]
    device = device_named(args.device, here=machines is None)
    options = PredictOptions(config, device, None, region_choice(args.regions, task), machines=machines)
    return Predictor(task, model, options, print)
