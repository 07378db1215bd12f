"""``nndet_merge``."""

from __future__ import annotations

from collections.abc import Sequence

from cmb_plugin.errors import UserError

from .cli import command, parser
from .names import find_task, new_task


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Join Task folders into one, by links: to train on the scans of several sites, scanners or protocols.

    Examples:
        nndet_merge Task101_VALDO Task102_CUHK --task Task200_All
        nndet_merge 101 102 103 --task Task200_All --modalities swi       only what all of them have
        nndet_merge 101 102 --task Task200_All --rename T2S=swi MB=cmb    where names differ, not what they mean
        nndet_merge 101 102 --task Task200_All --shared_patients          sub-01 is one person in both

    Modalities and classes are matched by name, capitals do not matter. Cases and patients get the name of their Task
    in front; each case keeps its domain (dataset.json), or gets the Task's name as its domain. Training and test stay
    apart as they are. Run again at any time: what is new is linked, what is gone is removed.

    Files: ${det_data}/{task}/dataset.json, merged.json, and raw_splitted/ with links; class files are written where
    numbers of classes change. The joined folders must stay where they are. Next: nndet_prep (docs/domains.md).
    """
    arguments = parser(main.__doc__)
    arguments.add_argument("tasks", nargs="+", metavar="TASK", help="number, name or path of a Task folder")
    arguments.add_argument("--task", required=True, metavar="NAME", help="name of the joined Task folder")
    arguments.add_argument(
        "--modalities", metavar="NAME,...", help="which to join; cases of Tasks without one of them do without it"
    )
    arguments.add_argument(
        "--rename", nargs="+", default=[], metavar="OLD=NEW", help="other names of modalities and classes"
    )
    arguments.add_argument(
        "--shared_patients", action="store_true", help="equal names of patients mean one person in all Tasks"
    )
    arguments.add_argument("--overwrite", action="store_true", help="replace a Task that was joined in another way")
    args = arguments.parse_args(argv)
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from cmb_plugin.workflows.merge import MergeRules, merge

    rename = dict(word.partition("=")[::2] for word in args.rename)
    if not all(rename) or not all(rename.values()):
        raise UserError("--rename: not understood", remedy="write for instance --rename T2S=swi MB=cmb")
    names = tuple(name.strip() for name in (args.modalities or "").split(",") if name.strip())
    report = merge(
        [find_task(task) for task in args.tasks],
        new_task(args.task),
        MergeRules(names, rename, args.shared_patients),
        overwrite=args.overwrite,
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("Task", "domain", "training", "test"):
        table.add_column(column, justify="left" if column in ("Task", "domain") else "right")
    for task, domains in report.cases.items():
        for domain, (training, test) in domains.items():
            table.add_row(task, domain, str(training), str(test))
    Console().print(table)
    removed = f", {report.removed} removed" if report.removed else ""
    print(f"Joined in {report.task.root}: {report.linked} files linked{removed}")
    return 0
