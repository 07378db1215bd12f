"""Counts of cases worked by hand, and rules that hold for any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmb_plugin.anatomy.counts import (
    COHORT_COLUMNS,
    SUB_REGIONS,
    Lesion,
    burden,
    cohort_row,
    lesions_of,
    number,
    pattern,
    summary,
)
from cmb_plugin.detections import Detections

ALL = {region for regions in SUB_REGIONS.values() for region in regions}
FRONTAL = Lesion("lobar", "frontal", "left")
THALAMUS = Lesion("deep", "thalamus", "right")
PONS = Lesion("infratentorial", "brainstem", "right")
CEREBELLUM = Lesion("infratentorial", "cerebellum", "left")
BELOW = Lesion("infratentorial")  # an atlas without sub-regions
NOWHERE = Lesion("unknown")


@pytest.mark.parametrize(
    ("lesions", "name"),
    [
        ([], "none"),
        ([FRONTAL, FRONTAL], "strictly lobar"),
        ([FRONTAL, CEREBELLUM], "strictly lobar"),  # Boston 2.0: the cerebellum is neither
        ([THALAMUS], "strictly deep"),
        ([PONS], "strictly deep"),
        ([THALAMUS, CEREBELLUM, BELOW], "strictly deep"),
        ([FRONTAL, PONS], "mixed"),
        ([FRONTAL, THALAMUS, NOWHERE, BELOW], "mixed"),
        ([CEREBELLUM], "cerebellar only"),
        ([FRONTAL, BELOW], "undetermined"),
        ([BELOW], "undetermined"),
        ([FRONTAL, NOWHERE], "undetermined"),
        ([FRONTAL, Lesion("deep", certainty="possible")], "strictly lobar"),  # only definite ones decide
    ],
)
def test_pattern_by_the_boston_criteria(lesions: list[Lesion], name: str) -> None:
    assert pattern(lesions)[0] == name


@pytest.mark.parametrize(("count", "category"), [(0, "0"), (1, "1"), (2, "2-4"), (4, "2-4"), (5, ">=5"), (83, ">=5")])
def test_burden(count: int, category: str) -> None:
    assert burden(count) == category


def test_a_scan_counted_by_hand() -> None:
    possible = Lesion("lobar", "frontal", "left", "possible")
    counts = summary(
        [FRONTAL, FRONTAL, Lesion("lobar", "frontal", "right"), THALAMUS, CEREBELLUM, BELOW, possible], ALL
    )
    assert counts["total"] == {"definite": 6, "possible": 1}
    assert counts["groups"]["lobar"] == {"definite": 3, "possible": 1}
    assert counts["groups"]["infratentorial"]["definite"] == 2
    assert counts["sides"]["left"] == {"definite": 3, "possible": 1}
    assert counts["sides"]["unknown"]["definite"] == 1
    assert (counts["burden"], counts["pattern"]["name"]) == (">=5", "mixed")
    assert counts["aria_h"]["microhaemorrhages"] == 6
    assert counts["aria_h"]["severity"] is None
    assert "new ones against a baseline" in counts["aria_h"]["note"]
    rows = {(row["group"], row["region"]): row for row in counts["mars"]}
    assert rows["lobar", "frontal"]["left"] == {"definite": 2, "possible": 1}
    assert rows["infratentorial", "unknown"]["unknown_side"]["definite"] == 1
    assert set(SUB_REGIONS["deep"]) <= {region for group, region in rows if group == "deep"}


def test_possible_lesions_are_not_counted_where_nobody_says_which_are() -> None:
    assert summary([FRONTAL], ALL, possible_known=False)["total"] == {"definite": 1, "possible": None}
    assert cohort_row([FRONTAL], ALL, possible_known=False)["possible"] is None


def test_sub_regions_that_a_map_does_not_tell_apart_are_not_said_to_be_empty() -> None:
    counts = summary([Lesion("lobar", "", "left"), THALAMUS], {"thalamus", "basal ganglia"})
    rows = [(row["group"], row["region"]) for row in counts["mars"]]
    deep = [("deep", "basal ganglia"), ("deep", "thalamus")]
    assert rows == [("infratentorial", "unknown"), *deep, ("lobar", "unknown")]
    row = cohort_row([THALAMUS], {"thalamus", "basal ganglia"})
    assert (row["thalamus"], row["basal_ganglia"], row["frontal"]) == (1, 0, None)


places = st.sampled_from([(group, region) for group, regions in SUB_REGIONS.items() for region in (*regions, "")])
lesions = st.builds(
    lambda place, side, certainty: Lesion(*place, side, certainty),
    st.one_of(places, st.just(("unknown", ""))),
    st.sampled_from(["left", "right", ""]),
    st.sampled_from(["definite", "possible"]),
)


@given(st.lists(lesions, max_size=30), st.sets(st.sampled_from(sorted(ALL))))
def test_no_lesion_is_lost_or_counted_twice(lesions: list[Lesion], known: set[str]) -> None:
    counts = summary(lesions, known)
    for word in ("definite", "possible"):
        total = counts["total"][word]
        assert total == number(lesions, certainty=word)
        assert total == sum(group[word] for group in counts["groups"].values())
        assert total == sum(side[word] for side in counts["sides"].values())
        assert total == sum(row[side][word] for row in counts["mars"] for side in ("right", "left", "unknown_side"))
    assert set(cohort_row(lesions, known)) == set(COHORT_COLUMNS)


def test_a_lesion_beside_the_brain_counts_where_it_is_nearest_to() -> None:
    located = Detections(
        np.zeros((3, 6)), np.zeros(3), np.zeros(3),
        {
            "region_group": np.array(["outside", "unknown", "deep"]),
            "nearest_group": np.array(["lobar", "unknown", "deep"]),
            "nearest_region": np.array(["frontal", "", "thalamus"]),
            "side": np.array(["left", "", "right"]),
        },
    )  # fmt: skip
    assert lesions_of(located, ["definite", "possible", ""]) == [FRONTAL, Lesion("unknown", certainty="possible")]


def test_a_scan_without_a_detection_holds_no_lesion() -> None:
    """As it is read from its file, where columns stand in the rows of the detections only."""
    assert lesions_of(Detections(np.zeros((0, 6)), np.zeros(0), np.zeros(0)), []) == []
