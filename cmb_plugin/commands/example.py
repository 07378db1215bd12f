"""``nndet_example``."""

from __future__ import annotations

from collections.abc import Sequence

from cmb_plugin.documents import counted

from .cli import command, parser
from .names import new_task


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Make a Task folder of synthetic brain scans with microbleeds, to try everything on.

    Examples:
        nndet_example                                             16 training and 8 test cases, quickly made
        nndet_example --task Task101_Sharp --protocol cuhk        0.45 x 0.45 x 1 mm
        nndet_example --protocol mixed --train 60 --test 24       scans of six kinds in one data set
        nndet_example --protocol random --train 100 --test 20     every scan from a scanner of its own
        nndet_example --protocol wide --scans-per-subject 4       four scanners per subject, from one simulated head
        nndet_example --lesions 30 --train 100                    thirty microbleeds in each: more to learn from
        nndet_example --modalities swi,qsm --classes cmb,iron     the iron of the basal ganglia as a second class
        nndet_example --protocol wide --anatomy labels.nii.gz:table.tsv     a labelled head in place of the template
        nndet_example --into healthy --test 4                     lesions put into your own scans without any
        nndet_example --train 0 --test 8 --followup 1             two scans of each subject, with new and grown lesions
        nndet_example --kind squares                              nnDetection's Task000D3_Example: cubes, some hollow

    Protocols: demo, cuhk, csiro, ukb, valdo1, valdo2, valdo3, several separated by commas (cases take them in turn),
    mixed (all but demo), random (voxel, field, echo, noise and faults drawn anew for each scan), or wide (as random,
    and slice gaps, vessels, phase masks, inverted QSM and other findings).
    Modalities: swi, phase, t2s, qsm, t2; lesions are outlined on the first.

    --anatomy LABELS:TABLE makes the heads of a label image, with its own veins, bone and air: each subject is that head
    warped anew. The table is tab-separated: label, tissue, and where they are known chi_ppm, m0, t1_ms, t2star_ms.

    --into DIR takes {case}.nii.gz, or {case}_0000.nii.gz, {case}_0001.nii.gz, ... in the order of --modalities (swi,
    t2s, phase; swi, or swi,phase, where nothing is said), and DIR/brain/{case}.nii.gz where there are brain masks.
    Echo time and field come from BIDS files {case}_0000.json beside them, or from --echo and --field.

    Files: ${det_data}/{task}/ as nnDetection has it, and beside it mimicsTr, lesionsTr, regionsTr, brainTr (and Ts).
    The same seed gives the same files whatever -np is. Run again to continue: finished cases are kept.
    """
    arguments = parser(main.__doc__)
    arguments.add_argument(
        "--kind", metavar="NAME", help="phantom, squares or one of yours (default: phantom; with --into: inserted)"
    )
    arguments.add_argument("--task", help="name of the Task folder (default: that of the kind)")
    arguments.add_argument("--train", type=int, metavar="N", help="training cases (16; with --into: every scan)")
    arguments.add_argument("--test", type=int, metavar="N", help="test cases (8); with --into: subjects (0)")
    arguments.add_argument(
        "--healthy",
        type=float,
        default=0.3,
        metavar="SHARE",
        help="share of cases without lesions (default: %(default)s)",
    )
    arguments.add_argument(
        "--lesions",
        type=int,
        default=0,
        metavar="N",
        help="microbleeds of a case that has any, on average (default: as many as in the cohorts imitated)",
    )
    arguments.add_argument("--protocol", default="demo", help="kind of scan (default: %(default)s)")
    arguments.add_argument("--modalities", help="images of a case (default: swi,phase)")
    arguments.add_argument("--classes", default="cmb", help="cmb or cmb,iron (default: %(default)s)")
    arguments.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    arguments.add_argument(
        "--scans-per-subject",
        type=int,
        default=1,
        metavar="N",
        help="scans of each subject by scanners of their own; --train and --test count subjects (default: %(default)s)",
    )
    arguments.add_argument(
        "--anatomy",
        metavar="LABELS:TABLE",
        default="",
        help="a label image and its table (default: the MNI152 template)",
    )
    arguments.add_argument("--into", metavar="DIR", default="", help="put lesions into the scans of this folder")
    arguments.add_argument(
        "--copies", type=int, default=1, metavar="N", help="cases made of each of these scans (default: %(default)s)"
    )
    arguments.add_argument(
        "--mimics",
        type=float,
        default=0,
        metavar="N",
        help="calcifications and pieces of vein in each, on average",
    )
    arguments.add_argument("--field", type=float, default=3.0, metavar="TESLA", help="of these scans (default: 3)")
    arguments.add_argument("--echo", type=float, default=20.0, metavar="MS", help="of these scans (default: 20)")
    arguments.add_argument(
        "--followup",
        type=int,
        default=0,
        metavar="N",
        help="further scans of each subject at later times; visits.tsv lists the scans, followup.tsv the lesions",
    )
    arguments.add_argument(
        "--followup-protocol",
        dest="followup_protocol",
        default="",
        metavar="NAME",
        help="kind of the later scans (default: that of the first)",
    )
    arguments.add_argument("-np", "--num_processes", type=int, metavar="N", help="processes; every core by default")
    arguments.add_argument("--overwrite", action="store_true", help="replace phantoms made with other settings")
    arguments.add_argument(
        "--full", action="store_true", help="as nnDetection's: a larger set, 60 training and 20 test cases"
    )
    args = arguments.parse_args(argv)
    from rich.console import Console

    from cmb_plugin.errors import UserError
    from cmb_plugin.phantom import ExampleOptions, ExampleTask
    from cmb_plugin.plugins import tasks
    from cmb_plugin.workers import default_workers, failures

    args.kind = args.kind or ("inserted" if args.into else "phantom")
    kind = tasks.get(args.kind)
    if not issubclass(kind, ExampleTask):
        raise UserError(f"--kind {args.kind}: is no example", remedy="nndet_convert reads data sets of others")
    options = ExampleOptions(
        60 if args.full and args.train is None else args.train,
        20 if args.full and args.test is None else args.test,
        args.healthy,
        args.protocol,
        args.modalities,
        args.classes,
        args.seed,
        scans=args.scans_per_subject,
        into=args.into,
        copies=args.copies,
        mimics=args.mimics,
        field_tesla=args.field,
        echo_ms=args.echo,
        followup=args.followup,
        followup_protocol=args.followup_protocol,
        anatomy=args.anatomy,
        lesions=args.lesions,
    )
    example = kind()
    workers = default_workers() if args.num_processes is None else args.num_processes
    folder = new_task(args.task or kind.folder, r"Task\d+[A-Za-z0-9]*_[A-Za-z0-9_.-]+", kind.folder)
    report = example.write(folder, example.settings(options), workers=workers, overwrite=args.overwrite)
    console = Console()
    failed = failures(report.outcomes)
    for outcome in failed:
        console.print(f"case {outcome.item[1]}: {outcome.error}\n{outcome.details}", markup=False, highlight=False)
    made = [outcome.result for outcome in report.outcomes if not outcome.error]
    kept = f", {report.skipped} were there already" if report.skipped else ""
    console.print(
        f"{counted(len(made), 'case')} made with {counted(sum(made), 'lesion')}{kept}: {report.task.root}\n"
        f"Next: nndet_prep {report.task.name}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return (1 if any(outcome.is_bug for outcome in failed) else 2) if failed else 0
