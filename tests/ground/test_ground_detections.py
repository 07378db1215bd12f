"""``Detections`` keeps its columns together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmb_plugin.detections import Detections


def some(n: int, **columns) -> Detections:
    return Detections(np.arange(6 * n), np.linspace(0.1, 0.9, n), np.zeros(n), columns)


def test_selection_and_order_take_columns_along():
    found = some(3, place=np.array(["a", "b", "c"]))
    assert found.by_score().columns["place"].tolist() == ["c", "b", "a"]
    assert found[found.scores > 0.4].columns["place"].tolist() == ["b", "c"]


def test_concatenation_keeps_shared_columns_and_ignores_empty_parts():
    both = Detections.concatenate([some(2, a=np.zeros(2), b=np.ones(2)), Detections.empty(), some(1, a=np.zeros(1))])
    assert len(both) == 3
    assert list(both.columns) == ["a"]
    assert len(Detections.concatenate([])) == 0


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="differ in length"):
        Detections(np.zeros((2, 6)), np.zeros(3), np.zeros(2))


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 2)), max_size=30),
    st.floats(0.01, 0.99),
    st.floats(0.01, 0.99),
    st.floats(0.01, 0.99),
)
def test_one_threshold_serves_all_classes(rows, first, second, common):
    scores, labels = np.array([s for s, _ in rows], np.float32), np.array([label for _, label in rows], int)
    found = Detections(np.zeros((len(rows), 6)), scores, labels, {"row": np.arange(len(rows))}).by_score()
    own = {0: first, 1: second}
    moved = found.with_thresholds(own, common)
    raw, rows_of = moved.columns["raw_score"].astype(float), moved.columns["row"]
    np.testing.assert_array_equal(raw, scores[rows_of])
    threshold = np.array([own.get(label, common) for label in moved.labels])
    clear = np.abs(raw - threshold) > 1e-5  # on the threshold itself the sixth decimal decides
    np.testing.assert_array_equal((moved.scores >= common)[clear], (raw >= threshold)[clear])
    assert (np.diff(moved.scores) <= 0).all()
    for label in range(3):
        assert (np.diff(raw[moved.labels == label]) <= 1e-6).all()
    back = moved.without_thresholds()
    np.testing.assert_array_equal(back.scores, found.scores)
    assert list(back.columns) == ["row"]


@given(st.floats(1e-5, 0.99999), st.floats(1e-5, 0.99999), st.lists(st.integers(-30, 30), min_size=1, max_size=9))
def test_the_sixth_decimal_decides_in_memory_and_in_files(own, common, millionths):
    own, common = round(own, 6), round(common, 6)
    scores = np.clip(np.round(own + np.array(millionths) * 1e-6, 6), 0, 1)
    found = Detections(np.zeros((len(scores), 6)), scores, np.zeros(len(scores)), {"given": scores})
    moved = found.with_thresholds({0: own}, common)
    reached = moved.columns["given"] >= own
    np.testing.assert_array_equal(moved.scores >= np.float32(common), reached)
    np.testing.assert_array_equal(np.round(moved.scores.astype(float), 6) >= common, reached)


def test_where_no_threshold_was_moved_there_is_nothing_to_move_back():
    found = some(3)
    assert found.without_thresholds() is found
