"""``nndet_follow`` on scans that are predicted already, and the ways to name scans."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from heads import OWN, make_head, rigid, seen, write_visit

from cmb_plugin.commands.follow import main
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.followup.sources import (
    TimePoint,
    came_back,
    persons_of_bids,
    persons_of_folders,
    time_points_of_table,
    visit_names,
)
from cmb_plugin.followup.visits import Person, Visit
from cmb_plugin.paths import TaskFolder
from cmb_plugin.workflows.follow import Predictor, follow
from cmb_plugin.workflows.predict import PredictOptions, PredictReport
from cmb_plugin.workflows.scan_selection import Selected

MOVED = rigid((4, 1, -2), (3, -4, 5))
OLD, NEW, FAINT = (np.array(place) for place in ([20.0, 10, 15], [-25.0, 5, 20], [5.0, -30, -10]))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Person a with two scans, b whose second scan is somebody else's, c whose second scan is missing, d with one."""
    root = tmp_path_factory.mktemp("cohort")
    head = make_head(1)
    now = [np.array(MOVED.GetInverse().TransformPoint(place.tolist())) for place in (OLD, NEW, FAINT)]
    write_visit(root, "a_1", seen(head, OWN), OWN, [(OLD, 0.9), (FAINT, 0.4)])
    write_visit(root, "a_2", seen(head, OWN, MOVED, 1), OWN, [(now[0], 0.8), (now[1], 0.7), (now[2], 0.6)])
    write_visit(root, "b_2", seen(make_head(2), OWN), OWN, [(OLD, 0.9)])
    rows = ["subject\tvisit\tcase\tscan"]
    for person, visit, case in (("a", 1, "a_1"), ("a", 2, "a_2"), ("b", 1, "a_1x"), ("b", 2, "b_2"), ("c", 1, "c_1")):
        rows.append(f"{person}\t{visit}\t{case}\tscans/{case.removesuffix('x')}_0000.nii.gz")
    rows += ["c\t2\tc_2\tscans/c_2_0000.nii.gz", "d\t1\td_1\tscans/a_1_0000.nii.gz"]
    found = root / "found"
    for name in ("a_1x", "c_1", "d_1"):
        (found / f"{name}_boxes.json").write_bytes((found / "a_1_boxes.json").read_bytes())
    (root / "scans" / "c_1_0000.nii.gz").write_bytes((root / "scans" / "a_1_0000.nii.gz").read_bytes())
    (root / "visits.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def output(cohort: Path) -> Path:
    words = [str(cohort / "visits.tsv"), "--predictions", str(cohort / "found"), "--output", str(cohort / "out")]
    assert main(words) == 2  # b, c and d have something to repair
    return cohort / "out"


def test_a_row_for_each_later_scan_says_what_became_of_it(output: Path) -> None:
    rows = {row["person"]: row for row in rows_of(output / "followup.tsv")}
    assert {name: row["status"] for name, row in rows.items()} == {
        **{"a": "compared", "b": "refused", "c": "failed", "d": "failed"}
    }
    one = rows["a"]
    assert (one["new"], one["stable"], one["gone"], one["aria_h"]) == ("1", "2", "0", "mild")
    assert one["why"] == ""
    assert float(one["tolerance_mm"]) == pytest.approx(2 + 1.5 + 2 * float(one["error_mm"]), abs=0.01)
    assert "same head" in rows["b"]["why"]
    assert "c_2_0000.nii.gz: no such file" in rows["c"]["why"]
    assert rows["d"]["why"].startswith("there is one time point only")


def test_lesions_have_their_places_in_both_scans(output: Path) -> None:
    rows = [row for row in rows_of(output / "lesions.tsv") if row["person"] == "a"]
    assert sorted(row["status"] for row in rows) == ["new", "stable", "stable"]
    (new,) = (row for row in rows if row["status"] == "new")
    expected = NEW * (-1, -1, 1)
    measured = [float(new[f"{axis}_first_ras_mm"]) for axis in "xyz"]
    assert np.linalg.norm(np.array(measured) - expected) < 1.5
    assert float(new["score_before"]) == 0
    faint = next(row for row in rows if row["score_before"] == "0.4000")
    assert faint["status"] == "stable"


def test_the_file_and_the_picture_of_a_person(output: Path) -> None:
    content = read_json(output / "a_followup.json")
    assert [visit["status"] for visit in content["visits"]] == ["baseline", "compared"]
    assert content["rules"]["evidence"] == 0.25
    assert (output / "a_new.png").stat().st_size > 10_000
    assert not (output / "b_new.png").exists()


def test_running_again_keeps_what_is_the_same(output: Path, cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (output / "a_followup.json").stat().st_mtime_ns
    words = [str(cohort / "visits.tsv"), "--predictions", str(cohort / "found"), "--output", str(output)]
    assert main(words) == 2
    printed = capsys.readouterr()
    assert "kept from an earlier run" in printed.out
    assert sum(line.startswith("error:") for line in printed.err.splitlines()) == 3
    assert (output / "a_followup.json").stat().st_mtime_ns == before


def test_folders_are_joined_by_the_names_of_cases(cohort: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("t1", "t2")]
    for folder, cases in zip(folders, (("a", "b"), ("b", "c")), strict=True):
        folder.mkdir()
        for case in cases:
            (folder / f"{case}_boxes.json").write_bytes((cohort / "found" / "a_1_boxes.json").read_bytes())
    persons = persons_of_folders(folders, [cohort / "scans"] * 2)
    assert {p.name: [v.boxes.is_file() for v in p.visits] for p in persons} == {
        **{"a": [True, False], "b": [True, True], "c": [False, True]}
    }
    with pytest.raises(UserError, match="--scans"):
        persons_of_folders(folders, [])
    with pytest.raises(UserError, match="holds no predictions"):
        persons_of_folders([folders[0], cohort], [cohort, cohort])


def test_no_later_folder_takes_the_place_of_a_baseline_that_is_missing(cohort: Path, tmp_path: Path) -> None:
    folders, scans = [tmp_path / name for name in ("t1", "t2", "t3")], tmp_path / "scans"
    scans.mkdir()
    for case in "ab":
        (scans / f"{case}.nii.gz").write_bytes((cohort / "scans" / "a_1_0000.nii.gz").read_bytes())
    for folder, cases in zip(folders, ("a", "ab", "b"), strict=True):
        folder.mkdir()
        for case in cases:
            (folder / f"{case}_boxes.json").write_bytes((cohort / "found" / "a_1_boxes.json").read_bytes())
    words = [*map(str, folders), "--scans", *[str(scans)] * 3, "--output", str(tmp_path / "out")]
    assert main(words) == 2
    rows = [(row["person"], row["visit"], row["status"]) for row in rows_of(tmp_path / "out" / "followup.tsv")]
    assert rows == [("a", "t2", "compared"), ("a", "t3", "failed"), ("b", "", "failed")]


def test_sessions_come_in_the_order_of_time(tmp_path: Path) -> None:
    scans = {f"sub-1_ses-{name}": tmp_path / f"{name}.nii.gz" for name in ("10", "2", "1")}
    (person,) = persons_of_bids(tmp_path, scans, tmp_path)
    assert [visit.name for visit in person.visits] == ["ses-1", "ses-2", "ses-10"]
    times = {"ses-1": "2024-05-01", "ses-2": "2022-05-01", "ses-10": "2023-05-01"}
    table = tmp_path / "sub-1" / "sub-1_sessions.tsv"
    table.parent.mkdir()
    lines = ["session_id\tacq_time", *(f"{name}\t{time}" for name, time in times.items())]
    table.write_text("\n".join(lines), encoding="utf-8")
    (person,) = persons_of_bids(tmp_path, scans, tmp_path)
    assert [visit.name for visit in person.visits] == ["ses-2", "ses-10", "ses-1"]
    table.write_text("\n".join(lines[:-1]), encoding="utf-8")  # when session 10 was is not known: not before all others
    (person,) = persons_of_bids(tmp_path, scans, tmp_path)
    assert [visit.name for visit in person.visits] == ["ses-1", "ses-2", "ses-10"]


@pytest.mark.parametrize(
    ("times", "order"),
    [
        (("2024-03-01T10:00:00", "2024-03-01T09:00:00.500"), ["ses-b", "ses-a"]),
        (("2024-03-01T23:00:00-05:00", "2024-03-02T01:00:00Z"), ["ses-b", "ses-a"]),  # 4:00 and 1:00 in UTC
        (("2024-03-01T23:00:00 ", "2024-02-01T01:00:00Z"), ["ses-b", "ses-a"]),
        (("03/12/2023", "02/06/2024"), ["ses-a", "ses-b"]),  # as Excel writes them: not in the order of text
    ],
)
def test_times_are_compared_as_times(times: tuple[str, str], order: list[str], tmp_path: Path) -> None:
    scans = {f"sub-1_ses-{name}": tmp_path / f"{name}.nii.gz" for name in "ab"}
    (tmp_path / "sub-1").mkdir()
    lines = ["session_id\tacq_time", f"ses-a\t{times[0]}", f"ses-b\t{times[1]}"]
    (tmp_path / "sub-1" / "sub-1_sessions.tsv").write_text("\r\n".join(lines), encoding="utf-8-sig")
    (person,) = persons_of_bids(tmp_path, scans, tmp_path)
    assert [visit.name for visit in person.visits] == order


def test_who_has_one_session_of_a_data_set_is_named_and_no_failure(tmp_path: Path) -> None:
    names = ("sub-1_ses-1", "sub-1_ses-2", "sub-2_ses-1", "sub-3_ses-2_run-1", "sub-3_ses-2_run-2")
    scans = dict.fromkeys((*names, "sub-4_run-1", "sub-4_run-2"), tmp_path)
    persons = persons_of_bids(tmp_path, scans, tmp_path)
    again, once = came_back(persons, tmp_path)
    assert [person.name for person in again] == ["sub-1"]
    assert once == ["sub-2", "sub-3", "sub-4"]
    with pytest.raises(UserError, match="nobody has two sessions"):
        came_back(persons[1:], tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "subject\tvisit\tscan\na\t1\tx.nii,y.nii\n",
        "\ufeffCase;Scan ;Subject;Visit;\r\n;x.nii,y.nii;a;1;\r\n;;;;\r\n",
        'subject,visit,scan\na,1,"x.nii,y.nii"\n',
    ],
)
def test_a_table_is_read_as_spreadsheets_save_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    path.write_text(text, encoding="utf-8", newline="")
    (point,) = time_points_of_table(path)
    assert (point.person, point.visit, point.case, point.problem) == ("a", "1", "a_1", "")
    assert point.files == (tmp_path / "x.nii", tmp_path / "y.nii")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("subject\tvisit\n", "no column"),
        ("subject\tvisit\tscan\n", "no column"),
    ],
)
def test_a_wrong_table_is_one_line(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "visits.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=expected):
        time_points_of_table(path)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("a\t1\t\n", "line 2 lacks"),
        ("\t1\tx.nii\n", "line 2 lacks"),
        ("a/b\t1\tx.nii\n", "no name for files"),
        ("a\t1\tx.nii\n\t\t\na\t1\ty.nii\n", "line 4 is a_1 as line 2"),
    ],
)
def test_a_wrong_row_is_a_time_point_with_a_problem(rows: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "visits.tsv"
    path.write_text(f"subject\tvisit\tscan\n{rows}good\t1\tx.nii\n", encoding="utf-8")
    *_, bad, good = time_points_of_table(path)
    assert expected in bad.problem
    assert not good.problem


def test_a_wrong_row_does_not_stop_the_persons_beside(cohort: Path, tmp_path: Path) -> None:
    scans = (cohort / "scans").as_posix()
    rows = ["subject\tvisit\tcase\tscan", "../x\t1\tx\ty.nii.gz", "e\t1\ta_1\t", f"e\t2\ta_2\t{scans}/a_2_0000.nii.gz"]
    rows += [f"f\t{number}\ta_{number}b\t{scans}/a_{number}_0000.nii.gz" for number in (1, 2)]
    table, found = tmp_path / "visits.tsv", tmp_path / "found"
    table.write_text("\n".join(rows), encoding="utf-8")
    found.mkdir()
    for number in (1, 2):
        (found / f"a_{number}b_boxes.json").write_bytes((cohort / "found" / f"a_{number}_boxes.json").read_bytes())
    assert main([str(table), "--predictions", str(found), "--output", str(tmp_path / "out")]) == 2
    became = {row["person"]: (row["status"], row["why"]) for row in rows_of(tmp_path / "out" / "followup.tsv")}
    assert {name: status for name, (status, _) in became.items()} == {"../x": "failed", "e": "failed", "f": "compared"}
    assert "no name for files" in became["../x"][1]
    assert "line 3 lacks" in became["e"][1]


def test_what_a_rule_removed_is_not_counted_as_reported(cohort: Path, tmp_path: Path) -> None:
    found = tmp_path / "found"
    found.mkdir()
    for number in (1, 2):
        content = read_json(cohort / "found" / f"a_{number}_boxes.json")
        content["detections"][0] |= {"removed": "outside the brain", "reported": False, "instance": None}
        write_json(found / f"a_{number}_boxes.json", content)
    words = [str(cohort / "visits.tsv"), "--predictions", str(found), "--output", str(tmp_path / "out")]
    assert main(words) == 2
    visits = read_json(tmp_path / "out" / "a_followup.json")["visits"]
    assert [visit["reported"] for visit in visits] == [0, 2]


def test_who_cannot_be_compared_any_more_leaves_no_result(cohort: Path, tmp_path: Path) -> None:
    """A person whose name begins like another one's with new lesions keeps the pictures."""
    visits = [Visit(name, name, cohort / "scans" / f"{name}_0000.nii.gz", cohort / "found" / f"{name}_boxes.json")
              for name in ("a_1", "a_2")]  # fmt: skip
    persons = [Person(name, tuple(visits)) for name in ("a_new", "a")]
    assert follow(persons, tmp_path).exit_code == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {"a_new.png", "a_new_new.png"}
    persons[1] = Person("a", (replace(visits[0], scan=tmp_path / "lost.nii.gz"), visits[1]))
    assert follow(persons, tmp_path).exit_code == 2
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".tsv"} == {
        *("a_new_followup.json", "a_new_new.png")
    }


