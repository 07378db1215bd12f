"""What prototypes are called, and the picture of their space."""

from __future__ import annotations

import numpy as np
import pytest
from cmb_plugin.trainers.cmb.embedding import embedding_figure, name_prototypes, principal_plane

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


def test_the_plane_is_that_of_a_singular_value_decomposition():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 6)) * [5, 3, 1, 0.5, 0.1, 0.1]
    flat, others, shown = principal_plane(points, points[:3])
    values = np.linalg.eigvalsh(np.cov(points.T))[::-1]
    np.testing.assert_allclose(np.sort(flat.var(axis=0, ddof=1))[::-1], values[:2], rtol=1e-9)
    np.testing.assert_allclose(shown, values[:2].sum() / values.sum(), rtol=1e-9)
    np.testing.assert_allclose(others, flat[:3], atol=1e-9)


@pytest.mark.parametrize("count", [0, 1, 30])
def test_the_figure_shows_every_prototype_and_kind(count):
    rng = np.random.default_rng(0)
    seen = ["cmb", "vein", "none"] * (count // 3) or ["cmb"] * count
    names = ["cmb 1", "mimic 1 (vein)"]
    figure = embedding_figure(rng.normal(size=(count, 4)), seen, rng.normal(size=(2, 4)), names, ["cmb"], "title")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == names
    assert sum(len(dots.get_offsets()) for dots in axes.collections) == count
    assert len(axes.collections) == len(set(seen))
