"""Leave-one-domain-out: each domain's scans, measured with models that have and that have not seen the domain."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cmb_plugin.dataset import Case, Dataset, Truth, read_splits, validation_of_domains
from cmb_plugin.dataset.domains import UNNAMED
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import (
    CaseResult,
    Estimate,
    EvaluationConfig,
    SubjectCounts,
    SweepConfig,
    bootstrap,
    subject_counts,
)
from cmb_plugin.files import write_text
from cmb_plugin.models.new_domain import COMMON, choose_anew
from cmb_plugin.models.operating_point import OperatingPoint
from cmb_plugin.models.scored_cases import PredictionSet
from cmb_plugin.paths import TaskFolder
from cmb_plugin.reporting.pages import PageTable, render
from cmb_plugin.tabular import as_csv, as_markdown, show_interval

from .entries import Benchmark, Entry, domains_of
from .machine import made_with
from .table import ESTIMATE, evaluation_config, written

NUMBERS = (  # name in the bootstrap, heading, decimals
    ("sensitivity@1", "sensitivity at 1 FP/scan", 3),
    ("froc_score", "FROC score", 3),
    ("sensitivity", "sensitivity at the operating point", 3),
    ("fp_per_scan", "FP/scan at the operating point", 2),
)
POINTS = (
    ("sensitivity", "sensitivity", 3),
    ("fp_per_scan", "FP/scan", 2),
    ("precision", "precision", 3),
    ("f1", "F1", 3),
)
RULE = (
    "Rows: the domain that a model was trained without; columns: the domain of the scans. All models of a column are "
    "measured on the same scans, none of which any of them was trained on: the labelled test scans of the domain, or, "
    "where it has none, the scans of it that models without another domain validate on. **Bold**: the model has never "
    "seen the domain. The last row is the model that has not seen the domain less the mean of those that have, paired: "
    "both see the same resamples of the patients; it decides, not whether intervals overlap. In brackets the 95 % "
    "interval of {resamples} resamples. Matched by centre distance (at most {mm:g} mm, one-to-one, optimal). The "
    "operating point is the one that each model's sweep chose on scans of the domains that it was trained on."
)
POINTS_RULE = (
    "All training scans of the domain that was left out. Carried over: the operating point of the domains that the "
    "model was trained on. Anew: chosen on four fifths of the domain's patients and measured on the last fifth, in "
    "turn. Where the two differ, the threshold does not carry over; where both are worse than in seen domains, the "
    "network does not."
)


@dataclass
class DomainRow:
    """Models of one method and task that were trained without one domain.

    Attributes:
        task, method, without: names; of the differences ``without`` is empty.
        seeds: how many.
        cells: domain -> number -> estimate, on the scans of the column.
        carried, anew: at the operating point, on all training scans of the domain; empty where unknown.
        n_cases, n_lesions: of those scans.
    """

    task: str
    method: str
    without: str
    seeds: int
    cells: dict[str, dict[str, Estimate]]
    carried: dict[str, Estimate] = field(default_factory=dict)
    anew: dict[str, Estimate] = field(default_factory=dict)
    n_cases: int = 0
    n_lesions: int = 0


def write_domain_table(
    benchmark: Benchmark, entries: Sequence[Entry], log: Callable[[str], None]
) -> tuple[list[DomainRow], list[Path]]:
    """Measures what is finished and writes domains.md, domains.csv and domains.html."""
    config = evaluation_config(benchmark)
    rows: list[DomainRow] = []
    notes: list[str] = []
    for task in dict.fromkeys(entry.task for entry in entries):
        columns = measured_columns(task)
        notes += [f"{task.name} {name}: no scan to measure on" for name, cases in columns.items() if not cases]
        truths: dict[str, Truth] = {}
        for method in benchmark.methods:
            own = [entry for entry in entries if entry.task == task and entry.method == method]
            if own:
                log(f"{task.name} {method.name}: measuring {len(own)} models on {len(columns)} domains")
                rows += _rows(benchmark, own, columns, config, truths, notes)
    rule = RULE.format(mm=config.match_mm, resamples=benchmark.resamples)
    notes += made_with(entry.state() for entry in entries)
    files = [benchmark.output / f"domains.{ending}" for ending in ("md", "csv", "html")]
    write_text(files[0], markdown(rows, rule, notes))
    write_text(files[1], numbers(rows))
    write_text(files[2], page(rows, rule, notes))
    return rows, files


def measured_columns(task: TaskFolder) -> dict[str, list[Case]]:
    """Domain -> the scans that every model is measured on. Patients who have scans in several domains are left out:
    models without the one domain were not trained on, nor validated with, their scans in the others."""
    dataset = Dataset.load(task)
    domains = {case.case_id: case.domain or UNNAMED for case in dataset.cases("Tr")}
    held_out = set(validation_of_domains(read_splits(task.splits), domains))
    everybody = {split: dataset.cases(split) for split in ("Tr", "Ts")}
    of_patient: dict[str, set[str]] = {}
    for case in (case for cases in everybody.values() for case in cases):
        of_patient.setdefault(dataset.session_id.get(case.case_id, case.case_id), set()).add(case.domain or UNNAMED)
    columns = {}
    for domain in domains_of(task):

        def counts(case: Case, domain: str = domain) -> bool:
            """Whether the scan stands for the domain alone."""
            return case.label is not None and of_patient[dataset.session_id.get(case.case_id, case.case_id)] == {domain}

        test = [case for case in everybody["Ts"] if counts(case)]
        columns[domain] = test or [case for case in everybody["Tr"] if case.case_id in held_out and counts(case)]
    return columns


def _rows(
    benchmark: Benchmark,
    entries: Sequence[Entry],
    columns: Mapping[str, Sequence[Case]],
    config: EvaluationConfig,
    truths: dict[str, Truth],
    notes: list[str],
) -> list[DomainRow]:
    """A row per domain that was left out, then the differences."""
    first = entries[0]
    dataset = Dataset.load(first.task)
    by_domain = {domain: [entry for entry in entries if entry.without == domain] for domain in columns}
    notes += [
        f"{first.task.name} {first.method.name}: the model without {domain} is not finished"
        for domain, own in by_domain.items()
        if not own
    ]
    rows = [
        DomainRow(first.task.name, first.method.name, domain, len(own), {}) for domain, own in by_domain.items() if own
    ]
    differences = DomainRow(first.task.name, first.method.name, "", 0, {})
    for column, cases in columns.items():
        if not cases:
            continue
        counts: dict[str, list[SubjectCounts]] = {}
        for row in rows:
            read = [_read(entry, dataset, cases, column, truths) for entry in by_domain[row.without]]
            counts[row.without] = [_counts(scored, dataset, config, point) for scored, point in read]
            statistics = bootstrap(counts[row.without], resamples=benchmark.resamples)
            row.cells[column] = {name: statistics.estimate(name) for name, _, _ in NUMBERS}
        seen = [run for without, runs in counts.items() if without != column for run in runs]
        if column in counts and seen:
            unseen = bootstrap(counts[column], resamples=benchmark.resamples)
            others = bootstrap(seen, resamples=benchmark.resamples)
            differences.cells[column] = {name: unseen.difference(others, name) for name, _, _ in NUMBERS}
    for row in rows:
        _compare_points(row, by_domain[row.without], dataset, config, truths, benchmark.resamples)
    return [*rows, differences]


def _read(
    entry: Entry, dataset: Dataset, cases: Sequence[Case], domain: str, truths: dict[str, Truth], raw: bool = False
) -> tuple[list[CaseResult], OperatingPoint]:
    """What a model detected in scans of one domain, and its operating point.

    Raises:
        UserError: a scan is unreadable or was not predicted.
    """
    split = "test" if cases[0].split == "Ts" else "unseen" if entry.without == domain else "val"
    predictions = PredictionSet.of_folder(dataset, entry.predictions(split), split, cases)
    point = OperatingPoint.load(entry.fold_folder.operating_point)
    scored = dataclasses.replace(predictions, operating_point=point).read(truths=truths, before_sweep=raw)
    if scored.unreadable:
        raise UserError(next(iter(scored.unreadable.values())))
    if scored.missing:
        raise UserError(
            f"{entry.predictions(split)}: no predictions of {scored.missing[0]}",
            remedy="run the same command again, without --only",
        )
    return scored.cases, point


def _counts(
    cases: Sequence[CaseResult], dataset: Dataset, config: EvaluationConfig, point: OperatingPoint
) -> SubjectCounts:
    score = point.score if config.operating_point is None else config.operating_point
    patients = dataset.patients([case.case_id for case in cases])
    return subject_counts(cases, dataclasses.replace(config, operating_point=score), patients)


def _compare_points(
    row: DomainRow,
    entries: Sequence[Entry],
    dataset: Dataset,
    config: EvaluationConfig,
    truths: dict[str, Truth],
    resamples: int,
) -> None:
    """The operating point carried over and chosen anew, on all training scans of the domain that was left out."""
    whole = [case for case in dataset.cases("Tr") if case.label is not None and case.judged is None]
    cases = [case for case in whole if (case.domain or UNNAMED) == row.without]
    if not cases:
        return
    patients = dataset.patients([case.case_id for case in cases])
    carried, anew = [], []
    for entry in entries:
        scored, point = _read(entry, dataset, cases, row.without, truths)
        carried.append(_counts(scored, dataset, config, point))
        raw, _ = _read(entry, dataset, cases, row.without, truths, raw=True)
        again = choose_anew(raw, SweepConfig(), config, patients)
        if again is not None:
            anew.append(subject_counts(again, dataclasses.replace(config, operating_point=COMMON), patients))
    row.n_cases = len(scored)
    row.n_lesions = sum(int((~case.possible).sum()) for case in scored)
    for counts, kept in ((carried, row.carried), (anew, row.anew)):
        if counts:
            statistics = bootstrap(counts, fp_rates=(), resamples=resamples)
            kept |= {name: statistics.estimate(name) for name, _, _ in POINTS}


Groups = list[tuple[str, str, list[DomainRow]]]


def groups_of(rows: Sequence[DomainRow]) -> Groups:
    """Task, method and their rows."""
    pairs = dict.fromkeys((row.task, row.method) for row in rows)
    return [(task, method, [r for r in rows if (r.task, r.method) == (task, method)]) for task, method in pairs]


def matrix(rows: Sequence[DomainRow], name: str, decimals: int) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table of one number, domain x domain."""
    columns = list(dict.fromkeys(column for row in rows for column in row.cells))
    lines = []
    for row in rows:
        line = [f"without {row.without}" if row.without else "Δ unseen, seen"]
        for column in columns:
            estimate = row.cells.get(column, {}).get(name)
            text = "-" if estimate is None else _shown(estimate, decimals, signed=not row.without)
            line.append(f"**{text}**" if column == row.without else text)
        lines.append(line)
    return ["", *columns], lines


