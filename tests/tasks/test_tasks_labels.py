"""Masks to instances, the test split, nndet_seg2det and nndet_cls2fg."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import ndimage
from task_rules import assert_task_folder
from tiny_task import make_tiny_task

from cmb_plugin.commands import cls2fg, seg2det
from cmb_plugin.commands.names import find_task
from cmb_plugin.conversion import BoxLabel, Counted, SourceCase, choose_test, draw_boxes, instances_of_mask, relabelling
from cmb_plugin.dataset import Dataset, read_truth
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import Grid, boxes_of_instances, read_mask, voxels_of_instances, write_image
from cmb_plugin.paths import TaskFolder
from tasks.bids import Bids, BidsConfig
from tasks.csiro import read_positions


@pytest.mark.parametrize(("connectivity", "pieces"), [(6, 3), (18, 2), (26, 1)])
def test_connectivity_decides_what_hangs_together(connectivity: int, pieces: int) -> None:
    mask = np.zeros((5, 5, 5), int)
    mask[0, 0, 0] = mask[1, 1, 0] = mask[2, 2, 1] = 2  # an edge, then a corner
    drawn = instances_of_mask(mask, connectivity=connectivity)
    assert drawn.mask.max() == pieces
    assert ndimage.label(mask, ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity]))[1] == pieces


def test_touching_lesions_of_different_numbers_stay_apart() -> None:
    mask = np.zeros((4, 6, 8), int)
    mask[1:3, 1:3, 1:4], mask[1:3, 1:3, 4:7], mask[0, 5, 7] = 2, 3, 3
    drawn = instances_of_mask(mask, classes={2: 0, 3: 1})
    assert drawn.classes == {1: 0, 2: 1, 3: 1}
    assert [len(np.unique(mask[drawn.mask == n])) for n in (1, 2, 3)] == [1, 1, 1]
    assert "touch in 1 places" in drawn.warnings[0]


def test_numbered_lesions_are_numbered_afresh_whatever_pieces_they_have() -> None:
    mask = np.zeros((4, 4, 9), int)
    mask[0, 0, 0], mask[3, 3, 8], mask[1, 1, 4] = 40, 40, 7
    drawn = instances_of_mask(mask, instances=True)
    assert drawn.mask[1, 1, 4] == 1
    assert drawn.mask[0, 0, 0] == drawn.mask[3, 3, 8] == 2
    assert "lesions 40 of the mask are in several pieces" in drawn.warnings[0]


@pytest.mark.parametrize("seed", range(5))
def test_the_box_around_a_drawn_box_is_the_box(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lower = rng.integers(0, 20, 3)
    upper = lower + rng.integers(1, 12, 3)
    corners = tuple(float(v) for v in (*lower[::-1], *upper[::-1]))
    drawn = draw_boxes(Grid((40, 40, 40), (1.0, 1.0, 1.0)), BoxLabel(Path("b"), (corners,), "voxel0"))
    np.testing.assert_array_equal(boxes_of_instances(drawn.mask)[1], [*lower, *upper])


def test_a_box_that_stands_twice_is_one_lesion() -> None:
    large, point = (2.0, 3.0, 4.0, 6.0, 7.0, 8.0), (10.0, 10.0, 10.0, 11.0, 11.0, 11.0)
    near = (9.8, 10.1, 10.2, 11.1, 10.9, 11.0)  # the same voxel
    label = BoxLabel(Path("b.csv"), (large, large, point, near, point), "voxel0", (0, 0, 1, 1, 1))
    drawn = draw_boxes(Grid((12, 12, 12), (1.0,) * 3), label)
    once = draw_boxes(Grid((12, 12, 12), (1.0,) * 3), BoxLabel(Path("b.csv"), (large, point), "voxel0", (0, 1)))
    np.testing.assert_array_equal(drawn.mask, once.mask)
    assert drawn.classes == once.classes == {1: 0, 2: 1}
    assert drawn.warnings == ["b.csv: 3 boxes stand there twice and were taken once"]
    assert not once.warnings


def test_a_box_outside_is_refused() -> None:
    with pytest.raises(UserError, match="is not inside the image of 9 x 9 x 9 voxels"):
        draw_boxes(Grid((9, 9, 9), (1.0,) * 3), BoxLabel(Path("b"), ((0, 0, 0, 3, 3, 12),), "voxel0"))


def cohort(n: int = 200) -> list[Counted]:
    rng = np.random.default_rng(3)
    lesions = rng.choice([0, 0, 1, 3, 8], n)
    return [Counted(f"c{i}", f"p{i // 2}", f"site{i // 2 % 3}", int(k)) for i, k in enumerate(lesions)]


def test_the_test_split_is_by_patient_and_alike_in_burden_and_domain() -> None:
    cases = cohort()
    split = choose_test(cases, 0.2, 0)
    by_patient: dict[str, set[str]] = {}
    for case in cases:
        by_patient.setdefault(case.patient, set()).add(split[case.case_id])
    assert all(len(found) == 1 for found in by_patient.values())
    assert sum(found == {"Ts"} for found in by_patient.values()) == 20
    for domain in ("site0", "site1", "site2"):
        own = [case for case in cases if case.domain == domain]
        assert sum(split[c.case_id] == "Ts" for c in own) / len(own) == pytest.approx(0.2, abs=0.035)
    many = {c.patient for c in cases if c.lesions >= 5}
    assert sum("Ts" in by_patient[p] for p in many) / len(many) == pytest.approx(0.2, abs=0.05)


def test_the_split_depends_on_the_seed_alone_and_stands_when_cases_are_added() -> None:
    cases = cohort()
    first = choose_test(cases[:150], 0.2, 1)
    assert first == choose_test(list(reversed(cases[:150])), 0.2, 1)
    assert first != choose_test(cases[:150], 0.2, 2)
    assert first.items() <= choose_test(cases, 0.2, 1, first).items()


@pytest.fixture
def semantic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[TaskFolder, dict[str, np.ndarray]]:
    """A task whose masks hold class numbers, as nnU-Net has them, and the boxes of its lesions."""
    monkeypatch.setenv("det_data", str(tmp_path))
    task = make_tiny_task(tmp_path, classes=("cmb", "iron"), name="Task904_Seg")
    boxes = {}
    for split in ("Tr", "Ts"):
        for case in Dataset.load(task).cases(split):
            labels, truth = case.read_labels(), read_truth(case)
            numbers = np.zeros(labels.mask.shape, np.uint8)
            for instance, index in labels.classes.items():
                numbers[labels.mask == instance] = index + 1
            write_image(case.label, numbers, labels.grid)
            case.classes_file.unlink()
            boxes[case.case_id] = np.column_stack([truth.boxes, truth.labels])
    return task, boxes


def test_seg2det_numbers_every_lesion_and_keeps_the_masks(semantic: tuple[TaskFolder, dict[str, np.ndarray]]) -> None:
    task, boxes = semantic
    assert seg2det.main(["904", "-np", "0"]) == 0
    assert_task_folder(task.root)
    for split in ("Tr", "Ts"):
        for case in Dataset.load(task).cases(split):
            truth = read_truth(case)
            found = np.column_stack([truth.boxes, truth.labels])
            order = [array[np.lexsort(array.T)] for array in (found, boxes[case.case_id])]
            np.testing.assert_array_equal(*order)
            kept, _ = read_mask(task.raw / f"seg{split}" / f"{case.case_id}.nii.gz")
            assert set(np.unique(kept)) <= {0, 1, 2}
    before = (task.labels("Tr") / "sub-01.nii.gz").read_bytes()
    assert seg2det.main(["904", "-np", "0"]) == 0
    assert (task.labels("Tr") / "sub-01.nii.gz").read_bytes() == before


def test_seg2det_takes_nndetections_entries(semantic: tuple[TaskFolder, dict[str, np.ndarray]]) -> None:
    task, boxes = semantic
    definition = task.root / "dataset.json"
    write_json(definition, {**read_json(definition), "labels": {"0": "iron"}, "seg2det_things": [2]})
    assert seg2det.main(["904", "-np", "0"]) == 0
    truth = read_truth(Dataset.load(task).cases("Tr")[0])
    assert len(truth) == np.count_nonzero(boxes["sub-01"][:, 6] == 1)
    assert not truth.labels.any()


@pytest.mark.parametrize("entry", ["seg2det_things", "min_vol"])
def test_seg2det_reads_a_definition_in_yaml(semantic: tuple[TaskFolder, dict[str, np.ndarray]], entry: str) -> None:
    task, boxes = semantic
    definition = task.root / "dataset.json"
    content = read_json(definition)
    changed = {"seg2det_things": {"labels": {0: "iron"}, "seg2det_things": [2]}, "min_vol": {"min_vol": 10**6}}[entry]
    (task.root / "dataset.yaml").write_text(yaml.safe_dump({**content, **changed}), encoding="utf-8")
    definition.unlink()
    assert seg2det.main(["904", "-np", "0"]) == 0
    expected = 0 if entry == "min_vol" else np.count_nonzero(boxes["sub-01"][:, 6] == 1)
    assert len(read_truth(Dataset.load(task).cases("Tr")[0])) == expected


@pytest.fixture
def one_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mask of a task with one case and one class: four lesions."""
    monkeypatch.setenv("det_data", str(tmp_path))
    task = make_tiny_task(tmp_path, n_train=1, n_test=0, name="Task906_One")
    (case,) = Dataset.load(task).cases("Tr")
    case.classes_file.unlink()
    put(case.label, {(3, 3, 3): 1, (9, 9, 9): 1, (15, 15, 15): 1, (3, 15, 9): 1})
    return case.label


