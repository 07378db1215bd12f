"""Tables of deep_mir.py: each class with each combination of modalities, and the scores that rank best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.tools.markdown import put_between_markers, table_head, table_row
from benchmarks.tools.measured import scored_folder
from cmb_plugin.benchmark.entries import Entry, measured_cases, trained_steps
from cmb_plugin.benchmark.machine import made_with
from cmb_plugin.benchmark.table import ESTIMATE, show, written
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
from cmb_plugin.tabular import as_csv

PUBLISHED = {  # Rashid et al. 2021, over their combinations of modalities: sensitivity, precision
    "cmb": ("0.84-0.88", "0.40-0.59"),
    "iron": ("0.75-0.81", "0.62-0.75"),
}
COLUMNS = ("sensitivity", "precision", "fp_per_scan", "froc_score")


@dataclass(frozen=True)
class Combination:
    """What one network predicted with some modalities: folders of the test and of the validation scans."""

    entry: Entry
    modalities: tuple[str, ...]
    test: Path
    validation: Path


@dataclass
class Row:
    """A class as the networks of a task see it with some modalities; ``ranking`` names a score, "" the chosen one."""

    task: str
    modalities: str
    kind: str
    ranking: str
    statistics: Bootstrap

    def less(self, others: Sequence[Row]) -> str:
        """The FROC score less that of the first of ``others``, paired over subjects; empty without another."""
        if not others or others[0] is self:
            return ""
        return show(self.statistics.difference(others[0].statistics, "froc_score"), 2, signed=True)


def write_report(combinations: Sequence[Combination], output: Path, page: Path | None, resamples: int) -> list[Path]:
    """Writes deep_mir.md and deep_mir.csv, and the tables into ``page``; returns the paths.

    Raises:
        UserError: nothing is finished.
    """
    ready = [one for one in combinations if one.test.is_dir() and one.validation.is_dir()]
    if not ready:
        raise UserError(f"{output}: holds no finished run", remedy="leave --only eval out")
    rows = [row for group in grouped(ready) for row in measure(group, resamples)]
    text = markdown(rows, ready)
    files = [output / "deep_mir.md", output / "deep_mir.csv"]
    write_text(files[0], text)
    write_text(files[1], numbers(rows))
    if page is not None:
        put_between_markers(page, "deep_mir", text)
        files.append(page)
    return files


def grouped(combinations: Sequence[Combination]) -> list[list[list[Combination]]]:
    """By task, then by modalities, the seeds of each."""
    tasks = dict.fromkeys(one.entry.task for one in combinations)
    return [
        [
            [one for one in combinations if (one.entry.task, one.modalities) == (task, modalities)]
            for modalities in dict.fromkeys(one.modalities for one in combinations)
        ]
        for task in tasks
    ]


def measure(group: Sequence[Sequence[Combination]], resamples: int) -> list[Row]:
    """The rows of one task: combinations by the chosen score, and all modalities by every score."""
    dataset = Dataset.load(group[0][0].entry.task)
    truths: dict[str, Truth] = {}
    rows: list[Row] = []
    for runs in filter(None, group):
        loaded = [load(one, dataset, truths) for one in runs]
        all_of_them = runs[0].modalities == dataset.modalities
        names = {name for cases, _ in loaded for case in cases for name in case.detections.rankings}
        for ranking in ["", *sorted(names)] if all_of_them else [""]:
            for label, kind in enumerate(dataset.classes):
                counts = [count(cases, validation, label, ranking, dataset) for cases, validation in loaded]
                modalities = " + ".join(runs[0].modalities)
                rows.append(Row(dataset.task.name, modalities, kind, ranking, bootstrap(counts, resamples=resamples)))
    return rows


def load(one: Combination, dataset: Dataset, truths: dict[str, Truth]) -> tuple[list[CaseResult], list[CaseResult]]:
    """Test and validation scans with what was found in them."""
    entry = one.entry
    held_out = read_json(entry.task.splits)[entry.fold]["val"]
    validation = [case for case in dataset.cases("Tr") if case.case_id in held_out]
    test = scored_folder(dataset, measured_cases(entry.task, entry.fold), one.test, "test", truths)
    return test.cases, scored_folder(dataset, validation, one.validation, "val", truths).cases


def count(
    cases: Sequence[CaseResult], validation: Sequence[CaseResult], label: int, ranking: str, dataset: Dataset
) -> SubjectCounts:
    """The lesions of one class, found at the threshold and by the score that validation chooses, or by ``ranking``."""
    to_choose_on = [case.of_class(label) for case in validation]
    any_found = any(len(case.detections) for case in to_choose_on)
    chosen = find_operating_point(to_choose_on, SweepConfig(ranking=ranking if ranking and any_found else None))
    config = EvaluationConfig(operating_point=chosen.score)
    by = ranking or chosen.ranking
    own = [replace(case, detections=case.detections.ranked_by(by)).of_class(label) for case in cases]
    return subject_counts(own, config, dataset.patients([case.case_id for case in cases]))


def markdown(rows: Sequence[Row], combinations: Sequence[Combination]) -> str:
    """Two tables and what they were measured with."""
    return "\n".join([*by_modalities(rows), "", *by_score(rows), "", provenance(rows, combinations)]) + "\n"


def by_modalities(rows: Sequence[Row]) -> list[str]:
    """The table of combinations, class by class, beside what was published. Its differences are of FROC scores: to all
    modalities, and to the network that learned several classes."""
    numbers = ("sensitivity", "precision", "FP per scan", "FROC score", "Δ all", "Δ several")
    lines = [table_head("class", "trained on", "modalities", *numbers)]
    for kind in dict.fromkeys(row.kind for row in rows):
        own = [row for row in rows if row.kind == kind and not row.ranking]
        if kind in PUBLISHED:
            paper = (*PUBLISHED[kind], "", "", "", "")
            lines.append(table_row(kind, "*24 patients, Rashid et al. 2021*", "*any*", *paper))
        for row in own:
            cells = [show(row.statistics.estimate(name), 2) for name in COLUMNS]
            cells.append(row.less([other for other in own if other.task == row.task]))
            cells.append(row.less([other for other in own if other.modalities == row.modalities]))
            lines.append(table_row(kind, classes_of(row, rows), row.modalities, *cells))
    return lines


def by_score(rows: Sequence[Row]) -> list[str]:
    """The table of scores, with all modalities."""
    rankings = list(dict.fromkeys(row.ranking for row in rows if row.ranking))
    lines = [table_head("FROC score by", "trained on", *rankings)]
    for task, kind in dict.fromkeys((row.task, row.kind) for row in rows if row.ranking):
        own = {row.ranking: row for row in rows if (row.task, row.kind) == (task, kind)}
        values = [show(own[name].statistics.estimate("froc_score"), 2) if name in own else "-" for name in rankings]
        lines.append(table_row(kind, classes_of(next(iter(own.values())), rows), *values))
    return lines


def classes_of(row: Row, rows: Sequence[Row]) -> str:
    """The classes that the row's networks learned."""
    return ", ".join(dict.fromkeys(other.kind for other in rows if other.task == row.task))


