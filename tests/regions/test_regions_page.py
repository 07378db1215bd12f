"""What a page has room for."""

from __future__ import annotations

import pytest

from cmb_plugin.regions.case_page import lesions_on_planes


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
