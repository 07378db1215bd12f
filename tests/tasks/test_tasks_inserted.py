"""``nndet_example --into``: a Task folder made of somebody's own scans."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from cmb_plugin.commands.example import main
from cmb_plugin.dataset import Dataset, check_dataset
from cmb_plugin.files import read_json
from cmb_plugin.images import Grid, read_stored, write_image
from cmb_plugin.paths import TaskFolder

GRID = Grid((18, 48, 44), (2.0, 1.0, 1.0), origin=(3.0, -5.0, 7.0))


def block(seed: int) -> np.ndarray:
    """A piece of a brain, int16, with noise."""
    return np.random.default_rng(seed).normal(400, 15, GRID.shape).round().astype(np.int16)


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    folder = tmp_path / "scans"
    for number, name in enumerate(("sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1")):
        write_image(folder / f"{name}.nii.gz", block(number), GRID)
    (folder / "sub-02_ses-1.json").write_text(json.dumps({"EchoTime": 0.03, "MagneticFieldStrength": 1.5}))
    return folder


def make(scans: Path, *options: str) -> int:
    return main(["--into", str(scans), "--modalities", "t2s", "--healthy", "0.25", "-np", "0", *options])


def test_folder_passes_the_check_and_keeps_sessions_and_copies_of_a_subject_together(scans: Path) -> None:
    assert make(scans, "--copies", "2", "--test", "1") == 0
    task = TaskFolder(scans.parent / "data" / "Task102_Inserted")
    dataset = Dataset.load(task)
    report = check_dataset(dataset, workers=0)
    assert not report.findings, report.findings
    assert report.n_healthy == {"Tr": 1, "Ts": 1}
    train = [c.case_id for c in dataset.cases("Tr")]
    assert train == ["sub-01_ses-1_c0", "sub-01_ses-1_c1", "sub-01_ses-2_c0", "sub-01_ses-2_c1"]
    assert set(dataset.patients(train).values()) == {"sub-01"}
    assert [c.case_id for c in dataset.cases("Ts")] == ["sub-02_ses-1_c0", "sub-02_ses-1_c1"]
    record = read_json(task.extra("lesions", "Ts") / "sub-02_ses-1_c0.json")
    assert (record["echo_ms"], record["field_tesla"]) == (30.0, 1.5)
    for case in dataset.cases("Tr"):
        source, _ = read_stored(scans / f"{case.case_id[:-3]}.nii.gz")
        made, grid = read_stored(case.images[0])
        assert made.dtype == np.int16
        assert grid.matches(GRID)
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(case.label)))
        changed = made != source
        assert changed.mean() < 0.5
        assert changed[mask > 0].mean() > 0.8 if mask.any() else not changed.any()


def test_running_again_keeps_finished_cases_and_other_settings_are_refused(
    scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(scans) == 0
    assert make(scans) == 0
    assert "0 cases made" in capsys.readouterr().out
    assert make(scans, "--seed", "1") == 2
    assert "other settings" in capsys.readouterr().err
    assert make(scans, "--seed", "1", "--overwrite") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--modalities", "qsm"], "lesions can be put into"),
        (["--modalities", "phase,swi"], "a magnitude first"),
        (["--modalities", "t2s,phase"], "1 files for the modalities"),
        (["--mimics", "-1"], "too small"),
    ],
)
def test_what_cannot_be_is_an_error_of_one_line(
    scans: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(scans, *options) == 2
    assert message in capsys.readouterr().err


def test_a_scan_that_is_no_magnitude_is_refused(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(scans / "sub-01_ses-1.nii.gz", block(0) - 400, GRID)
    assert make(scans) == 2
    assert "is no magnitude" in capsys.readouterr().out
