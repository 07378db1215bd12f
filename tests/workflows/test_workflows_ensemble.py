"""An ensemble at the operating points of its folds: each votes by its own score and threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmb_plugin.detections import Detections, fold_column
from cmb_plugin.inference import InferenceConfig, merge_views
from cmb_plugin.inference.merging import WEIGHT
from cmb_plugin.models.operating_point import OperatingPoint


def of_fold(scores, **columns):
    """One view: detections far apart, the i-th at place i, those with score 0 not seen."""
    scores = np.asarray(scores, dtype=float)
    seen = scores > 0
    corners = np.arange(len(scores))[:, None] * 20.0 + np.zeros(3)
    boxes = np.concatenate([corners, corners + 4], axis=1)
    columns = {name: np.asarray(values)[seen] for name, values in columns.items()}
    return Detections(boxes[seen], scores[seen], np.zeros(seen.sum()), {WEIGHT: np.ones(seen.sum()), **columns})


def point(score, fold, ranking=None, **further):
    return OperatingPoint(score, ranking, folds=(f"fold{fold}",), **further)


def reported(folds, points):
    """Places at which the ensemble reports, by the file's rule."""
    merged = merge_views([of_fold(scores) for scores in folds], InferenceConfig(min_score=0.0), len(folds))
    together = OperatingPoint.mean(points)
    applied = together.apply(merged)
    hits = np.round(applied.scores.astype(float), 6) >= together.score
    return sorted((applied.boxes[hits, 0] / 20).round().astype(int).tolist())


def test_what_three_of_five_folds_report_is_reported_and_what_one_reports_is_not():
    folds = [[0.55, 0.0], [0.55, 0.0], [0.55, 0.0], [0.0, 0.99], [0.0, 0.0]]
    points = [point(0.5, k) for k in range(5)]
    merged = merge_views([of_fold(scores) for scores in folds], InferenceConfig(), 5)
    assert merged.scores[0] == pytest.approx(0.33)  # the mean, which no single fold's threshold is for
    assert reported(folds, points) == [0]


@given(
    st.integers(1, 5).flatmap(
        lambda folds: st.tuples(
            st.lists(st.lists(st.floats(0, 1).map(lambda x: round(x, 3)), min_size=4, max_size=4), min_size=folds,
                     max_size=folds),
            st.lists(st.floats(0.05, 0.95).map(lambda x: round(x, 3)), min_size=folds, max_size=folds),
        )
    )
)  # fmt: skip
def test_an_odd_number_of_folds_reports_what_most_of_them_report(drawn):
    folds, thresholds = drawn
    if len(folds) % 2 == 0:
        return
    votes = np.array([np.asarray(scores) >= t for scores, t in zip(folds, thresholds, strict=True)]).sum(axis=0)
    expected = np.flatnonzero(2 * votes > len(folds)).tolist()
    assert reported(folds, [point(t, k) for k, t in enumerate(thresholds)]) == expected


def test_one_fold_alone_has_no_columns_of_folds_and_its_own_scores():
    merged = merge_views([of_fold([0.4, 0.7])], InferenceConfig(), 1)
    assert not any(name.startswith("folds_") for name in merged.columns)
    applied = OperatingPoint.mean([point(0.5, 0)]).apply(merged)
    assert applied.scores.tolist() == pytest.approx([0.7, 0.4])


def test_folds_vote_by_the_score_that_each_ranks_by():
    first = of_fold([0.9, 0.2], score_prototype=[0.1, 0.9])
    second = of_fold([0.9, 0.2], score_prototype=[0.1, 0.9])
    merged = merge_views([first, second], InferenceConfig(), 2)
    assert merged.columns[fold_column("score_prototype")].shape == (2, 2)
    by_prototype = OperatingPoint.mean([point(0.5, 0, "score_prototype"), point(0.5, 1, "score_prototype")])
    applied = by_prototype.apply(merged)
    assert (applied.boxes[applied.scores >= 0.5, 0] == 20).all()
    assert (applied.scores >= 0.5).sum() == 1


def test_applying_twice_is_applying_once():
    merged = merge_views([of_fold(s) for s in ([0.9, 0.3], [0.4, 0.8], [0.6, 0.6])], InferenceConfig(), 3)
    together = OperatingPoint.mean([point(0.5, 0), point(0.7, 1), point(0.35, 2)])
    once = together.apply(merged)
    twice = together.apply(once)
    np.testing.assert_array_equal(once.scores, twice.scores)
    np.testing.assert_array_equal(once.boxes, twice.boxes)


def test_what_half_of_the_folds_take_for_possible_is_possible():
    folds = [[0.9, 0.45, 0.1], [0.9, 0.45, 0.1], [0.9, 0.0, 0.0]]
    points = [point(0.5, k, possible_score=0.4) for k in range(3)]
    merged = merge_views([of_fold(scores) for scores in folds], InferenceConfig(), 3)
    together = OperatingPoint.mean(points)
    applied = together.apply(merged)
    assert together.possible_score is not None
    assert (applied.scores >= together.score).sum() == 1
    assert (applied.scores >= together.possible_score).sum() == 2


def test_classes_keep_their_own_thresholds_in_the_vote():
    views = []
    for _ in range(3):
        view = of_fold([0.3, 0.3])
        view.labels[:] = [0, 1]
        views.append(view)
    merged = merge_views(views, InferenceConfig(), 3)
    together = OperatingPoint.mean([point(0.25, k, class_scores={0: 0.25, 1: 0.6}) for k in range(3)])
    applied = together.apply(merged)
    assert applied.labels[applied.scores >= together.score].tolist() == [0]
