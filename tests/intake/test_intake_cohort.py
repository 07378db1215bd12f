"""Tables of scans, and several inputs at once: every row and every file becomes a case or says why it does not."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from series import write_series
from test_intake_files import SWI, save
from test_intake_prediction import GRID, model, volume  # noqa: F401 - a fixture

from cmb_plugin.commands.predict import main as predict_command
from cmb_plugin.errors import UserError
from cmb_plugin.images import write_image
from cmb_plugin.intake import TAKEN, UNUSABLE, Channels, list_input
from cmb_plugin.workflows.scan_inputs import told_apart

BOTH = Channels(("SWI", "phase"))


def write_tsv(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_table_names_cases_and_their_channels(tmp_path: Path) -> None:
    for name in ("a/swi", "a/phase", "b/swi", "b/phase"):
        save(tmp_path / f"{name}.nii.gz")
    table = write_tsv(tmp_path / "t.tsv", "case\tphase\tswi\tage", *(
        f"sub {c}\t{c}/phase.nii.gz\t{tmp_path}/{c}/swi.nii.gz\t70" for c in "ba"))  # fmt: skip
    intake = list_input(table, BOTH)
    assert [case.case_id for case in intake.cases] == ["sub_a", "sub_b"]
    first, _ = intake.sources(tmp_path / "scans")
    assert first.case.images == (tmp_path / "a/swi.nii.gz", tmp_path / "a/phase.nii.gz")
    assert {row.status for row in intake.rows} == {TAKEN}
    # What a column says counts, not what the file's name says; a path alone is refused where it shows a projection.
    (case,) = list_input(write_tsv(tmp_path / "one.csv", "CASE,swi", "x,a/phase.nii.gz"), SWI).cases
    assert (case.case_id, case.problem) == ("x", "")
    (case,) = list_input(write_tsv(tmp_path / "EXCEL.CSV", "case;path;mm", "x;a/swi.nii.gz;0,8"), SWI).cases
    assert (case.case_id, case.problem) == ("x", "")
    paths = list_input(write_tsv(tmp_path / "paths.tsv", "path", "a/swi.nii.gz", "b/phase.nii.gz"), SWI)
    assert [(row.shows, row.status) for row in paths.rows] == [("swi", TAKEN), ("unknown", TAKEN)]


def test_a_bad_row_is_a_row_with_the_reason_and_the_others_stand(tmp_path: Path) -> None:
    for name in ("a", "b_mip"):
        save(tmp_path / f"{name}.nii.gz")
    (tmp_path / "empty").mkdir()
    write_series(tmp_path / "dicom", volume(), GRID, number=4)
    table = write_tsv(tmp_path / "t.tsv", "case\tpath", "s1\ta.nii.gz", "s1\tb_mip.nii.gz", "s2\tnowhere.nii.gz",
                      "s3\t", "\ta.nii.gz", "s5\tb_mip.nii.gz", "", "s6\tempty", "s7\tdicom", "s8\tt.tsv")  # fmt: skip
    intake = list_input(table, SWI)
    problems = {case.case_id: case.problem for case in intake.cases}
    assert {name for name, problem in problems.items() if not problem} == {"s1", "a", "s7"}
    assert problems["s1_line3"] == "case s1 stands in line 2 already"
    assert problems["s2"] == f"{tmp_path}/nowhere.nii.gz: no such file"
    assert problems["s3"] == "names no scan"
    assert "projection" in problems["s5"]
    assert problems["s6"].endswith("empty: holds no scan")
    assert problems["s8"].endswith("t.tsv: is no image")
    statuses = {row.case: row.status for row in intake.rows}
    assert {name for name, status in statuses.items() if status == UNUSABLE} == {n for n, p in problems.items() if p}
    with pytest.raises(UserError, match=r"t\.tsv, line 4: .*nowhere\.nii\.gz: no such file"):
        next(s for s in intake.sources(tmp_path) if s.case.case_id == "s2").fetch()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject\tfile\ns1\ta.nii.gz\n", "has no column of scans - its first line names case, SWI, phase, separated"),
        ("case\tswi\ns1\ta.nii.gz\n", "has no column phase - "),
        ("case\tswi\tphase\n", "has no row"),
        ("", "has no row"),
        ("case\tswi\tSWI\tphase\nx\ty\tz\tz\n", "has two columns 'swi'"),
        ("case\tsw\xef".encode("latin-1"), "cannot be read"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line_with_a_remedy(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "t.tsv").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError, match=message) as raised:
        list_input(tmp_path / "t.tsv", BOTH)
    assert raised.value.remedy


def test_names_are_told_apart_by_folders_whatever_the_order() -> None:
    places = {
        (0, "scan"): ("scan", Path("/d/a/v1")),
        (1, "scan"): ("scan", Path("/d/b/v1")),
        (2, "x"): ("x", Path("/d")),
    }
    assert list(told_apart(places).values()) == ["a_v1_scan", "b_v1_scan", "x"]
    assert list(told_apart(dict(reversed(places.items()))).values()) == ["x", "b_v1_scan", "a_v1_scan"]
    same = {(0, "scan"): ("scan", Path("/d")), (1, "scan"): ("scan", Path("/d"))}
    assert list(told_apart(same).values()) == ["d_scan", "d_scan_2"]


def test_files_folders_and_tables_are_predicted_together(model: str, tmp_path: Path, capsys) -> None:  # noqa: F811
    for name in ("one/s_0000.nii.gz", "two/s_0000.nii.gz", "three/s.nii.gz", "four/t.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, volume(), GRID)
    table = write_tsv(tmp_path / "t.tsv", "case\tpath", "u\tfour/t.nii.gz", "v\tgone.nii.gz")
    inputs = [tmp_path / "one", tmp_path / "two", tmp_path / "three" / "s.nii.gz", table, tmp_path / "four",
              tmp_path / "typo.nii.gz"]  # fmt: skip
    out = tmp_path / "out"
    assert predict_command([model, "--input", *map(str, inputs), "--output", str(out), "-npp", "0"]) == 2
    with (out / "summary.tsv").open() as lines:
        rows = {row["case"]: row for row in csv.DictReader(lines, delimiter="\t")}
    assert {name: row["status"] for name, row in rows.items()} == {
        "one_s": "done", "two_s": "done", "three_s": "done", "u": "done", "v": "failed", "typo.nii.gz": "failed"
    }  # fmt: skip
    assert "no such file or folder" in rows["typo.nii.gz"]["error"]
    with (out / "inputs.tsv").open() as lines:
        whys = {row["input"]: row["why"] for row in csv.DictReader(lines, delimiter="\t")}
    assert whys[f"{tmp_path}/four/t.nii.gz"] == "it was named before"
    assert "error: v: t.tsv, line 3: " in capsys.readouterr().err
