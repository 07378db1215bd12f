"""The bootstrap over subjects: equal to counting resampled scans one by one, right in coverage, defined everywhere."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

from cmb_plugin.detections import Detections
from cmb_plugin.evaluation import (
    CaseResult,
    EvaluationConfig,
    bootstrap,
    fp_at_sensitivity,
    froc_curve,
    measure,
    subject_counts,
)
from cmb_plugin.evaluation.bootstrap import count_detections, draw_weights
from cmb_plugin.evaluation.matching import FALSE, TRUE, optimal_status
from cmb_plugin.evaluation.pool import pool_cases

AT_HALF = EvaluationConfig(operating_point=0.5)
TARGETS = (0.3, 0.5, 0.9)


def by_counting(cases, config=AT_HALF):
    """The same statistics from the functions that metrics.json is made of."""
    metrics = measure(cases, ["cmb", "iron"], config)
    pool = pool_cases(cases, config)
    status = optimal_status(pool.near, len(pool.scores), pool.possible)
    curve = froc_curve(pool.scores, status, int((~pool.possible).sum()), pool.n_cases)
    return {
        **{key: metrics[key] for key in ("sensitivity", "fp_per_scan", "precision", "f1", "froc_score")},
        **{f"sensitivity@{rate}": value for rate, value in metrics["froc"].items()},
        **{f"fp_per_scan@{target:g}": fp_at_sensitivity(curve, target) for target in TARGETS},
    }


def equal(values, expected):
    """NaN and infinity here are None there."""
    assert set(values) == set(expected)
    for name, value in values.items():
        assert (value if np.isfinite(value) else None) == pytest.approx(expected[name]), name


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_every_resample_equals_counting_its_scans_one_by_one(random_cases, seed, ties):
    cases = random_cases(seed, ties=ties, possible=True)
    found = bootstrap([subject_counts(cases, AT_HALF)], sensitivities=TARGETS, resamples=15, seed=seed)
    for row, weights in enumerate(draw_weights(len(cases), 15, seed).astype(int)):
        drawn = [case for case, weight in zip(cases, weights, strict=True) for _ in range(weight)]
        equal({name: values[row] for name, values in found.values.items()}, by_counting(drawn))


def test_scans_of_one_patient_are_drawn_together(random_cases):
    cases = random_cases(1, n_cases=6)
    patients = {case.case_id: f"patient_{i // 2}" for i, case in enumerate(cases)}
    counts = subject_counts(cases, AT_HALF, patients)
    assert counts.subjects == ("patient_0", "patient_1", "patient_2")
    assert counts.n_cases.tolist() == [2, 2, 2]
    found = bootstrap([counts], sensitivities=TARGETS, resamples=10)
    for row, weights in enumerate(draw_weights(3, 10, 0).astype(int)):
        drawn = [c for pair, w in zip(np.split(np.arange(6), 3), weights, strict=True) for _ in range(w) for c in pair]
        equal({name: values[row] for name, values in found.values.items()}, by_counting([cases[i] for i in drawn]))


def test_the_mean_over_runs_is_resampled_and_each_run_stands_beside_it(random_cases):
    runs = [subject_counts(random_cases(seed), AT_HALF) for seed in (1, 2)]
    together = bootstrap(runs, resamples=50)
    alone = [bootstrap([run], resamples=50) for run in runs]
    for name, values in together.values.items():
        np.testing.assert_allclose(values, (alone[0].values[name] + alone[1].values[name]) / 2)
        assert together.estimate(name).runs == tuple(one.estimate(name).value for one in alone)


def test_the_interval_of_a_mean_is_that_of_scipy():
    wrong = np.random.default_rng(0).poisson(3.0, 40)
    counts = simulated(wrong, np.zeros(40, int), np.ones(40, int))
    ours = bootstrap([counts], resamples=4000).estimate("fp_per_scan")
    theirs = scipy_bootstrap((wrong,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1))
    assert ours.value == wrong.mean()
    np.testing.assert_allclose([ours.low, ours.high], theirs.confidence_interval, atol=0.08)


def simulated(wrong, right, lesions):
    """A run of one scan per subject in which all detections are reported: false ones 0.8, true ones 0.9."""
    subject = np.concatenate([np.repeat(np.arange(len(right)), right), np.repeat(np.arange(len(wrong)), wrong)])
    status = np.repeat([TRUE, FALSE], [right.sum(), wrong.sum()])
    scores = np.repeat(np.array([0.9, 0.8], np.float32), [right.sum(), wrong.sum()])
    names = [f"{i:03d}" for i in range(len(wrong))]
    return count_detections(
        names,
        scores=scores,
        status=status,
        subject=subject,
        n_cases=np.ones(len(wrong)),
        n_lesions=lesions,
        operating_point=0.5,
    )


def test_nominal_95_percent_covers_the_truth():
    rng = np.random.default_rng(0)
    repeats, subjects = 400, 60
    covered = {"sensitivity": 0, "fp_per_scan": 0}
    for _ in range(repeats):
        # Subjects differ: in how many lesions they have, in how well theirs are seen, in what looks like one.
        lesions = rng.poisson(3, subjects)
        right = rng.binomial(lesions, rng.choice([0.6, 1.0], subjects))
        wrong = rng.poisson(rng.gamma(2.0, 1.0, subjects))
        found = bootstrap([simulated(wrong, right, lesions)], fp_rates=(), resamples=400)
        for name, truth in (("sensitivity", 0.8), ("fp_per_scan", 2.0)):
            estimate = found.estimate(name)
            covered[name] += estimate.low <= truth <= estimate.high
    for name, count in covered.items():
        assert 0.92 <= count / repeats <= 0.98, name


def test_a_paired_difference_is_surer_than_the_two_alone(random_cases):
    before = random_cases(3, n_cases=30)
    after = [dataclasses.replace(case, detections=case.detections[case.detections.scores >= 0.1]) for case in before]
    all_of_them = EvaluationConfig(operating_point=0.0)
    a, b = (bootstrap([subject_counts(cases, all_of_them)], resamples=500) for cases in (before, after))
    difference = b.difference(a, "fp_per_scan")
    assert difference.value == pytest.approx(b.estimate("fp_per_scan").value - a.estimate("fp_per_scan").value)
    assert difference.high < 0
    assert b.estimate("fp_per_scan").high > a.estimate("fp_per_scan").low  # which unpaired intervals do not show
    assert a.difference(a, "froc_score") == dataclasses.replace(a.difference(a, "froc_score"), value=0, low=0, high=0)
    ratio = b.ratio(a, "fp_per_scan")
    assert ratio.value == pytest.approx(b.estimate("fp_per_scan").value / a.estimate("fp_per_scan").value)
    assert ratio.low < ratio.value < ratio.high < 1


def test_the_same_seed_gives_the_same_interval_and_another_seed_another(random_cases):
    counts = subject_counts(random_cases(0, n_cases=20), AT_HALF)
    first, again, other = (bootstrap([counts], resamples=200, seed=seed) for seed in (5, 5, 6))
    assert first.estimate("fp_per_scan") == again.estimate("fp_per_scan")
    assert (first.values["fp_per_scan"] != other.values["fp_per_scan"]).any()


def test_methods_on_other_subjects_or_resamples_are_not_compared(random_cases):
    counts = subject_counts(random_cases(0), AT_HALF)
    with pytest.raises(ValueError, match="same subjects"):
        bootstrap([counts, subject_counts(random_cases(0, n_cases=3), AT_HALF)])
    with pytest.raises(ValueError, match="same subjects"):
        bootstrap([])
    one = bootstrap([counts], resamples=20)
    for other in (bootstrap([counts], resamples=20, seed=1), bootstrap([counts], resamples=30)):
        with pytest.raises(ValueError, match="same subjects"):
            one.ratio(other, "fp_per_scan")


def scan(name, truth=0, right=0, wrong=0):
    boxes = np.array([[z, 0, 0, z + 2, 2, 2] for z in 20.0 * np.arange(truth + wrong)]).reshape(-1, 6)
    found = np.concatenate([boxes[:right], boxes[truth:]])
    detections = Detections(found, np.linspace(0.9, 0.6, len(found)), np.zeros(len(found)))
    return CaseResult(name, detections, boxes[:truth], np.zeros(truth), (1.0, 1.0, 1.0))


def test_healthy_scans_alone_have_no_sensitivity():
    found = bootstrap([subject_counts([scan("a", wrong=2), scan("b")], AT_HALF)], sensitivities=(0.5,), resamples=100)
    for name in ("sensitivity", "fp_per_scan@0.5", "sensitivity@1", "froc_score"):
        estimate = found.estimate(name)
        assert (estimate.value, estimate.low, estimate.high) == (None, None, None)
    wrong = found.estimate("fp_per_scan")
    assert (wrong.value, wrong.low, wrong.high) == (1.0, 0.0, 2.0)


def test_without_detections_nothing_is_found_for_certain():
    cases = [scan("a", truth=2), scan("b")]
    found = bootstrap([subject_counts(cases, AT_HALF)], sensitivities=(0.5,), resamples=100)
    for name in ("sensitivity", "fp_per_scan", "froc_score", "sensitivity@1"):
        estimate = found.estimate(name)
        assert (estimate.value, estimate.low, estimate.high) == (0.0, 0.0, 0.0)
    unreached = found.estimate("fp_per_scan@0.5")
    assert (unreached.value, unreached.low, unreached.high) == (None, None, None)
    assert found.estimate("precision").value is None


def test_a_single_scan_has_an_interval_without_width():
    found = bootstrap([subject_counts([scan("a", truth=2, right=1, wrong=3)], AT_HALF)], resamples=50)
    for name, value in (("sensitivity", 0.5), ("fp_per_scan", 3.0), ("precision", 0.25)):
        estimate = found.estimate(name)
        assert (estimate.value, estimate.low, estimate.high) == (value, value, value)


def test_no_scan_at_all_is_undefined():
    found = bootstrap([subject_counts([], AT_HALF)], sensitivities=(0.5,), resamples=10)
    assert {found.estimate(name).value for name in found.values} == {None}


def test_an_interval_has_no_upper_end_where_resamples_do_not_reach_the_sensitivity():
    cases = [scan("found", truth=1, right=1, wrong=1), scan("missed", truth=1), scan("easy", truth=2, right=2)]
    estimate = bootstrap([subject_counts(cases, AT_HALF)], sensitivities=(0.7,), resamples=200).estimate(
        "fp_per_scan@0.7"
    )
    assert (estimate.value, estimate.low, estimate.high) == (
        1 / 3,
        0.0,
        None,
    )  # found only together with a false positive


def test_further_counts_are_given_per_scan(random_cases):
    cases = random_cases(0, n_cases=4)
    counts = subject_counts(cases, AT_HALF, further={"veins": [1, 0, 2, 1]})
    assert bootstrap([counts], resamples=20).estimate("veins_per_scan").value == 1.0
