"""Properties of ``measure`` that must hold on any data, and what is defined where little is there."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cmb_plugin.detections import Detections
from cmb_plugin.evaluation import CaseResult, EvaluationConfig, measure

CLASSES = ["cmb", "iron"]
AT_HALF = EvaluationConfig(operating_point=0.5)


def case(name="a", truth=(), boxes=(), scores=(), labels=None, truth_labels=None, certainty=None):
    found = Detections(np.array(boxes), np.array(scores), np.zeros(len(boxes)) if labels is None else np.array(labels))
    truth_labels = np.zeros(len(truth)) if truth_labels is None else np.array(truth_labels)
    return CaseResult(name, found, np.array(truth), truth_labels, (1.0, 1.0, 1.0), certainty)


def cube(z, y=10.0, x=10.0):
    return [z - 1, y - 1, x - 1, z + 1, y + 1, x + 1]


def numbers(value, path=""):
    """Every number of nested data, by its path."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in numbers(item, f"{path}/{key}").items()}
    if isinstance(value, list):
        return {k: v for i, item in enumerate(value) for k, v in numbers(item, f"{path}/{i}").items()}
    return {path: value}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_cases_and_of_their_content_changes_nothing(random_cases, seed, ties):
    cases = random_cases(seed, n_cases=10, ties=ties, possible=True)
    rng = np.random.default_rng(seed)
    shuffled = [cases[i] for i in rng.permutation(len(cases))]
    assert measure(shuffled, CLASSES) == measure(cases, CLASSES)
    if not ties:  # within one scan, greedy matching takes equal scores as they come
        for item in shuffled:
            item.detections = item.detections[rng.permutation(len(item.detections))]
        assert measure(shuffled, CLASSES) == measure(cases, CLASSES)


@pytest.mark.parametrize("seed", range(6))
def test_one_false_positive_more_never_raises_a_number(random_cases, seed):
    cases = random_cases(seed, possible=True)
    before = measure(cases, CLASSES)
    far = Detections(np.array([cube(900.0)]), np.array([0.55]), np.array([0]))
    cases[0].detections = Detections.concatenate([cases[0].detections, far])
    after = measure(cases, CLASSES)
    assert after["fp_per_scan"] == pytest.approx(before["fp_per_scan"] + 1 / len(cases))
    for matching in ("distance", "iou"):
        old, new = before["overall"][matching], after["overall"][matching]
        assert new["sensitivity"] == old["sensitivity"]
        for key in ("precision", "f1", "froc_score", *(k for k in old if "AP_" in k)):
            assert new[key] <= old[key] + 1e-12


def test_perfect_predictions_are_perfect():
    cases = [
        case("a", [cube(5), cube(30)], [cube(5), cube(30)], [0.9, 0.8], [0, 1], [0, 1]),
        case("healthy"),
        case("b", [cube(8)], [cube(8)], [0.7]),
    ]
    result = measure(cases, CLASSES, AT_HALF)
    for block in (result["overall"]["distance"], result["overall"]["iou"], result["per_class"]["cmb"]["iou"]):
        assert (block["sensitivity"], block["precision"], block["f1"], block["fp_per_scan"]) == (1.0, 1.0, 1.0, 0.0)
        assert block["froc_score"] == 1.0
    assert result["overall"]["iou"]["AP_IoU_0.10"] == 1.0
    assert result["overall"]["iou"]["mAP_IoU_0.10_0.50_0.05_MaxDet_100"] == 1.0
    assert result["overall"]["distance"]["AP_distance_5mm"] == 1.0


def test_without_predictions_every_lesion_is_missed_and_precision_is_undefined():
    result = measure([case("a", [cube(5)]), case("b")], ["cmb"], AT_HALF)
    assert (result["sensitivity"], result["precision"], result["f1"], result["fp_per_scan"]) == (0.0, None, 0.0, 0.0)
    assert (result["froc_score"], result["overall"]["iou"]["AP_IoU_0.10"]) == (0.0, 0.0)
    assert result["healthy"] == {"n_cases": 1, "fp_per_scan": 0.0}


def test_healthy_scans_alone_have_false_positives_and_no_sensitivity():
    cases = [case("a", boxes=[cube(5), cube(20), cube(40)], scores=[0.9, 0.6, 0.2]), case("b")]
    result = measure(cases, ["cmb"], AT_HALF)
    assert (result["sensitivity"], result["f1"], result["froc_score"]) == (None, None, None)
    assert (result["precision"], result["fp_per_scan"]) == (0.0, 1.0)
    assert set(result["froc"].values()) == {None}
    assert result["overall"]["iou"]["AP_IoU_0.10"] is None
    assert result["healthy"] == {"n_cases": 2, "fp_per_scan": 1.0}


