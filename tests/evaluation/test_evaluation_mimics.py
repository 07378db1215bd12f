"""Which mimic a false positive is: distances in mm to vessels and to compact mimics."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_plugin.dataset import Case, Mimic, read_mimics
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import (
    CaseResult,
    EvaluationConfig,
    false_positive_kinds,
    measure,
    mimic_distances,
    mimic_kinds,
)
from cmb_plugin.files import write_json

SPACING = (2.0, 0.5, 1.0)


def vessel(*points, kind="vein_straight", diameter=1.0):
    path = np.array(points, dtype=float)
    return Mimic(kind, np.concatenate([path.min(0) - 1, path.max(0) + 1]), path, diameter)


def ball(centre, radius_mm, kind="calcification"):
    half = radius_mm / np.array(SPACING)
    return Mimic(kind, np.concatenate([centre - half, centre + half]))


def test_distances_are_those_of_densely_sampled_mimics():
    rng = np.random.default_rng(0)
    mimics = [vessel(*rng.uniform(0, 30, (k, 3)), diameter=d) for k, d in ((2, 0.6), (5, 2.0))]
    mimics += [ball(rng.uniform(0, 30, 3), 3.0), vessel((5, 5, 5), (5, 5, 5))]  # the last has no length
    points = rng.uniform(0, 30, (700, 3))
    surface, middle = mimic_distances(points, mimics, SPACING)
    for index, mimic in enumerate(mimics):
        if mimic.path is None:
            samples, radius = (mimic.box[None, :3] + mimic.box[None, 3:]) / 2, 3.0
        else:
            t = np.linspace(0, 1, 2000)[:, None]
            pairs = zip(mimic.path[:-1], mimic.path[1:], strict=True)
            samples, radius = np.concatenate([a + t * (b - a) for a, b in pairs]), mimic.diameter_mm / 2
        expected = np.linalg.norm((points[:, None] - samples) * SPACING, axis=-1).min(1)
        np.testing.assert_allclose(middle[:, index], expected, atol=0.02)
        np.testing.assert_allclose(surface[:, index], np.maximum(expected - radius, 0), atol=0.02)


def test_the_nearest_mimic_within_reach_names_the_point():
    mimics = [vessel((0, 0, 0), (10, 0, 0)), ball((5, 40, 5), 2.0)]
    points = [(5, 0, 3.4), (5, 0, 3.6), (5, 40, 5), (5, 40, 9.9), (7, 40, 5), (9, 40, 5)]
    assert mimic_kinds(points, mimics, SPACING) == [
        "vein_straight",  # 3.4 mm from the line is 2.9 from the wall
        "none",
        "calcification",
        "calcification",
        "calcification",
        "none",  # 8 mm from the centre of a ball of 2
    ]
    assert mimic_kinds(points, mimics, SPACING, reach_mm=0.0).count("none") == 5


def test_kinds_are_those_of_all_distances():
    rng = np.random.default_rng(1)
    mimics = [vessel(*rng.uniform(0, 40, (4, 3)), kind=f"vein_{i}", diameter=rng.uniform(0.3, 3)) for i in range(12)]
    mimics += [ball(rng.uniform(0, 40, 3), rng.uniform(1, 6), f"iron_{i}") for i in range(12)]
    points = rng.uniform(-5, 45, (2000, 3))
    surface, middle = mimic_distances(points, mimics, SPACING)
    order = np.lexsort((middle.T, surface.T), axis=0)[0]
    expected = [mimics[m].kind if surface[n, m] <= 3 else "none" for n, m in enumerate(order)]
    assert mimic_kinds(points, mimics, SPACING, reach_mm=3) == expected
    assert 0.2 < np.mean([kind == "none" for kind in expected]) < 0.9


def test_inside_two_mimics_the_nearer_middle_counts():
    mimics = [ball((5, 20, 5), 5.0, "iron"), ball((6, 20, 5), 1.0, "calcification")]
    assert mimic_kinds([(6, 20, 5.5), (4, 20, 5)], mimics, SPACING) == ["calcification", "iron"]


def test_nothing_to_name_or_nothing_to_name_it_by():
    assert mimic_kinds(np.zeros((0, 3)), [ball((1, 1, 1), 1.0)], SPACING) == []
    assert mimic_kinds(np.zeros((2, 3)), [], SPACING) == ["none", "none"]


def scan(name, mimics, places, scores, truth=()):
    boxes = np.array([[*np.subtract(p, 1), *np.add(p, 1)] for p in places]).reshape(-1, 6)
    lesions = np.array([[*np.subtract(p, 1), *np.add(p, 1)] for p in truth]).reshape(-1, 6)
    found = Detections(boxes, np.array(scores), np.zeros(len(boxes)))
    return CaseResult(name, found, lesions, np.zeros(len(lesions)), SPACING, mimics=mimics)


def test_false_positives_are_counted_by_kind_where_mimics_are_listed():
    mimics = [vessel((0, 0, 0), (10, 0, 0)), ball((5, 40, 5), 2.0)]
    places, scores = [(5, 0, 0), (5, 40, 5), (5, 90, 5), (8, 0, 0), (2, 0, 0)], [0.9, 0.8, 0.7, 0.4, 0.6]
    cases = [
        scan("a", mimics, places, scores, truth=[(2, 0, 0)]),  # a lesion on a vein is no false positive
        scan("b", mimics[:1], [], []),
        scan("unlisted", None, [(5, 5, 5)], [0.9]),
    ]
    config = EvaluationConfig(operating_point=0.5)
    counts = false_positive_kinds(cases, config)
    assert list(counts) == ["calcification", "vein_straight", "none"]
    np.testing.assert_equal(np.array(list(counts.values())), [[1, 0, np.nan], [1, 0, np.nan], [1, 0, np.nan]])
    result = measure(cases, ["cmb"], config)
    kinds = {"calcification": 0.5, "vein_straight": 0.5, "none": 0.5}
    assert result["false_positive_kinds"] == {"mimic_mm": 3.0, "n_cases": 2, "per_scan": kinds}
    wrong = sum(result["false_positive_kinds"]["per_scan"].values()) * 2
    assert wrong + 1 == result["fp_per_scan"] * 3
    assert measure(cases[2:], ["cmb"], config)["false_positive_kinds"] is None


def test_mimics_are_read_beside_the_case_and_none_means_that_nobody_listed_them(tmp_path):
    case = Case("a", (), split="Tr", raw=tmp_path)
    assert read_mimics(case) is None
    write_json(tmp_path / "mimicsTr" / "a.json", {"mimics": []})
    assert read_mimics(case) == []
    line = {"kind": "pial_vessel", "box": [0, 0, 0, 9, 9, 9], "path": [[0, 0, 0], [9, 9, 9]], "diameter_mm": 0.7}
    write_json(tmp_path / "mimicsTr" / "a.json", {"mimics": [line, {"kind": "air_sinus", "box": [1, 2, 3, 4, 5, 6]}]})
    tube, compact = read_mimics(case)
    assert (tube.kind, tube.path.shape, tube.diameter_mm) == ("pial_vessel", (2, 3), 0.7)
    assert (compact.kind, compact.path, compact.box.tolist()) == ("air_sinus", None, [1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("content", [[], {"mimics": [{"kind": "iron"}]}, {"mimics": [{"kind": "iron", "box": [1]}]}])
def test_a_damaged_list_is_an_error_with_a_remedy(tmp_path, content):
    write_json(tmp_path / "mimicsTr" / "a.json", content)
    with pytest.raises(UserError, match=r"a\.json.*kind and box"):
        read_mimics(Case("a", (), split="Tr", raw=tmp_path))
