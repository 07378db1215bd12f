"""Every fault of a Task folder is found, named by file and case, and told apart: fatal or odd."""

import dataclasses
import os

import nibabel
import numpy as np
import pytest
from tiny_task import make_tiny_task

from cmb_plugin.dataset import Dataset, check_dataset, checks, write_dataset
from cmb_plugin.dataset.findings import CaseFacts
from cmb_plugin.images import Grid, read_mask, read_scan, write_image

IMAGE, SECOND = "imagesTr/sub-01_0000.nii.gz", "imagesTr/sub-01_0001.nii.gz"
LABEL, CLASSES, TEST_LABEL = "labelsTr/sub-01.nii.gz", "labelsTr/sub-01.json", "labelsTs/sub-51.nii.gz"


@pytest.fixture
def task(tmp_path):
    """Three training cases (one healthy) and one test case; two modalities, two classes."""
    return make_tiny_task(tmp_path, n_train=3, n_test=1, classes=("cmb", "iron"), shape=(20, 24, 24))


def check(task, full=True):
    return check_dataset(Dataset.load(task), full=full)


def rewrite(path, change=None, **grid_changes):
    """Writes the image or mask anew after ``change(array)``, on a grid with other fields."""
    array, grid = (read_mask if "labels" in str(path.parent) else read_scan)(path)
    if change:
        array = change(array)
    write_image(path, array, dataclasses.replace(grid, shape=array.shape, **grid_changes))


def voxels(change):
    """A fault: the array is changed by ``change``."""
    return lambda path: rewrite(path, change)


def fill(where, value):
    """A fault: some voxels get another value."""

    def change(array):
        array[where] = value
        return array

    return voxels(change)


def move(mm):
    """A fault: the image lies elsewhere along world x."""

    def change(path):
        x, y, z = read_scan(path)[1].origin
        rewrite(path, origin=(x + mm, y, z))

    return change


def text(content):
    """A fault: the file holds something else."""
    return lambda path: path.write_text(content)


def remove(path):
    path.unlink()


def cut_off(path):
    path.write_bytes(path.read_bytes()[:9000])


@pytest.mark.parametrize("full", [True, False])
def test_a_clean_folder_has_no_finding_and_its_contents_are_counted(task, full):
    report = check(task, full)
    assert report.findings == []
    assert report.bad_cases == set()
    assert report.n_cases == {"Tr": 3, "Ts": 1}
    assert report.n_healthy == {"Tr": 1, "Ts": 0}
    assert report.n_lesions["Tr"] >= 4
    assert "3 training cases (1 healthy, " in report.summary
    assert "0 errors, 0 warnings" in report.summary


ALL_CLASS_2 = '{"instances": {"1": 2, "2": 2, "3": 2, "4": 2}}'
# What is done to which file, what must be said about it (or about another file), whether it is an error, and whether
# headers alone tell.
FAULTS = {
    "modality missing": (SECOND, remove, "is missing", "error", "header"),
    "image cut off": (IMAGE, cut_off, "cannot be read", "error", "voxels"),
    "image is text": (IMAGE, text("x"), "cannot be read", "error", "header"),
    "other shape": (SECOND, voxels(lambda a: a[1:]), "has 24 x 24 x 19 voxels", "error", "header"),
    "moved a lot": (SECOND, move(5), "5.0 mm off sub-01_0000", "error", "header"),
    "moved a little": (SECOND, move(0.3), "0.30 mm off sub-01_0000", "warning", "header"),
    "label moved": (LABEL, move(-4), "4.0 mm off", "error", "header"),
    "label of other shape": (LABEL, voxels(lambda a: a[:, :, 1:]), "has 23 x 24 x 20 voxels", "error", "header"),
    "NaN": (IMAGE, fill((5, 5, slice(3)), np.nan), "3 of 11520 voxels are NaN", "warning", "voxels"),
    "infinity": (IMAGE, fill((5, 5, 5), -np.inf), "1 of 11520 voxels are NaN or infinite", "warning", "voxels"),
    "all NaN": (IMAGE, fill(..., np.nan), "no finite number", "error", "voxels"),
    "constant": (IMAGE, fill(..., 7), "every voxel is 7", "error", "voxels"),
    "label missing": (LABEL, remove, "is missing", "error", "header"),
    "test label missing": (TEST_LABEL, remove, "test_labels is true", "warning", "header"),
    "class file missing": (CLASSES, remove, f"{LABEL}: no class in sub-01.json", "error", "voxels"),
    "class file broken": (CLASSES, text("{"), "not valid JSON", "error", "header"),
    "class unknown": (CLASSES, text(ALL_CLASS_2), "has class 2", "error", "header"),
    "instance without class": (LABEL, fill((0, 0, 0), 9), "instance 9 has no class", "error", "voxels"),
    "gap in the numbers": (LABEL, fill((0, 0, 0), 9), "numbered up to 9", "warning", "voxels"),
    "class without voxels": (
        LABEL,
        voxels(lambda a: a * (a != 1)),
        f"{CLASSES}: instance 1 has no",
        "error",
        "voxels",
    ),
    "instance in pieces": (LABEL, fill((0, 0, 0), 1), "instance 1 consists of 2 pieces", "warning", "voxels"),
    "negative label": (LABEL, fill((0, 0, 0), -1), "negative numbers down to -1", "error", "voxels"),
    "label of fractions": (LABEL, voxels(lambda a: a * 0.5), "are no whole numbers", "error", "voxels"),
}


