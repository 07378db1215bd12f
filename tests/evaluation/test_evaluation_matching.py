"""Matching against SciPy's bipartite matching, brute force and MONAI's COCO matching."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from monai.apps.detection.metrics.matching import matching_batch
from monai.data.box_utils import box_iou
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from cmb_plugin.evaluation import EvaluationConfig, match_by_distance, match_by_iou, pair_distance, pair_iou
from cmb_plugin.evaluation.matching import FALSE, IGNORED, TRUE, greedy_status, optimal_status
from cmb_plugin.evaluation.pool import pool_cases

SPACING = (1.5, 0.9, 0.9)


def cube(z: float, y: float, x: float, side: float = 2.0) -> list[float]:
    return [z - side / 2, y - side / 2, x - side / 2, z + side / 2, y + side / 2, x + side / 2]


def largest_matching(near: np.ndarray) -> int:
    return int((maximum_bipartite_matching(csr_matrix(near), perm_type="column") >= 0).sum())


@pytest.mark.parametrize("seed", range(5))
def test_iou_equals_monai(random_cases, seed):
    for case in random_cases(seed):
        if len(case.detections) and len(case.truth_boxes):
            expected = box_iou(case.detections.boxes.astype(float), case.truth_boxes)
            np.testing.assert_allclose(
                pair_iou(case.detections.boxes, case.truth_boxes), expected, atol=1e-6
            )  # theirs computes in float32


def test_distance_is_in_mm_along_each_axis():
    distance = pair_distance(
        np.array([cube(10, 10, 10)]), np.array([cube(12, 10, 10), cube(10, 14, 10)]), (3.0, 0.5, 1.0)
    )
    np.testing.assert_allclose(distance, [[6.0, 2.0]])


@pytest.mark.parametrize("seed", range(30))
def test_distance_matching_is_the_best_of_all_one_to_one_matchings(seed):
    rng = np.random.default_rng(seed)
    boxes, truth = (np.array([cube(*c) for c in rng.uniform(0, 12, (n, 3))]) for n in (5, 4))
    distance = pair_distance(boxes, truth, SPACING)
    best = (0, 0.0)
    for chosen in itertools.permutations(range(5), 4):  # every way to give each lesion a detection
        pairs = [(d, t) for t, d in enumerate(chosen) if distance[d, t] <= 5.0]
        best = min(best, (-len(pairs), sum(distance[d, t] for d, t in pairs)))
    found = match_by_distance(boxes, truth, SPACING, 5.0)
    matched = np.flatnonzero(found >= 0)
    assert len(set(found[matched])) == len(matched)
    assert -best[0] == len(matched)
    assert distance[matched, found[matched]].sum() == pytest.approx(best[1])


def test_a_greedy_choice_does_not_cost_a_second_lesion():
    # The first detection is nearest to lesion 0, but only it reaches lesion 1; the second reaches lesion 0 alone.
    truth = np.array([cube(0, 0, 0), cube(0, 0, 6)])
    boxes = np.array([cube(0, 0, 2), cube(0, 0, -4)])
    assert match_by_distance(boxes, truth, (1.0, 1.0, 1.0), 5.0).tolist() == [1, 0]


def test_a_pair_at_exactly_the_limit_counts_and_beyond_it_does_not():
    truth = np.array([cube(10, 10, 10)])
    assert match_by_distance(np.array([cube(10, 10, 15)]), truth, (1.0, 1.0, 1.0), 5.0).tolist() == [0]
    assert match_by_distance(np.array([cube(10, 10, 15.01)]), truth, (1.0, 1.0, 1.0), 5.0).tolist() == [-1]


def test_a_definite_lesion_is_matched_before_a_nearer_possible_one():
    truth = np.array([cube(0, 0, 0), cube(0, 0, 4)])
    boxes = np.array([cube(0, 0, 3.5)])
    possible = np.array([False, True])
    assert match_by_distance(boxes, truth, (1.0, 1.0, 1.0), 5.0, possible).tolist() == [0]
    assert match_by_distance(boxes, truth, (1.0, 1.0, 1.0), 5.0).tolist() == [1]


@pytest.mark.parametrize("possible", [False, True])
@pytest.mark.parametrize("seed", range(15))
def test_one_sweep_gives_the_largest_matching_at_every_threshold(random_cases, seed, possible):
    cases = random_cases(seed, n_cases=4, classes=1, lesions=8, detections=25, possible=possible)
    pool = pool_cases(cases, EvaluationConfig())
    status = optimal_status(pool.near, len(pool.scores), pool.possible)
    near = np.zeros((len(pool.scores), len(pool.possible)))
    near[pool.near.detection, pool.near.lesion] = 1
    for threshold in np.unique(pool.scores):
        kept = pool.scores >= threshold
        reached = status[kept]
        assert (reached == TRUE).sum() == largest_matching(near[kept][:, ~pool.possible])
        assert (reached != FALSE).sum() == largest_matching(near[kept])


@pytest.mark.parametrize("seed", range(10))
def test_the_sweep_and_the_optimal_assignment_count_the_same(random_cases, seed):
    cases = random_cases(seed, n_cases=1, classes=1, lesions=6, detections=25, possible=True)
    pool = pool_cases(cases, EvaluationConfig())
    status = optimal_status(pool.near, len(pool.scores), pool.possible)
    for threshold in (0.0, 0.3, 0.6):
        kept = cases[0].detections[cases[0].detections.scores >= threshold]
        found = match_by_distance(kept.boxes, cases[0].truth_boxes, SPACING, 5.0, cases[0].possible)
        definite = (found >= 0) & ~np.append(cases[0].possible, False)[found]
        assert definite.sum() == (status[pool.scores >= np.float32(threshold)] == TRUE).sum()
        assert (found >= 0).sum() == (status[pool.scores >= np.float32(threshold)] != FALSE).sum()


@pytest.mark.parametrize("iou", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("seed", range(10))
def test_greedy_iou_matching_equals_monai(random_cases, seed, iou):
    for case in random_cases(seed, n_cases=6, classes=2, lesions=6, detections=30, possible=True):
        found = case.detections
        theirs = matching_batch(
            box_iou, [iou], [found.boxes.astype(float)], [found.labels], [found.scores],
            [case.truth_boxes], [case.truth_labels], [case.possible.astype(int)], max_detections=1000,
        )[0]  # fmt: skip
        pool = pool_cases([case], EvaluationConfig())
        status = greedy_status(pool.overlapping, len(pool.scores), pool.possible, iou)
        for label in (0, 1):
            chosen, lesions = found[found.labels == label], case.truth_labels == label
            ours = match_by_iou(chosen.boxes, chosen.scores, case.truth_boxes[lesions], iou, case.possible[lesions])
            if label not in theirs:
                assert not len(ours)
                continue
            order = np.argsort(-chosen.scores, kind="stable")
            matched, ignored = theirs[label]["dtMatches"][0] > 0, theirs[label]["dtIgnore"][0] > 0
            assert ((ours[order] >= 0) == matched).all()
            expected = np.where(ignored, IGNORED, np.where(matched, TRUE, FALSE))
            assert (status[pool.labels == label] == expected).all()


def test_a_second_detection_of_a_lesion_is_false_under_both_rules():
    truth = np.array([cube(5, 5, 5)])
    boxes, scores = np.array([cube(5, 5, 5), cube(5, 5, 5.5)]), np.array([0.6, 0.9])
    assert sorted(match_by_distance(boxes, truth, (1.0, 1.0, 1.0), 5.0)) == [-1, 0]
    assert match_by_iou(boxes, scores, truth, 0.1).tolist() == [-1, 0]
