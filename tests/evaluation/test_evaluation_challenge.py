"""VALDO's metrics, components and agreement on cases worked by hand and on published tables."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_plugin.detections import Detections
from cmb_plugin.evaluation import (
    CaseResult,
    EvaluationConfig,
    MaskCounts,
    auc,
    bland_altman,
    count_agreement,
    icc,
    kappa,
    match_components,
    measure,
    pair_inside,
    summarise_valdo,
    valdo_masks,
    valdo_pairs,
    valdo_points,
)
from cmb_plugin.evaluation.agreement import burden

AT_HALF = EvaluationConfig(operating_point=0.5)


def along_x(*places):
    return np.array([[0.0, 0.0, x] for x in places]).reshape(-1, 3)


def test_a_pair_at_exactly_5_mm_is_none_and_just_below_is_one():
    assert (valdo_points(along_x(5.0), along_x(0.0)).true, valdo_points(along_x(4.999), along_x(0.0)).true) == (0, 1)
    assert valdo_points(along_x(5.0), along_x(0.0)).f1 == 0.0


def test_of_duplicates_the_closest_is_true_and_the_others_are_false():
    counts = valdo_points(along_x(2.0, 1.0, -3.0), along_x(0.0, 50.0))
    assert valdo_pairs(along_x(2.0, 1.0, -3.0), along_x(0.0, 50.0)) == {0: 1}
    assert (counts.true, counts.false, counts.missed) == (1, 2, 1)
    assert counts.f1 == pytest.approx(2 * 1 / (2 * 1 + 2 + 1))
    assert counts.count_difference == 1


def test_a_prediction_goes_to_its_nearest_reference_even_where_another_one_is_left_without():
    # Both predictions are nearest to the first lesion: the optimal matching would find two, VALDO's finds one.
    counts = valdo_points(along_x(0.0, 1.9), along_x(0.0, 4.0))
    assert (counts.true, counts.false, counts.missed) == (1, 1, 1)


def test_empty_reference_and_empty_prediction():
    none = np.zeros((0, 3))
    assert valdo_points(along_x(1.0), none).f1 is None
    assert valdo_points(none, none).f1 is None
    assert valdo_points(none, along_x(1.0)).f1 == 0.0
    assert valdo_points(along_x(1.0, 2.0), none).count_difference == 2


def test_median_and_quartiles_are_over_the_subjects_that_have_lesions():
    subjects = [valdo_points(along_x(*range(0, 100 * n, 100)), along_x(0)) for n in (1, 0, 2, 3)]
    subjects.append(valdo_points(along_x(1.0), along_x()))
    summary = summarise_valdo(subjects, "points")
    scores = [1.0, 0.0, 2 / 3, 0.5]
    assert summary["f1"] == {
        "n": 4,
        "median": pytest.approx(np.median(scores)),
        "q1": pytest.approx(np.quantile(scores, 0.25)),
        "q3": pytest.approx(np.quantile(scores, 0.75)),
    }
    assert summary["count_difference"] == {"n": 5, "median": 1.0, "q1": 1.0, "q3": 1.0}
    assert summary["dice"]["median"] is None


def test_masks_are_binarised_at_one_half_and_cut_by_faces():
    reference = np.zeros((4, 8, 30))
    reference[1, 1, 1] = reference[1, 2, 2] = 2  # touch by an edge: two lesions with 6 neighbours
    reference[2, 4, 20:22] = 1
    predicted = np.zeros_like(reference)
    predicted[1, 1, 1], predicted[1, 2, 2], predicted[2, 4, 20:23] = 0.5, 0.49, 0.9
    counts = valdo_masks(predicted, reference, (1.0, 1.0, 1.0))
    assert (counts.true, counts.false, counts.missed) == (2, 0, 1)
    assert counts.dice == pytest.approx((1.0 + 4 / 5) / 2)
    # 5 mm along x are two and a half voxels of 2 mm: the voxel two further is near, the one three further is not.
    near, far, lesion = (np.roll(predicted * 0, 0) for _ in range(3))
    lesion[0, 0, 0] = near[0, 0, 2] = far[0, 0, 3] = 1
    assert valdo_masks(near, lesion, (1.0, 1.0, 2.0)).true == 1
    assert valdo_masks(far, lesion, (1.0, 1.0, 2.0)).true == 0


def test_components_that_touch_are_found_and_connectivity_decides_what_a_component_is():
    reference, predicted = np.zeros((2, 6, 6, 6), dtype=int)
    reference[1, 1, 1] = reference[2, 2, 2] = 1
    predicted[1, 1, 1] = predicted[5, 5, 5] = 1
    by_corner, by_face = (match_components(predicted, reference, c) for c in (26, 6))
    assert (by_corner.reference, by_corner.found, by_corner.predicted, by_corner.false) == (1, 1, 2, 1)
    assert (by_face.reference, by_face.found, by_face.predicted, by_face.false) == (2, 1, 2, 1)
    with pytest.raises(ValueError, match="6, 18 or 26"):
        match_components(predicted, reference, 8)


def test_a_centre_on_the_lower_face_is_inside_and_on_the_upper_face_is_not():
    lesion = np.array([[2.0, 2.0, 2.0, 4.0, 4.0, 4.0]])
    centres = np.array([[2.0, 3.0, 3.0], [4.0, 3.0, 3.0], [3.9, 3.9, 3.9]])
    assert pair_inside(np.concatenate([centres - 1, centres + 1], axis=1), lesion)[:, 0].tolist() == [True, False, True]


# Shrout & Fleiss 1979, table 2: four judges rate six targets; table 4 gives .17, .29 and .71.
SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])


def test_icc_of_the_table_of_shrout_and_fleiss():
    found = icc(SHROUT_FLEISS)
    assert {name: round(value, 2) for name, value in found.items()} == {
        "icc_1_1": 0.17,
        "icc_2_1": 0.29,
        "icc_3_1": 0.71,
    }
    assert icc(np.ones((5, 2)))["icc_2_1"] is None
    assert icc(np.ones((1, 2)))["icc_2_1"] is None
    assert icc(np.array([[0, 0], [3, 3], [7, 7]]))["icc_2_1"] == 1.0


def test_kappa_of_worked_examples():
    assert kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)
    # Cohen 1968, table 1, as proportions of 200 with quadratic weights: 1 - sum(w o) / sum(w e) by hand
    table = np.array([[88, 14, 18], [10, 40, 10], [2, 6, 12]])
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    cost = np.array([[0, 1, 4], [1, 0, 1], [4, 1, 0]])
    by_hand = 1 - (cost * table).sum() / ((cost * np.outer(rows, columns)).sum() / 200)
    assert kappa(table, "quadratic") == pytest.approx(by_hand)
    assert kappa(table) == pytest.approx((0.7 - 0.41) / (1 - 0.41))
    assert kappa(np.array([[3, 0], [0, 0]])) is None
    assert kappa(np.zeros((2, 2))) is None


def test_burden_categories_begin_at_1_2_and_5():
    assert burden([0, 1, 2, 4, 5, 80]).tolist() == [0, 1, 2, 2, 3, 3]
    found = count_agreement([0, 1, 3, 9], [0, 2, 3, 5])
    assert found["burden"]["table"] == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    assert found["bland_altman"]["bias"] == pytest.approx(0.75)


def test_limits_of_agreement_are_two_standard_deviations_apart_from_the_bias():
    found = bland_altman([3, 5, 4], [1, 5, 6])
    assert found == {"bias": 0.0, "sd": 2.0, "low": -3.92, "high": 3.92}
    assert bland_altman([2], [1]) == {"bias": 1.0, "sd": None, "low": None, "high": None}
    assert bland_altman([], [])["bias"] is None


def test_auc_counts_pairs_and_ties_by_half():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 6, 30), rng.integers(0, 5, 40)
    pairs = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative]
    assert auc(positive, negative) == pytest.approx(np.mean(pairs))
    assert auc([], [0.3]) is None


def cube(z):
    return [z - 1, 9, 9, z + 1, 11, 11]


def scan(name, truth=(), boxes=(), scores=(), **further):
    found = Detections(np.array(boxes), np.array(scores), np.zeros(len(boxes)))
    return CaseResult(name, found, np.array(truth), np.zeros(len(truth)), (1.0, 1.0, 1.0), **further)


def test_patients_are_told_apart_by_logits_as_by_probabilities():
    def auc(with_lesion, *without):
        """By these scores, and of a further scan without lesions in which nothing was found."""
        cases = [scan("with", [cube(5)], [cube(5)], [with_lesion]), scan("none")]
        cases += [scan(str(number), [], [cube(50)], [score]) for number, score in enumerate(without)]
        return measure(cases, ["cmb"], AT_HALF)["patients"]["auc"]

    logits = np.array([-1.0, -2.0, 3.0])
    assert auc(*logits) == auc(*1 / (1 + np.exp(-logits))) == pytest.approx(2 / 3)


def test_patients_are_told_apart_by_the_highest_score_of_all_their_scans():
    cases = [
        scan("a1", [cube(5)], [cube(5)], [0.4], patient="a"),
        scan("a2", [], [cube(50)], [0.9], patient="a"),
        scan("b", [], [cube(50)], [0.6]),
        scan("c"),
        scan("d", [cube(5)], [cube(5)], [0.99], certainty=["possible"]),
    ]
    found = measure(cases, ["cmb"], AT_HALF)["patients"]
    assert (found["n_patients"], found["n_positive"], found["n_negative"], found["auc"]) == (4, 1, 2, 1.0)


def test_strata_add_up_and_name_what_the_data_set_says():
    cases = [
        scan(
            "a",
            [cube(5), cube(30), [0, 0, 0, 6, 6, 6]],
            [cube(5), cube(60)],
            [0.9, 0.8],
            regions=["lobar", "deep", None],
            cnr=np.array([9.0, 3.0, np.nan]),
            certainty=["definite", "definite", "possible"],
            domain="ukb",
        ),
        scan("b", [], [cube(60)], [0.7], domain="cuhk"),
    ]
    strata = measure(cases, ["cmb"], AT_HALF)["strata"]
    assert strata["region"] == {
        "deep": {"n_lesions": 1, "found": 0, "sensitivity": 0.0},
        "lobar": {"n_lesions": 1, "found": 1, "sensitivity": 1.0},
    }
    assert list(strata["cnr"]) == ["2-4", ">=8"]
    assert {name: block["n_lesions"] for name, block in strata["certainty"].items()} == {"definite": 2, "possible": 1}
    assert strata["diameter_mm"]["2-3"] == {"n_lesions": 2, "found": 1, "sensitivity": 0.5}
    assert list(strata["diameter_mm"]) == ["<2", "2-3", "3-5", "5-10", ">=10"]
    assert strata["domain"]["ukb"]["fp_per_scan"] == 1.0
    assert strata["domain"]["cuhk"] == {
        "n_cases": 1,
        "n_lesions": 0,
        "found": 0,
        "sensitivity": None,
        "precision": 0.0,
        "fp_per_scan": 1.0,
    }


def test_valdo_and_components_take_masks_where_every_scan_has_them():
    reference, predicted = np.zeros((2, 8, 8, 8), dtype=int)
    reference[4, 4, 4] = predicted[4, 4, 4:6] = 1
    masks = MaskCounts(match_components(predicted, reference), valdo_masks(predicted, reference, (1.0, 1.0, 1.0)))
    result = measure([scan("a", masks=masks)], ["cmb"], AT_HALF)
    assert result["valdo"]["f1"]["median"] == 1.0
    assert result["valdo"]["dice"]["median"] == pytest.approx(2 / 3)
    assert (result["components"]["sensitivity"], result["components"]["connectivity"]) == (1.0, 26)
    assert measure([scan("a")], ["cmb"], AT_HALF)["components"] is None


@pytest.mark.parametrize("seed", range(4))
def test_centre_inside_finds_as_many_as_the_largest_matching(random_cases, seed):
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    cases = random_cases(seed)
    expected = 0
    for case in cases:
        shown = case.detections[case.detections.scores >= 0.5]
        pairs = pair_inside(shown.boxes, case.truth_boxes) & (shown.labels[:, None] == case.truth_labels)
        expected += int((maximum_bipartite_matching(csr_matrix(pairs)) >= 0).sum()) if pairs.size else 0
    assert measure(cases, ["cmb", "iron"], AT_HALF)["overall"]["centre_inside"]["true_positives"] == expected
