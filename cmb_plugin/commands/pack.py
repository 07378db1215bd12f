"""``nndet_pack``."""

from __future__ import annotations

from collections.abc import Sequence

from .cli import command, parser
from .names import find_folds, find_model, find_task


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Pack a trained model as one file that predicts anywhere: no Task folder, no settings, no names of scans.

    Examples:
        nndet_pack Task101_CMB CMBRetinaUNet_D3CMB_3d --output mine.cmb
        nndet_pack 101 -f 0 --output mine.cmb                     one fold; all trained folds together by default
        nndet_predict mine.cmb --input scans --output found        on any machine
        nndet_train 102 -o train.init=mine.cmb                     go on from its weights

    The file holds the weights in float16, the plan, the settings, the operating points that nndet_sweep kept (its own
    choice, and those for 0.25, 0.5, 1 and 2 false positives per scan), and what the training scans are like: voxel
    sizes, extents, contrast; a scan unlike all of them is predicted with a warning. docs/pretrained.md describes it.
    """
    arguments = parser(main.__doc__)
    arguments.add_argument("task", help="number, name or path of the Task folder that the model was trained on")
    arguments.add_argument("model", nargs="?", help="name or path of the model folder; the only one by default")
    arguments.add_argument("-f", "--fold", type=int, default=-1, help="fold; -1 packs all trained folds (default)")
    arguments.add_argument("--ckpt", choices=("last", "best"), default="last", help="checkpoint of each fold")
    arguments.add_argument("--output", metavar="FILE.cmb", required=True, help="file to write")
    arguments.add_argument("--recipe", default="", metavar="TEXT", help="how it was trained, kept in the file")
    args = arguments.parse_args(argv)
    from pathlib import Path

    from cmb_plugin.models.operating_point import found_none
    from cmb_plugin.workflows.pack import pack

    task = find_task(args.task)
    model = find_folds(find_model(task, args.model), args.fold, args.ckpt)
    target = Path(args.output)
    header = pack(task, model, target, args.recipe)
    megabytes = target.stat().st_size / 1e6
    print(f"Packed {model.title}, {header.parameters / 1e6:.2f} million weights a fold: {target} ({megabytes:.1f} MB)")
    rates = [(number, content["operating_point"]) for number, content in header.folds.items()]
    for number, point in rates:
        if not (point or {}).get("rates"):
            makes = f"nndet_sweep {task.name} makes them"
            if found_none(point or {}):
                makes = f"its sweep finds nothing at any such rate ({point.get('why', '')})"
            print(f"Note: fold {number} keeps no operating points by rate; {makes}")
    if model.doubt_of_checkpoint:
        print(f"Note: {model.doubt_of_checkpoint}")
    print(f"Next: nndet_predict {target} --input SCANS --output DIR")
    return 0