def break_task(task, fault):
    file, change, *_ = FAULTS[fault]
    change(task.raw / file)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_case_is_found(task, fault, full):
    changed, _, words, severity, seen_in = FAULTS[fault]
    break_task(task, fault)
    report = check(task, full)
    *other, words = words.split(": ")
    found = [f for f in report.findings if words in f.message]
    if seen_in == "voxels" and not full:
        assert not found
        return
    file, fatal = (other or [changed])[0], severity == "error"
    case_id = "sub-51" if file == TEST_LABEL else "sub-01"
    assert [(f.file, f.fatal, f.case_id) for f in found] == [(str(task.raw / file), fatal, case_id)]
    assert found[0].remedy
    assert str(found[0]) in report.summary
    if fatal:
        assert report.bad_cases == {case_id}
    assert {f.case_id for f in report.findings} <= {case_id, ""}, "other cases are blamed"


def test_a_class_file_missing_is_told_by_headers_as_a_doubt(task):
    break_task(task, "class file missing")
    (finding,) = check(task, full=False).findings
    assert (finding.file, finding.fatal) == (str(task.raw / CLASSES), False)
    assert "healthy" in finding.remedy


# Names and places that nothing will read, and faults of the data set as a whole.
STRAYS = {
    "images without number": ("imagesTr/sub-09.nii.gz", "no modality number"),
    "unknown modality": ("imagesTr/sub-01_0002.nii.gz", "modality 2 of 2"),
    "not an image": ("imagesTr/notes.txt", "not an image"),
    "label without image": ("labelsTr/sub-09.nii.gz", "no image in imagesTr"),
    "class file without mask": ("labelsTr/sub-09.json", "no mask"),
    "neither": ("labelsTr/notes.txt", "neither"),
}


@pytest.mark.parametrize("file", ["imagesTr/sub-01_0000.mha", "labelsTr/sub-01.nrrd"])
def test_a_scan_or_mask_that_is_there_twice_is_an_error_of_its_case_alone(task, file):
    write_image(task.raw / file, np.zeros((2, 2, 2), np.uint8), Grid((2, 2, 2), (1.0, 1.0, 1.0)))
    report = check(task, full=False)
    (finding,) = report.errors
    assert "twice" in finding.message
    assert "remove one" in finding.remedy
    assert report.bad_cases == {"sub-01"}


@pytest.mark.parametrize("kind", STRAYS)
def test_a_stray_file_is_reported_and_hinders_nothing(task, kind):
    file, word = STRAYS[kind]
    if file.endswith((".nii.gz", ".mha")):
        write_image(task.raw / file, np.zeros((2, 2, 2), np.uint8), Grid((2, 2, 2), (1.0, 1.0, 1.0)))
    else:
        (task.raw / file).write_text("{}")
    report = check(task, full=False)
    assert [(f.file, f.fatal, f.case_id) for f in report.findings] == [(str(task.raw / file), False, "")]
    assert word in report.findings[0].message
    assert report.n_cases == {"Tr": 3, "Ts": 1}


def test_a_case_in_training_and_in_test_is_an_error(task):
    for folder in ("images", "labels"):
        for path in (task.raw / f"{folder}Tr").glob("sub-02*"):
            target = task.raw / f"{folder}Ts" / path.name
            target.write_bytes(path.read_bytes())
    report = check(task)
    assert report.bad_cases == {"sub-02"}
    assert "in training and in test" in report.errors[0].message


