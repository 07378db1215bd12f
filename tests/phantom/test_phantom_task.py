"""``nndet_example`` and the Task folder that it writes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from cmb_plugin.commands.example import main
from cmb_plugin.dataset import Dataset, check_dataset, read_truth
from cmb_plugin.files import read_json
from cmb_plugin.paths import TaskFolder

WORDS = ["--protocol", "tiny", "--train", "2", "--test", "1", "--healthy", "0.4", "--seed", "2"]


def hashes(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> TaskFolder:
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("det_data", str(root))
        assert main(["--task", "Task100_Phantom", *WORDS, "-np", "0"]) == 0
    return TaskFolder(root / "Task100_Phantom")


@pytest.fixture
def data(task: TaskFolder, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("det_data", str(task.root.parent))
    return task.root.parent


def test_folder_passes_the_check_of_a_users_data_set(task: TaskFolder) -> None:
    dataset = Dataset.load(task)
    assert dataset.modalities == ("SWI", "PHASE")
    assert dataset.classes == ("cmb",)
    report = check_dataset(dataset, workers=0)
    assert not report.findings, report.findings
    assert report.n_healthy == {"Tr": 1, "Ts": 0}
    assert [c.case_id for c in dataset.cases("Tr")] == ["case_000", "case_001"]
    assert [c.case_id for c in dataset.cases("Ts")] == ["case_002"]


def test_truth_has_the_certainty_of_every_lesion(task: TaskFolder) -> None:
    for split in ("Tr", "Ts"):
        for case in Dataset.load(task).cases(split):
            truth = read_truth(case)
            lesions = read_json(task.extra("lesions", split) / f"{case.case_id}.json")["lesions"]
            assert len(truth) == len(lesions)
            assert list(truth.certainty or []) == [lesion["certainty"] for lesion in lesions]


def test_files_beside_share_the_scans_grid_and_world_places_are_itks(task: TaskFolder) -> None:
    for split, case in (("Tr", "case_000"), ("Ts", "case_002")):
        image = sitk.ReadImage(str(task.images(split) / f"{case}_0000.nii.gz"))
        for kind in ("regions", "brain"):
            extra = sitk.ReadImage(str(task.extra(kind, split) / f"{case}.nii.gz"))
            assert extra.GetSize() == image.GetSize()
            np.testing.assert_allclose(extra.GetOrigin(), image.GetOrigin(), atol=1e-4)
        for mimic in read_json(task.extra("mimics", split) / f"{case}.json")["mimics"][:20]:
            index = [c - 0.5 for c in mimic["centre"][::-1]]
            expected = image.TransformContinuousIndexToPhysicalPoint(index)
            np.testing.assert_allclose(mimic["centre_lps_mm"], expected, atol=0.01)


def test_any_number_of_processes_writes_the_same_files(
    task: TaskFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("det_data", str(tmp_path))
    assert main(["--task", "Task100_Phantom", *WORDS, "--num_processes", "2"]) == 0
    expected = hashes(task.root)
    assert len(expected) == 1 + 3 * 8
    assert hashes(tmp_path / "Task100_Phantom") == expected


def test_running_again_makes_only_what_is_missing(task: TaskFolder, data: Path) -> None:
    before = hashes(task.root)
    kept, lost = task.images("Tr") / "case_000_0000.nii.gz", task.extra("lesions", "Ts") / "case_002.json"
    time = kept.stat().st_mtime_ns
    lost.unlink()
    assert main([*WORDS, "-np", "0"]) == 0
    assert hashes(task.root) == before
    assert kept.stat().st_mtime_ns == time


def test_other_settings_are_refused_and_nothing_changes(
    task: TaskFolder, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hashes(task.root)
    assert main([*WORDS, "--seed", "9"]) == 2
    error = capsys.readouterr().err
    assert "seed 2, now 9" in error
    assert "--overwrite" in error
    assert hashes(task.root) == before


def test_a_folder_that_is_no_phantom_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("det_data", str(tmp_path))
    precious = tmp_path / "Task007_Mine" / "raw_splitted" / "scan.nii.gz"
    precious.parent.mkdir(parents=True)
    precious.write_text("years of work")
    assert main(["--task", "Task007_Mine", "--overwrite"]) == 2
    assert "choose another --task" in capsys.readouterr().err
    assert precious.read_text(encoding="utf-8") == "years of work"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--protocol", "dmeo"], "did you mean demo"),
        (["--protocol", ","], "no protocol named"),
        (["--modalities", "swi,flair"], "unknown modality 'flair'"),
        (["--modalities", "swi,swi"], "each modality once"),
        (["--classes", "iron"], "--classes"),
        (["--healthy", "1.5"], "--healthy 1.5"),
        (["--train", "0", "--test", "0"], "no case to make"),
        (["--seed", "-1"], "--seed -1"),
        (["--lesions", "101"], "--lesions 101"),
        (["--lesions", "-1"], "--lesions -1"),
        (["--task", "Phantom"], "Task100_Phantom"),
    ],
)
def test_wrong_words_get_one_line_and_leave_nothing(
    words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("det_data", str(tmp_path))
    assert main(words) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not any(tmp_path.iterdir())
