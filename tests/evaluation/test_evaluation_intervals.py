"""The intervals beside the headline are those of the bootstrap, and defined where little is there."""

from __future__ import annotations

import json

import pytest

from cmb_plugin.evaluation import EvaluationConfig, bootstrap, headline_intervals, measure, subject_counts

CONFIG = EvaluationConfig(operating_point=0.4, resamples=200)


@pytest.mark.parametrize("seed", range(3))
def test_every_headline_number_lies_in_its_interval_which_is_the_bootstraps(random_cases, seed):
    cases = random_cases(seed, n_cases=20)
    metrics, intervals = measure(cases, ["cmb", "iron"], CONFIG), headline_intervals(cases, CONFIG)
    direct = bootstrap([subject_counts(cases, CONFIG)], sensitivities=CONFIG.sensitivities, resamples=200)
    for name in ("sensitivity", "precision", "f1", "fp_per_scan", "froc_score"):
        low, high = intervals[name]
        assert low <= metrics[name] <= high
        estimate = direct.estimate(name)
        assert [low, high] == pytest.approx([estimate.low, estimate.high])
    for rate, (low, high) in intervals["froc"].items():
        assert low <= metrics["froc"][rate] <= high


def test_scans_of_one_patient_make_one_subject(random_cases):
    cases = random_cases(0, n_cases=6)
    for index, case in enumerate(cases):
        case.patient = f"p{index // 2}"
    assert headline_intervals(cases, CONFIG)["n_patients"] == 3


def test_without_resamples_or_scans_there_is_none_and_without_lesions_it_is_plain(random_cases):
    assert headline_intervals(random_cases(0), EvaluationConfig(resamples=0)) is None
    assert headline_intervals([], CONFIG) is None
    healthy = headline_intervals(random_cases(0, lesions=0), CONFIG)
    assert healthy["sensitivity"] == [None, None]
    json.dumps(healthy, allow_nan=False)
