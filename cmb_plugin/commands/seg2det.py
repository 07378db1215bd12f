"""``nndet_seg2det``."""

from __future__ import annotations

from collections.abc import Sequence

from .cli import command, parser
from .names import find_task


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Turn the semantic masks of Task folders (as nnU-Net has them) into instance masks with class files.

    Examples:
        nndet_seg2det Task101_CMB
        nndet_seg2det 101 102 --connectivity 6       lesions that touch by an edge only are two

    Each connected piece of a number becomes a lesion; number 1 is the first class of dataset.json. As in nnDetection,
    "seg2det_things": [2, 1] there names other numbers, in the order of the classes, and others are dropped, which is
    said for each case; "min_vol" drops pieces of as many voxels or fewer. "min_size" and "min_vol_mm3" drop nothing
    here, which is said.

    Files: labelsTr and labelsTs are replaced; the masks as they were are kept in segTr and segTs. A case that has a
    class file ({case}.json) was done before and is left alone. To number a case afresh, remove its class file; a
    corrected mask is put into labelsTr, where it takes the place of the one that was kept.
    """
    arguments = parser(main.__doc__)
    arguments.add_argument("tasks", nargs="+", metavar="TASK", help="number, name or path of a Task folder")
    arguments.add_argument("--connectivity", type=int, default=26, help="6, 18 or 26 (default: %(default)s)")
    arguments.add_argument("-np", "--num_processes", type=int, metavar="N", help="processes; every core by default")
    args = arguments.parse_args(argv)
    import sys

    from cmb_plugin.conversion.relabelling import seg2det, unread_limits
    from cmb_plugin.documents import counted, some_of
    from cmb_plugin.workers import default_workers

    code = 0
    workers = default_workers() if args.num_processes is None else args.num_processes
    for task in args.tasks:
        folder = find_task(task)
        outcomes = seg2det(folder, connectivity=args.connectivity, workers=workers)
        if limits := unread_limits(folder):
            print(
                f"warning: {', '.join(limits)} in dataset.json drops no lesion here; min_vol does, by voxels",
                file=sys.stderr,
            )
        for outcome in outcomes:
            if outcome.error:
                print(f"skipped {outcome.item.name}: {outcome.error}\n{outcome.details}".rstrip())
                code = 1 if outcome.is_bug or code == 1 else 2
        dropped = [outcome.result for outcome in outcomes if outcome.result is not None and outcome.result.dropped]
        for case in dropped:
            pieces = counted(sum(case.dropped.values()), "piece")
            print(
                f"warning: {case.case_id}: dropped {pieces} of numbers {some_of(list(case.dropped))}", file=sys.stderr
            )
        if dropped:
            print(
                "warning: these numbers are of no class; seg2det_things in dataset.json names those that are. Where "
                "each number is a lesion, put the masks of segTr back into labelsTr, with their classes in {case}.json",
                file=sys.stderr,
            )
        done = [o.result.lesions for o in outcomes if o.result is not None and o.result.lesions is not None]
        before = sum(o.result is not None and o.result.lesions is None for o in outcomes)
        print(f"{task}: {sum(done)} lesions in {len(done)} masks; {before} were done before")
    return code
