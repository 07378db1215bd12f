"""What a page has room for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cmb_plugin.anatomy import UNKNOWN, Place, RegionMap
from cmb_plugin.anatomy.counts import lesions_of
from cmb_plugin.dataset import CasePredictions
from cmb_plugin.detections import Detections
from cmb_plugin.images import Grid
from cmb_plugin.regions.case_content import NO_BRAIN, PageContent, made_by, mars_table
from cmb_plugin.regions.case_html import case_html
from cmb_plugin.regions.case_page import case_page, lesions_on_planes, remark_lines

GRID = Grid((6, 8, 8), (2.0, 1.0, 1.0))


def content(n_lesions: int) -> PageContent:
    """Of a scan whose map is not trusted."""
    boxes = np.tile(np.array([[1, 2, 3, 3, 5, 6]], dtype=np.float32), (n_lesions, 1))
    columns = {
        name: np.array([word] * n_lesions, dtype=object)
        for name, word in (("region_group", UNKNOWN), ("nearest_group", UNKNOWN), ("nearest_region", ""), ("side", ""))
    }
    detections = Detections(boxes, np.full(n_lesions, 0.9, np.float32), np.zeros(n_lesions, np.int64), columns)
    regions = RegionMap(
        np.zeros(GRID.shape, np.uint16), GRID, {0: Place(UNKNOWN)}, "atlas:builtin", trusted=False, why="odd"
    )
    about = {"source": "atlas:builtin", "trusted": False, "possible_score": 0.35}
    case = CasePredictions("a", detections, GRID, ("cmb",), 0.45, "Model_3d", regions=about)
    words = ["definite"] * n_lesions
    return PageContent(case, words, lesions_of(detections, words), regions)


def test_sides_that_nobody_knows_are_no_zeros() -> None:
    assert [row.counts for row in mars_table(content(2))] == [(None, None, 2, 0), (None, None, 2, 0)]


def test_a_scan_without_a_brain_or_a_lesion_says_so_and_draws_no_empty_brain() -> None:
    empty = content(0)
    assert NO_BRAIN in [text.get_text() for text in case_page(empty).texts]
    assert NO_BRAIN in case_html(empty)
    assert NO_BRAIN not in case_html(content(1))


def test_the_page_says_from_which_scores_on_a_lesion_is_definite_and_possible() -> None:
    assert made_by(content(0).predictions)[-1] == "definite from score 0.45 on, possible from 0.35 on"


@pytest.mark.parametrize(
    ("certainty", "shown", "choice"),
    [
        ("ddpp", [0, 1, 2, 3], "highest score first"),
        ("dddddddpppp", [*range(9)], "9 of 11: the highest scores"),
        ("ddpdddddddp", [0, 1, 3, 4, 5, 6, 7, 8, 9], "9 of 11: the highest scores"),
        (
            "d" * 11 + "pp",
            [0, 1, 2, 3, 4, 5, 8, 9, 10],
            "9 of 13: the 6 highest scores and the 3 lowest of the definite",
        ),
    ],
)
def test_no_possible_lesion_takes_the_place_of_a_definite_one(certainty: str, shown: list[int], choice: str) -> None:
    words = [{"d": "definite", "p": "possible"}[letter] for letter in certainty]
    assert lesions_on_planes(words, 9, 3) == (shown, choice)


def test_a_page_with_hardly_any_room_shows_the_highest_score() -> None:
    assert lesions_on_planes(["definite"] * 4, 1, 3)[0] == [0]
    assert lesions_on_planes(["definite"] * 4, 3, 3)[0] == [0, 1, 3]


def test_doubts_that_have_no_room_are_counted() -> None:
    doubts = [
        f"Doubt {number}: the voxels are unlike all that the model has seen in its training scans."
        for number in range(9)
    ]
    texts = [text.get_text() for text in case_page(dataclasses.replace(content(1), flags=doubts)).texts]
    assert "9 doubts" in texts
    assert "(5 more on the HTML page)" in " ".join(texts)
    assert " ".join(remark_lines(doubts[:2], 54, 8)) == " ".join(doubts[:2])
    assert len(remark_lines(["word " * 200], 54, 8)) == 8
    assert remark_lines(["word " * 200], 54, 8)[-1].endswith("...")
    assert all(doubt in case_html(dataclasses.replace(content(1), flags=doubts)) for doubt in doubts)
