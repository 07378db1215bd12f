"""Does it carry over to scanners it has never seen? Trained on some protocols of a phantom Task, tested on others.

    nndet_example --task Task110_Mixed --protocol mixed --train 42 --test 42 --healthy 0.25
    python -m benchmarks.studies.generalisation Task110_Mixed --jobs 2
    python -m benchmarks.studies.generalisation Task110_Mixed --only eval --page docs/studies/ablation.md

Makes the Task folder --target beside TASK (hard links where the file system has them): its training cases are the
training cases of --train-protocols, its test cases all cases of --test-protocols, those of TASK's training part
included, because nothing is trained on them here. Trains the rows on it and tests them without retraining. All options
are those of ablation.py; the default rows are the baseline and both parts together.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from benchmarks.tools.task_links import link_case
from cmb_plugin.commands.cli import command
from cmb_plugin.dataset import Case, Dataset, write_dataset
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json
from cmb_plugin.paths import TaskFolder

from .ablation import run_and_report, study, study_options


def protocol_of(case: Case) -> str:
    """The kind of scan that a phantom imitates.

    Raises:
        UserError: the case is no phantom.
    """
    path = case.extra("lesions")
    protocol = read_json(path).get("protocol") if path is not None else None
    if not protocol:
        raise UserError(f"{case.images[0]}: nothing says its protocol", remedy="use a Task that nndet_example made")
    return str(protocol)


def build(source: Dataset, target: TaskFolder, train: Sequence[str], test: Sequence[str]) -> None:
    """Fills ``target`` with links to the cases of ``source``.

    Raises:
        UserError: a protocol has no case, or ``target`` was built with other protocols.
    """
    chosen: dict[str, list[Case]] = {"Tr": [], "Ts": []}
    cases = {split: [(case, protocol_of(case)) for case in source.cases(split)] for split in ("Tr", "Ts")}
    chosen["Tr"] = [case for case, protocol in cases["Tr"] if protocol in train]
    chosen["Ts"] = [case for split in ("Tr", "Ts") for case, protocol in cases[split] if protocol in test]
    known = {protocol for part in cases.values() for _, protocol in part}
    if absent := sorted({*train, *test} - known):
        raise UserError(
            f"{source.task.root}: no case of {', '.join(absent)}", remedy=f"it has {', '.join(sorted(known))}"
        )
    made_of = {"task": source.task.name, "train": list(train), "test": list(test)}
    definition = target.root / "dataset.json"
    if definition.is_file() and read_json(definition).get("generalisation") != made_of:
        raise UserError(f"{target.root}: holds something else", remedy="choose another --target")
    for split, members in chosen.items():
        for case in members:
            link_case(case, target, split)
    write_dataset(
        target,
        modalities=source.modalities,
        classes=source.classes,
        name=f"{source.name}, other scanners",
        test_labels=True,
        target_class=source.target_class,
        generalisation=made_of,
    )
    print(f"{target.root}: {len(chosen['Tr'])} training and {len(chosen['Ts'])} test cases")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Builds the task of other scanners, runs the study on it and writes its report."""
    arguments = study_options(__doc__ or "", "generalisation", rows=("baseline", "both"))
    arguments.add_argument("--target", default="Task111_OtherScanners", help="(default: %(default)s)")
    arguments.add_argument("--train-protocols", default="cuhk,csiro,ukb", help="(default: %(default)s)")
    arguments.add_argument("--test-protocols", default="valdo1,valdo3", help="(default: %(default)s)")
    args = arguments.parse_args(argv)
    benchmark = study(args, "generalisation")
    source = Dataset.load(benchmark.tasks[0])
    target = TaskFolder(source.task.root.parent / args.target)
    build(source, target, args.train_protocols.split(","), args.test_protocols.split(","))
    return run_and_report(dataclasses.replace(benchmark, tasks=(target,)), args, "generalisation")


if __name__ == "__main__":
    sys.exit(main())
