"""dataset.json and the folder beside it are understood as nnDetection means them, and mistakes are named."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_task import make_tiny_task

from cmb_plugin.dataset import Dataset, find_cases, write_dataset
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import Grid, write_image
from cmb_plugin.paths import TaskFolder

GRID = Grid((4, 5, 6), (2.0, 1.0, 1.0))
NNDETECTION = {
    "task": "Task101_CMB",
    "name": "CMB",
    "target_class": None,
    "test_labels": True,
    "labels": {"0": "cmb", "1": "iron"},
    "modalities": {"0": "SWI", "1": "QSM"},
    "dim": 3,
}


def task_with(folder: Path, definition: object, name: str = "dataset.json") -> TaskFolder:
    task = TaskFolder(folder / "Task101_CMB")
    task.root.mkdir(exist_ok=True)
    text = json.dumps(definition) if name.endswith("json") else yaml.safe_dump(definition)
    (task.root / name).write_text(text)
    return task


@pytest.mark.parametrize("name", ["dataset.json", "dataset.yaml", "dataset.yml"])
def test_nndetections_definition_is_understood(tmp_path, name):
    dataset = Dataset.load(task_with(tmp_path, NNDETECTION, name))
    assert dataset.name == "CMB"
    assert dataset.modalities == ("SWI", "QSM")
    assert dataset.classes == ("cmb", "iron")
    assert dataset.test_labels
    assert dataset.target_class is None
    assert dataset.annotation_style == "seg"
    assert dataset.session_id == {}


@pytest.mark.parametrize("modalities", [{"modality": {0: "swi", 1: "t1"}}, {"modalities": ["swi", "t1"]}])
def test_integer_keys_lists_and_the_singular_are_accepted(tmp_path, modalities):
    definition = {**modalities, "labels": {0: "cmb"}}
    dataset = Dataset.load(task_with(tmp_path, definition, "dataset.yaml"))
    assert dataset.modalities == ("swi", "t1")
    assert dataset.name == "Task101_CMB"
    assert not dataset.test_labels


def test_modalities_stand_in_the_order_of_their_numbers(tmp_path):
    names = {str(i): f"m{i}" for i in range(12)}
    dataset = Dataset.load(task_with(tmp_path, NNDETECTION | {"modalities": dict(sorted(names.items()))}))
    assert dataset.modalities == tuple(f"m{i}" for i in range(12))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"dim": 2}, "dim"),
        ({"labels": {"1": "cmb"}}, "labels"),
        ({"labels": {}}, "labels"),
        ({"labels": "cmb"}, "labels"),
        ({"labels": {"0": "cmb", "1": "cmb"}}, "twice"),
        ({"labels": {"0": "background", "1": "cmb"}}, "nnU-Net"),
        ({"modalities": None}, "modalities"),
        ({"modalities": {"a": "swi"}}, "modalities"),
        ({"target_class": 2}, "target_class"),
        ({"target_class": "cmb"}, "target_class"),
        ({"test_labels": "no"}, "test_labels"),
        ({"annotation_style": "box"}, "annotation_style"),
        ({"session_id": ["a"]}, "session_id"),
        ({"domain": "site1"}, "domain"),
        ({"weak_cases": {"a": 1}}, "weak_cases"),
        ({"missing": ["T2"]}, "missing"),
        ({"missing": {"a": "T2"}}, "missing"),
        ({"missing": {"a": ["no such"]}}, "no such"),
    ],
)
@pytest.mark.parametrize("name", ["dataset.json", "dataset.yaml"])
def test_a_wrong_entry_is_named_with_its_file(tmp_path, change, word, name):
    task = task_with(tmp_path, NNDETECTION | change, name)
    with pytest.raises(UserError) as caught:
        Dataset.load(task)
    assert caught.value.message.startswith(f"{task.root / name}: ")
    assert word in caught.value.message
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "text"), [("dataset.json", "{"), ("dataset.yaml", "a: [1"), ("dataset.yaml", "cmb")])
def test_an_unreadable_definition_is_named(tmp_path, name, text):
    task = task_with(tmp_path, {}, name)
    (task.root / name).write_text(text)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        Dataset.load(task)


def test_a_folder_without_definition_is_named(tmp_path):
    with pytest.raises(UserError, match=r"Task5_X/dataset\.json: no such file"):
        Dataset.load(TaskFolder(tmp_path / "Task5_X"))


def test_write_dataset_writes_what_nndetection_reads(tmp_path):
    task = TaskFolder(tmp_path / "Task101_CMB")
    sessions = {"a_1": "a", "a_2": "a"}
    write_dataset(
        task,
        modalities=("SWI", "QSM"),
        classes=("cmb", "iron"),
        name="CMB",
        test_labels=True,
        target_class=1,
        annotation_style="weak",
        session_id=sessions,
        licence="CC0",
    )
    written = read_json(task.root / "dataset.json")
    assert {key: written[key] for key in NNDETECTION} == NNDETECTION | {"target_class": 1}
    assert written["licence"] == "CC0"
    dataset = Dataset.load(task)
    assert (dataset.target_class, dataset.annotation_style, dataset.session_id) == (1, "weak", sessions)
    assert dataset.patients(["a_2", "b"]) == {"a_2": "a", "b": "b"}


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_case_names_may_hold_dots_dashes_underscores_and_numbers(tmp_path, suffix):
    names = ["sub-01_ses-2", "a.b.c", "case_0007", "0001", "x_0000_y"]
    task = TaskFolder(tmp_path / "Task1_A")
    for name in names:
        for modality in range(2):
            write_image(task.images("Tr") / f"{name}_{modality:04d}{suffix}", np.zeros(GRID.shape, np.uint8), GRID)
        write_image(task.labels("Tr") / f"{name}{suffix}", np.zeros(GRID.shape, np.uint8), GRID)
        write_json(task.labels("Tr") / f"{name}.json", {})
    (task.images("Tr") / ".123.half-written_0000.nii.gz").write_bytes(b"")
    write_dataset(task, modalities=("a", "b"), classes=("cmb",))
    dataset = Dataset.load(task)
    cases = dataset.cases("Tr")
    assert [case.case_id for case in cases] == sorted(names)
    for case in cases:
        assert [path.name for path in case.images] == [f"{case.case_id}_000{m}{suffix}" for m in range(2)]
        assert all(path.is_file() for path in (*case.images, case.label, case.classes_file))
        labels = case.read_labels(1)
        assert labels.mask.shape == GRID.shape
        assert labels.classes == {}
    assert dataset.cases("Ts") == []


def test_a_folder_of_scans_without_labels_is_listed_too(tmp_path):
    task = make_tiny_task(tmp_path, n_train=2, n_test=0)
    cases = find_cases(task.images("Tr"), n_modalities=1)
    assert [case.case_id for case in cases] == ["sub-01", "sub-02"]
    assert all(case.label is None and case.split == "" for case in cases)
    assert [path.name for path in cases[0].images] == ["sub-01_0000.nii.gz"]


def test_a_missing_modality_keeps_its_place(tmp_path):
    task = make_tiny_task(tmp_path, n_train=1, n_test=0, modalities=("a", "b", "c"), suffix=".mha")
    (task.images("Tr") / "sub-01_0001.mha").unlink()
    (case,) = Dataset.load(task).cases("Tr")
    assert [path.name for path in case.images] == [f"sub-01_000{m}.mha" for m in range(3)]
