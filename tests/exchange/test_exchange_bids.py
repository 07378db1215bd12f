"""BIDS derivatives: names, masks, and tables whose every column is described."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from placed_case import write_prediction

from cmb_plugin.dataset import Case
from cmb_plugin.errors import UserError
from cmb_plugin.exchange import bids
from cmb_plugin.exchange.case import ExportedCase
from cmb_plugin.images import Grid, read_mask
from cmb_plugin.workflows.export import ExportTargets, export_cases

GRID = Grid((9, 12, 10), (2.0, 0.9, 0.7), (-31.5, 12.25, 40.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
SCORES = {"score_rpn": "What the detection head says.", "score_other": "Not in these predictions."}


def write(root: Path, case_id: str, **kwargs: bool) -> Path:
    write_prediction(root / "work", case_id, GRID, **kwargs)
    return bids.write_case(root / "out", ExportedCase(root / "work", case_id, Path("scan.nii.gz")), SCORES)


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def test_a_case_becomes_a_mask_and_a_table_under_its_entities(tmp_path: Path) -> None:
    table = write(tmp_path, "sub-01_ses-2_run-1")
    assert table.relative_to(tmp_path / "out").as_posix() == (
        "sub-01/ses-2/anat/sub-01_ses-2_run-1_desc-cmb_lesions.tsv"
    )
    mask, grid = read_mask(table.with_name("sub-01_ses-2_run-1_desc-cmb_dseg.nii.gz"))
    assert grid.matches(GRID)
    first, second = rows(table)
    assert [row["index"] for row in (first, second)] == ["1", "2"]
    assert (first["group"], first["region"], first["side"]) == ("lobar", "frontal", "left")
    for row in (first, second):
        assert mask[int(row["k"]), int(row["j"]), int(row["i"])] == int(row["index"])
        ras = np.array([float(row[name]) for name in "xyz"])
        centre = GRID.from_world((ras * (-1, -1, 1))[None])[0]
        assert mask[tuple(np.floor(centre).astype(int))] == int(row["index"])
    assert float(first["volume"]) == pytest.approx(18 * 2.0 * 0.9 * 0.7, abs=0.01)


def test_every_column_is_described_and_nothing_is_empty(tmp_path: Path) -> None:
    table = write(tmp_path, "sub-01", regions=False)
    described = json.loads(table.with_suffix(".json").read_text(encoding="utf-8"))
    listed = rows(table)
    assert set(listed[0]) <= set(described)
    assert all(described[name]["Description"].endswith(".") for name in listed[0] if name != "score_rpn")
    assert all(value for row in listed for value in row.values())
    assert listed[0]["group"] == "n/a"
    assert "score_other" not in listed[0]


def test_a_case_without_a_name_in_bids_is_refused_alone() -> None:
    assert bids.scan_entities("P_7_20240131_s004") == {"sub": "P720240131s004"}
    assert bids.scan_entities("sub-01_ses-2") == {"sub": "01", "ses": "2"}
    assert bids.without_name(["a_1", "b_1"]) == {}
    assert bids.without_name(["sub-01_ses-1", "sub-01_run-1", "sub-01_acq-1"]) == {}  # alike but for their entities
    refused = {case_id: str(error) for case_id, error in bids.without_name(["a_1", "患者", "a1", "b_1"]).items()}
    assert list(refused) == ["患者", "a1"]
    assert "a1: gets the name of a_1 in BIDS" in refused["a1"]
    assert "no letter and no digit" in refused["患者"]


def test_a_case_without_a_name_in_bids_stops_no_other(tmp_path: Path) -> None:
    cases = []
    for name in ("a_1", "a1", "b_1"):
        write_prediction(tmp_path / "found", name, GRID)
        cases.append(Case(name, (tmp_path / f"{name}.nii.gz",)))
    lines: list[str] = []
    targets = ExportTargets(derivatives=tmp_path / "bids")
    failed = export_cases(tmp_path / "found", cases, {}, targets, "a model", {}, lines.append)
    assert [(failure.item.case_id, failure.is_bug) for failure in failed] == [("a1", False)]
    assert sorted(path.name for path in (tmp_path / "bids").glob("sub-*")) == ["sub-a1", "sub-b1"]
    assert lines == [f"BIDS derivatives of 2 cases: {tmp_path / 'bids'}"]
    gone = export_cases(tmp_path / "found", [], {}, targets, "a model", {}, lines.append, gone=["b_1", "患者"])
    assert not gone
    assert sorted(path.parts[-3] for path in (tmp_path / "bids").rglob("*.tsv")) == ["sub-a1"]


def test_a_group_is_a_row_per_scan(tmp_path: Path) -> None:
    for name, settings in (("sub-01", {}), ("sub-02", {"empty": True}), ("sub-03", {"regions": False})):
        write(tmp_path, name, **settings)
    assert bids.write_group(tmp_path / "out") == 3
    found = rows(tmp_path / "out" / "group_microbleeds.tsv")
    assert [(row["scan"], row["microbleeds"], row["burden"], row["lobar"]) for row in found] == [
        ("sub-01", "2", "2-4", "1"),
        ("sub-02", "0", "0", "0"),
        ("sub-03", "2", "2-4", "n/a"),
    ]
    with pytest.raises(UserError, match="run the level participant first"):
        bids.write_group(tmp_path / "nowhere")


def test_the_description_says_what_made_it(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    bids.write_description(tmp_path / "raw" / "derivatives" / "cmb", "Model_3d", raw)
    content = json.loads((raw / "derivatives/cmb/dataset_description.json").read_text(encoding="utf-8"))
    assert content["DatasetType"] == "derivative"
    assert content["GeneratedBy"][0]["Name"] == "cmb_plugin"
    assert content["DatasetLinks"] == {"raw": "../.."}


OF_OTHERS = (
    {"Name": "My study", "BIDSVersion": "1.8.0", "DatasetType": "raw"},
    {"Name": "Surfaces", "BIDSVersion": "1.8.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "fMRIPrep"}]},
    {"Name": "Odd", "GeneratedBy": {"Name": "cmb_plugin"}},
)


@pytest.mark.parametrize("content", OF_OTHERS)
def test_a_data_set_of_others_is_refused_and_stays(content: dict[str, object], tmp_path: Path) -> None:
    description = tmp_path / "dataset_description.json"
    description.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=r"dataset_description.json: describes another data set.* - name a folder of"):
        bids.write_description(tmp_path, "Model_3d")
    assert json.loads(description.read_text(encoding="utf-8")) == content
    assert [path.name for path in tmp_path.iterdir()] == ["dataset_description.json"]


def test_the_predicted_data_set_is_refused_also_without_a_description(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is the data set that is predicted"):
        bids.write_description(tmp_path / "raw" / ".." / "raw", "Model_3d", tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_our_derivative_is_described_anew_and_files_of_others_stay(tmp_path: Path) -> None:
    bids.write_description(tmp_path, "Former_3d")
    bids.write_description(tmp_path, "Model_3d")
    assert all(
        "Model_3d" in (tmp_path / name).read_text(encoding="utf-8")
        for name in ("dataset_description.json", "README.md")
    )
    theirs = {"README.md": "ten pages of notes\n", ".bidsignore": "sourcedata\n*_lesions.tsv\n"}
    for name, text in theirs.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    bids.write_description(tmp_path, "Model_3d")
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in theirs} == theirs
    (tmp_path / ".bidsignore").write_text("*_lesions.tsv\nnndet\n", encoding="utf-8")  # of an earlier version
    bids.write_description(tmp_path, "Model_3d")
    assert (tmp_path / ".bidsignore").read_text(encoding="utf-8").splitlines() == list(bids.IGNORED)


def test_the_validator_of_bids_finds_no_error(tmp_path: Path) -> None:
    beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    program = shutil.which("bids-validator-deno", path=beside)
    if program is None:
        pytest.skip("bids-validator-deno is not installed (extra dev)")
    write(tmp_path, "sub-01_ses-2")
    write(tmp_path, "sub-02", empty=True)
    (tmp_path / "out" / "nndet" / "all").mkdir(parents=True)  # where nndet_bids keeps the predictions
    (tmp_path / "out" / "nndet" / "all" / "sub-02_boxes.json").write_text("{}", encoding="utf-8")
    bids.write_description(tmp_path / "out", "Model_3d")
    bids.write_group(tmp_path / "out")
    result = subprocess.run([program, str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