def points(rows: Sequence[DomainRow]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table of operating points."""
    headings = ["domain left out", "scans", "lesions"]
    headings += [f"{title}, {kind}" for _, title, _ in POINTS for kind in ("carried over", "anew")]
    lines = []
    for row in rows:
        if row.carried:
            pairs = [(kept.get(name), places) for name, _, places in POINTS for kept in (row.carried, row.anew)]
            shown = ["-" if estimate is None else _shown(estimate, places) for estimate, places in pairs]
            lines.append([row.without, str(row.n_cases), str(row.n_lesions), *shown])
    return headings, lines


def markdown(rows: Sequence[DomainRow], rule: str, notes: Sequence[str]) -> str:
    """domains.md."""
    lines = []
    for task, method, own in groups_of(rows):
        lines += [f"## {task}, {method}", ""]
        for name, title, decimals in NUMBERS:
            lines += [f"**{title}**", "", as_markdown(*matrix(own, name, decimals))]
        lines += ["**Operating points**", "", as_markdown(*points(own))]
    return "\n".join([*lines, rule, "", POINTS_RULE, *(["", *(f"- {note}" for note in notes)] if notes else [])]) + "\n"


def numbers(rows: Sequence[DomainRow]) -> str:
    """domains.csv: one line per task, method, domain left out, domain measured and number."""
    columns = ["task", "method", "without", "measured_on", "number", *ESTIMATE, "seeds"]
    lines: list[tuple[object, ...]] = []
    for row in rows:
        parts = [(column, "", cells) for column, cells in row.cells.items()]
        parts += [
            (f"{row.without} all", f"{kind} ", kept) for kind, kept in (("carried", row.carried), ("anew", row.anew))
        ]
        lines += [
            (row.task, row.method, row.without or "difference", column, f"{kind}{name}", *written(estimate), row.seeds)
            for column, kind, cells in parts
            for name, estimate in cells.items()
        ]
    return as_csv(columns, lines)


def page(rows: Sequence[DomainRow], rule: str, notes: Sequence[str]) -> str:
    """domains.html: one file that needs no other."""
    groups = []
    for task, method, own in groups_of(rows):
        tables = [(title, matrix(own, name, decimals)) for name, title, decimals in NUMBERS]
        tables.append(("Operating points of domains left out", points(own)))
        plain = [
            (title, PageTable(head, [[cell.strip("*") for cell in row] for row in body]))
            for title, (head, body) in tables
        ]
        groups.append({"name": f"{task}, {method}", "tables": plain})
    return render(
        "domains", title="Leave one domain out", groups=groups, notes=[rule.replace("**", ""), POINTS_RULE, *notes]
    )


def _shown(estimate: Estimate, decimals: int, signed: bool = False) -> str:
    return show_interval(estimate.value, estimate.low, estimate.high, decimals, signed)
