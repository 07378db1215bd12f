"""What is removed lies outside or in fluid, by mm; what validation holds is kept, and so is the cortex."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmb_plugin.anatomy import Place, RegionMap, locate
from cmb_plugin.anatomy.rules import MARGIN_MM, RemovalRules, choose_rules, remove_impossible, widest
from cmb_plugin.detections import Detections
from cmb_plugin.images import Grid

PLACES = {0: Place("outside"), 1: Place("lobar"), 2: Place("ventricle")}


def ball(spacing: tuple[float, float, float], trusted: bool = True) -> RegionMap:
    """A brain of 40 mm radius with a ventricle of 12 mm radius in its middle."""
    shape = tuple(int(120 / side) for side in spacing)
    axes = [(np.arange(n) + 0.5) * side - 60 for n, side in zip(shape, spacing, strict=True)]
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
    labels = np.where(radius < 12, 2, np.where(radius < 40, 1, 0)).astype(np.uint16)
    return RegionMap(labels, Grid(shape, spacing), PLACES, "test", trusted=trusted)


def lesions(regions: RegionMap, *radii: float, diameter: float = 4.0) -> Detections:
    """One of each distance from the middle along x, in mm, located in ``regions``."""
    spacing = np.asarray(regions.grid.spacing)
    centres = (np.array([[0, 0, radius] for radius in radii]).reshape(-1, 3) + 60) / spacing
    boxes = np.hstack([centres - diameter / 2 / spacing, centres + diameter / 2 / spacing])
    return locate(Detections(boxes, np.linspace(1, 0.5, len(radii)), np.zeros(len(radii))), regions)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 0.5, 0.5)])
def test_rules_are_in_mm_whatever_the_voxels(spacing: tuple[float, float, float]) -> None:
    located = lesions(ball(spacing), 0.0, 9.0, 25.0, 44.0, 47.0)
    removed = remove_impossible(located, RemovalRules(outside_mm=5.0, ventricle_mm=5.0)).columns["removed"]
    assert [bool(reason) for reason in removed] == [True, False, False, False, True]
    assert removed[0].startswith("in a ventricle, 1")
    assert removed[4].startswith("outside the brain, 7")


def test_removed_detections_keep_place_and_score() -> None:
    located = lesions(ball((1.0, 1.0, 1.0)), 25.0, 57.0)
    marked = remove_impossible(located, RemovalRules())
    np.testing.assert_array_equal(marked.boxes, located.boxes)
    np.testing.assert_array_equal(marked.scores, located.scores)
    assert [bool(reason) for reason in marked.columns["removed"]] == [False, True]


@settings(max_examples=25)
@given(st.floats(30.0, 41.0), st.floats(2.0, 10.0))
def test_lobar_lesions_in_the_cortex_survive_the_tightest_rules(radius: float, diameter: float) -> None:
    located = lesions(CORTEX, radius, diameter=diameter)
    tightest = choose_rules([located], "atlas:builtin", enough=1)
    assert not remove_impossible(located, RemovalRules(outside_mm=MARGIN_MM, ventricle_mm=0.0)).columns["removed"][0]
    assert not remove_impossible(located, tightest).columns["removed"][0]


CORTEX = ball((1.0, 1.0, 1.0))


@settings(max_examples=25)
@given(st.lists(st.floats(0.0, 58.0), min_size=1, max_size=30))
def test_no_true_lesion_of_validation_is_lost(radii: list[float]) -> None:
    located = lesions(CORTEX, *radii)
    rules = choose_rules([located[:3], located[3:]], "atlas:builtin")
    assert not remove_impossible(located, rules).columns["removed"].astype(bool).any()
    if len(radii) < 20:
        assert rules.outside_mm >= RemovalRules().outside_mm
        assert rules.ventricle_mm >= RemovalRules().ventricle_mm


def test_enough_lesions_narrow_the_rules_to_the_farthest_and_a_margin() -> None:
    rules = choose_rules([lesions(CORTEX, *([25.0] * 20), 43.5)], "atlas:builtin")
    assert rules.outside_mm == pytest.approx(4.0 + MARGIN_MM, abs=0.6)
    assert rules.ventricle_mm == MARGIN_MM
    assert (rules.source, rules.n_lesions) == ("atlas", 21)
    assert RemovalRules.from_json({**rules.__dict__, "later": 1}) == rules


def test_folds_together_take_the_widest_limits() -> None:
    both = widest([RemovalRules(3.0, 6.0, "atlas", 20), RemovalRules(5.0, 2.0, "atlas", 30)])
    assert (both.outside_mm, both.ventricle_mm, both.n_lesions) == (5.0, 6.0, 50)


def test_where_the_place_is_unknown_nothing_is_removed() -> None:
    located = lesions(ball((2.0, 2.0, 2.0), trusted=False), 0.0, 58.0)
    assert not remove_impossible(located, RemovalRules(0.0, 0.0)).columns["removed"].astype(bool).any()
    empty = remove_impossible(lesions(CORTEX), RemovalRules())
    assert len(empty) == 0
