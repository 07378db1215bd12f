"""How well sources of region maps agree with the true regions of labelled scans, and what a map costs.

    nndet_example --task Task110_Mixed --protocol mixed --train 42 --test 42
    nndet_prep  Task110_Mixed -o planner=Anatomy
    nndet_train Task110_Mixed -o module=AnatomyUNet train=fast
    python -m benchmarks.accuracy.region_accuracy Task110_Mixed model:AnatomyUNet_Anatomy_3d atlas:builtin

For every source, written as for ``nndet_predict --regions``, the map of each test scan is made anew and compared: Dice
of the regions, with 95 % intervals over patients, and the region of the labelled lesions, of all and of those farther
than 5 mm from a border. One line per source and protocol; ``--each`` adds one per scan.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.tools.markdown import table_head, table_row
from benchmarks.tools.measured import source_named
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.anatomy import GROUPS, RegionMap
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.commands.names import find_task
from cmb_plugin.dataset import Case, Dataset, read_lesion_facts
from cmb_plugin.errors import UserError
from cmb_plugin.regions.agreement import FAR_MM, LesionPlace, RegionAgreement, compare
from cmb_plugin.regions.sources import RegionSource


class Maps:
    """Maps of cases, made one after another; ``seconds`` [N, 2] are wall and CPU time of each."""

    def __init__(self, source: RegionSource, cases: Sequence[Case]) -> None:
        self.source, self.cases = source, cases
        self.seconds: list[tuple[float, float]] = []

    def __iter__(self) -> Iterator[tuple[Case, RegionMap | None]]:
        for case in self.cases:
            begun = time.perf_counter(), time.process_time()
            try:
                made = self.source.make(case)
            except UserError as error:
                print(f"{case.case_id}: {error}")
                made = None
            self.seconds.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
            yield case, made


def share(lesions: Sequence[LesionPlace]) -> str:
    """How many lesions are in their true region, with per cent."""
    right = sum(lesion.truth == lesion.found for lesion in lesions)
    return f"{right}/{len(lesions)} ({100 * right / len(lesions):.1f} %)" if lesions else "-"


def confused(lesions: Sequence[LesionPlace]) -> int:
    """Infratentorial taken for lobar or the other way round."""
    return sum({lesion.truth, lesion.found} == {"lobar", "infratentorial"} for lesion in lesions)


def row(name: str, agreement: RegionAgreement, ids: Sequence[str]) -> str:
    """A line of the table: Dice and lesions of some of the cases."""
    known = [agreement.dice[case_id] for case_id in ids if case_id in agreement.dice]
    lesions = [lesion for lesion in agreement.lesions if lesion.case_id in ids]
    far = [lesion for lesion in lesions if lesion.border_mm > FAR_MM]
    dice = [f"{value:.3f}" for value in np.nanmean(known, axis=0)] if known else ["-"] * len(GROUPS)
    return table_row(name, len(known), *dice, share(lesions), share(far), confused(far))


def report(source: str, dataset: Dataset, split: str, cases: Sequence[Case], each: bool) -> None:
    """Prints the table of one source, its intervals and what a map costs."""
    maps = Maps(source_named(source, dataset, split), cases)
    agreement = compare(maps, dataset, GROUPS)
    metrics = agreement.metrics(dataset.patients([case.case_id for case in cases]))
    print(f"\n{source}: {len(agreement.dice)} scans, {len(agreement.doubts)} of them not trusted\n")
    dice = (f"Dice {group}" for group in GROUPS)
    print(table_head("scans", "n", *dice, "lesions right", f"> {FAR_MM:g} mm from a border", "confused"))
    domain = {case.case_id: read_lesion_facts(case, []).domain or "unknown" for case in cases}
    print(row("all", agreement, [*domain]))
    for name in sorted(set(domain.values())):
        print(row(name, agreement, [case_id for case_id, of in domain.items() if of == name]))
    for case_id in domain if each else ():
        print(row(case_id, agreement, [case_id]))
    intervals = {name: block["interval"] for name, block in metrics["regions"].items()}
    ranges = ", ".join(f"{name} {low:.3f} to {high:.3f}" for name, (low, high) in intervals.items())
    print(f"\n95 % intervals of Dice: {ranges}")
    print(f"found as: {metrics['lesions']['all']['found_as']}")
    wall, cpu = np.transpose(maps.seconds)
    print(
        f"a map takes {np.median(wall):.1f} s, {np.median(cpu):.1f} s of CPU (median); at most {max(cpu):.1f} s of CPU"
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table for every source."""
    arguments = parser(__doc__)
    arguments.add_argument("task", help="number, name or path of the Task folder")
    arguments.add_argument("sources", nargs="+", help="as for nndet_predict --regions")
    arguments.add_argument("--split", choices=("Tr", "Ts"), default="Ts")
    arguments.add_argument("--cases", type=int, help="only the first so many")
    arguments.add_argument("--protocols", nargs="*", help="only scans of these")
    arguments.add_argument("--each", action="store_true", help="a line for every scan too")
    args = arguments.parse_args(argv)
    dataset = Dataset.load(find_task(args.task))
    cases = dataset.cases(args.split)
    if args.protocols:
        cases = [case for case in cases if read_lesion_facts(case, []).domain in args.protocols]
    print(measured_on("torch", "SimpleITK", "numpy"))
    for source in args.sources:
        report(source, dataset, args.split, cases[: args.cases], args.each)
    return 0


if __name__ == "__main__":
    sys.exit(main())
