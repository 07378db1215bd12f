"""Scans that lack a modality, from dataset.json and the command line to what is written beside the lesions."""

from typing import ClassVar

import numpy as np
import pytest
from blob_detector import BlobDetector, blob
from by_name import predict
from tiny_task import make_tiny_task

from cmb_plugin.commands.predict import main as predict_command
from cmb_plugin.dataset import Dataset, boxes_file, read_case_predictions
from cmb_plugin.dataset.checks import check_dataset
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import Grid, write_image
from cmb_plugin.paths import ModelFolder, TaskFolder
from cmb_plugin.planning import Anchors, Architecture, Plan
from cmb_plugin.plugins import trainers
from cmb_plugin.preparation import Normalisation, Preprocessing, StoredCase, preprocess_case, read_images, save_case
from cmb_plugin.settings import Overrides, write_settings
from cmb_plugin.workflows.prep import prepare
from cmb_plugin.workflows.train import split_of
from cmb_plugin.workflows.training_run import resolve

GRID = Grid((24, 30, 30), (1.5, 1.0, 1.0))
LESIONS = {0: (8.3, 9.6, 20.4), 1: (15.0, 21.2, 9.9)}  # each is seen on one modality only
RECIPE = Preprocessing((1.0, 1.0, 1.0), normalisation=(Normalisation("none"),) * 2)
MODALITIES = ("SWI", "QSM")


