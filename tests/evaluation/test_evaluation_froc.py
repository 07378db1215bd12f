"""FROC and average precision against MONAI's, and their edges."""

from __future__ import annotations

import numpy as np
import pytest
from monai.apps.detection.metrics.coco import COCOMetric
from monai.apps.detection.metrics.matching import matching_batch
from monai.data.box_utils import box_iou
from monai.metrics.froc import compute_froc_curve_data, compute_froc_score

from cmb_plugin.evaluation import (
    EvaluationConfig,
    average_precision,
    fp_at_sensitivity,
    froc_curve,
    measure,
    sensitivity_at,
)
from cmb_plugin.evaluation.froc import thin
from cmb_plugin.evaluation.matching import FALSE, IGNORED, TRUE

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_froc_equals_monai(seed, ties):
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.integers(1, 9, 60) / 10 if ties else rng.random(60))[::-1]
    status = rng.choice([FALSE, TRUE, IGNORED], 60, p=[0.6, 0.3, 0.1])
    found = scores[status == TRUE]
    n_lesions, n_cases = len(found) + 3, 7
    # MONAI gives a missed lesion the probability 0, and leaves the lowest probability out of the curve.
    theirs = compute_froc_curve_data(scores[status == FALSE], np.append(found, [0.0] * 3), n_lesions, n_cases)
    ours = froc_curve(scores, status, n_lesions, n_cases)
    decisive = np.isin(ours.thresholds, scores[status != IGNORED])
    np.testing.assert_allclose(ours.false[decisive] / n_cases, theirs[0][:-1][::-1])
    np.testing.assert_allclose(ours.true[decisive] / n_lesions, theirs[1][:-1][::-1])
    assert np.mean(sensitivity_at(ours, RATES)) == pytest.approx(compute_froc_score(*theirs, RATES))


def test_thinning_leaves_the_readings_unchanged():
    rng = np.random.default_rng(0)
    scores = np.sort(rng.random(5000))[::-1]
    curve = froc_curve(scores, rng.choice([FALSE, TRUE], 5000, p=[0.98, 0.02]), 150, 300)
    kept = thin(curve)
    assert len(kept.thresholds) < 250
    np.testing.assert_allclose(sensitivity_at(kept, RATES), sensitivity_at(curve, RATES))
    assert len(thin(curve, 20).thresholds) <= 20


def test_the_curve_is_read_linearly_and_stays_level_at_its_end():
    curve = froc_curve(np.array([0.9, 0.8, 0.7]), np.array([TRUE, FALSE, TRUE]), 4, 2)
    assert sensitivity_at(curve, (0.0, 0.25, 0.5, 8.0)) == pytest.approx([0.25, 0.25, 0.5, 0.5])


def test_a_threshold_from_a_file_means_the_score_that_prints_the_same():
    curve = froc_curve(np.array([0.7], dtype=np.float32), np.array([TRUE]), 1, 1)
    assert curve.counts_at(0.7) == (1, 0)
    assert curve.counts_at(0.71) == (0, 0)


@pytest.mark.parametrize("max_detections", [5, 100])
@pytest.mark.parametrize("seed", range(8))
def test_average_precision_equals_monai(random_cases, seed, max_detections):
    # Recall k/n meets none of the levels 0.01..0.99 when n is prime: MONAI compares them with rounding errors.
    cases = random_cases(seed, n_cases=16, classes=2, lesions=6, detections=30)
    while not all(_is_prime_to_100(_lesions(cases, label)) for label in (0, 1)):
        cases = cases[:-1]
    name = f"mAP_IoU_0.10_0.50_0.05_MaxDet_{max_detections}"
    metric = COCOMetric(
        ["a", "b"], iou_list=[0.1], iou_range=(0.1, 0.5, 0.05), max_detection=[max_detections], verbose=False
    )
    theirs, _ = metric(
        matching_batch(
            box_iou,
            metric.iou_thresholds,
            [case.detections.boxes.astype(float) for case in cases],
            [case.detections.labels for case in cases],
            [case.detections.scores for case in cases],
            [case.truth_boxes for case in cases],
            [case.truth_labels for case in cases],
            max_detections=max_detections,
        )
    )
    ours = measure(cases, ["a", "b"], EvaluationConfig(max_detections=max_detections))
    for label in ("a", "b"):
        block = ours["per_class"][label]["iou"]
        assert block["AP_IoU_0.10"] == pytest.approx(theirs[f"{label}_AP_IoU_0.10_MaxDet_{max_detections}"])
        assert block[name] == pytest.approx(theirs[f"{label}_{name}"])
    assert ours["overall"]["iou"]["AP_IoU_0.10"] == pytest.approx(theirs[f"AP_IoU_0.10_MaxDet_{max_detections}"])
    assert ours["overall"]["iou"][name] == pytest.approx(theirs[name])


def _lesions(cases, label):
    return sum(int((case.truth_labels == label).sum()) for case in cases)


def _is_prime_to_100(number):
    return number > 0 and np.gcd(number, 100) == 1


def test_average_precision_of_a_worked_example():
    # right, wrong, right of 2 lesions: precision 1 up to recall 0.5 (51 levels), then 2/3 (50 levels)
    curve = froc_curve(np.array([0.9, 0.8, 0.7]), np.array([TRUE, FALSE, TRUE]), 2, 1)
    assert average_precision(curve) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_average_precision_does_not_depend_on_the_order_of_equal_scores():
    scores = np.full(4, 0.5)
    values = {
        average_precision(froc_curve(scores, np.array(order), 2, 1))
        for order in ([TRUE, TRUE, FALSE, FALSE], [FALSE, FALSE, TRUE, TRUE])
    }
    assert len(values) == 1


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_false_positives_at_a_sensitivity_are_the_fewest_of_all_thresholds(seed, ties):
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.integers(1, 9, 40) / 10 if ties else rng.random(40))[::-1]
    status = rng.choice([FALSE, TRUE, IGNORED], 40, p=[0.6, 0.3, 0.1])
    n_lesions, n_cases = int((status == TRUE).sum()) + 2, 7
    curve = froc_curve(scores, status, n_lesions, n_cases)
    for wanted in (0.0, 0.1, 0.5, 0.7, (n_lesions - 2) / n_lesions, 0.9466, 1.0):
        reached = [
            int(((scores >= score) & (status == FALSE)).sum()) / n_cases
            for score in [*scores, 2.0]
            if ((scores >= score) & (status == TRUE)).sum() / n_lesions >= wanted - 1e-12
        ]
        assert fp_at_sensitivity(curve, wanted) == (min(reached) if reached else None)


@pytest.mark.parametrize(("lesions", "cases"), [(0, 3), (0, 0)])
def test_without_lesions_there_is_no_sensitivity_to_reach(lesions, cases):
    curve = froc_curve(np.array([0.5]), np.array([FALSE]), lesions, cases)
    assert fp_at_sensitivity(curve, 0.5) is None