def test_false_positives_at_a_sensitivity_stand_in_every_block():
    cases = [
        case("a", [cube(5), cube(30)], [cube(60), cube(5), cube(90), cube(30)], [0.9, 0.8, 0.7, 0.6]),
        case("b"),
    ]
    result = measure(cases, CLASSES, EvaluationConfig(sensitivities=(0.5, 0.9466)))
    assert result["fp_at_sensitivity"] == {"0.5": 0.5, "0.9466": 1.0}
    assert result["per_class"]["iron"]["iou"]["fp_at_sensitivity"] == {"0.5": None, "0.9466": None}
    assert list(measure(cases, CLASSES)["fp_at_sensitivity"]) == ["0.5", "0.7", "0.8", "0.9", "0.9466"]


def test_an_absent_class_is_undefined_and_does_not_lower_the_mean_over_classes():
    result = measure([case("a", [cube(5)], [cube(5)], [0.9])], CLASSES, AT_HALF)
    absent = result["per_class"]["iron"]["iou"]
    assert (absent["n_lesions"], absent["sensitivity"], absent["AP_IoU_0.10"], absent["fp_per_scan"]) == (
        0,
        None,
        None,
        0.0,
    )
    assert result["overall"]["iou"]["AP_IoU_0.10"] == 1.0


def test_a_detection_of_the_wrong_class_finds_nothing():
    result = measure([case("a", [cube(5)], [cube(5)], [0.9], labels=[1])], CLASSES, AT_HALF)
    assert (result["sensitivity"], result["fp_per_scan"]) == (0.0, 1.0)
    assert result["per_class"]["iron"]["distance"]["false_positives"] == 1


def test_no_scan_at_all_is_undefined():
    result = measure([], ["cmb"])
    assert (result["n_cases"], result["sensitivity"], result["fp_per_scan"], result["froc_score"]) == (
        0,
        None,
        None,
        None,
    )


def test_tied_scores_are_reported_together():
    cases = [case("a", [cube(5), cube(30)], [cube(5), cube(30), cube(60), cube(90)], [0.5] * 4)]
    result = measure(cases, ["cmb"], AT_HALF)
    assert (result["sensitivity"], result["fp_per_scan"]) == (1.0, 2.0)
    assert result["overall"]["distance"]["curve"] == {"score": [0.5], "fp_per_scan": [2.0], "sensitivity": [1.0]}


@pytest.mark.parametrize("matching", ["distance", "iou"])
def test_a_possible_lesion_is_neither_missed_nor_found_in_the_headline(matching):
    truth, certainty = [cube(5), cube(30), cube(60)], ["definite", "possible", "possible"]
    result = measure([case("a", truth, [cube(30), cube(31)], [0.9, 0.8], certainty=certainty)], ["cmb"], AT_HALF)
    block = result["overall"][matching]
    assert (block["n_lesions"], block["n_possible"], block["false_negatives"]) == (1, 2, 1)
    assert (block["true_positives"], block["ignored"], block["false_positives"]) == (
        0,
        1,
        1,
    )  # the second is a duplicate
    assert (block["sensitivity"], block["sensitivity_possible"]) == (0.0, 0.5)
    assert block["sensitivity_all"] == pytest.approx(1 / 3)
    assert result["n_healthy"] == 0


def test_a_hit_between_a_definite_and_a_possible_lesion_counts_for_the_definite_one():
    result = measure(
        [case("a", [cube(6), cube(4)], [cube(4.2)], [0.9], certainty=["definite", "possible"])], ["cmb"], AT_HALF
    )
    assert (result["sensitivity"], result["overall"]["distance"]["sensitivity_possible"]) == (1.0, 0.0)


@pytest.mark.parametrize("seed", range(4))
def test_the_result_is_plain_json_without_nan_or_minus_one(random_cases, seed):
    for cases in (random_cases(seed), random_cases(seed, n_cases=1), []):
        result = measure(cases, CLASSES)
        json.dumps(result, allow_nan=False)
        agreement = result.pop("counts")  # differences and chance-corrected numbers may be negative
        assert agreement["n_scans"] == len(cases)
        assert all(not isinstance(v, int | float) or v >= 0 for v in numbers(result).values())


def test_the_keys_are_the_same_whatever_is_there(random_cases):
    full, none = measure(random_cases(0), CLASSES), measure([], CLASSES)
    without_curves = [{k for k in numbers(r) if "/curve/" not in k} for r in (full, none)]
    assert without_curves[0] == without_curves[1]


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="differ in length"):
        case("a", [cube(5)], certainty=["definite", "definite"])
