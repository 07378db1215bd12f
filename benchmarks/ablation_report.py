"""Tables and a figure that compare the rows of a study: every number with its interval over subjects.

Used by ablation.py and generalisation.py; what is counted and how is said in docs/evaluation.md. A row is the mean over
its seeds. The first row is the reference of the ratios.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from study_page import put_between_markers

from cmb_plugin.benchmark.entries import Entry, trained_steps
from cmb_plugin.benchmark.machine import made_with
from cmb_plugin.benchmark.table import load_entry
from cmb_plugin.dataset import Dataset, Truth
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import (
    Bootstrap,
    CaseResult,
    Curve,
    Estimate,
    EvaluationConfig,
    bootstrap,
    false_positive_kinds,
    fp_at_sensitivity,
    froc_curve,
    subject_counts,
)
from cmb_plugin.evaluation.matching import optimal_status
from cmb_plugin.evaluation.metrics import measure
from cmb_plugin.evaluation.pool import pool_cases
from cmb_plugin.files import read_json, write_text

PAPER = 0.9466  # sensitivity of Kim et al. 2023
TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9, PAPER)
RATES = np.geomspace(1 / 16, 16, 97)  # 12 to an octave, so that 1/8, 1/4, ..., 8 are among them
SCOPES = {
    "definite": "definite lesions (possible ones count neither way)",
    "all": "all lesions, possible ones included",
}


@dataclass
class Result:
    """One finished run: its scans, once with possible lesions set aside (``definite``) and once with all alike."""

    entry: Entry
    state: dict[str, Any]
    cases: dict[str, list[CaseResult]]
    config: EvaluationConfig
    curves: dict[str, Curve]

    def highest(self, scope: str) -> float:
        """The share of the lesions that is found when everything is reported."""
        curve = self.curves[scope]
        return float(curve.true[-1] / curve.n_lesions) if len(curve.true) and curve.n_lesions else 0.0

    def at_sensitivity(self, scope: str, sensitivity: float) -> EvaluationConfig:
        """The configuration with the highest threshold that finds this share."""
        curve = self.curves[scope]
        enough = np.flatnonzero(curve.true >= sensitivity * curve.n_lesions - 1e-9)
        score = float(curve.thresholds[enough[0]]) if len(enough) else 0.0
        return dataclasses.replace(self.config, operating_point=score)


@dataclass
class Study:
    """All finished runs, and the statistics of every row over the seeds that all rows have."""

    results: list[Result]
    rows: list[str]
    seeds: list[int]
    missing: list[str]
    sensitivity: dict[str, float]
    statistics: dict[str, dict[str, Bootstrap]]
    kinds: list[str]

    def of_row(self, row: str) -> list[Result]:
        return [
            result for result in self.results if result.entry.method.name == row and result.entry.seed in self.seeds
        ]


def load_study(entries: Sequence[Entry], resamples: int) -> Study:
    """Reads what is finished and resamples it.

    Raises:
        UserError: nothing is finished, or no seed is finished for all rows that have begun.
    """
    truths: dict[str, Truth] = {}
    results = []
    for entry in entries:
        if entry.is_finished():
            print(f"reading {entry.name}")
            results.append(_load(entry, truths))
    if not results:
        raise UserError(f"{entries[0].folder}: holds no finished run", remedy="leave --only eval out")
    rows = list(dict.fromkeys(result.entry.method.name for result in results))
    seeds_of = {row: {r.entry.seed for r in results if r.entry.method.name == row} for row in rows}
    seeds = sorted(set.intersection(*seeds_of.values()))
    if not seeds:
        raise UserError(f"{entries[0].folder}: no seed is finished in all rows", remedy="go on with the runs")
    missing = [f"{entry.method.name} seed {entry.seed}" for entry in entries if not entry.is_finished()]
    study = Study(results, rows, seeds, missing, {}, {}, [])
    used = [result for row in rows for result in study.of_row(row)]
    for scope in SCOPES:
        lowest = min(result.highest(scope) for result in used)
        study.sensitivity[scope] = PAPER if lowest >= PAPER else lowest
    patients = Dataset.load(entries[0].task).patients([case.case_id for case in used[0].cases["definite"]])
    for row in rows:
        study.statistics[row] = {
            scope: _statistics(study.of_row(row), scope, study.sensitivity[scope], patients, resamples)
            for scope in SCOPES
        }
    names = study.statistics[rows[0]]["definite"].values
    study.kinds = [name.removeprefix("kind:").removesuffix("_per_scan") for name in names if name.startswith("kind:")]
    return study


def _load(entry: Entry, truths: dict[str, Truth]) -> Result:
    cases, config, absent = load_entry(entry, Dataset.load(entry.task), truths)
    if absent:
        raise UserError(f"{entry.predictions('test')}: no predictions of {absent[0]}", remedy="predict it again")
    by_scope = {"definite": cases, "all": [dataclasses.replace(case, certainty=None) for case in cases]}
    curves = {}
    for scope, scans in by_scope.items():
        pool = pool_cases(scans, config)
        status = optimal_status(pool.near, len(pool.scores), pool.possible)
        curves[scope] = froc_curve(pool.scores, status, int((~pool.possible).sum()), pool.n_cases)
    return Result(entry, entry.state(), by_scope, config, curves)


def _statistics(
    results: Sequence[Result], scope: str, sensitivity: float, patients: dict[str, str], resamples: int
) -> Bootstrap:
    counts = []
    for result in results:
        cases = result.cases[scope]
        further: dict[str, np.ndarray] = {}
        if all(case.mimics is not None for case in cases):
            for prefix, config in (("kind", result.config), ("equal", result.at_sensitivity(scope, sensitivity))):
                kinds = false_positive_kinds(cases, config)
                further |= {f"{prefix}:{kind}": values for kind, values in kinds.items()}
        counts.append(subject_counts(cases, result.config, patients, further))
    numbers = bootstrap(counts, sensitivities=sorted({*TARGETS, sensitivity}), resamples=resamples)
    curve = bootstrap(counts, fp_rates=RATES, resamples=resamples)  # of the same resamples
    return dataclasses.replace(numbers, values=curve.values | numbers.values, runs=curve.runs | numbers.runs)


def write_report(
    entries: Sequence[Entry],
    output: Path,
    *,
    page: Path | None = None,
    figure: Path | None = None,
    resamples: int = 2000,
    marker: str = "ablation",
) -> list[Path]:
    """Writes ``table.md``, ``runs.csv`` and ``froc.png`` into ``output`` and returns the files.

    The table also goes between the markers of ``page``, the figure also to ``figure``.
    """
    from ablation_figure import study_figure

    from cmb_plugin.reporting.figures import save_figure

    study = load_study(entries, resamples)
    text = markdown(study, resamples)
    files = [output / "table.md", output / "runs.csv", output / "froc.png"]
    write_text(files[0], text)
    write_text(files[1], raw_numbers(study))
    drawn = study_figure(study)
    for path in [files[2], *([figure] if figure else [])]:
        save_figure(drawn, path, dpi=110)
    if page is not None:
        put_between_markers(page, marker, text)
    return [*files, *(path for path in (page, figure) if path is not None)]


def markdown(study: Study, resamples: int) -> str:
    """The generated part of the page."""
    first = study.of_row(study.rows[0])[0]
    cases = first.cases["definite"]
    n_definite, n_all = (first.curves[scope].n_lesions for scope in SCOPES)
    healthy = sum(not len(case.truth_boxes) for case in cases)
    lines = [
        f"{len(cases)} test scans, {healthy} of them healthy, {n_definite} definite and {n_all - n_definite} possible "
        f"lesions; {_count(study.seeds, 'seed')} ({', '.join(map(str, study.seeds))}). Mean over the seeds; in "
        f"brackets the 95 % interval of {resamples} bootstrap resamples of the subjects, the same for all rows.",
    ]
    if study.missing:
        lines.append(f"Not finished, so not in these numbers: {', '.join(study.missing)}.")
    for scope, words in SCOPES.items():
        lines += ["", f"**{words[0].upper()}{words[1:]}**", "", *_main_table(study, scope)]
    for scope, words in SCOPES.items():
        lines += ["", f"False positives per scan at given sensitivities, {words}:", "", *_targets_table(study, scope)]
    if study.kinds:
        shared = f"{100 * study.sensitivity['definite']:.2f} %"
        lines += ["", f"False positives per scan by what they lie on, where each row finds {shared} of the lesions:"]
        lines += ["", *_kinds_table(study, "equal")]
        lines += ["", "The same at the operating points that the sweeps chose:", "", *_kinds_table(study, "kind")]
    lines += ["", "Each run:", "", *_runs_table(study), "", *_provenance(study)]
    return "\n".join(lines) + "\n"


def _main_table(study: Study, scope: str) -> list[str]:
    shared = study.sensitivity[scope]
    at_shared = f"fp_per_scan@{shared:g}"
    note = (
        "" if shared == PAPER else f" (the highest that every run reaches; {100 * PAPER:.2f} % is not reached by all)"
    )
    lines = [
        f"| | sensitivity at the operating point | FP per scan there | FP per scan at {100 * shared:.2f} % sensitivity "
        "| ratio to the first row | sensitivity at 1 FP per scan | FROC score |",
        "|---|---|---|---|---|---|---|",
    ]
    reference = study.statistics[study.rows[0]][scope]
    for row in study.rows:
        one = study.statistics[row][scope]
        cells = [
            show(one.estimate("sensitivity"), 3),
            show(one.estimate("fp_per_scan")),
            show(one.estimate(at_shared)),
            "1" if row == study.rows[0] else show(one.ratio(reference, at_shared)),
            show(one.estimate("sensitivity@1"), 3),
            show(one.estimate("froc_score"), 3),
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return [*lines, *(["", f"Sensitivity compared at: {100 * shared:.2f} %{note}."] if note else [])]


def _targets_table(study: Study, scope: str) -> list[str]:
    """Rows: false positives at each sensitivity, then their ratio to the first row."""
    lines = ["| | " + " | ".join(f"{100 * target:g} %" for target in TARGETS) + " |", "|---" * (len(TARGETS) + 1) + "|"]
    reference = study.statistics[study.rows[0]][scope]
    for row in study.rows:
        one = study.statistics[row][scope]
        lines.append(f"| {row} | " + " | ".join(show(one.estimate(f"fp_per_scan@{t:g}")) for t in TARGETS) + " |")
    for row in study.rows[1:]:
        one = study.statistics[row][scope]
        cells = (show(one.ratio(reference, f"fp_per_scan@{target:g}")) for target in TARGETS)
        lines.append(f"| {row}, ratio | " + " | ".join(cells) + " |")
    return lines


def _kinds_table(study: Study, prefix: str) -> list[str]:
    lines = [
        "| | " + " | ".join(kind.replace("_", " ") for kind in study.kinds) + " |",
        "|---" * (len(study.kinds) + 1) + "|",
    ]
    for row in study.rows:
        one = study.statistics[row]["definite"]
        cells = (show(one.estimate(f"{prefix}:{kind}_per_scan")) for kind in study.kinds)
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


def _runs_table(study: Study) -> list[str]:
    shared = study.sensitivity["definite"]
    lines = [
        "| | seed | operating point | sensitivity | FP per scan | "
        f"FP per scan at {100 * shared:.2f} % | FROC score | steps | training s | prediction s |",
        "|---" * 10 + "|",
    ]
    for values in _numbers(study):
        if values["lesions"] == "definite":
            ranking = f" of {values['ranking']}" if values["ranking"] else ""
            cells = [
                values["row"],
                str(values["seed"]),
                f"{values['operating_point']:.3f}{ranking}",
                *(_number(values[key], 3) for key in ("sensitivity",)),
                *(_number(values[key], 2) for key in ("fp_per_scan", "fp_at_shared_sensitivity")),
                _number(values["froc_score"], 3),
                *(str(values[key]) for key in ("steps", "train_seconds", "predict_seconds")),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _provenance(study: Study) -> list[str]:
    commands = []
    for row in study.rows:
        commands += study.of_row(row)[0].state["commands"].values()
    return [
        f"{'; '.join(made_with(result.state for result in study.results))}. "
        "Seconds are those of the whole commands; training includes validation.",
        "",
        f"Commands of seed {study.seeds[0]}:",
        "",
        "```",
        *commands,
        "```",
    ]


def _numbers(study: Study) -> list[dict[str, Any]]:
    """One dictionary per finished run and scope."""
    collected = []
    for result in study.results:
        entry = result.entry
        point = entry.fold_folder.operating_point
        for scope, cases in result.cases.items():
            classes = Dataset.load(entry.task).classes
            config = dataclasses.replace(result.config, sensitivities=TARGETS)
            metrics = measure(cases, classes, config)
            kinds = metrics["false_positive_kinds"]
            shared = fp_at_sensitivity(result.curves[scope], study.sensitivity[scope])
            collected.append(
                {
                    "row": entry.method.name,
                    "seed": entry.seed,
                    "lesions": scope,
                    "model": result.state.get("model", entry.name),
                    "n_cases": metrics["n_cases"],
                    "n_lesions": metrics["n_lesions"],
                    "operating_point": metrics["operating_point"]["score"],
                    "ranking": (read_json(point).get("ranking") if point.is_file() else None) or "",
                    **{key: metrics[key] for key in ("sensitivity", "precision", "f1", "fp_per_scan", "froc_score")},
                    **{f"sensitivity_at_{rate}_fp": value for rate, value in metrics["froc"].items()},
                    **{f"fp_at_{share}": value for share, value in metrics["fp_at_sensitivity"].items()},
                    "shared_sensitivity": study.sensitivity[scope],
                    "fp_at_shared_sensitivity": shared,
                    "highest_sensitivity": result.highest(scope),
                    **{f"fp_{kind}": value for kind, value in (kinds["per_scan"] if kinds else {}).items()},
                    "steps": trained_steps(entry),
                    **{f"{phase}_seconds": round(value) for phase, value in result.state["seconds"].items()},
                    "threads": result.state["threads"],
                    "jobs": result.state["jobs"],
                    "commit": result.state["machine"]["commit"],
                }
            )
    return collected


def raw_numbers(study: Study) -> str:
    """The same as a CSV."""
    rows = _numbers(study)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def show(estimate: Estimate, decimals: int = 2) -> str:
    """``0.86 (0.52-1.31)``; an interval without an upper end ends in ``∞``."""
    if estimate.value is None:
        return "-" if estimate.low is None else f"not reached (from {estimate.low:.{decimals}f})"
    if estimate.low is None:
        return f"{estimate.value:.{decimals}f}"
    high = "∞" if estimate.high is None else f"{estimate.high:.{decimals}f}"
    return f"{estimate.value:.{decimals}f} ({estimate.low:.{decimals}f}-{high})"


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _count(items: Sequence[Any], word: str) -> str:
    return f"{len(items)} {word}{'' if len(items) == 1 else 's'}"