class BrightestBlob(BlobDetector):
    """Blobs of whichever modality shows them."""

    tolerates_missing: ClassVar[bool] = True

    @classmethod
    def load(cls, fold, device, checkpoint="last"):
        return cls((16, 16, 16), threshold=0.05)

    def detect(self, patches):
        return super().detect(patches.amax(dim=1, keepdim=True))


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A task with two test scans of two modalities, and a trained model."""
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    monkeypatch.setenv("det_models", str(tmp_path / "models"))
    monkeypatch.setitem(trainers._registered, "BrightestBlob", BrightestBlob)
    folder = TaskFolder(tmp_path / "data" / "Task900_Blobs")
    for case_id in ("a", "b"):
        for modality, centre in LESIONS.items():
            image = blob(GRID.shape, centre, sigma=1.2 / np.asarray(GRID.spacing)).astype(np.float32)
            write_image(folder.images("Ts") / f"{case_id}_{modality:04d}.nii.gz", image, GRID)
    fold = ModelFolder(tmp_path / "models" / folder.name / "BrightestBlob_Test_3d").fold(0)
    architecture = Architecture((8,), ((1, 1, 1),), ((3, 3, 3),), (1,), 8, (0,))
    Plan("Test_3d", "Test", folder.name, MODALITIES, ("cmb",), RECIPE, (16, 16, 16), 1, architecture,
         Anchors((((3.0, 3.0, 3.0),),)), 1.0, 0.1).save(fold.plan)  # fmt: skip
    write_settings(fold.settings, {"module": "BrightestBlob", "additional_imports": []})
    write_json(fold.splits, [{"train": [], "val": []}])
    fold.last.write_bytes(b"weights")
    return folder


def seen(folder, case_id):
    """Modalities that the model saw, and which lesions it found."""
    case = read_case_predictions(boxes_file(folder, case_id))
    distances = np.linalg.norm(case.detections.centres[:, None] - np.array(list(LESIONS.values())), axis=2)
    return case.modalities, sorted(distances.argmin(axis=1).tolist())


def test_a_modality_left_out_by_name_is_as_if_there_were_no_file(task, tmp_path):
    predict("900", output=tmp_path / "all")
    predict("900", without=["SWI"], output=tmp_path / "one")
    assert seen(tmp_path / "all", "a") == (MODALITIES, [0, 1])
    assert seen(tmp_path / "one", "a") == (("QSM",), [1])
    (task.images("Ts") / "a_0000.nii.gz").unlink()
    report = predict("900", output=tmp_path / "all")
    assert (report.predicted, report.kept) == (1, 1)
    named, absent = (read_json(tmp_path / folder / "a_boxes.json") for folder in ("one", "all"))
    assert named == absent


def test_what_dataset_json_calls_missing_is_not_looked_at(task, tmp_path):
    definition = {"modalities": list(MODALITIES), "labels": ["cmb"], "missing": {"b": ["QSM"]}}
    write_json(task.root / "dataset.json", definition)
    predict("900", output=tmp_path / "out")
    assert seen(tmp_path / "out", "a") == (MODALITIES, [0, 1])
    assert seen(tmp_path / "out", "b") == (("SWI",), [0])


def test_prepared_scans_lose_their_channel_where_the_scans_are_not_at_hand(task, tmp_path):
    images, grid = read_images(Dataset(task, "", MODALITIES, ("cmb",)).cases("Ts")[0])
    prepared = task.prepared("Test_3d", "Ts")
    save_case(prepared, "a", preprocess_case(images, grid, None, RECIPE), {})
    for path in task.images("Ts").iterdir():
        path.unlink()
    predict("900", output=tmp_path / "all")
    predict("900", without=["QSM"], output=tmp_path / "one")
    assert seen(tmp_path / "all", "a") == (MODALITIES, [0, 1])
    assert seen(tmp_path / "one", "a") == (("SWI",), [0])
    assert read_json(tmp_path / "one" / "a_boxes.json")["key"] != read_json(tmp_path / "all" / "a_boxes.json")["key"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--without", "T2", "--output", "out"], "knows no modality 'T2'"),
        (["--without", "SWI, QSM", "--output", "out"], "no modality is left"),
        (["--without", "SWI"], "needs a folder of its own"),
    ],
)
def test_what_cannot_be_left_out_is_said_in_one_line(task, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert predict_command(["900", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_that_needs_every_modality_says_so(task, tmp_path, monkeypatch):
    monkeypatch.setattr(BrightestBlob, "tolerates_missing", False)
    with pytest.raises(UserError, match="needs every modality: SWI, QSM"):
        predict("900", without=["SWI"], output=tmp_path / "out")
    (task.images("Ts") / "a_0001.nii.gz").unlink()
    definition = {"modalities": list(MODALITIES), "labels": ["cmb"], "missing": {"b": ["QSM"]}}
    write_json(task.root / "dataset.json", definition)
    errors = {f.item.case.case_id: f.error for f in predict("900", output=tmp_path / "out").failures}
    assert "a_0001.nii.gz: no such file" in errors["a"]
    assert "b_0001.nii.gz: the case does without it" in errors["b"]


def test_a_case_that_lacks_a_modality_is_checked_prepared_and_trained_on(tmp_path, monkeypatch):
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    monkeypatch.setenv("det_models", str(tmp_path / "models"))
    monkeypatch.setattr("cmb_plugin.planning.anchors.PLACED_BOXES", 100)
    task = make_tiny_task(tmp_path / "data", n_train=3, n_test=1, shape=(16, 24, 24))
    (task.images("Tr") / "sub-02_0001.nii.gz").unlink()
    assert check_dataset(Dataset.load(task)).bad_cases == {"sub-02"}
    write_json(task.root / "dataset.json", {**read_json(task.root / "dataset.json"), "missing": {"sub-02": ["phase"]}})
    assert not check_dataset(Dataset.load(task)).findings
    assert prepare(task, Overrides.parse(["planner_cfg.gpu_memory_gb=2"]), workers=0).exit_code == 0
    stored = StoredCase.open(task.prepared("D3CMB_3d", "Tr"), "sub-02")
    assert stored.missing == (1,)
    assert not stored.data[1].any()
    assert len(stored.boxes)
    with pytest.raises(UserError, match="CMBRetinaUNet needs every modality, sub-02 lacks some"):
        split_of(resolve(task, Overrides.parse([])))
    train, val = split_of(resolve(task, Overrides.parse(["module=DeepMIRUNet"])))
    assert {*train, *val} == {"sub-01", "sub-02", "sub-03"}
