"""``nndet_convert``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmb_plugin.errors import UserError

from .cli import add_overrides, command, parser
from .names import new_task

if TYPE_CHECKING:
    from rich.console import Console

    from cmb_plugin.conversion.workflow import ConversionReport

MOST_NOTES = 25  # printed; all of them stand in conversion.html


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Make a Task folder of a data set: your own as a table, or one of the known ones.

    Examples:
        nndet_convert --list                                            what there is, and what each needs
        nndet_convert table --source scans.csv --task Task101_CMB       your own scans, listed in a table
        nndet_convert valdo --source VALDO/Task2 --task Task102_VALDO
        nndet_convert cuhk --source cmb-3dcnn-data --task Task103_CUHK --test-fraction 0.25 --seed 1
        nndet_convert bids --source my_bids -o convert_cfg.modalities=[swi,T2w] --register

    Settings (-o):
        convert_cfg.modalities=[...]      which images to take; the first is the reference that lesions are drawn on
        convert_cfg.connectivity=26       6, 18 or 26: neighbours that belong to one lesion of a mask
        convert_cfg.growth=auto           how a point becomes a lesion: auto, dark, bright, or ball (no growing)
        convert_cfg.most_mm=10            largest lesion that grows from a point
        convert_cfg.ball_mm=3             ball that is drawn where nothing stands out
        convert_cfg.header_tolerance=0.5  voxels that headers may differ by before an image is resampled
        convert_cfg.*                     more of single data sets: see --list and docs/conversion.md
        additional_imports=[module]       your own converters

    Files: ${det_data}/{task}/ with dataset.json and raw_splitted/ as nnDetection has them, conversion.json (what was
    converted how, and who is tested), conversion.html with a picture of every lesion: look through it. Run again to
    continue; nothing is replaced without --overwrite. Exit code 2 when a case could not be converted; the others are.
    """
    arguments = parser(main.__doc__)
    arguments.add_argument("name", nargs="?", help="the data set: see --list")
    arguments.add_argument("--list", action="store_true", help="show every data set and what it needs")
    arguments.add_argument("--source", metavar="DIR", help="folder, or table, to convert")
    arguments.add_argument("--task", default="Task101_CMB", help="name of the Task folder (default: %(default)s)")
    arguments.add_argument(
        "--test-fraction",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="share of the patients that are tested, where the source does not say who is (default: %(default)s)",
    )
    arguments.add_argument("--seed", type=int, default=0, help="of the test split (default: %(default)s)")
    arguments.add_argument(
        "--register", action="store_true", help="move the other modalities onto the first by rigid registration"
    )
    arguments.add_argument("--overwrite", action="store_true", help="convert everything again")
    arguments.add_argument("-np", "--num_processes", type=int, metavar="N", help="processes; every core by default")
    add_overrides(arguments)
    args = arguments.parse_args(argv)
    from rich.console import Console

    from cmb_plugin.conversion.workflow import ConvertOptions, convert, converters
    from cmb_plugin.settings import Overrides
    from cmb_plugin.workers import default_workers

    console = Console()
    if args.list:
        for name, converter in converters().items():
            summary = (converter.__doc__ or "").strip().splitlines()[0]
            text = f"{name}: {summary}\n  needs: {converter.needs}\n  example: nndet_convert {converter.example}\n"
            console.print(text, markup=False, highlight=False)
        return 0
    if not args.name or not args.source:
        raise UserError("name a data set and its --source", remedy="nndet_convert --list shows the data sets")
    workers = default_workers() if args.num_processes is None else args.num_processes
    options = ConvertOptions(args.test_fraction, args.seed, args.register, args.overwrite, workers)
    source = Path(args.source).expanduser()
    report = convert(args.name, source, new_task(args.task), Overrides.parse(args.overrides), options)
    show(report, console)
    return report.exit_code


def show(report: ConversionReport, console: Console) -> None:
    """Prints what was odd and wrong, a table, and where to look."""
    from rich.table import Table

    from cmb_plugin.conversion.report import summary_rows

    def line(text: str) -> None:
        """Prints a line as it is, whatever its length."""
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    notes = report.notes + [f"{r.case_id}: {warning}" for r in report.records for warning in r.warnings]
    for note in notes[:MOST_NOTES]:
        line(f"note: {note}")
    if len(notes) > MOST_NOTES:
        line(f"note: and {len(notes) - MOST_NOTES} more, see {report.html}")
    for failure in report.failures:
        line(f"skipped {failure.case_id}: {failure.reason}")
    columns, rows = summary_rows(report.records, report.splits)
    table = Table(title=f"{report.task.name}, {report.converted} cases converted now", title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    line(f"Look through {report.html}\nNext: nndet_prep {report.task.name}")
