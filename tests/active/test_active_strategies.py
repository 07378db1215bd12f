"""Strategies of acquisition against closed forms and other people's functions."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy
from sklearn.isotonic import isotonic_regression

from cmb_plugin.active.evidence import Calibration, Evidence, ScanEvidence, around_operating_point
from cmb_plugin.active.strategies import (
    COMMITTEE,
    LABELLED,
    POOL,
    corrections,
    describe,
    disagreement,
    diversity,
    k_centre_greedy,
    needs_of,
    random,
    same_places,
    strategy_named,
    uncertainty,
)
from cmb_plugin.dataset import CasePredictions
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import CaseResult
from cmb_plugin.images import Grid
from cmb_plugin.plugins import register_strategy, strategies

GRID = Grid((40, 40, 40), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def found(case_id, scores, centres=None, labels=None, point=0.5, **columns):
    """A scan with boxes of two voxels."""
    n = len(scores)
    centres = np.array([[5, 5, 10 * i] for i in range(n)] if centres is None else centres, float).reshape(-1, 3)
    labels = np.zeros(n, int) if labels is None else np.array(labels)
    boxes = np.concatenate([centres - 1, centres + 1], axis=1)
    detections = Detections(boxes, np.array(scores), labels, {k: np.array(v) for k, v in columns.items()})
    return CasePredictions(case_id, detections.by_score(), GRID, ("cmb", "iron"), point)


def evidence(*scans, **options):
    return Evidence(tuple(ScanEvidence(scan) for scan in scans), **options)


def rng():
    return np.random.default_rng(0)


def test_the_operating_point_is_where_nothing_is_known():
    np.testing.assert_allclose(around_operating_point(np.array([0.2, 0.5, 0.8]), 0.5), [0.2, 0.5, 0.8])
    moved = around_operating_point(np.array([0.3, 0.1, 0.9]), 0.3)
    logit = lambda p: np.log(p / (1 - p))  # noqa: E731
    np.testing.assert_allclose(logit(moved), logit(np.array([0.3, 0.1, 0.9])) - logit(0.3), atol=1e-12)
    assert np.isfinite(around_operating_point(np.array([0.0, 1.0]), 1.0)).all()


def test_uncertainty_is_the_entropy_of_all_candidates():
    scans = [
        found("sure", [0.99, 0.01]),
        found("unsure", [0.6, 0.45]),
        found("none", []),
        found("low", [0.3], point=0.3),
    ]
    ranking = uncertainty(evidence(*scans), rng())
    expected = [sum(scipy_entropy([p, 1 - p], base=2) for p in scan.detections.scores) for scan in scans[:3]] + [1.0]
    np.testing.assert_allclose(ranking.values, expected, rtol=1e-6)
    assert ranking.order.tolist() == [1, 3, 0, 2]


def test_chance_orders_all_and_the_seed_decides():
    scans = evidence(*(found(str(i), []) for i in range(20)))
    first, again = (random(scans, np.random.default_rng(3)).order for _ in range(2))
    assert sorted(first.tolist()) == list(range(20))
    assert first.tolist() == again.tolist() != random(scans, np.random.default_rng(4)).order.tolist()
    assert needs_of(random) == frozenset()
    assert needs_of(uncertainty) == {POOL}
    assert needs_of(disagreement) == {POOL, COMMITTEE}
    assert needs_of(diversity) == {POOL, LABELLED}


def test_members_that_see_one_place_are_brought_together():
    # 2 mm along z is one voxel; the iron and what lies 8 mm away are places of their own.
    one = found("a", [0.9, 0.4], [[5, 5, 5], [5, 5, 30]])
    two = found("a", [0.7, 0.6, 0.2], [[6, 5, 6], [5, 5, 5], [5, 5, 38]], [0, 1, 0])
    places = same_places([one, two])
    assert {tuple(np.round(place, 4)) for place in places} == {(0.9, 0.7), (0, 0.6), (0.4, 0), (0, 0.2)}
    assert same_places([found("a", []), found("a", [])]).shape == (0, 2)


def test_a_member_gives_each_place_one_detection():
    one = found("a", [0.9], [[5, 5, 5]])
    two = found("a", [0.8, 0.7], [[5, 5, 6], [5, 5, 3]])
    assert sorted(map(tuple, np.round(same_places([one, two]), 4))) == [(0, 0.7), (0.9, 0.8)]


def test_disagreement_is_the_jensen_shannon_divergence():
    pairs = [([0.9], [0.1]), ([0.5], [0.5]), ([0.8], [])]
    scans = [ScanEvidence(found(str(i), a), (found(str(i), a), found(str(i), b))) for i, (a, b) in enumerate(pairs)]
    ranking = disagreement(Evidence(tuple(scans)), rng())
    expected = [jensenshannon([0.9, 0.1], [0.1, 0.9], base=2) ** 2, 0, jensenshannon([0.8, 0.2], [0, 1], base=2) ** 2]
    np.testing.assert_allclose(ranking.values, expected, atol=1e-6)
    assert ranking.order.tolist() == [2, 0, 1]


def test_corrections_are_false_reports_and_missed_lesions():
    scans = [found("a", [0.9, 0.3, 0.2]), found("b", [0.5])]
    np.testing.assert_allclose(corrections(evidence(*scans), rng()).values, [0.1 + 0.3 + 0.2, 0.5], rtol=1e-6)
    curve = Calibration(np.array([0.0, 1.0]), np.array([0.0, 0.5]))
    values = corrections(evidence(*scans, calibration=curve), rng()).values
    np.testing.assert_allclose(values, [0.55 + 0.15 + 0.1, 0.75], rtol=1e-6)


def test_a_calibration_is_isotonic_regression_of_right_and_wrong():
    rand = rng()
    cases, pairs = [], []
    for number in range(6):
        scores = rand.uniform(size=8)
        lesion = rand.uniform(size=8) < scores
        scan = found(str(number), scores, [[5 + 8 * (i // 4), 5, 10 * (i % 4)] for i in range(8)])
        order = np.argsort(-scores, kind="stable")
        truth = scan.detections.boxes[lesion[order]]
        cases.append(CaseResult(str(number), scan.detections, truth, np.zeros(len(truth)), GRID.spacing))
        pairs += list(zip(scan.detections.scores, lesion[order], strict=True))
    pairs.sort(key=lambda pair: pair[0])
    scores, right = (np.array(column, float) for column in zip(*pairs, strict=True))
    curve = Calibration.fit(cases)
    np.testing.assert_allclose(curve(scores), isotonic_regression(right), atol=1e-6)
    assert Calibration.fit(cases[:0]) is None


def looking(case_id, scores, looks, distances):
    return found(case_id, scores, looks_like=looks, prototype_distance=distances)


def test_a_scan_is_described_by_the_prototypes_of_its_detections():
    scans = [
        looking("a", [0.5, 0.25], ["cmb 1", "mimic 2"], [1.0, 4.0]),
        looking("b", [0.5, 0.5], ["cmb 1", "cmb 1"], [2.0, 3.0]),
        found("c", []),
    ]
    expected = [[np.log(1.5), np.log(1.25), 2.0], [np.log(2), 0, 2.5], [0, 0, 2.25]]
    np.testing.assert_allclose(describe(scans), expected, rtol=1e-6)
    with pytest.raises(UserError, match=r"have no prototypes.*choose another strategy"):
        describe([found("a", [0.5])])


def test_diversity_goes_to_what_no_labelled_scan_shows():
    scans = [looking(str(i), [0.9], [name], [1.0]) for i, name in enumerate(["cmb 1", "cmb 1", "mimic 4", "mimic 4"])]
    chosen = diversity(evidence(*scans[1:], labelled=(ScanEvidence(scans[0]),)), rng())
    assert chosen.order[0] in (1, 2)  # a mimic; then nothing is far from a chosen one
    assert chosen.values[chosen.order[0]] > 0
    assert sorted(chosen.values.tolist())[:2] == [0, 0]


def test_k_centres_cover_as_well_as_gonzalez_promises():
    """At most twice the smallest radius that any choice of as many centres has, here by trying all of them."""
    import itertools

    rand = rng()
    for _ in range(5):
        points = rand.normal(size=(9, 2))
        distance = np.linalg.norm(points[:, None] - points, axis=2)
        greedy = k_centre_greedy(points, np.empty((0, 2)), rand).order[:3]
        best = min(distance[list(three)].min(axis=0).max() for three in itertools.combinations(range(9), 3))
        assert distance[greedy].min(axis=0).max() <= 2 * best + 1e-9


def test_each_next_centre_is_the_farthest():
    points, centres = np.array([[1.0, 0], [5, 0], [9, 0], [4, 0]]), np.array([[0.0, 0]])
    ranking = k_centre_greedy(points, centres, rng())
    assert ranking.order.tolist() == [2, 3, 0, 1] or ranking.order.tolist() == [2, 1, 0, 3]
    assert ranking.values[2] == 9
    assert k_centre_greedy(points, points, rng()).values.tolist() == [0] * 4


def test_anybody_can_register_a_strategy():
    @register_strategy
    def fewest(evidence, rng):
        """Scans with the fewest candidates."""
        from cmb_plugin.active.strategies import Ranking

        return Ranking.by([-len(scan.predictions.detections) for scan in evidence.scans], rng)

    try:
        order = strategy_named("fewest")(evidence(found("a", [0.5]), found("b", [])), rng()).order
        assert order.tolist() == [1, 0]
        with pytest.raises(UserError, match=r"no strategy 'fewst'.*did you mean fewest"):
            strategy_named("fewst")
    finally:
        del strategies._registered["fewest"]
