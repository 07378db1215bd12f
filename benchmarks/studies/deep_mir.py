"""DeepMIRUNet as Rashid et al. 2021 measured theirs: every combination of modalities, one class against several.

    nndet_example --task Task120_Iron --classes cmb,iron --modalities swi,qsm,t2 --train 30 --test 30
    python -m benchmarks.studies.deep_mir Task120_Iron --budget 2000steps --jobs 2
    python -m benchmarks.studies.deep_mir Task120_Iron --only eval --page docs/studies/deep_mir.md

Trains one network for all classes of TASK, and one for its first class alone: on --single, a Task folder that is made
of the same scans (hard links where the file system has them) with the same folds. Each predicts the test scans with all
modalities and with every part of them, by nndet_predict --without, and the validation scans too: thresholds are chosen
for each combination and class, as for networks of their own.

It is nndet_benchmark with these two tasks and further predictions; its options and how it goes on after a stop are
described in docs/benchmark.md. Tables land in --output (${det_models}/deep_mir) as deep_mir.md and deep_mir.csv, and
between the markers of --page.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from benchmarks.tools.markdown import add_page
from benchmarks.tools.task_links import link_case
from cmb_plugin.benchmark.entries import Benchmark, split_overrides
from cmb_plugin.benchmark.processes import Commands
from cmb_plugin.commands.benchmark import add_options, benchmark_of, run
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.dataset import Dataset, write_dataset
from cmb_plugin.errors import UserError
from cmb_plugin.files import write_json
from cmb_plugin.images import write_image
from cmb_plugin.paths import TaskFolder

from .deep_mir_report import Combination, write_report


def of_first_class(source: Dataset, target: TaskFolder) -> None:
    """Fills ``target`` with the scans of ``source``, in which lesions of other classes than the first are background.

    Raises:
        UserError: a case has no label.
    """
    if (target.root / "dataset.json").is_file():
        return
    for split in ("Tr", "Ts"):
        for case in source.cases(split):
            labels = case.read_labels(len(source.classes))
            kept = [number for number, label in labels.classes.items() if label == 0]
            mask = np.where(np.isin(labels.mask, kept), labels.mask, 0)
            link_case(case, target, split, labels=False)
            write_image(target.labels(split) / f"{case.case_id}.nii.gz", mask.astype(np.uint16), labels.grid)
            classes = {"instances": {str(number): 0 for number in kept}}
            write_json(target.labels(split) / f"{case.case_id}.json", classes)
    write_dataset(target, modalities=source.modalities, classes=source.classes[:1], test_labels=True)


def predictions_of(benchmark: Benchmark) -> list[Combination]:
    """Every finished network with every combination of modalities, all of them first."""
    found = []
    for task in benchmark.tasks:
        names = Dataset.load(task).modalities
        for entry in benchmark.entries(task):
            for size in range(len(names), 0, -1):
                for chosen in combinations(names, size) if entry.is_finished() else ():
                    own = entry.folder / f"{entry.name}_{'_'.join(chosen)}"
                    place = entry.predictions if size == len(names) else own.joinpath
                    found.append(Combination(entry, chosen, place("test"), place("val")))
    return found


def predict(combination: Combination, commands: Commands) -> bool:
    """Whether all scans could be predicted; scans that were, are kept."""
    entry = combination.entry
    left_out = [name for name in Dataset.load(entry.task).modalities if name not in combination.modalities]
    if not left_out:
        return True
    line = ["nndet_predict", str(entry.task.root), str(entry.model.root), "-f", str(entry.fold)]
    line += ["--without", ",".join(left_out)]
    own = split_overrides(entry.overrides)["predict"]
    overrides = ["-o", *own] if own else []
    validation = [*line, "--test_split", "--output", str(combination.validation), *overrides]
    test = [*line, "--output", str(combination.test), *overrides]
    return all(commands.call(one, entry.log) == 0 for one in (validation, test))


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study and writes its report."""
    arguments = parser(__doc__ or "")
    add_options(arguments, "DeepMIRUNet", "deep_mir")
    arguments.add_argument("--single", default="Task121_FirstClass", metavar="TASK", help="(default: %(default)s)")
    add_page(arguments)
    benchmark = benchmark_of(args := arguments.parse_args(argv), "deep_mir")
    if len(benchmark.tasks) > 1 or len(benchmark.methods) > 1:
        raise UserError("a study is of one task and one model", remedy="call it for each, with an --output of its own")
    several = Dataset.load(benchmark.tasks[0])
    single = TaskFolder(several.task.root.parent / args.single)
    of_first_class(several, single)
    training = dataclasses.replace(benchmark, phases=tuple(p for p in benchmark.phases if p != "eval"))
    failed = run(training).failed
    if not single.splits.is_file():
        single.splits.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(several.task.splits, single.splits)
    failed |= run(dataclasses.replace(training, tasks=(single,))).failed
    combinations_ = predictions_of(dataclasses.replace(benchmark, tasks=(several.task, single)))
    complete = True
    if "predict" in benchmark.phases:
        commands = Commands(benchmark.jobs, print)
        complete = all(commands.run_all(lambda one: predict(one, commands), combinations_))
    if "eval" in benchmark.phases:
        for path in write_report(combinations_, benchmark.output, args.page, benchmark.resamples):
            print(f"wrote {path}")
    return 0 if complete and not failed else 2


if __name__ == "__main__":
    sys.exit(main())
