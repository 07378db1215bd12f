"""What each step of TwoStepKD adds, what its student owes to the teacher, and how it does on another protocol.

    nndet_example --task Task140_A --protocol csiro --train 30 --test 30 --seed 0
    nndet_example --task Task141_B --protocol ukb   --train 1  --test 30 --seed 1
    python -m benchmarks.studies.two_step_kd Task140_A --other Task141_B --seeds 3
    python -m benchmarks.studies.two_step_kd Task140_A --other Task141_B --only eval --page docs/studies/two_step_kd.md

It is nndet_benchmark with two models, the student with and without distillation: both have the same plan, scans, seeds
and number of steps, and the one without has the teacher's steps too. Its options and how it goes on after a stop are
described in docs/benchmark.md. The test scans of --other are predicted by the same networks, trained on TASK alone.

Of each model the detections are measured as they stand after every step: all candidates above the threshold that
validation chose; those by the student's score; by the odds of both steps together; of these what the clean-up lets
pass. The scores from which on the latter three count are chosen on TASK's validation scans, at most 1 false positive
per scan.

Records, logs, steps.md and steps.csv land in --output (${det_models}/two_step_kd) below the task's name; the report
also goes between the markers of --page.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tools.markdown import add_page, put_between_markers, table_head, table_row
from benchmarks.tools.measured import scored_folder
from cmb_plugin.benchmark.entries import Benchmark, Entry, measured_split, trained_steps
from cmb_plugin.benchmark.machine import made_with
from cmb_plugin.benchmark.table import ESTIMATE, show, written
from cmb_plugin.commands.benchmark import add_options, benchmark_of, run
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.commands.names import find_task
from cmb_plugin.dataset import Dataset, Truth
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import (
    Bootstrap,
    CaseResult,
    EvaluationConfig,
    SubjectCounts,
    SweepConfig,
    bootstrap,
    find_operating_point,
    subject_counts,
)
from cmb_plugin.files import read_json, write_text
from cmb_plugin.models.trained import TrainedModel
from cmb_plugin.tabular import as_csv
from cmb_plugin.workflows.predict import PredictOptions, predict
from cmb_plugin.workflows.scan_selection import ScanSelection

MODELS = "distilled: TwoStepKD, labels alone: TwoStepKD model_cfg.distil=false"
STEPS = {  # what stands after each: the score, and the columns' values of what the step has let go
    "candidates": ("score_candidate", ("candidates",)),
    "student": ("score_student", ("candidates",)),
    "both together": ("score_fused", ("candidates",)),
    "clean-up": ("score_accepted", ("candidates", "volume", "elongation")),
}
NUMBERS = (  # name in the bootstrap, heading, decimals
    ("sensitivity", "sensitivity", 3),
    ("fp_per_scan", "FP/scan", 2),
    ("precision", "precision", 3),
    ("sensitivity@1", "sensitivity at 1 FP/scan", 3),
    ("froc_score", "FROC score", 3),
)
RULE = (
    "Matched by centre distance (at most {mm:g} mm, one-to-one, optimal). Sensitivity, FP/scan and precision: of the "
    "candidates above their threshold, and of the others at the score chosen on the validation scans of {task}. Mean "
    "over the runs; in brackets the 95 % interval of {resamples} resamples of the subjects. Differences are paired."
)


def after(step: str, cases: Sequence[CaseResult]) -> list[CaseResult]:
    """The detections that a step has left, ranked by its score."""
    score, gone_by = STEPS[step]
    left = []
    for case in cases:
        found = case.detections
        if len(found):
            found = found[[word not in gone_by for word in found.columns["rejected_by"]]].ranked_by(score)
        left.append(dataclasses.replace(case, detections=found))
    return left


def counts(entry: Entry, dataset: Dataset, predictions: Path, truths: dict[str, Truth]) -> dict[str, SubjectCounts]:
    """What each step of one run found in the test scans of ``dataset``."""
    fold = entry.fold_folder
    held_out = set(read_json(fold.splits)[entry.fold]["val"])
    own = Dataset.load(entry.task)
    validation = [case for case in own.cases("Tr") if case.case_id in held_out]
    known = scored_folder(own, validation, fold.predictions("val"), "val")
    config, _ = known.at_operating_point(EvaluationConfig())
    cases = scored_folder(dataset, dataset.cases("Ts"), predictions, "test", truths).cases
    patients = dataset.patients([case.case_id for case in cases])
    found = {}
    for step in STEPS:
        left = after(step, known.cases)
        by = SweepConfig(ranking=STEPS[step][0] if any(len(case.detections) for case in left) else None)
        point = 0.0 if step == "candidates" else find_operating_point(left, by, config).score
        at_point = dataclasses.replace(config, operating_point=point)
        found[step] = subject_counts(after(step, cases), at_point, patients)
    return found


def predictions_of(entry: Entry, task: Dataset) -> Path:
    """Folder of what a run found in the test scans of a task; in the output, if that is not the run's own task."""
    own = task.task.root == entry.task.root
    return entry.predictions("test") if own else entry.folder / "other" / task.task.name / entry.name


