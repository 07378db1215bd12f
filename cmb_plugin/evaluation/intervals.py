"""The intervals of the headline numbers, as ``metrics.json`` and the terminal show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .bootstrap import Bootstrap, bootstrap, subject_counts
from .cases import CaseResult, EvaluationConfig

LEVEL = 0.95
BAND = np.geomspace(1 / 16, 16, 33)  # false positives per scan at which the curve's band is drawn
NUMBERS = ("sensitivity", "precision", "f1", "fp_per_scan", "froc_score")


def headline_intervals(cases: Sequence[CaseResult], config: EvaluationConfig) -> dict[str, Any] | None:
    """Percentile intervals of the headline numbers over patients (``bootstrap``); None with ``resamples=0``.

    Args:
        cases: every scan.
        config: ``operating_point``, ``match_mm``, ``fp_rates``, ``sensitivities``, ``resamples``.

    Returns:
        the keys of docs/evaluation.md: for each number ``[low, high]``, an end None where it has no bound.
    """
    if not config.resamples or not cases:
        return None
    patients = {case.case_id: case.patient or case.case_id for case in cases}
    counts = subject_counts(cases, config, patients)
    rates = sorted({*config.fp_rates, *BAND.tolist()})
    statistics = bootstrap([counts], sensitivities=config.sensitivities, fp_rates=rates, resamples=config.resamples)
    at_rates = np.mean([statistics.values[f"sensitivity@{rate:g}"] for rate in config.fp_rates], axis=0)
    statistics.values["froc_score"] = at_rates  # of the seven rates, not of the band's
    band = [_ends(statistics, f"sensitivity@{rate:g}") for rate in BAND]
    return {
        "level": LEVEL,
        "resamples": config.resamples,
        "n_patients": len(counts.subjects),
        "method": "percentile bootstrap over patients, matching by distance",
        **{name: _ends(statistics, name) for name in NUMBERS},
        "froc": {f"{rate:g}": _ends(statistics, f"sensitivity@{rate:g}") for rate in config.fp_rates},
        "fp_at_sensitivity": {
            f"{share:g}": _ends(statistics, f"fp_per_scan@{share:g}") for share in config.sensitivities
        },
        "band": {
            "fp_per_scan": [float(rate) for rate in BAND],
            "low": [low for low, _ in band],
            "high": [high for _, high in band],
        },
    }


def _ends(statistics: Bootstrap, name: str) -> list[float | None]:
    estimate = statistics.estimate(name, LEVEL)
    return [estimate.low, estimate.high]
