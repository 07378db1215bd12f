"""The table of a benchmark: every number with its interval, differences paired over the same patients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmb_plugin.dataset import Dataset, Truth
from cmb_plugin.documents import some_of
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import (
    Bootstrap,
    CaseResult,
    Estimate,
    EvaluationConfig,
    SubjectCounts,
    bootstrap,
    subject_counts,
)
from cmb_plugin.files import write_text
from cmb_plugin.models.operating_point import OperatingPoint
from cmb_plugin.models.scored_cases import PredictionSet
from cmb_plugin.reporting.pages import PageTable, render
from cmb_plugin.settings import Overrides
from cmb_plugin.tabular import as_csv, as_markdown, show_interval, show_number

from .entries import (
    Benchmark,
    Entry,
    measured_cases,
    measured_split,
    patches_per_step,
    split_overrides,
    trained_steps,
)
from .machine import made_with

NUMBERS = (  # name in the bootstrap, heading, decimals
    ("froc_score", "FROC score", 3),
    ("sensitivity@1", "sensitivity at 1 FP/scan", 3),
    ("sensitivity", "sensitivity", 3),
    ("precision", "precision", 3),
    ("f1", "F1", 3),
    ("fp_per_scan", "FP/scan", 2),
    ("fp_per_scan@0.8", "FP/scan at 0.8", 2),
)
ESTIMATE = ("value", "low", "high", "values_of_runs")  # columns of a CSV
COMPARED = ("froc_score", "sensitivity@1", "sensitivity", "fp_per_scan")
RULE = (
    "Matched by centre distance (at most {mm:g} mm, one-to-one, optimal). FROC score: mean sensitivity at 1/8 to 8 "
    "false positives per scan. Sensitivity, precision, F1 and FP/scan at the operating point: of trainers the one that "
    "their sweep chose on validation, of nnU-Net its own decision, of a folder 0.5 unless it names one. Mean over "
    "the runs (folds and seeds); in brackets the 95 % interval of {resamples} resamples of the patients. A difference "
    "is to the first row of the task, paired: both see the same resamples. It decides, not whether intervals overlap."
)


@dataclass
class Row:
    """One method on one task.

    Attributes:
        task, method: names.
        runs: fold and seed of each.
        n_cases, n_lesions: what was measured.
        missing: names of scans that a run has no predictions of, counted as without detections.
        statistics: over the runs.
        estimates: name -> value and interval; ``difference:{name}`` to the task's first row.
        steps, patches: of the training.
        train_minutes, predict_seconds: mean of the runs; per run and per scan.
    """

    task: str
    method: str
    runs: list[str]
    n_cases: int
    n_lesions: int
    missing: list[str]
    statistics: Bootstrap
    estimates: dict[str, Estimate]
    steps: int | None
    patches: int | None
    train_minutes: float | None
    predict_seconds: float | None


def write_table(
    benchmark: Benchmark, entries: Sequence[Entry], log: Callable[[str], None]
) -> tuple[list[Row], list[Path]]:
    """Measures what is finished and writes benchmark.md, benchmark.csv and benchmark.html."""
    rows: list[Row] = []
    notes: list[str] = []
    for task in dict.fromkeys(entry.task for entry in entries):
        rows += _rows_of_task(benchmark, [entry for entry in entries if entry.task == task], notes, log)
    folder = benchmark.output
    files = [folder / "benchmark.md", folder / "benchmark.csv", folder / "benchmark.html"]
    config = evaluation_config(benchmark)
    rule = RULE.format(mm=config.match_mm, resamples=benchmark.resamples)
    notes += _provenance(entries)
    write_text(files[0], markdown(rows, rule, notes))
    write_text(files[1], numbers(rows))
    write_text(files[2], page(rows, rule, notes))
    return rows, files


def evaluation_config(benchmark: Benchmark) -> EvaluationConfig:
    """How detections are compared, by the benchmark's overrides."""
    overrides = split_overrides(benchmark.overrides)["eval"]
    config: EvaluationConfig = Overrides.parse(overrides).apply(eval_cfg=EvaluationConfig())["eval_cfg"]
    return config


