"""``Detections`` keeps its columns together."""

import numpy as np
import pytest

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