def markdown(statistics: dict[tuple[str, str, str], Bootstrap], tasks: Sequence[Dataset], notes: Sequence[str]) -> str:
    """The tables of steps.md: each step of each model, and what distillation adds."""
    lines: list[str] = []
    methods = list(dict.fromkeys(method for _, method, _ in statistics))
    headings = [heading for _, heading, _ in NUMBERS]
    for number, dataset in enumerate(tasks):
        name = dataset.task.name
        what = "trained and tested on" if number == 0 else "tested, without training, on"
        lines += [f"**{what[0].upper()}{what[1:]} {name}**: {len(dataset.cases('Ts'))} scans.", ""]
        lines.append(table_head("model", "after", *headings))
        for (task, method, step), found in statistics.items():
            if task == name:
                cells = [show(found.estimate(key), places) for key, _, places in NUMBERS]
                lines.append(table_row(method, step, *cells))
        for step in STEPS if len(methods) > 1 else ():
            reference = statistics[name, methods[1], step]
            differences = (
                show(statistics[name, methods[0], step].difference(reference, key), places, signed=True)
                for key, _, places in NUMBERS
            )
            lines.append(table_row(f"{methods[0]} less {methods[1]}", step, *differences))
        lines.append("")
    return "\n".join([*lines, *(f"- {note}" for note in notes)]) + "\n"


def numbers(statistics: dict[tuple[str, str, str], Bootstrap]) -> str:
    """steps.csv: one line per number, with the value of each run."""
    lines = [
        (*key, name, *written(found.estimate(name))) for key, found in statistics.items() for name, _, _ in NUMBERS
    ]
    columns = ("task", "model", "after", "number", *ESTIMATE)
    return as_csv(columns, lines)


def report(benchmark: Benchmark, entries: Sequence[Entry], tasks: Sequence[Dataset], page: Path | None) -> list[Path]:
    """Measures the runs that every model has finished and writes the tables.

    Raises:
        UserError: there is no such run.
    """
    runs_of = {m: {(e.fold, e.seed) for e in entries if e.method == m and e.is_finished()} for m in benchmark.methods}
    shared = set.intersection(*runs_of.values())
    if not shared:
        raise UserError(f"{benchmark.output}: no run is finished for every model", remedy="leave --only out")
    chosen = [entry for entry in entries if (entry.fold, entry.seed) in shared]
    statistics = {}
    for dataset in tasks:
        truths: dict[str, Truth] = {}
        for method in benchmark.methods:
            own = [
                counts(entry, dataset, predictions_of(entry, dataset), truths)
                for entry in chosen
                if entry.method == method
            ]
            for step in STEPS:
                statistics[dataset.task.name, method.name, step] = bootstrap(
                    [found[step] for found in own], resamples=benchmark.resamples
                )
    task = tasks[0].task.name
    rule = RULE.format(mm=EvaluationConfig().match_mm, resamples=benchmark.resamples, task=task)
    steps = {str(trained_steps(entry)) for entry in chosen}
    seeds = ", ".join(str(seed) for seed in sorted({seed for _, seed in shared}))
    made = made_with(entry.state() for entry in chosen)
    trained = f"Seeds {seeds}; {', '.join(sorted(steps))} steps each, for all networks of a model together."
    folder = benchmark.output / task
    text = markdown(statistics, tasks, [rule, trained, *made])
    write_text(folder / "steps.md", text)
    write_text(folder / "steps.csv", numbers(statistics))
    if page is not None:
        put_between_markers(page, "two_step_kd", text)
    return [folder / "steps.md", folder / "steps.csv", *([page] if page else [])]


def study_options() -> argparse.ArgumentParser:
    """Those of nndet_benchmark, of the report and of the other task."""
    arguments = parser(__doc__)
    add_options(arguments, MODELS, "two_step_kd")
    arguments.add_argument("--other", metavar="TASK", help="a Task whose test scans are predicted without training")
    add_page(arguments)
    arguments.set_defaults(budget="1200steps")  # for a CPU core
    return arguments


def study(args: argparse.Namespace) -> Benchmark:
    """The benchmark that the options ask for.

    Raises:
        UserError: several tasks.
    """
    benchmark = benchmark_of(args, "two_step_kd")
    if len(benchmark.tasks) > 1:
        raise UserError("a study is of one task", remedy="name the task for tests alone with --other")
    return benchmark


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study and writes its report."""
    args = study_options().parse_args(argv)
    benchmark = study(args)
    others = [find_task(args.other)] if args.other else []
    tasks = [Dataset.load(task) for task in (*benchmark.tasks, *others)]
    for dataset in tasks:
        if measured_split(dataset.task) != "test":
            raise UserError(f"{dataset.task.root}: has no labelled test scans", remedy="choose another task")
    failed = dict(run(benchmark).failed)
    entries = benchmark.entries(tasks[0].task)
    if args.other and "predict" in benchmark.phases:
        for entry in entries:
            if entry.is_finished():
                folder = predictions_of(entry, tasks[1])
                print(f"{entry.name}: {tasks[1].task.name}")
                scans = ScanSelection(entry.task, inputs=(tasks[1].task.images("Ts"),))
                model = TrainedModel(entry.model, (entry.fold,))
                done = predict(model, scans, PredictOptions(output=folder, workers=0))
                failed |= {failure.item.case.case_id: folder for failure in done.failures}
    if "eval" in benchmark.phases:
        for path in report(benchmark, entries, tasks, args.page):
            print(f"wrote {path}")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