def test_scores_of_another_operating_point_are_compared_with_a_warning(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, point in ((1, 0.5), (2, 0.3)):
        content = read_json(cohort / "found" / f"a_{number}_boxes.json")
        write_json(tmp_path / f"t{number}" / f"a_{number}_boxes.json", {**content, "operating_point": {"score": point}})
    scans = str(cohort / "scans")
    words = [str(tmp_path / "t1"), str(tmp_path / "t2"), "--scans", scans, scans, "--output", str(tmp_path / "out")]
    assert main(words) == 0
    (row,) = rows_of(tmp_path / "out" / "followup.tsv")
    assert row["status"] == "compared"
    assert "another operating point (0.3) than the baseline (0.5)" in row["why"]
    assert f"warning: a_1, t2: {row['why']}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["nowhere.nii.gz", "x.nii.gz"], "no such file"),
        (["one.nii.gz"], "one time point"),
        (["one.nii.gz", "one.nii.gz"], "--task is missing"),
        (["."], "one time point"),
        (["one.nii.gz", "one.nii.gz", "--person", "../x"], "no name for files"),
    ],
)
def test_wrong_words_are_one_line(
    inputs: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.nii.gz").write_bytes(b"")
    assert main([*inputs, "--output", "out"]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


def test_scans_named_one_by_one_are_predicted_under_their_names(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of a missing scan are left out, those of the others are linked with their numbers."""
    seen_folders = []

    def remember(self: Predictor, scans: Path, folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
        seen_folders.append((sorted(path.name for path in scans.iterdir()), folder.name))
        return {}, {"d_1": "is damaged"}

    monkeypatch.setattr(Predictor, "_run", remember)
    points = time_points_of_table(cohort / "visits.tsv")[-3:]
    points.append(TimePoint("d", "2", "d_2", (cohort / "visits.tsv",)))
    persons = Predictor(None, None, None, print).points(points, tmp_path)  # type: ignore[arg-type]
    assert seen_folders == [(["c_1_0000.nii.gz", "d_1_0000.nii.gz"], "predictions")]
    assert [(person.name, len(person.visits)) for person in persons] == [("c", 2), ("d", 2)]
    damaged, table = persons[1].visits
    assert damaged.problem == "is damaged"
    assert "is no image file" in table.problem


def test_an_examination_that_cannot_be_read_is_a_visit_with_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Predictor, scans: Path, folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
        if scans.name == "empty":
            raise UserError("holds no scan")
        return dict.fromkeys(("x", "y") if scans.name == "two" else ("x",), scans), {}

    monkeypatch.setattr(Predictor, "_run", run)
    predictor = Predictor(None, None, None, print)  # type: ignore[arg-type]
    (person,) = predictor.paths([tmp_path / name for name in ("one", "empty", "two")], "p", tmp_path)
    assert [visit.name for visit in person.visits] == ["one", "empty", "two"]
    assert [visit.problem.partition(" - ")[0] for visit in person.visits] == [
        *("", "holds no scan", f"{tmp_path / 'two'}: holds 2 scans that the model can read")
    ]


def test_what_prediction_doubts_is_said_here_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = PredictReport(remarks=["a: Pixels of 1.2 mm: small lesions may be missed."])
    monkeypatch.setattr("cmb_plugin.workflows.predict.predict", lambda *_, **__: report)
    monkeypatch.setattr("cmb_plugin.workflows.follow.select_for", lambda *_: Selected([]))
    lines: list[str] = []
    Predictor(TaskFolder(tmp_path), None, PredictOptions(), lines.append)._run(tmp_path, tmp_path)  # type: ignore[arg-type]
    assert lines == ["warning: a: Pixels of 1.2 mm: small lesions may be missed."]


def test_names_tell_time_points_apart() -> None:
    assert visit_names(["a", "b"]) == ["a", "b"]
    assert visit_names(["scan", "scan"]) == ["1_scan", "2_scan"]