def _rows_of_task(
    benchmark: Benchmark, entries: Sequence[Entry], notes: list[str], log: Callable[[str], None]
) -> list[Row]:
    truths: dict[str, Truth] = {}
    of_method = {m.name: [e for e in entries if e.method == m] for m in benchmark.methods}
    trained = {
        name: {(e.fold, e.seed) for e in own} for name, own in of_method.items() if own and not own[0].method.folder
    }
    shared = set.intersection(*trained.values()) if trained else set()
    rows: list[Row] = []
    for name, own in of_method.items():
        chosen = [entry for entry in own if entry.method.folder or (entry.fold, entry.seed) in shared]
        if len(chosen) < len(own):
            notes.append(
                f"{own[0].task.name} {name}: {len(own) - len(chosen)} runs that others have not finished left out"
            )
        if not chosen:
            notes.append(f"{entries[0].task.name} {name}: no run that every method has finished")
            continue
        log(f"{chosen[0].task.name} {name}: measuring {len(chosen)} runs")
        counts, n_cases, n_lesions, missing = _counts(
            chosen, sorted({fold for fold, _ in shared}) or benchmark.folds, truths
        )
        statistics = bootstrap(counts, sensitivities=(0.8,), resamples=benchmark.resamples)
        estimates = {key: statistics.estimate(key) for key, _, _ in NUMBERS}
        if rows and rows[0].statistics.subjects == statistics.subjects:
            for key in COMPARED:
                estimates[f"difference:{key}"] = statistics.difference(rows[0].statistics, key)
        states = [entry.state() for entry in chosen if not entry.method.folder]
        row = Row(
            task=chosen[0].task.name,
            method=name,
            runs=[f"fold {e.fold} seed {e.seed}" for e in chosen] if states else ["given"],
            n_cases=n_cases,
            n_lesions=n_lesions,
            missing=missing,
            statistics=statistics,
            estimates=estimates,
            steps=trained_steps(chosen[0]) if states else None,
            patches=patches_per_step(chosen[0]) if states else None,
            train_minutes=_mean([s["seconds"].get("train", 0.0) / 60 for s in states]),
            predict_seconds=_mean([s["seconds"].get("predict", 0.0) / max(n_cases, 1) for s in states]),
        )
        if missing:
            counted = "count as scans without detections"
            notes.append(f"{row.task} {name}: scans without predictions {counted}: {some_of(missing)}")
        rows.append(row)
    return rows


def _counts(
    entries: Sequence[Entry], folds: Sequence[int], truths: dict[str, Truth]
) -> tuple[list[SubjectCounts], int, int, list[str]]:
    """Counts of each run, numbers of scans and lesions, and the scans that a run has no predictions of. On validation
    scans the folds of a seed are one run: its cases are pooled."""
    task, split = entries[0].task, measured_split(entries[0].task)
    dataset = Dataset.load(task)
    groups: list[list[tuple[Entry, int]]]
    if split == "test":
        groups = [[(entry, entry.fold)] for entry in entries]
    elif entries[0].method.folder:
        groups = [[(entries[0], fold) for fold in folds]]
    else:
        groups = [[(e, e.fold) for e in entries if e.seed == seed] for seed in dict.fromkeys(e.seed for e in entries)]
    counts = []
    n_cases = n_lesions = 0
    missing: set[str] = set()
    for group in groups:
        cases: list[CaseResult] = []
        configs = []
        for entry, fold in group:
            own, config, absent = load_entry(entry, dataset, truths, fold)
            cases += own
            configs.append(config)
            missing.update(absent)
        point = float(np.mean([config.operating_point for config in configs]))
        config = dataclasses.replace(configs[0], operating_point=point)
        patients = dataset.patients([case.case_id for case in cases])
        counts.append(subject_counts(cases, config, patients))
        n_cases, n_lesions = len(cases), sum(int((~case.possible).sum()) for case in cases)
    return counts, n_cases, n_lesions, sorted(missing)


def load_entry(
    entry: Entry, dataset: Dataset, truths: dict[str, Truth], fold: int | None = None
) -> tuple[list[CaseResult], EvaluationConfig, list[str]]:
    """What an entry detected.

    Args:
        entry: a finished one.
        dataset: its task.
        truths: lesions by case, filled here and used by the next call.
        fold: whose validation scans; None for the entry's own.

    Returns:
        scans, the configuration with its operating point, and the names of the scans without predictions.

    Raises:
        UserError: nothing can be read, or a single scan is unreadable.
    """
    cases = measured_cases(entry.task, entry.fold if fold is None else fold)
    split = measured_split(entry.task)
    predictions = PredictionSet.of_folder(dataset, entry.predictions(split), split, cases)
    if entry.method.trainer:
        point = OperatingPoint.load(entry.fold_folder.operating_point)
        predictions = dataclasses.replace(predictions, operating_point=point)
    scored = predictions.read(truths=truths)
    if scored.unreadable:
        raise UserError(next(iter(scored.unreadable.values())))
    return scored.cases, scored.at_operating_point(evaluation_config(entry.benchmark))[0], scored.missing


