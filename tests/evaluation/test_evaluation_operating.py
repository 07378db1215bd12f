"""The operating point: what each rule chooses, and that it chooses something sensible from little."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import CaseResult, EvaluationConfig, SweepConfig, find_operating_point, measure
from cmb_plugin.files import read_json, write_json
from cmb_plugin.models.operating_point import OperatingPoint


def scans(right, wrong, n_cases=4, n_missed=0):
    """One lesion per score in ``right``, one false positive per score in ``wrong``, all in the first scan."""
    places = 10.0 + 20.0 * np.arange(len(right) + len(wrong) + n_missed)
    boxes = np.stack([places, places * 0, places * 0, places + 2, places * 0 + 2, places * 0 + 2], axis=1)
    found = Detections(boxes[: len(right) + len(wrong)], [*right, *wrong], np.zeros(len(right) + len(wrong)))
    truth = np.concatenate([boxes[: len(right)], boxes[len(right) + len(wrong) :]])
    first = CaseResult("a", found, truth, np.zeros(len(truth)), (1.0, 1.0, 1.0))
    healthy = CaseResult("b", Detections.empty(), np.zeros((0, 6)), np.zeros(0), (1.0, 1.0, 1.0))
    return [first] + [healthy] * (n_cases - 1)


def test_it_lies_midway_between_the_last_lesion_found_and_the_first_detection_too_many():
    point = find_operating_point(scans([0.9, 0.8], [0.4, 0.3, 0.2, 0.1, 0.05]))
    # 4 scans at 1 false positive per scan allow 3, one being kept in reserve: 0.4, 0.3, 0.2; the next is at 0.1
    assert point.score == pytest.approx((0.8 + 0.1) / 2)
    assert (point.sensitivity, point.precision, point.fp_per_scan) == (1.0, 1.0, 0.0)


def test_a_lesion_beyond_the_allowed_false_positives_is_given_up():
    point = find_operating_point(scans([0.9, 0.1], [0.6, 0.5, 0.4, 0.3]))
    assert point.sensitivity == 0.5
    assert point.score == pytest.approx((0.9 + 0.3) / 2)


def test_a_lower_target_allows_fewer_false_positives():
    cases = scans([0.9, 0.35], [0.6, 0.5, 0.4])
    assert find_operating_point(cases).sensitivity == 1.0
    assert find_operating_point(cases, SweepConfig(target=0.5)).sensitivity == 0.5


def test_each_rule_reaches_what_it_aims_at():
    cases = scans([0.9, 0.8, 0.35, 0.15], [0.6, 0.5, 0.4, 0.3, 0.2])
    assert find_operating_point(cases, SweepConfig("sensitivity", 0.75)).score == pytest.approx((0.35 + 0.3) / 2)
    assert find_operating_point(cases, SweepConfig("f1")).score == pytest.approx((0.8 + 0.6) / 2)
    unreachable = find_operating_point(scans([0.9], [], n_missed=3), SweepConfig("sensitivity", 0.9))
    assert unreachable.sensitivity == 0.25
    assert "not reached" in unreachable.why


@pytest.mark.parametrize(
    "cases", [scans([], []), scans([], [0.9]), scans([], [0.9], n_missed=1), scans([0.2], [0.9] * 9), []], ids=str
)
def test_where_nothing_can_be_chosen_the_default_stands_and_says_why(cases):
    point = find_operating_point(cases, SweepConfig(target=0.5))
    assert point.score == 0.5
    assert point.why.startswith("default")


def test_where_the_rate_cannot_be_kept_the_default_does_not_report_everything():
    cases = scans([0.9, 0.7, 0.65], [0.95] * 5 + [0.8] * 3 + [0.6] * 9)
    point = find_operating_point(cases, SweepConfig(target=0.5))
    assert point.score == pytest.approx((0.9 + 0.8) / 2)
    assert (point.sensitivity, point.fp_per_scan) == (pytest.approx(1 / 3), 5 / 4)
    assert point.why == "no lesion is found within 0.5 FP per scan; fewest with which any is found"


@pytest.mark.parametrize("rule", ["fp_per_scan", "sensitivity", "f1"])
@pytest.mark.parametrize("seed", range(5))
def test_the_numbers_written_are_those_of_evaluate_at_that_score(random_cases, seed, rule):
    cases = random_cases(seed, n_cases=12, possible=True, ties=seed % 2 == 0)
    point = find_operating_point(cases, SweepConfig(rule))
    result = measure(at_one_threshold(cases, point), ["a", "b"], EvaluationConfig(operating_point=point.score))
    for key in ("sensitivity", "precision", "f1", "fp_per_scan"):
        assert result[key] == getattr(point, key)


@pytest.mark.parametrize("seed", range(8))
def test_sensitivity_within_the_allowed_false_positives_is_the_highest_there_is(random_cases, seed):
    cases = [case.of_class(0) for case in random_cases(seed, n_cases=12)]
    point = find_operating_point(cases)
    assert (point.fp_per_scan or 0.0) <= 1.0
    for score in np.linspace(0, 1, 101):
        other = measure(cases, ["a", "b"], EvaluationConfig(operating_point=float(score)))
        if other["fp_per_scan"] <= 1.0 - 1 / len(cases):
            assert other["sensitivity"] <= point.sensitivity


def of_two_classes():
    """Lesions of class 0 that nothing is taken for, with low scores; of class 1 high ones, and much that looks so."""
    first, second = scans([0.3, 0.25], [0.01])[0], scans([0.95, 0.9, 0.85], [0.8, 0.75, 0.7, 0.6, 0.5])[0]
    found = [first.detections, second.detections]
    boxes = np.concatenate([found[0].boxes, found[1].boxes + 1000])
    truth = np.concatenate([first.truth_boxes, second.truth_boxes + 1000])
    labels, truth_labels = np.repeat([0, 1], [3, 8]), np.repeat([0, 1], [2, 3])
    detections = Detections(boxes, np.concatenate([d.scores for d in found]), labels)
    healthy = CaseResult("b", Detections.empty(), np.zeros((0, 6)), np.zeros(0), (1.0, 1.0, 1.0))
    return [CaseResult("a", detections.by_score(), truth, truth_labels, (1.0, 1.0, 1.0))] + [healthy] * 3


def test_what_one_class_is_mistaken_for_does_not_cost_another_its_lesions():
    cases = of_two_classes()
    point = find_operating_point(cases)
    assert (point.sensitivity, point.fp_per_scan) == (1.0, 0.5)
    each = [find_operating_point([case.of_class(label) for case in cases]) for label in (0, 1)]
    assert point.class_scores == {0: each[0].score, 1: each[1].score}
    assert point.score == each[0].score
    assert (each[0].class_scores, each[0].n_lesions, each[1].n_lesions) == ({}, 2, 3)
    # One threshold for both may let 3 false positives pass, and finds nothing below 0.6.
    assert find_operating_point([case.as_one_class() for case in cases]).sensitivity == 0.6


def at_one_threshold(cases, point):
    return [
        dataclasses.replace(case, detections=case.detections.with_thresholds(point.class_scores, point.score))
        for case in cases
    ]


def test_a_class_of_which_nothing_was_found_leaves_the_others_their_thresholds():
    cases = of_two_classes()
    found = cases[0].detections
    cases[0] = dataclasses.replace(cases[0], detections=found[found.labels == 0])
    point = find_operating_point(cases)
    assert list(point.class_scores) == [0]
    assert point.score == point.class_scores[0] == find_operating_point([c.of_class(0) for c in cases]).score


@pytest.mark.parametrize(("rule", "target"), [("f2", None), ("fp_per_scan", -1.0), ("sensitivity", 1.5)])
def test_an_unknown_rule_or_impossible_target_is_refused(rule, target):
    with pytest.raises(UserError, match="sweep_cfg"):
        find_operating_point([], SweepConfig(rule, target))


def with_scores(**columns):
    """Two found lesions and two false positives whose own score is useless; the columns rank them otherwise."""
    first, *healthy = scans([0.5, 0.4], [0.9, 0.8])
    first.detections.columns.update({name: np.array(values) for name, values in columns.items()})
    return [first, *healthy]


def test_of_several_scores_the_one_that_ranks_validation_best_is_chosen():
    cases = with_scores(score_rpn=[0.5, 0.4, 0.9, 0.8], score_prototype=[0.9, 0.7, 0.2, 0.1])
    point = find_operating_point(cases, SweepConfig(rule="f1"))
    assert point.ranking == "score_prototype"
    assert point.froc_scores["score_prototype"] == 1.0 > point.froc_scores["score_rpn"]
    assert 0.2 < point.score <= 0.7
    assert (point.sensitivity, point.precision) == (1.0, 1.0)


def test_a_score_can_be_asked_for():
    cases = with_scores(score_rpn=[0.5, 0.4, 0.9, 0.8], score_prototype=[0.9, 0.7, 0.2, 0.1])
    point = find_operating_point(cases, SweepConfig(ranking="score_rpn"))
    assert point.ranking == "score_rpn"
    with pytest.raises(UserError, match=r"score_prototyp.*score_prototype"):
        find_operating_point(cases, SweepConfig(ranking="score_prototyp"))
    with pytest.raises(UserError, match="one score only"):
        find_operating_point(scans([0.9], []), SweepConfig(ranking="score_rpn"))


def test_scores_that_not_every_scan_has_are_no_choice():
    cases = with_scores(score_rpn=[0.5, 0.4, 0.9, 0.8])
    point = find_operating_point([*cases, *scans([0.7], [], n_cases=1)])
    assert point.ranking is None


def test_a_possible_lesion_costs_at_most_one_further_false_positive_per_scan():
    cases = scans([0.9, 0.8], [0.3, 0.25, 0.2, 0.15, 0.1, 0.05], n_cases=2)
    point = find_operating_point(cases, SweepConfig("sensitivity", 1.0))
    assert point.fp_per_scan == 0.0
    assert 0.2 < point.possible_score <= 0.25  # 2 scans: two false positives more
    assert find_operating_point(scans([], [0.9])).possible_score is None


def test_a_sweep_keeps_an_operating_point_for_each_rate_at_which_something_is_found():
    cases = scans([0.9, 0.35], [0.6, 0.5, 0.4, 0.3])
    kept = {rate.target: rate for rate in find_operating_point(cases).rates}
    assert list(kept) == [0.25, 0.5, 1.0, 2.0]
    for target, rate in kept.items():
        alone = find_operating_point(cases, SweepConfig(target=target))
        assert (rate.score, rate.sensitivity, rate.fp_per_scan) == (alone.score, alone.sensitivity, alone.fp_per_scan)
        assert rate.possible_score == alone.possible_score
    assert kept[0.25].sensitivity == 0.5
    assert kept[1.0].sensitivity == 1.0
    nothing = find_operating_point(scans([0.2], [0.9] * 9))
    assert [rate.target for rate in nothing.rates] == []


def test_the_rate_that_is_asked_for_is_the_one_that_reports(tmp_path):
    cases = scans([0.9, 0.35], [0.6, 0.5, 0.4, 0.3])
    OperatingPoint.choose(cases, SweepConfig(), EvaluationConfig(), "fold0").save(tmp_path / "operating_point.json")
    loaded = OperatingPoint.load(tmp_path / "operating_point.json")
    low, own = loaded.at_rate(0.25), loaded.at_rate(1.0)
    assert low.score > own.score == loaded.score
    assert low.deciding() != own.deciding() == loaded.deciding()
    assert "for 0.25 false positives per scan" in low.origin
    both = OperatingPoint.mean([low, dataclasses.replace(low, score=0.2)])
    assert both.score == pytest.approx((low.score + 0.2) / 2)
    assert both.rate == 0.25
    with pytest.raises(UserError, match=r"it has 0\.25, 0\.5, 1, 2"):
        loaded.at_rate(0.3)
    with pytest.raises(UserError, match="run nndet_sweep"):
        OperatingPoint(0.4, folds=("fold0",)).at_rate(0.5)
    OperatingPoint.choose(scans([], [0.2]), SweepConfig(), EvaluationConfig(), "fold0").save(tmp_path / "none.json")
    with pytest.raises(UserError, match=r"leave it out: its sweep .* \(default: the validation scans hold no lesion"):
        OperatingPoint.load(tmp_path / "none.json").at_rate(0.5)


@pytest.mark.parametrize("rule", ["fp_per_scan", "sensitivity", "f1"])
def test_a_sweep_that_keeps_no_rate_is_not_asked_for_again_whatever_its_rule(tmp_path, rule):
    path, cases = tmp_path / "fold0" / "operating_point.json", scans([0.2], [0.9] * 12)
    OperatingPoint.choose(cases, SweepConfig(rule), EvaluationConfig(), "fold0").save(path)
    assert OperatingPoint.load(path).found_none
    with pytest.raises(UserError, match="leave it out"):
        OperatingPoint.load(path).at_rate(0.5)
    write_json(path, {key: value for key, value in read_json(path).items() if key != "rates"})  # before there were any
    with pytest.raises(UserError, match="run nndet_sweep, which keeps some"):
        OperatingPoint.load(path).at_rate(0.5)
