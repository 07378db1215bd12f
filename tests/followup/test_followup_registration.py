"""Two scans of a head are laid over each other, and what does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from heads import OWN, centred, make_head, rigid, seen

from cmb_plugin.followup.registration import Alignment, Head, align
from cmb_plugin.images import Grid

PLACES = np.array([[0, 0, 0], [40, 0, 0], [-40, 10, 20], [0, 55, -20], [0, -55, 30], [20, 20, 40]], dtype=float)
AXIAL = np.eye(3)


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    return make_head(1)


@pytest.fixture(scope="module")
def first(head: np.ndarray) -> Head:
    return Head(seen(head, OWN), OWN)


def errors(found: Alignment, truth: sitk.Transform) -> np.ndarray:
    """mm by which places of the head are off: ``truth`` leads from the world of the other scan to that of the first."""
    expected = np.array([truth.GetInverse().TransformPoint(place) for place in PLACES.tolist()])
    np.testing.assert_allclose(found.to_first(found.to_other(PLACES)), PLACES, atol=1e-6)
    return np.linalg.norm(found.to_other(PLACES) - expected, axis=1)


def test_an_identical_scan_lies_where_it_is(head: np.ndarray, first: Head) -> None:
    found = align(first, Head(seen(head, OWN), OWN))
    assert found.why_not == ""
    assert errors(found, rigid((0, 0, 0), (0, 0, 0))).max() < 0.5  # a sixth of a voxel
    assert found.agreement > 0.95
    assert found.error_mm < 0.3


@pytest.mark.parametrize(
    ("grid", "turn", "shift"),
    [
        pytest.param(
            centred((40, 60, 60), (4.5, 3.5, 3.2), AXIAL), (4, 2, -3), (5, -8, 6), id="other matrix and spacing"
        ),
        pytest.param(
            centred((56, 44, 66), (3.0, 4.0, 3.0), np.array([[0, 0, -1], [1, 0, 0], [0, 1, 0]], dtype=float)),
            *((0, 3, 5), (2, 6, -4)),
            id="other orientation",
        ),
        pytest.param(OWN, (24, 0, 0), (0, 4, -6), id="tilted head"),
        pytest.param(centred((56, 66, 56), (3.0, 3.0, 3.0), AXIAL), (3, 0, 2), (250, -90, 400), id="other origin"),
    ],
)
def test_another_position_is_found(
    head: np.ndarray, first: Head, grid: Grid, turn: tuple[float, float, float], shift: tuple[float, float, float]
) -> None:
    truth = rigid(turn, (0, 0, 0))
    if max(np.abs(shift)) > 100:  # the scan lies anywhere in the world, its head with it
        grid = Grid(grid.shape, grid.spacing, tuple(np.add(grid.origin, shift).tolist()), grid.direction)
        truth = sitk.CompositeTransform([truth, sitk.TranslationTransform(3, [-float(v) for v in shift])])
    else:
        truth = rigid(turn, shift)
    found = align(first, Head(seen(head, grid, truth, noise=1), grid))
    assert found.why_not == ""
    off = errors(found, truth)
    assert off.mean() < 1.0
    assert found.error_mm == pytest.approx(off.mean(), abs=0.7)


@pytest.mark.parametrize("middle_mm", [-30.0, 35.0])
def test_a_slab_is_found_in_the_whole_head(head: np.ndarray, first: Head, middle_mm: float) -> None:
    slab = Grid((24, 66, 56), (3.0, 3.0, 3.0), (-82.5, -97.5, middle_mm - 34.5))
    truth = rigid((3, 0, 2), (2, 3, 0))
    found = align(first, Head(seen(head, slab, truth, noise=2), slab))
    assert found.why_not == ""
    assert errors(found, truth).mean() < 1.5


def test_another_persons_scan_is_refused(first: Head) -> None:
    found = align(first, Head(seen(make_head(2), OWN), OWN))
    assert "do not show the same head" in found.why_not


def test_scans_without_a_common_part_are_refused(head: np.ndarray) -> None:
    top, bottom = (Grid((12, 66, 56), (3.0, 3.0, 3.0), (-82.5, -97.5, z)) for z in (20.0, -60.0))
    found = align(Head(seen(head, top), top), Head(seen(head, bottom), bottom))
    assert found.why_not


@pytest.mark.parametrize(
    ("overlap", "blocks", "expected"),
    [(0.2, 20, "only 20% of the brain"), (0.61, 3, "only 3 blocks of 28 mm"), (0.61, 8, "")],
)
def test_a_refusal_names_what_is_too_little(overlap: float, blocks: int, expected: str) -> None:
    why = Alignment(np.eye(4), 0.9, 0.2, overlap, blocks).why_not
    assert expected in why
    assert bool(why) == bool(expected)


def test_a_single_slice_is_refused_and_stops_nothing(first: Head) -> None:
    slice_only = Grid((1, 40, 40), (2.0, 1.0, 1.0))
    assert align(first, Head(np.random.default_rng(0).normal(100, 10, slice_only.shape), slice_only)).why_not
