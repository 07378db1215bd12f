"""nndet_bids from a BIDS data set to a group table, and what --bids-derivatives and --dicom-out write beside it."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom")
sys.path.insert(0, str(Path(__file__).parents[1] / "intake"))
from series import write_series
from test_intake_prediction import GRID, model, volume

from cmb_plugin.commands.bids import main as bids_app
from cmb_plugin.commands.predict import main as predict_command
from cmb_plugin.images import write_image
from cmb_plugin.workers import run_cases

__all__ = ["model"]  # a fixture


def test_a_bids_app_predicts_participants_and_sums_up_the_group(model: str, tmp_path: Path, capsys) -> None:
    raw, out = tmp_path / "raw", tmp_path / "raw" / "derivatives" / "microbleeds"
    for name in ("sub-01/ses-1/anat/sub-01_ses-1_T2starw", "sub-02/anat/sub-02_T2starw", "sub-02/anat/sub-02_T1w"):
        write_image(raw / f"{name}.nii.gz", volume().astype(np.float32), GRID)
    words = [str(raw), str(out), "participant", "--task", model, "-npp", "0"]
    assert bids_app([*words, "--dry-run"]) == 0
    assert "no T2*-weighted image" in capsys.readouterr().out
    assert bids_app([*words, "--participant_label", "02"]) == 0
    assert not (out / "sub-01").exists()
    assert bids_app(words) == 0
    assert (out / "sub-01/ses-1/anat/sub-01_ses-1_desc-cmb_dseg.nii.gz").is_file()
    assert '"bids:raw:sub-01/ses-1/anat/sub-01_ses-1_T2starw.nii.gz"' in (
        out / "sub-01/ses-1/anat/sub-01_ses-1_desc-cmb_lesions.json"
    ).read_text(encoding="utf-8")
    assert bids_app([str(raw), str(out), "group"]) == 0
    lines = (out / "group_microbleeds.tsv").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[:3] for line in lines[1:]] == [["sub-01", "sub-01_ses-1", "1"], ["sub-02", "sub-02", "1"]]


def test_of_a_scan_that_cannot_be_predicted_any_more_no_result_stays(model: str, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name in ("sub-01", "sub-02"):
        write_image(raw / name / "anat" / f"{name}_T2starw.nii.gz", volume().astype(np.float32), GRID)
    words = [str(raw), str(out), "participant", "--task", model, "-npp", "0"]
    assert bids_app(words) == 0
    (raw / "sub-02/anat/sub-02_T2starw.nii.gz").write_bytes(b"")
    assert bids_app(words) == 2
    assert [path.name for path in out.glob("sub-02/anat/*")] == []
    assert bids_app([str(raw), str(out), "group"]) == 0
    lines = (out / "group_microbleeds.tsv").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in lines[1:]] == ["sub-01"]


def test_nothing_is_written_into_the_data_set_that_is_predicted(model: str, tmp_path: Path, capsys) -> None:
    raw = tmp_path / "raw"
    write_image(raw / "sub-01/anat/sub-01_T2starw.nii.gz", volume().astype(np.float32), GRID)
    (raw / "README.md").write_text("ten pages of notes", encoding="utf-8")
    before = sorted(raw.rglob("*"))
    predict = [model, "--input", str(raw), "--output", str(tmp_path / "found"), "-npp", "0", "--bids-derivatives"]
    apps = [[str(raw), str(raw), level, "--task", model] for level in ("participant", "group")]
    for main, words in [(bids_app, apps[0]), (bids_app, apps[1]), (predict_command, [*predict, str(raw)])]:
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"{raw}: is the data set that is predicted - name a folder of its own" in error
    (raw / "dataset_description.json").write_text('{"Name": "My study"}', encoding="utf-8")
    words = [model, "--input", str(raw / "sub-01/anat"), *predict[3:], str(raw)]
    assert predict_command(words) == 2
    assert "describes another data set" in capsys.readouterr().err
    assert sorted(raw.rglob("*")) == sorted([*before, raw / "dataset_description.json"])
    assert not (tmp_path / "found").exists()


class Recorded:
    """Machines that are this process; they note what they were given."""

    def __init__(self) -> None:
        self.given = []

    def run(self, function, items, description=""):
        self.given.append((description, len(items)))
        return run_cases(function, items)


def test_machines_write_the_derivatives_of_one_process(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sub-01/anat/sub-01_T2starw", "sub-02/anat/sub-02_T2starw"):
        write_image(tmp_path / "raw" / f"{name}.nii.gz", volume().astype(np.float32), GRID)
    machines, named = Recorded(), []
    monkeypatch.setattr(
        "cmb_plugin.schedulers.open_cluster", lambda text, log: named.append(text) or nullcontext(machines)
    )
    common = [str(tmp_path / "raw"), "participant", "--task", model, "-npp", "0"]
    assert bids_app([*common[:1], str(tmp_path / "one"), *common[1:]]) == 0
    assert (named, machines.given) == ([], [])
    assert bids_app([*common[:1], str(tmp_path / "many"), *common[1:], "--scheduler", "local:3"]) == 0
    assert named == ["local:3"]
    assert {count for _, count in machines.given} == {2}
    assert len(machines.given) == 2, "the scans, then their derivatives"
    one, many = (
        {
            path.relative_to(tmp_path / out): path.read_bytes()
            for path in (tmp_path / out).rglob("sub-*")
            if path.is_file()
        }
        for out in ("one", "many")
    )
    assert one == many
    assert len(one) == 2 * 6


def test_what_is_missing_is_named(model: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "sub-01").mkdir()
    assert bids_app([str(tmp_path), str(tmp_path / "out"), "participant"]) == 2
    assert "--task is missing" in capsys.readouterr().err
    assert bids_app([str(tmp_path / "sub-01"), str(tmp_path / "out"), "group"]) == 2
    assert "holds no folder sub-*" in capsys.readouterr().err


def test_a_series_gets_dicom_and_a_file_is_told_that_it_gets_none(model: str, tmp_path: Path, capsys) -> None:
    write_series(tmp_path / "in", volume(), GRID, number=4)
    out = ["--dicom-out", str(tmp_path / "dicom"), "--bids-derivatives", str(tmp_path / "bids"), "-npp", "0"]
    assert predict_command([model, "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), *out]) == 0
    assert len(list((tmp_path / "dicom").iterdir())) == 2
    assert (tmp_path / "bids/sub-P720240131s004/anat/sub-P720240131s004_desc-cmb_lesions.tsv").is_file()
    write_image(tmp_path / "a.nii.gz", volume().astype(np.float32), GRID)
    words = [model, "--input", str(tmp_path / "a.nii.gz"), "--output", str(tmp_path / "out2"), *out[:2], "-npp", "0"]
    assert predict_command(words) == 2
    assert "a.nii.gz: did not come from DICOM" in capsys.readouterr().err
