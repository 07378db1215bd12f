"""Further scans of a subject, on a protocol even smaller than ``tiny``."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from cmb_plugin.commands.example import main
from cmb_plugin.dataset import Dataset
from cmb_plugin.paths import TaskFolder
from cmb_plugin.phantom import PROTOCOLS, PhantomConfig, Visit, make_case, make_visit

CONFIG = PhantomConfig(("small",), ("swi",), ("cmb",))
SMALL = dataclasses.replace(PROTOCOLS["tiny"], spacing=(4.0, 3.0, 3.0), shape=(38, 74, 62), fine=(2.8, 2.1, 2.1))
THICK = dataclasses.replace(SMALL, spacing=(6.0, 3.0, 3.0), shape=(25, 74, 62))
SEED, INDEX = 0, 5  # a subject with many lesions, some of which grow, and new ones


@pytest.fixture(scope="module", autouse=True)
def _protocols() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "small", SMALL)
        patch.setitem(PROTOCOLS, "thick", THICK)
        yield


@pytest.fixture(scope="module")
def visits() -> list[Visit]:
    return [make_visit(SEED, INDEX, CONFIG, number, 1) for number in range(2)]


def test_the_first_visit_is_the_case_without_later_ones(visits: list[Visit]) -> None:
    case = make_case(SEED, INDEX, CONFIG)
    np.testing.assert_array_equal(visits[0].case.images["swi"], case.images["swi"])
    assert visits[0].case.lesions == case.lesions


def test_the_head_lies_elsewhere_but_keeps_its_form(visits: list[Visit]) -> None:
    places = [np.array([lesion["centre_lps_mm"] for lesion in visit.lesions]) for visit in visits]
    assert np.linalg.norm(places[0] - places[1], axis=1).min() > 1
    np.testing.assert_allclose(pdist(places[0]), pdist(places[1]), atol=0.05)


def test_new_lesions_are_drawn_in_the_later_scan_alone(visits: list[Visit]) -> None:
    statuses = [[lesion["status"] for lesion in visit.lesions] for visit in visits]
    assert {"new", "stable", "grown"} == set(statuses[1])
    assert {"absent", "stable"} == set(statuses[0])
    for before, after in zip(visits[0].lesions, visits[1].lesions, strict=True):
        assert before["lesion"] == after["lesion"]
        assert (before["status"] == "absent") == (after["status"] == "new")
        assert (after["diameter_mm"] > before["diameter_mm"]) == (after["status"] == "grown")
        if before["status"] == "absent":
            assert before["instance"] is None


def test_an_instance_lies_where_the_course_says(visits: list[Visit]) -> None:
    for visit in visits:
        drawn = {lesion["instance"]: lesion for lesion in visit.case.lesions}
        named = {lesion["instance"]: lesion for lesion in visit.lesions if lesion["instance"]}
        assert set(drawn) == set(named)
        for number, lesion in named.items():
            assert drawn[number]["centre"] == lesion["centre"]


def test_another_protocol_scans_the_same_head(visits: list[Visit]) -> None:
    visit = make_visit(SEED, INDEX, CONFIG, 1, 1, protocol="thick")
    assert visit.case.grid.spacing == THICK.spacing
    assert visit.case.protocol == "thick"
    assert visit.case.lesions
    places = [np.array([lesion["centre_lps_mm"] for lesion in v.lesions if lesion["status"] != "new"])
              for v in (visits[1], visit)]  # fmt: skip
    np.testing.assert_allclose(pdist(places[0]), pdist(places[1]), atol=0.05)


def test_the_command_writes_all_scans_and_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("det_data", str(tmp_path))
    words = ["--protocol", "small", "--train", "1", "--test", "0", "--seed", "4", "--modalities", "swi", "-np", "0"]
    assert main(["--task", "Task101_Later", *words, "--followup", "1"]) == 0
    task = TaskFolder(tmp_path / "Task101_Later")
    dataset = Dataset.load(task)
    assert dataset.session_id == dict.fromkeys(("case_000", "case_000_visit1"), "case_000")
    with (task.root / "visits.tsv").open(encoding="utf-8") as file:
        visits = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["subject"], row["visit"]) for row in visits] == [("case_000", "0"), ("case_000", "1")]
    assert all((task.root / row["scan"]).is_file() for row in visits)
    with (task.root / "followup.tsv").open(encoding="utf-8") as file:
        truth = list(csv.DictReader(file, delimiter="\t"))
    assert {row["status"] for row in truth} <= {"absent", "new", "stable", "grown"}
    assert len({(row["case"], row["lesion"]) for row in truth}) == len(truth)


def test_a_later_protocol_without_later_scans_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("det_data", str(tmp_path))
    assert main(["--followup-protocol", "valdo3"]) == 2
    assert "--followup N" in capsys.readouterr().err
    assert main(["--followup", "-1"]) == 2
    assert "--followup -1" in capsys.readouterr().err
