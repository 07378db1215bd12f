"""nndet_predict on DICOM: the lesion is found where it lies in the world; bad scans are rows."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from series import write_series

from cmb_plugin.commands.predict import main as predict_command
from cmb_plugin.dataset import read_scans
from cmb_plugin.files import read_json
from cmb_plugin.images import Grid, read_mask, read_scan, write_image

sys.path.insert(0, str(Path(__file__).parents[1] / "inference"))
from blob_detector import BlobDetector, blob
from test_inference_workflow import make_fold

from cmb_plugin.paths import ModelFolder
from cmb_plugin.plugins import trainers
from cmb_plugin.preparation import Normalisation, Preprocessing
from cmb_plugin.review.session import ReviewSession

GRID = Grid((24, 30, 28), (1.5, 1.0, 1.0), (5.0, 6.0, 7.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
CENTRE = (8.3, 9.6, 20.4)


class BlobTrainer(BlobDetector):
    """Scans of 0..1000; the detector wants 0..1."""

    @classmethod
    def load(cls, fold, device, checkpoint="last"):
        return cls((16, 16, 16), threshold=0.05)

    def detect(self, patches):
        return super().detect(patches / 1000)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    monkeypatch.setenv("det_models", str(tmp_path / "models"))
    monkeypatch.setitem(trainers._registered, "BlobTrainer", BlobTrainer)
    recipe = Preprocessing((1.5, 1.0, 1.0), normalisation=(Normalisation("none"),))
    make_fold(ModelFolder(tmp_path / "models" / "Task900_Blobs" / "BlobTrainer_Test_3d").fold(0), recipe)
    return "Task900_Blobs"


def volume() -> np.ndarray:
    lesion = 1000 * blob(GRID.shape, CENTRE, sigma=1.2 / np.asarray(GRID.spacing))
    return np.round(lesion + np.random.default_rng(0).uniform(0, 40, GRID.shape)).astype(np.uint16)


def write_study(folder: Path) -> None:
    write_series(folder / "a", volume(), GRID, number=4)
    write_series(folder / "b", volume(), GRID, number=5, description="mIP_Images(SW)", image_type=["O", "P", "MNIP"])
    files = write_series(folder / "c", volume(), GRID, number=6, StudyInstanceUID="1.2.9", PatientID="bad")
    files[7].unlink()


def test_a_lesion_in_a_dicom_series_is_found_where_it_lies(model: str, tmp_path: Path, capsys) -> None:
    write_study(tmp_path / "in")
    words = [model, "--input", str(tmp_path / "in")]
    assert predict_command([*words, "--dry-run"]) == 2  # one scan cannot be read
    shown = capsys.readouterr().out
    assert "minimum intensity projection" in shown
    assert "1 taken for 1 case, 1 passed over, 1 unusable" in shown
    assert predict_command([*words, "--dry-run", "--echo", "0"]) == 2
    assert capsys.readouterr() == ("", "error: --echo 0: there is no such echo - count them from 1\n")
    out = tmp_path / "out"
    assert not out.exists()
    assert predict_command([*words, "--output", str(out), "-npp", "0"]) == 2
    error = capsys.readouterr().err
    assert "bad_20240131_s006: series 6 (SWI_Images), 20 ms, 23 slices: slices are" in error
    found = read_json(out / "P_7_20240131_s004_boxes.json")
    expected = GRID.to_world(np.array([CENTRE]))[0]
    np.testing.assert_allclose(found["detections"][0]["centre_lps_mm"], expected, atol=0.15)
    mask, grid = read_mask(out / "P_7_20240131_s004_instances.nii.gz")
    assert grid.matches(GRID)
    assert mask[tuple(np.floor(CENTRE).astype(int))] == 1
    with (out / "summary.tsv").open() as lines:
        statuses = {row["case"]: row["status"] for row in csv.DictReader(lines, delimiter="\t")}
    assert statuses == {"P_7_20240131_s004": "done", "bad_20240131_s006": "failed"}
    assert len((out / "inputs.tsv").read_text(encoding="utf-8").splitlines()) == 4
    (image,) = read_scans(out)[1]["P_7_20240131_s004"].values()
    assert read_scan(image)[1].matches(GRID)
    review = ReviewSession.of_folder(out, "ann")  # only what was predicted
    assert list(review.cases) == ["P_7_20240131_s004"]
    shown_at = review.describe("P_7_20240131_s004")["candidates"][0]["ras_mm"]
    np.testing.assert_allclose(shown_at, expected * (-1, -1, 1), atol=0.2)


def test_an_input_without_a_scan_to_predict_is_an_error_in_earnest_too(model: str, tmp_path: Path, capsys) -> None:
    write_series(tmp_path / "in", volume(), GRID, number=5, description="mIP_Images(SW)", image_type=["O", "P", "MNIP"])
    words = [model, "--input", str(tmp_path / "in")]
    assert predict_command([*words, "--dry-run"]) == 2
    assert predict_command([*words, "--output", str(tmp_path / "out"), "-npp", "0"]) == 2
    assert capsys.readouterr().err == "error: no scan is one that the model reads - inputs.tsv says why\n"
    assert "projection" in (tmp_path / "out" / "inputs.tsv").read_text(encoding="utf-8")
    assert predict_command([*words, "--output", str(tmp_path / "out"), "--regions", "atlas:builtin", "-npp", "0"]) == 2
    assert capsys.readouterr().err == "error: no scan is one that the model reads - inputs.tsv says why\n"


def test_a_file_in_the_place_of_a_folder_of_results_is_refused_before_the_work(
    model: str, tmp_path: Path, capsys
) -> None:
    write_series(tmp_path / "in", volume(), GRID, number=4)
    (tmp_path / "file").touch()
    words = [model, "--input", str(tmp_path / "in"), "-npp", "0"]
    for targets in (["--output", "file"], ["--output", "out", "--dicom-out", "file"]):
        targets = [str(tmp_path / word) if "--" not in word else word for word in targets]
        assert predict_command([*words, *targets]) == 2
        assert capsys.readouterr().err == f"error: {tmp_path / 'file'}: is a file - name a folder for the results\n"
    assert not (tmp_path / "out").exists()


def test_a_finished_case_is_kept_until_its_series_changes(model: str, tmp_path: Path, capsys) -> None:
    (first, *_) = write_series(tmp_path / "in", volume(), GRID, number=4)
    words = [model, "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "-npp", "0"]
    assert predict_command(words) == 0
    assert predict_command(words) == 0
    assert "1 kept from" in capsys.readouterr().out
    first.write_bytes(first.read_bytes() + b"\0\0")
    assert predict_command(words) == 0
    assert "kept from" not in capsys.readouterr().out
    for scan in (tmp_path / "out" / "scans").iterdir():
        scan.unlink()
    assert predict_command(words) == 0
    assert len(list((tmp_path / "out" / "scans").iterdir())) == 1


def test_a_scan_that_its_header_places_twice_is_told(model: str, tmp_path: Path, capsys) -> None:
    path = tmp_path / "swi.nii.gz"
    write_image(path, volume(), GRID)
    image = nibabel.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 20
    image.set_sform(affine, 2)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    out = tmp_path / "out"
    assert predict_command([model, "--input", str(path), "--output", str(out), "-npp", "0"]) == 0
    assert "swi: qform and sform of its header place it differently" in capsys.readouterr().err
    assert "the qform is followed" in read_json(out / "swi_boxes.json")["warnings"][0]