def headings(rows: Sequence[Row]) -> list[str]:
    """Columns of the tables."""
    return ["", "runs", *(heading for _, heading, _ in NUMBERS), *(f"Δ {_heading(key)}" for key in COMPARED)]


def cells(row: Row) -> list[str]:
    """A row of the tables."""
    decimals = {key: places for key, _, places in NUMBERS}
    differences = (
        show(row.estimates[f"difference:{key}"], decimals[key], signed=True)
        if f"difference:{key}" in row.estimates
        else ""
        for key in COMPARED
    )
    return [
        row.method,
        str(len(row.runs)),
        *(show(row.estimates[key], places) for key, _, places in NUMBERS),
        *differences,
    ]


def show(estimate: Estimate, decimals: int, signed: bool = False) -> str:
    """``0.86 (0.52-1.31)``, of a difference ``+0.04 (-0.01 to +0.09)``; a dash where it is undefined."""
    return show_interval(estimate.value, estimate.low, estimate.high, decimals, signed)


def costs(row: Row) -> list[str]:
    """What a row took: steps, patches of a step, training minutes of a run, prediction seconds of a scan."""
    values = (
        str(row.steps) if row.steps else "-",
        str(row.patches) if row.patches else "-",
        show_number(row.train_minutes, 1),
        show_number(row.predict_seconds, 1),
    )
    return [row.method, *values]


COSTS = ["", "steps", "patches per step", "training, min", "prediction, s per scan"]


def markdown(rows: Sequence[Row], rule: str, notes: Sequence[str]) -> str:
    """benchmark.md."""
    lines = []
    for task in dict.fromkeys(row.task for row in rows):
        own = [row for row in rows if row.task == task]
        lines += [f"**{task}**: {own[0].n_cases} scans, {own[0].n_lesions} lesions.", ""]
        lines += [as_markdown(headings(own), map(cells, own)), as_markdown(COSTS, map(costs, own))]
    lines += [rule, *(["", *(f"- {note}" for note in notes)] if notes else [])]
    return "\n".join(lines) + "\n"


def numbers(rows: Sequence[Row]) -> str:
    """benchmark.csv: one line per task, method and number, with the value of each run."""
    columns = ["task", "method", "number", *ESTIMATE, "runs", "n_cases", "n_lesions"]
    lines = [
        (row.task, row.method, name, *written(estimate), len(row.runs), row.n_cases, row.n_lesions)
        for row in rows
        for name, estimate in row.estimates.items()
    ]
    return as_csv(columns, lines)


def written(estimate: Estimate) -> list[str]:
    """An estimate in the columns ``ESTIMATE``; what is not known is empty."""
    ends = ["" if value is None else f"{value:.6g}" for value in (estimate.value, estimate.low, estimate.high)]
    return [*ends, " ".join("" if value is None else f"{value:.6g}" for value in estimate.runs)]


def page(rows: Sequence[Row], rule: str, notes: Sequence[str]) -> str:
    """benchmark.html: one file that needs no other."""
    tasks = []
    for task in dict.fromkeys(row.task for row in rows):
        own = [row for row in rows if row.task == task]
        tasks.append(
            {
                "name": task,
                "n_cases": own[0].n_cases,
                "n_lesions": own[0].n_lesions,
                "numbers": PageTable(headings(own), [cells(row) for row in own]),
                "costs": PageTable(COSTS, [costs(row) for row in own]),
            }
        )
    return render("benchmark", title="Benchmark", tasks=tasks, notes=[rule, *notes])


def _provenance(entries: Sequence[Entry]) -> list[str]:
    """What the networks were trained with, as their records say."""
    return made_with(entry.state() for entry in entries if not entry.method.folder)


def _heading(key: str) -> str:
    return next(heading for name, heading, _ in NUMBERS if name == key)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
