"""What the runs of a study found: their scans, and the statistics of every row over its seeds.

A row is the mean over its seeds. The first row is the reference of the ratios.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmb_plugin.benchmark.entries import Entry
from cmb_plugin.benchmark.table import load_entry
from cmb_plugin.dataset import Dataset, Truth
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import (
    Bootstrap,
    CaseResult,
    Curve,
    EvaluationConfig,
    bootstrap,
    false_positive_kinds,
    froc_curve,
    subject_counts,
)
from cmb_plugin.evaluation.matching import optimal_status
from cmb_plugin.evaluation.pool import pool_cases

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
        """Results of one method, of the seeds that all have."""
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
        further: dict[str, Sequence[float]] = {}
        if all(case.mimics is not None for case in cases):
            for prefix, config in (("kind", result.config), ("equal", result.at_sensitivity(scope, sensitivity))):
                kinds = false_positive_kinds(cases, config)
                further |= {f"{prefix}:{kind}": values.tolist() for kind, values in kinds.items()}
        counts.append(subject_counts(cases, result.config, patients, further))
    numbers = bootstrap(counts, sensitivities=sorted({*TARGETS, sensitivity}), resamples=resamples)
    curve = bootstrap(counts, fp_rates=RATES.tolist(), resamples=resamples)  # of the same resamples
    return dataclasses.replace(numbers, values=curve.values | numbers.values, runs=curve.runs | numbers.runs)