def test_different_orientations_are_told_once(task):
    for modality in (0, 1):
        path = task.raw / f"imagesTr/sub-02_000{modality}.nii.gz"
        rewrite(path, direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    rewrite(task.raw / "labelsTr/sub-02.nii.gz", direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    (finding,) = check(task).findings
    assert "SAR in 3, SPL in 1" in finding.message
    assert not finding.fatal


def test_a_class_that_no_lesion_has_is_told(task):
    write_dataset(task, modalities=("swi", "phase"), classes=("cmb", "iron", "calcification"), test_labels=True)
    (finding,) = check(task).findings
    assert "of class calcification" in finding.message


def test_an_empty_folder_is_an_error_of_the_data_set(tmp_path):
    task = make_tiny_task(tmp_path, n_train=0, n_test=0)
    report = check(task)
    assert [f.message for f in report.errors] == ["holds no training case"]
    assert report.bad_cases == set()


def test_several_processes_find_the_same(task):
    break_task(task, "NaN")
    break_task(task, "test label missing")
    dataset = Dataset.load(task)
    report = check_dataset(dataset, workers=2)
    assert len(report.findings) == 2
    assert report == check_dataset(dataset, workers=0)


def test_the_summary_stays_short_when_the_findings_do_not(task):
    (task.raw / "imagesTr/notes.txt").write_text("")
    report = check(task, full=False)
    report.findings *= 300
    lines = report.summary.splitlines()
    assert len(lines) < 60
    assert lines[-2:] == ["... and 275 more warnings", "0 errors, 300 warnings"]


def test_only_what_has_changed_is_read_again(task, tmp_path, monkeypatch):
    break_task(task, "NaN")
    dataset, keep = Dataset.load(task), tmp_path / "checks"
    first = check_dataset(dataset, keep=keep)
    assert len(first.findings) == 1
    read = []
    monkeypatch.setattr(checks, "check_case", lambda case, **settings: read.append(case.case_id) or CaseFacts())
    assert check_dataset(dataset, keep=keep) == first
    assert not read
    path = next(path for path in task.images("Tr").glob("*.nii.gz"))
    os.utime(path, ns=(1, 1))
    check_dataset(dataset, keep=keep)
    assert read == [path.name.partition("_0")[0]]


@pytest.mark.parametrize("file", ["labelsTr/sub-01.nii.gz", "labelsTr/sub-01.json", "imagesTr/sub-01_0001.nii.gz"])
def test_a_file_that_has_gone_since_the_last_check_is_missed(task, tmp_path, file):
    keep = tmp_path / "checks"
    assert not check_dataset(Dataset.load(task), keep=keep).findings
    (task.raw / file).unlink()
    report = check_dataset(Dataset.load(task), keep=keep)
    assert report.bad_cases == {"sub-01"}
    assert report == check_dataset(Dataset.load(task))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"key": 1, "findings": [{}]}'])
def test_a_damaged_memory_of_the_check_is_no_memory(task, tmp_path, text):
    dataset, keep = Dataset.load(task), tmp_path / "checks"
    first = check_dataset(dataset, keep=keep)
    for path in keep.rglob("*.json"):
        path.write_text(text)
    assert check_dataset(dataset, keep=keep) == first


def test_a_case_that_cannot_be_used_is_looked_at_again(task, tmp_path, monkeypatch):
    cut_off(task.raw / IMAGE)
    dataset, keep = Dataset.load(task), tmp_path / "checks"
    assert check_dataset(dataset, keep=keep).bad_cases == {"sub-01"}
    monkeypatch.setattr(checks, "check_case", lambda case, **settings: CaseFacts())
    assert not check_dataset(dataset, keep=keep).bad_cases


def test_other_settings_of_the_check_are_another_check(task, tmp_path):
    keep = tmp_path / "checks"
    write_dataset(task, modalities=("swi", "phase"), classes=("cmb", "iron"), test_labels=True)
    check_dataset(Dataset.load(task), keep=keep)
    write_dataset(task, modalities=("swi", "phase"), classes=("cmb",), test_labels=True)
    report = check_dataset(Dataset.load(task), keep=keep)
    assert report == check_dataset(Dataset.load(task))


def test_a_scan_that_its_header_places_twice_is_a_warning(task):
    path = task.raw / IMAGE
    image = nibabel.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 20
    image.set_sform(affine, 2)  # as a program writes it that aligned the scan; the qform stays
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    (finding,) = [f for f in check(task).findings if "sform" in f.message]
    assert (finding.fatal, finding.file) == (False, str(path))
