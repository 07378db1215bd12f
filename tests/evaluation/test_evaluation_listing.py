"""The list of detections: every one with its status, in numbers that add up."""

from __future__ import annotations

import csv

import pytest

from cmb_plugin.evaluation import EvaluationConfig, measure
from cmb_plugin.evaluation.listing import list_entries, write_entries
from cmb_plugin.images import Grid

AT_HALF = EvaluationConfig(operating_point=0.5)


def test_every_detection_and_every_missed_lesion_is_listed_with_its_status(one_of_each):
    entries = list_entries(one_of_each, AT_HALF)
    assert [(e.status, e.lesion) for e in entries] == [
        ("found", 3),
        ("false", 3),  # a duplicate: the lesion is named, 3 mm away
        ("possible", 5),
        ("below", 8),
        ("missed", 8),
        ("missed_possible", 9),
    ]
    assert [e.distance_mm for e in entries[:3]] == pytest.approx([1.0, 3.0, 1.0])
    assert entries[0].diameter_mm == pytest.approx(2.0 * 2 ** (1 / 3))


@pytest.mark.parametrize("seed", range(6))
def test_the_list_adds_up_to_the_metrics(random_cases, seed):
    cases = random_cases(seed, n_cases=10, possible=True)
    block = measure(cases, ["a", "b"], AT_HALF)["overall"]["distance"]
    statuses = [entry.status for entry in list_entries(cases, AT_HALF)]
    assert statuses.count("found") == block["true_positives"]
    assert statuses.count("false") == block["false_positives"]
    assert statuses.count("missed") == block["false_negatives"]
    assert statuses.count("possible") == block["ignored"]
    assert statuses.count("possible") + statuses.count("missed_possible") == block["n_possible"]
    assert len(statuses) - statuses.count("below") == block["n_reported"] + statuses.count("missed") + (
        statuses.count("missed_possible")
    )


def test_the_table_gives_places_in_ras_mm_and_voxels(one_of_each, tmp_path):
    grid = Grid((60, 20, 20), (2.0, 1.0, 1.0), (-5.0, 7.0, 3.0))
    path = tmp_path / "detections.tsv"
    write_entries(path, list_entries(one_of_each, AT_HALF), ["cmb"], {"a": grid})
    rows = list(csv.DictReader(path.open(), delimiter="\t"))
    # The centre of cube(5.5) is at edge 5.5, 10, 10, so 5, 9.5, 9.5 voxels from the origin; RAS negates x and y.
    assert [float(rows[0][key]) for key in ("x_ras_mm", "y_ras_mm", "z_ras_mm")] == pytest.approx([-4.5, -16.5, 13.0])
    assert [rows[0][key] for key in ("i", "j", "k", "lesion", "class")] == ["10", "10", "5", "3", "cmb"]
    assert (rows[4]["status"], rows[4]["score"], rows[4]["distance_mm"]) == ("missed", "", "")