def put(label: Path, lesions: dict[tuple[int, int, int], int]) -> np.ndarray:
    """Writes a mask with lesions of 2 x 2 x 2 voxels, by their first voxel and their number."""
    old, grid = read_mask(label)
    mask = np.zeros(old.shape, np.uint8)
    for (z, y, x), number in lesions.items():
        mask[z : z + 2, y : y + 2, x : x + 2] = number
    write_image(label, mask, grid)
    return mask


def number_again(label: Path, *words: str) -> dict[int, int]:
    """Removes the class file, runs the command and returns the instances, as the files have them."""
    classes = label.parent / "sub-01.json"
    classes.unlink(missing_ok=True)
    assert seg2det.main(["906", "-np", "0", *words]) == 0
    assert sorted(map(int, read_json(classes)["instances"])) == list(voxels_of_instances(read_mask(label)[0]))
    return voxels_of_instances(read_mask(label)[0])


@pytest.mark.parametrize(
    "lesions", [{(3, 3, 3): 1, (9, 9, 9): 1, (20, 20, 20): 1}, {(9, 9, 9): 1, (15, 15, 15): 1}, {(9, 9, 9): 1}, {}]
)
def test_seg2det_reads_a_corrected_mask_and_keeps_it(one_mask: Path, lesions: dict[tuple[int, int, int], int]) -> None:
    assert len(number_again(one_mask)) == 4
    corrected = put(one_mask, lesions)
    for _ in range(2):  # the second time from what is kept
        assert number_again(one_mask) == dict.fromkeys(range(1, len(lesions) + 1), 8)
        np.testing.assert_array_equal(read_mask(one_mask.parents[1] / "segTr" / one_mask.name)[0], corrected)


