"""``nndet_cls2fg``."""

from __future__ import annotations

from collections.abc import Sequence

from .cli import command, parser
from .names import find_task


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Copy Task folders with all classes made one, to detect lesions of any kind.

    Examples:
        nndet_cls2fg Task101_CMB                  makes Task101FG_CMB
        nndet_cls2fg 101 102 --overwrite          replaces copies that are there

    Files: ${det_data}/Task101FG_CMB with the images and labels of Task101_CMB; every lesion is of class "fg".
    """
    arguments = parser(main.__doc__)
    arguments.add_argument("tasks", nargs="+", metavar="TASK", help="number, name or path of a Task folder")
    arguments.add_argument("--overwrite", action="store_true", help="replace copies that are there")
    args = arguments.parse_args(argv)
    from cmb_plugin.conversion.relabelling import cls2fg

    for task in args.tasks:
        target = cls2fg(find_task(task), overwrite=args.overwrite)
        print(f"Made {target.root}\nNext: nndet_prep {target.name}")
    return 0
