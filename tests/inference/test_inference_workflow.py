"""nndet_predict from folders to files, with a detector of bright blobs in place of a trained network."""

import csv
import json
import shutil
from typing import ClassVar

import numpy as np
import pytest
from blob_detector import BlobDetector, blob
from by_name import predict

from cmb_plugin.commands.boxes2nii import main as boxes2nii
from cmb_plugin.commands.predict import main as predict_command
from cmb_plugin.commands.seg2nii import main as seg2nii
from cmb_plugin.dataset.predictions import CasePredictions, instances_file, write_case_predictions
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import Grid, read_mask, voxels_of_instances, write_image
from cmb_plugin.inference import InferenceConfig
from cmb_plugin.paths import ModelFolder, TaskFolder
from cmb_plugin.planning import Anchors, Architecture, Plan
from cmb_plugin.plugins import trainers
from cmb_plugin.preparation import Normalisation, Preprocessing, preprocess_case, save_case
from cmb_plugin.settings import write_settings

GRID = Grid((24, 30, 30), (1.5, 1.0, 1.0), (5.0, 6.0, 7.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
LESIONS = [(8.3, 9.6, 20.4), (15.0, 21.2, 9.9)]
RECIPE = Preprocessing((1.5, 1.0, 1.0), normalisation=(Normalisation("none"),))


@pytest.fixture(autouse=True)
def blob_trainer(monkeypatch):
    """Registers the detector as a trainer, so that folders find it by the name in settings.yaml."""

    class BlobTrainer(BlobDetector):
        loaded: ClassVar[list] = []

        @classmethod
        def load(cls, fold, device, checkpoint="last"):
            cls.loaded.append((fold.root.name, checkpoint))
            return cls((16, 16, 16), threshold=0.05)

    monkeypatch.setitem(trainers._registered, "BlobTrainer", BlobTrainer)
    return BlobTrainer


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A task with two test scans, and a model of two folds."""
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    monkeypatch.setenv("det_models", str(tmp_path / "models"))
    folder = TaskFolder(tmp_path / "data" / "Task900_Blobs")
    write_scan(folder.images("Ts") / "sub-01_ses-2_0000.nii.gz", LESIONS)
    write_scan(folder.images("Ts") / "sub.2_0000.nii.gz", LESIONS[:1])
    model = ModelFolder(tmp_path / "models" / folder.name / "BlobTrainer_Test_3d")
    for number in (0, 1):
        make_fold(model.fold(number))
    return folder


def make_fold(fold, recipe=RECIPE):
    architecture = Architecture((8,), ((1, 1, 1),), ((3, 3, 3),), (1,), 8, (0,))
    plan = Plan("Test_3d", "Test", "Task900_Blobs", ("swi",), ("cmb",), recipe, (16, 16, 16), 1, architecture,
                Anchors((((3.0, 3.0, 3.0),),)), 1.0, 0.1)  # fmt: skip
    plan.save(fold.plan)
    write_settings(fold.settings, {"module": "BlobTrainer", "additional_imports": []})
    write_json(fold.splits, [{"train": ["tr2"], "val": ["tr1"]}, {"train": ["tr1"], "val": ["tr2"]}])
    fold.last.write_bytes(fold.root.name.encode())
    fold.best.write_bytes(b"best")


def write_scan(path, centres, grid=GRID):
    image = np.max([blob(grid.shape, centre, sigma=1.2 / np.asarray(grid.spacing)) for centre in centres], axis=0)
    write_image(path, image.astype(np.float32), grid)


def model_folder(tmp_path):
    return ModelFolder(tmp_path / "models" / "Task900_Blobs" / "BlobTrainer_Test_3d")


def table(path):
    with path.open() as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_test_scans_are_found_in_their_own_space(task, tmp_path):
    report = predict("Task900_Blobs")
    folder = model_folder(tmp_path).consolidated.predictions("test")
    assert (report.folders, report.predicted, report.lesions, report.exit_code) == ([folder], 2, 3, 0)
    found = read_json(folder / "sub-01_ses-2_boxes.json")
    assert (found["model"], found["folds"]) == ("BlobTrainer_Test_3d", [0, 1])
    centres = np.array([row["centre"] for row in found["detections"]])
    np.testing.assert_allclose(centres[np.argsort(centres[:, 0])], LESIONS, atol=0.1)
    mask, grid = read_mask(folder / "sub-01_ses-2_instances.nii.gz")
    assert grid.matches(GRID)
    assert sorted(voxels_of_instances(mask)) == [1, 2]
    for row in found["detections"]:
        assert mask[tuple(np.floor(row["centre"]).astype(int))] == row["instance"]
    assert [(row["case"], row["status"], row["reported"]) for row in table(folder / "summary.tsv")] == [
        ("sub-01_ses-2", "done", "2"),
        ("sub.2", "done", "1"),
    ]
    assert len(table(folder / "lesions.tsv")) == 3


def test_one_fold_uses_its_last_checkpoint_and_nothing_else(task, tmp_path, blob_trainer):
    predict("900", fold=1)
    assert blob_trainer.loaded == [("fold1", "last")]
    assert (model_folder(tmp_path).fold(1).predictions("test") / "run.json").is_file()


def test_what_is_used_is_said(task, capsys):
    assert predict_command(["900", "-npp", "0", "--ckpt", "best", "-nmodels", "1"]) == 0
    said = capsys.readouterr().out
    assert "Model BlobTrainer_Test_3d, fold 0, checkpoint best, on cpu" in said
    assert "Operating point 0.5: the default: nndet_sweep has chosen none yet" in said
    assert "2 cases predicted: 3 lesions reported" in said


def test_operating_point_is_the_mean_of_the_folds_sweeps(task, tmp_path):
    for number, score in ((0, 0.9), (1, 0.95)):
        write_json(model_folder(tmp_path).fold(number).operating_point, {"score": score})
    predict("900", output=tmp_path / "out")
    content = read_json(tmp_path / "out" / "sub.2_boxes.json")
    assert content["operating_point"] == {"score": 0.925}
    assert [row["reported"] for row in content["detections"]] == [False]
    assert content["detections"][0]["volume_mm3"] is None


def test_validation_scans_are_predicted_by_the_fold_that_has_not_seen_them(task, tmp_path):
    for case_id in ("tr1", "tr2"):
        write_scan(task.images("Tr") / f"{case_id}_0000.nii.gz", LESIONS)
    report = predict("900", split="val")
    assert [folder.parent.name for folder in report.folders] == ["fold0", "fold1"]
    for number, case_id in ((0, "tr1"), (1, "tr2")):
        folder = model_folder(tmp_path).fold(number).predictions("val")
        assert [row["case"] for row in table(folder / "summary.tsv")] == [case_id]


def test_prepared_cases_are_read_and_raw_scans_not_needed(task, tmp_path):
    raw = predict("900", output=tmp_path / "raw")
    for case_id in ("sub-01_ses-2", "sub.2"):
        image, grid = read_image(task.images("Ts") / f"{case_id}_0000.nii.gz")
        save_case(task.prepared("Test_3d", "Ts"), case_id, preprocess_case(image[None], grid, None, RECIPE), {})
    shutil.rmtree(task.raw)
    assert predict("900", output=tmp_path / "stored").lesions == raw.lesions
    for name in ("lesions.tsv", "summary.tsv", "sub.2_instances.nii.gz"):
        assert (tmp_path / "stored" / name).read_bytes() == (tmp_path / "raw" / name).read_bytes()


def read_image(path):
    from cmb_plugin.images import read_scan

    return read_scan(path)


def test_prepared_cases_of_another_recipe_are_not_used(task, tmp_path):
    other = Preprocessing((3.0, 2.0, 2.0), normalisation=(Normalisation("none"),))
    empty = np.zeros((1, *GRID.shape), np.float32)
    save_case(task.prepared("Test_3d", "Ts"), "sub.2", preprocess_case(empty, GRID, None, other), {}, key="old")
    predict("900", output=tmp_path / "out")
    assert [row["reported"] for row in table(tmp_path / "out" / "summary.tsv")] == ["2", "1"]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_any_folder_of_scans_is_predicted(task, tmp_path, suffix):
    folder = tmp_path / "scans"
    write_scan(folder / f"plain{suffix}", LESIONS)
    write_scan(folder / f"named.x_0000{suffix}", LESIONS[:1])
    write_scan(folder / f"year_2024{suffix}", LESIONS[:1])
    report = predict("900", input=folder, output=tmp_path / "out")
    assert (report.lesions, report.exit_code) == (4, 0)
    assert [row["case"] for row in table(tmp_path / "out" / "summary.tsv")] == ["named.x", "plain", "year_2024"]


def test_scans_are_predicted_where_only_the_model_is(task, tmp_path):
    shutil.copytree(task.images("Ts"), tmp_path / "scans")
    shutil.rmtree(task.root)
    assert predict("Task900_Blobs", input=tmp_path / "scans", output=tmp_path / "out").lesions == 3


def test_bad_scans_are_reported_and_the_others_go_on(task, tmp_path, capsys):
    folder = tmp_path / "scans"
    write_scan(folder / "good_0000.nii.gz", LESIONS)
    (folder / "broken_0000.nii.gz").write_bytes(b"no image")
    write_image(folder / "empty_0000.nii.gz", np.zeros(GRID.shape, np.float32), GRID)
    labels = np.random.default_rng(0).integers(0, 9, GRID.shape)
    write_image(folder / "roi_0000.nii.gz", labels.astype(np.float32), GRID)
    assert predict_command(["900", "-npp", "0", "--input", str(folder), "--output", str(tmp_path / "out")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert [line.split(":")[1].strip() for line in lines] == ["broken", "empty", "roi"]
    rows = table(tmp_path / "out" / "summary.tsv")
    assert [(row["case"], row["status"]) for row in rows] == [
        ("broken", "failed"), ("empty", "failed"), ("good", "done"), ("roi", "failed")]  # fmt: skip
    assert "every voxel has the same value" in rows[1]["error"]
    assert "is a mask or map of labels, no scan: all its voxels are one of 9 whole numbers" in rows[3]["error"]
    assert not list((tmp_path / "out").glob("broken*"))


def test_a_case_that_fails_now_leaves_no_result_of_an_earlier_run(task, tmp_path):
    predict("900", output=tmp_path / "out")
    (task.images("Ts") / "sub.2_0000.nii.gz").write_bytes(b"overwritten by accident")
    report = predict("900", output=tmp_path / "out")
    assert (report.kept, len(report.failures)) == (1, 1)
    assert not list((tmp_path / "out").glob("sub.2*"))


def test_finished_cases_are_kept_and_the_rerun_ends_with_the_same_files(task, tmp_path, blob_trainer, monkeypatch):
    predict("900", output=tmp_path / "whole")
    calls = []

    def killed(self, patches, detect=BlobDetector.detect):
        calls.append(len(patches))
        if len(calls) == 40:  # in the middle of the second case
            raise KeyboardInterrupt
        return detect(self, patches)

    monkeypatch.setattr(blob_trainer, "detect", killed)
    with pytest.raises(KeyboardInterrupt):
        predict("900", output=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("*_boxes.json")] == ["sub-01_ses-2_boxes.json"]
    monkeypatch.undo()
    monkeypatch.setitem(trainers._registered, "BlobTrainer", blob_trainer)
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    monkeypatch.setenv("det_models", str(tmp_path / "models"))
    report = predict("900", output=tmp_path / "out")
    assert (report.predicted, report.kept) == (1, 1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("change", ["settings", "model", "operating point", "scan", "damage", "mask gone"])
def test_what_another_model_or_setting_wrote_is_predicted_again(task, tmp_path, change):
    out = tmp_path / "out"
    predict("900", output=out)
    overrides = []
    if change == "settings":
        overrides = ["inference_cfg.overlap=0.25"]
    elif change == "model":
        model_folder(tmp_path).fold(1).last.write_bytes(b"trained longer")
    elif change == "operating point":
        write_json(model_folder(tmp_path).fold(0).operating_point, {"score": 0.6})
    elif change == "scan":
        for path in task.images("Ts").iterdir():
            write_scan(path, LESIONS[1:])
    elif change == "damage":
        for path in out.glob("*_boxes.json"):
            path.write_text("{")
    else:
        for path in out.glob("*_instances.nii.gz"):
            path.unlink()
    again = predict("900", output=out, overrides=overrides)
    assert (again.predicted, again.kept) == (2, 0)
    assert predict("900", output=out, overrides=overrides).kept == 2
    assert predict("900", output=out, overrides=overrides, overwrite=True).predicted == 2


def test_a_scan_with_more_candidates_than_are_kept_is_named(task, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["900", "-npp", "0", "-o", "inference_cfg.max_detections=1"]
    assert predict_command(arguments) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert line.startswith("warning: sub-01_ses-2: 1 candidates beyond the strongest were left out")
    for number in (0, 1):
        write_json(model_folder(tmp_path).fold(number).operating_point, {"score": 1.0})
    assert predict_command(arguments) == 0  # what is left out here would not be reported either
    assert "left out" not in capsys.readouterr().err
    assert predict_command([*arguments[:-2], "--output", str(out)]) == 0
    assert "left out" not in capsys.readouterr().err


def test_background_processes_give_the_same_files(task, tmp_path):
    write_scan(task.images("Ts") / "sub.3_0000.nii.gz", LESIONS)
    (task.images("Ts") / "sub.0_0000.nii.gz").write_bytes(b"no image")
    predict("900", output=tmp_path / "alone", workers=0)
    report = predict("900", output=tmp_path / "helped", workers=2)
    assert [failure.item.case.case_id for failure in report.failures] == ["sub.0"]
    assert contents(tmp_path / "alone") == contents(tmp_path / "helped")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["901"], "no task"),
        (["900", "Other"], "no trained model 'Other'"),
        (["900", "-f", "4"], "fold 4 is not trained"),
        (["900", "--input", "nowhere", "--output", "out"], "nowhere: no such file or folder"),
        (["900", "--input", "."], "needs an output folder"),
        (["900", "--input", ".", "--output", "."], "is the input folder too"),
        (["900", "-o", "inference_cfg.overlapp=0.3"], "did you mean inference_cfg.overlap"),
        (["900", "-o", "inference_cfg.overlap=2"], "out of range"),
        (["900", "-ntta", "11"], "out of range"),
        (["900", "--device", "cuda:99"], "cannot be used"),
    ],
)
def test_what_the_user_can_fix_is_one_line_with_exit_code_2(task, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert predict_command(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_folds_that_prepare_scans_differently_are_not_put_together(task, tmp_path):
    make_fold(model_folder(tmp_path).fold(1), Preprocessing((2.0, 1.0, 1.0), normalisation=(Normalisation("none"),)))
    with pytest.raises(UserError, match="preprocessing differ"):
        predict("900")
    assert predict("900", fold=1).exit_code == 0


def test_boxes2nii_draws_the_boxes_above_the_threshold(task, tmp_path, capsys):
    predict("900", fold=0)
    assert boxes2nii(["900", "-f", "0", "--test", "--threshold", "0.88"]) == 0
    folder = model_folder(tmp_path).fold(0).root / "test_predictions_nii"
    rows = json.loads((folder / "sub-01_ses-2_boxes.json").read_text(encoding="utf-8"))
    mask, grid = read_mask(folder / "sub-01_ses-2_boxes.nii.gz")
    assert grid.matches(GRID)
    assert {str(number) for number in voxels_of_instances(mask)} == set(rows)
    assert all(row["score"] >= 0.88 for row in rows.values())
    assert boxes2nii(["900", "-f", "1", "--test"]) == 2
    assert "run nndet_predict first" in capsys.readouterr().err


def test_seg2nii_draws_each_reported_lesion_as_its_class(task, tmp_path, capsys):
    folder = model_folder(tmp_path).fold(0).predictions("test")
    boxes = np.array([[2, 2, 2, 4, 4, 4], [8, 8, 8, 9, 9, 9], [15, 15, 15, 18, 18, 18]])
    found = Detections(boxes, np.array([0.9, 0.8, 0.2]), np.array([1, 0, 1]))
    write_case_predictions(folder, CasePredictions("sub-01", found, GRID, ("cmb", "iron"), 0.5))
    mask = np.zeros(GRID.shape, np.uint8)
    mask[2:4, 2:4, 2:4], mask[8, 8, 8] = 1, 2
    write_image(instances_file(folder, "sub-01"), mask, GRID)
    assert seg2nii(["900", "-f", "0", "--test"]) == 0
    drawn, grid = read_mask(folder.with_name("test_predictions_nii") / "sub-01_segmentation.nii.gz")
    assert grid.matches(GRID)
    np.testing.assert_array_equal(drawn, np.choose(mask, (0, 2, 1)))
    mask[0, 0, 0] = 4  # no row of the JSON
    write_image(instances_file(folder, "sub-01"), mask, GRID)
    assert seg2nii(["900", "-f", "0", "--test"]) == 2
    assert "more lesions than its JSON" in capsys.readouterr().err


def test_default_mirrorings_are_none_on_a_cpu(task, tmp_path):
    predict("900", output=tmp_path / "out", device="cpu")
    settings = read_json(tmp_path / "out" / "run.json")["settings"]
    assert settings == {**InferenceConfig().__dict__, "tta": 1}