def test_seg2det_numbers_afresh_by_other_settings(one_mask: Path) -> None:
    definition = one_mask.parents[2] / "dataset.json"
    assert len(number_again(one_mask)) == 4
    write_json(definition, {**read_json(definition), "min_vol": 8})
    assert number_again(one_mask) == {}
    write_json(definition, {**read_json(definition), "min_vol": 7})
    assert len(number_again(one_mask)) == 4


def test_seg2det_says_what_it_drops(one_mask: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(one_mask, {(3, 3, 3): 1, (9, 9, 9): 2, (15, 15, 15): 2, (3, 15, 9): 3})
    assert number_again(one_mask) == {1: 8}
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert first == "warning: sub-01: dropped 3 pieces of numbers 2, 3"
    assert "seg2det_things" in second


def test_seg2det_says_which_limits_of_nndetection_it_does_not_heed(
    one_mask: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    definition = one_mask.parents[2] / "dataset.json"
    write_json(definition, {**read_json(definition), "min_size": 3.0, "min_vol_mm3": 0})
    assert seg2det.main(["906", "-np", "0"]) == 0
    assert "min_size=3.0 in dataset.json drops no lesion here" in capsys.readouterr().err


def test_seg2det_takes_no_numbered_lesions_for_a_corrected_mask(
    one_mask: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(number_again(one_mask)) == 4
    kept = (one_mask.parents[1] / "segTr" / one_mask.name).read_bytes()
    numbered = put(one_mask, {(3, 3, 3): 1, (9, 9, 9): 2, (20, 20, 20): 3})
    (one_mask.parent / "sub-01.json").unlink()
    assert seg2det.main(["906", "-np", "0"]) == 2
    assert "looks like numbered lesions: [2, 3] are of no class - write sub-01.json" in capsys.readouterr().out
    np.testing.assert_array_equal(read_mask(one_mask)[0], numbered)
    assert (one_mask.parents[1] / "segTr" / one_mask.name).read_bytes() == kept


def test_seg2det_of_an_earlier_version_left_no_note(one_mask: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = one_mask.parents[1] / "segTr" / "sub-01.json"
    assert len(number_again(one_mask)) == 4
    note.unlink()
    assert len(number_again(one_mask)) == 4  # what the kept mask gives
    note.unlink()
    put(one_mask, {(3, 3, 3): 1, (20, 20, 20): 1})  # more than the kept mask holds
    assert len(number_again(one_mask)) == 2
    note.unlink()
    put(one_mask, {(3, 3, 3): 1})
    (one_mask.parent / "sub-01.json").unlink()
    assert seg2det.main(["906", "-np", "0"]) == 2
    assert "or a corrected mask - if it is a corrected mask, remove" in capsys.readouterr().out


@pytest.mark.parametrize(("entry", "value"), [("seg2det_things", 2), ("seg2det_things", ["1"]), ("min_vol", "few")])
def test_seg2det_names_an_entry_that_is_none(
    one_mask: Path, entry: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    definition = one_mask.parents[2] / "dataset.json"
    write_json(definition, {**read_json(definition), entry: value})
    assert seg2det.main(["906", "-np", "0"]) == 2
    assert f"dataset.json: {entry} is {value!r} - give" in capsys.readouterr().err


def test_cls2fg_copies_the_task_with_one_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("det_data", str(tmp_path))
    task = make_tiny_task(tmp_path, classes=("cmb", "iron"), name="Task905_Two")
    assert cls2fg.main(["905"]) == 0
    copy = TaskFolder(tmp_path / "Task905FG_Two")
    assert_task_folder(copy.root)
    dataset = Dataset.load(copy)
    assert dataset.classes == ("fg",)
    for ours, theirs in zip(dataset.cases("Tr"), Dataset.load(task).cases("Tr"), strict=True):
        np.testing.assert_array_equal(read_truth(ours).boxes, read_truth(theirs).boxes)
        assert not read_truth(ours).labels.any()
    assert find_task("905").name == "Task905_Two"
    assert cls2fg.main(["905"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert cls2fg.main(["905", "--overwrite"]) == 0


@pytest.mark.parametrize("holds", ["dataset.yaml", "notes.txt"])
def test_cls2fg_removes_nothing_that_it_did_not_make(
    holds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("det_data", str(tmp_path))
    make_tiny_task(tmp_path, n_train=1, n_test=0, name="Task905_Two")
    theirs = tmp_path / "Task905FG_Two" / holds
    theirs.parent.mkdir()
    theirs.write_text("made by hand", encoding="utf-8")
    assert cls2fg.main(["905"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert theirs.read_text(encoding="utf-8") == "made by hand"


def test_a_copy_by_cls2fg_that_was_interrupted_leaves_no_half_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("det_data", str(tmp_path))
    make_tiny_task(tmp_path, n_train=2, n_test=0, classes=("cmb", "iron"), name="Task905_Two")
    with monkeypatch.context() as patch:
        patch.setattr(relabelling, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cls2fg.main(["905"]) == 130
    assert not (tmp_path / "Task905FG_Two").exists()
    assert cls2fg.main(["905"]) == 0
    assert Dataset.load(TaskFolder(tmp_path / "Task905FG_Two")).classes == ("fg",)
    assert sorted(path.name for path in tmp_path.glob("*Task905FG*")) == ["Task905FG_Two"]


def test_a_row_of_csiro_that_ends_within_a_point_is_refused(tmp_path: Path) -> None:
    """The last lesion was left out, and became background."""
    table = tmp_path / "positions.csv"
    table.write_text("name,x,y,z\n1_T0_SWI.nii.gz,4,5,6,7,8\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"row 2 has a point with \['7', '8', ''\] - give x, y and z of each"):
        read_positions(table)
    table.write_text("name,x,y,z\n1_T0_SWI.nii.gz,4,5,6,,\n", encoding="utf-8")
    assert read_positions(table) == {"1_T0_SWI": [(4.0, 5.0, 6.0)]}


def test_hidden_files_beside_scans_of_bids_are_no_scans(tmp_path: Path) -> None:
    """A Mac puts ._NAME beside each file on a disk that is not its own."""
    folder = tmp_path / "sub-01" / "anat"
    folder.mkdir(parents=True)
    for name in ("sub-01_swi.nii.gz", "._sub-01_swi.nii.gz"):
        (folder / name).touch()
    (case,) = Bids(BidsConfig(missing="healthy")).find(tmp_path)
    assert isinstance(case, SourceCase), case
    assert case.images == (folder / "sub-01_swi.nii.gz",)
