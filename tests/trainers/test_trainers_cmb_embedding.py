"""What prototypes are called, and the picture of what lies near them."""

from __future__ import annotations

import numpy as np
import pytest
from cmb_plugin.trainers.cmb.embedding import name_prototypes, prototypes_figure

KINDS = ["cmb", "cmb", "mimic", "mimic", "mimic"]


def test_mimic_prototypes_are_named_after_the_kind_that_is_half_of_what_lies_near_them():
    nearest = np.array([0, 0, 2, 2, 2, 3, 3, 2])
    seen = ["cmb", "vein", "vein", "vein", "iron", "none", "cmb", "none"]
    names, members = name_prototypes(KINDS, nearest, seen)
    rarely = name_prototypes(KINDS, nearest, ["cmb", "vein", "vein", "iron", "air", "none", "cmb", "none"])[0]
    assert rarely[2] == "mimic 1"
    # A lesion's prototype keeps its name whatever lies there; without known mimics nothing is said about kinds.
    assert names == ["cmb 1", "cmb 2", "mimic 1 (vein)", "mimic 2", "mimic 3"]
    assert members[0] == {"cmb": 1, "vein": 1}
    assert members[2] == {"vein": 2, "iron": 1, "none": 1}
    assert sum(sum(counts.values()) for counts in members) == len(seen)


def test_without_detections_prototypes_are_numbered():
    names, members = name_prototypes(KINDS, np.zeros(0, dtype=int), [])
    assert names == ["cmb 1", "cmb 2", "mimic 1", "mimic 2", "mimic 3"]
    assert members == [{}] * 5


@pytest.mark.parametrize("count", [0, 1, 30])
def test_the_figure_has_a_row_for_every_prototype_and_a_dot_for_every_detection(count):
    odds = np.linspace(-3, 3, count)
    nearest = np.arange(count) % 2
    seen = ["cmb", "vein", "none"] * (count // 3) or ["cmb"] * count
    names = ["cmb 1", "mimic 1 (vein)", "mimic 2"]
    figure = prototypes_figure(odds, nearest, seen, names, ["cmb"], "title")
    axes = figure.axes[0]
    held = [(count + 1) // 2, count // 2, 0]
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        f"{name}: {n}" for name, n in zip(names, held, strict=True)
    ]
    dots = np.concatenate([np.asarray(group.get_offsets()) for group in axes.collections] or [np.zeros((0, 2))])
    by_odds = dots[np.argsort(dots[:, 0])]
    np.testing.assert_allclose(by_odds[:, 0], odds)
    np.testing.assert_array_equal(np.round(by_odds[:, 1]), nearest)
    assert len(axes.collections) == len(set(seen))
