"""``nndet_boxes2nii``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from cmb_plugin.documents import counted

from .cli import command, parser
from .names import find_folds, find_model, task_of_models


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Draw predicted boxes as filled boxes in an image, to look at them in any viewer.

    Examples:
        nndet_boxes2nii Task101_CMB CMBRetinaUNet_D3CMB_3d -f 0          validation scans of fold 0
        nndet_boxes2nii 101 CMBRetinaUNet_D3CMB_3d --test --threshold 0.3

    Files: val_predictions_nii/ or test_predictions_nii/ beside the predictions, with {case}_boxes.nii.gz (each box has
    its number) and {case}_boxes.json (score, class and box of each number). The lesions themselves, not their boxes,
    are in {case}_instances.nii.gz of the predictions already.
    """
    arguments = predictions_options(main.__doc__)
    arguments.add_argument(
        "--threshold", type=float, metavar="SCORE", help="lowest score that is drawn; default: the operating point"
    )
    args = arguments.parse_args(argv)
    from cmb_plugin.models.output import export_boxes

    for source, target in folders(args):
        print(f"{counted(len(export_boxes(source, target, args.threshold)), 'case')}: {target}")
    return 0


def predictions_options(doc: str | None) -> argparse.ArgumentParser:
    """Those that say which predictions are to be drawn."""
    arguments = parser(doc)
    arguments.add_argument("task", help="number, name or path of the Task folder")
    arguments.add_argument(
        "model", nargs="?", help="model folder, name or path; may be left out when there is only one"
    )
    arguments.add_argument(
        "-f", "--fold", type=int, default=-1, help="fold; -1 is all trained folds together (default)"
    )
    arguments.add_argument("--test", action="store_true", help="test scans instead of validation scans")
    return arguments


def folders(args: argparse.Namespace) -> Iterator[tuple[Path, Path]]:
    """Each folder of predictions that ``predictions_options`` mean, and the folder beside it to draw in."""
    split = "test" if args.test else "val"
    model = find_folds(find_model(task_of_models(args.task, args.model), args.model), args.fold)
    for group in [model] if args.test else model.each():
        source = group.place.predictions(split)
        yield source, source.with_name(f"{source.name}_nii")
