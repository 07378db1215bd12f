"""What is new, stable, gone or not covered, by hand-made predictions on an empty room of voxels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from heads import rigid, write_visit
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from cmb_plugin.followup.comparison import Rules, aria_h, compare, nearest_pairs
from cmb_plugin.followup.registration import Alignment
from cmb_plugin.followup.visits import Scan
from cmb_plugin.images import Grid

GRID = Grid((30, 40, 40), (2.0, 1.0, 1.0))
HERE = np.array([20.0, 20.0, 30.0])
POINT = 0.5


def beside(mm: float) -> np.ndarray:
    """A place so far along x."""
    return HERE + np.array([mm, 0.0, 0.0])


def alignment(turn: tuple[float, float, float] = (0, 0, 0), error_mm: float = 0.2) -> Alignment:
    transform = rigid(turn, (3.0, 0.0, 0.0))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    matrix[:3, 3] = transform.TransformPoint((0, 0, 0))
    return Alignment(matrix, 0.9, error_mm, 1.0, 50)


def scans_of(tmp_path: Path, *visits: list[tuple[np.ndarray, float]], grids: tuple[Grid, ...] = ()) -> list[Scan]:
    made = []
    for number, lesions in enumerate(visits):
        grid = grids[number] if grids else GRID
        visit = write_visit(tmp_path, f"v{number}", np.ones(grid.shape), grid, lesions, POINT)
        made.append(Scan(visit))
    return made


@pytest.mark.parametrize(
    ("before", "now", "status"),
    [
        (0.0, 0.9, "new"),
        (0.12, 0.9, "new"),  # below a quarter of the operating point
        (0.13, 0.9, "stable"),  # just a trace, but a trace
        (0.49, 0.51, "stable"),
        (0.9, 0.6, "stable"),
        (0.9, 0.2, "stable"),  # below the operating point now, but not gone
        (0.9, 0.0, "gone"),
    ],
)
def test_the_scores_of_both_times_decide_together(tmp_path: Path, before: float, now: float, status: str) -> None:
    place = alignment().to_other(HERE[None])[0] + (0.5, 0, 0)
    scans = scans_of(tmp_path, [(HERE, before)] if before else [], [(place, now)] if now else [])
    (track,) = compare(scans, [alignment()])
    assert track.status[1] == status
    assert (track.new_at == 1) == (status == "new")


@pytest.mark.parametrize("removed_at", [0, 1])
def test_a_lesion_that_a_rule_hides_at_one_time_is_neither_new_nor_gone(tmp_path: Path, removed_at: int) -> None:
    """0.4 mm between two brain masks make no new microbleed."""
    scans = scans_of(tmp_path, [(HERE, 0.9)], [(alignment().to_other(HERE[None])[0], 0.9)])
    scans[removed_at].predictions.detections.columns["removed"] = np.array(["outside the brain"])
    (track,) = compare(scans, [alignment()])
    assert track.status[1] == "stable"
    assert track.reported == {1 - removed_at}
    for scan in scans:
        scan.predictions.detections.columns["removed"] = np.array(["outside the brain"])
        del scan.reported
    assert compare(scans, [alignment()]) == []


def test_what_never_reaches_the_operating_point_is_no_lesion(tmp_path: Path) -> None:
    scans = scans_of(tmp_path, [(HERE, 0.3)], [(alignment().to_other(HERE[None])[0], 0.4)])
    assert compare(scans, [alignment()]) == []


def test_the_tolerance_grows_with_slices_and_error(tmp_path: Path) -> None:
    rules = Rules()
    assert rules.tolerance_mm(1.0, 0.0) == pytest.approx(2.5)
    assert rules.tolerance_mm(4.0, 1.0) == pytest.approx(6.0)
    far = alignment().to_other(HERE[None])[0] + (0, 4.0, 0)
    for error, status in ((0.2, {"new", "gone"}), (1.0, {"stable"})):
        tracks = compare(scans_of(tmp_path, [(HERE, 0.9)], [(far, 0.9)]), [alignment(error_mm=error)])
        assert {track.status[1] for track in tracks} == status


def test_a_place_beyond_the_other_scan_is_neither_new_nor_gone(tmp_path: Path) -> None:
    low = Grid((10, 40, 40), (2.0, 1.0, 1.0))  # ends at 19 mm
    for grids in ((low, GRID), (GRID, low)):
        lesions = [[(HERE, 0.9)] if grid is GRID else [] for grid in grids]
        (track,) = compare(scans_of(tmp_path, *lesions, grids=grids), [alignment()])
        assert track.status == {1: "not covered"}


@pytest.mark.parametrize(("beside", "status"), [(0.02, "not covered"), (0.2, "stable")])
@pytest.mark.parametrize("first_is_low", [True, False])
def test_only_a_trace_beside_the_edge_says_that_a_scan_shows_a_place(
    tmp_path: Path, beside: float, status: str, first_is_low: bool
) -> None:
    """A faint candidate in the last slice made a lesion beyond it new, or gone."""
    low = Grid((15, 40, 40), (2.0, 1.0, 1.0))  # ends at 29 mm
    faint, strong = (HERE - (0, 0, 1.5), beside), (HERE, 0.9)
    if first_is_low:
        visits, grids = ([faint], [(alignment().to_other(HERE[None])[0], 0.9)]), (low, GRID)
    else:
        visits, grids = ([strong], [(alignment().to_other(faint[0][None])[0], beside)]), (GRID, low)
    (track,) = compare(scans_of(tmp_path, *visits, grids=grids), [alignment()])
    assert track.status == {1: status}


def test_padding_of_zeros_covers_nothing(tmp_path: Path) -> None:
    empty = np.ones(GRID.shape)
    empty[12:] = 0
    before = Scan(write_visit(tmp_path, "v0", empty, GRID, [], POINT))
    now = Scan(write_visit(tmp_path, "v1", np.ones(GRID.shape), GRID, [(alignment().to_other(HERE[None])[0], 0.9)]))
    (track,) = compare([before, now], [alignment()])
    assert track.status == {1: "not covered"}


def test_neighbours_are_matched_one_to_one(tmp_path: Path) -> None:
    """Greedy matching gives the left one of the first scan to the left one of the second, and a pair is lost."""
    move = alignment().to_other
    first = [(HERE, 0.9), (beside(3.0), 0.9)]
    second = [(move(beside(2.8)[None])[0], 0.9), (move(beside(5.5)[None])[0], 0.9)]
    tracks = compare(scans_of(tmp_path, first, second), [alignment()])
    assert [track.status[1] for track in tracks] == ["stable", "stable"]


def test_a_third_visit_knows_both_before(tmp_path: Path) -> None:
    move = alignment().to_other
    other = beside(8.0)
    second = [(move(HERE[None])[0], 0.9)]
    third = [(move(HERE[None])[0], 0.9), (move(other[None])[0], 0.9)]
    tracks = compare(scans_of(tmp_path, [], second, third), [alignment(), alignment()])
    assert [track.status for track in tracks] == [{1: "new", 2: "stable"}, {2: "new"}]
    assert [track.new_at for track in tracks] == [1, 2]


def test_what_a_thick_scan_showed_first_is_found_again_as_far_as_that_scan_may_be_off(tmp_path: Path) -> None:
    """Else a lesion of the second of three visits is gone at the third, and another one is new beside it."""
    thick = Grid((15, 40, 40), (4.0, 1.0, 1.0))
    grids = (GRID, thick, GRID)
    seen_twice = [[], [(beside(4.5), 0.9)], [(HERE, 0.9)]]
    still = alignment(error_mm=0.0)
    still.matrix[:3, 3] = 0.0
    rules = Rules()
    assert rules.tolerance_mm(2.0, 0.5) < 4.5 < rules.tolerance_mm(4.0, 0.5)
    scans = scans_of(tmp_path, *seen_twice, grids=grids)
    (track,) = compare(scans, [replace(still, error_mm=0.5), still])
    assert track.status == {1: "new", 2: "stable"}


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_pairs_are_as_many_as_possible(n: int, m: int, seed: int) -> None:
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    rng = np.random.default_rng(seed)
    distance = cdist(rng.uniform(0, 6, (n, 3)), rng.uniform(0, 6, (m, 3)))
    pairs = nearest_pairs(distance, 3.0)
    assert all(distance[a, b] <= 3.0 for a, b in pairs)
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
    if n and m:
        largest = maximum_bipartite_matching(csr_matrix(distance <= 3.0))
        assert len(pairs) == np.count_nonzero(largest >= 0)


@pytest.mark.parametrize(
    ("new", "category"), [(0, "none"), (1, "mild"), (4, "mild"), (5, "moderate"), (9, "moderate"), (10, "severe")]
)
def test_categories_of_aria_h(new: int, category: str) -> None:
    assert aria_h(new) == category
