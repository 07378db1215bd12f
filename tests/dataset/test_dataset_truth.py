"""Labels become boxes with classes, and labels that contradict each other are refused by name."""

import numpy as np
import pytest

from cmb_plugin.dataset import Case, Dataset, read_truth, write_dataset
from cmb_plugin.errors import UserError
from cmb_plugin.files import write_json
from cmb_plugin.images import Grid, write_image
from cmb_plugin.paths import TaskFolder

GRID = Grid((8, 9, 10), (2.0, 1.0, 1.0), (5.0, 6.0, 7.0))


def make_case(folder, mask, classes, lesions=None) -> Case:
    task = TaskFolder(folder / "Task1_A")
    write_image(task.images("Tr") / "c_0000.nii.gz", np.ones(GRID.shape, np.float32), GRID)
    if mask is not None:
        write_image(task.labels("Tr") / "c.nii.gz", mask, GRID)
    if classes is not None:
        write_json(task.labels("Tr") / "c.json", classes)
    if lesions is not None:
        write_json(task.extra("lesions", "Tr") / "c.json", lesions)
    write_dataset(task, modalities=("swi",), classes=("cmb", "iron"))
    (case,) = Dataset.load(task).cases("Tr")
    return case


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros(GRID.shape, dtype=np.int16)
    mask[1:3, 2:4, 3:6] = 1
    mask[7, 8, 9] = 2
    mask[5, 5, 5] = 3
    return mask


def test_truth_holds_boxes_and_classes_by_instance(tmp_path, mask):
    case = make_case(tmp_path, mask, {"instances": {"3": 0, "1": 1, "2": 0}})
    truth = read_truth(case, 2)
    assert len(truth) == 3
    assert truth.boxes.dtype == np.float32
    assert truth.boxes.tolist() == [[1, 2, 3, 3, 4, 6], [7, 8, 9, 8, 9, 10], [5, 5, 5, 6, 6, 6]]
    assert truth.labels.tolist() == [1, 0, 0]
    assert truth.instances.tolist() == [1, 2, 3]
    assert truth.grid.matches(GRID)
    assert truth.certainty is None


@pytest.mark.parametrize("classes", [{}, {"instances": {}}, None])
def test_a_healthy_case_has_no_truth(tmp_path, classes):
    case = make_case(tmp_path, np.zeros(GRID.shape, np.uint8), classes)
    truth = read_truth(case, 2)
    assert truth.boxes.shape == (0, 6)
    assert truth.labels.shape == truth.instances.shape == (0,)


def test_an_entry_without_voxels_is_no_lesion(tmp_path, mask):
    case = make_case(tmp_path, mask, {"instances": {"1": 0, "2": 0, "3": 0, "4": 1}})
    assert read_truth(case).instances.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("lesions", "expected"),
    [
        ([(1, "definite"), (2, "possible"), (3, "definite")], ["definite", "possible", "definite"]),
        ([(3, "possible")], ["definite", "definite", "possible"]),
        ([(1, None), (2, None), (3, None)], None),
        ([], ["definite"] * 3),
    ],
)
def test_certainty_comes_from_the_file_of_lesions(tmp_path, mask, lesions, expected):
    entries = [{"instance": number, "certainty": word} if word else {"instance": number} for number, word in lesions]
    case = make_case(tmp_path, mask, {"instances": {"1": 0, "2": 0, "3": 0}}, {"lesions": entries})
    assert read_truth(case).certainty == expected


@pytest.mark.parametrize("lesions", [[], {"lesions": [{}]}, {"lesions": [{"instance": 1, "certainty": "maybe"}]}, {}])
def test_a_wrong_file_of_lesions_is_named(tmp_path, mask, lesions):
    case = make_case(tmp_path, mask, {"instances": {"1": 0, "2": 0, "3": 0}}, lesions)
    with pytest.raises(UserError, match=r"lesionsTr/c\.json: "):
        read_truth(case)


@pytest.mark.parametrize(
    ("classes", "file", "word"),
    [
        ({"instances": {"1": 0, "3": 0}}, "c.nii.gz", "instance 2 has no class"),
        ({}, "c.nii.gz", "instance 1 has no class"),
        (None, "c.nii.gz", "instance 1 has no class"),
        ({"instances": {"1": 0, "2": 2, "3": 0}}, "c.json", "instance 2 has class 2"),
        ({"instances": {"1": 0, "2": -1, "3": 0}}, "c.json", "instance 2 has class -1"),
        ({"instances": {"1": 0, "2": "cmb", "3": 0}}, "c.json", "instance 2 has class 'cmb'"),
        ({"instances": {"1": 0, "2": True, "3": 0}}, "c.json", "instance 2 has class True"),
        ({"instances": {"0": 0}}, "c.json", "instance '0'"),
        ({"instances": {"one": 0}}, "c.json", "instance 'one'"),
        ({"instances": [0, 0, 0]}, "c.json", "has no set of instances"),
        ([0, 0, 0], "c.json", "has no set of instances"),
    ],
)
def test_wrong_classes_are_named(tmp_path, mask, classes, file, word):
    case = make_case(tmp_path, mask, classes)
    with pytest.raises(UserError) as caught:
        read_truth(case, 2)
    assert caught.value.message.startswith(f"{case.raw / 'labelsTr' / file}: ")
    assert word in caught.value.message
    assert caught.value.remedy


def test_no_label_and_negative_labels_are_named(tmp_path, mask):
    with pytest.raises(UserError, match="case c has no label"):
        read_truth(make_case(tmp_path / "a", None, None))
    with pytest.raises(UserError, match=r"c\.nii\.gz: holds negative numbers"):
        read_truth(make_case(tmp_path / "b", -mask, {}))