def provenance(rows: Sequence[Row], combinations: Sequence[Combination]) -> str:
    """What the numbers are of, in sentences."""
    entries = list(dict.fromkeys(one.entry for one in combinations))
    seeds = ", ".join(str(seed) for seed in sorted({entry.seed for entry in entries}))
    steps = ", ".join(sorted({str(trained_steps(entry)) for entry in entries}))
    made = "; ".join(made_with(entry.state() for entry in entries))
    return (
        f"{len(rows[0].statistics.subjects)} test subjects; seeds {seeds}; {steps} steps. Means over seeds with 95 % "
        "intervals of a bootstrap over subjects. Thresholds: most lesions of the class at no more than 1 false "
        "positive per scan, on the validation scans with the same modalities. FROC score: mean sensitivity at 1/8, "
        f"1/4, 1/2, 1, 2, 4 and 8 false positives per scan. {made}."
    )


def numbers(rows: Sequence[Row]) -> str:
    """CSV: a line for every number."""
    lines = [
        (row.task, row.kind, row.modalities, row.ranking, name, *written(row.statistics.estimate(name)))
        for row in rows
        for name in row.statistics.values
    ]
    columns = ("task", "class", "modalities", "ranking", "number", *ESTIMATE)
    return as_csv(columns, lines)
