"""What a reader has judged travels from a mask in the Task folder to patches and folds."""

import json

import numpy as np
import pytest
import torch
from tiny_task import make_tiny_task

from cmb_plugin.commands.prep import main as nndet_prep
from cmb_plugin.commands.train import main as nndet_train
from cmb_plugin.dataset import Dataset, read_splits, splits_around
from cmb_plugin.files import read_json
from cmb_plugin.images import read_mask, write_image
from cmb_plugin.preparation import StoredCase
from cmb_plugin.training import Augmentation, AugmentConfig, PatchDataset, PreparedCases

PATCH = (8, 8, 8)
SMALL = ["planner_cfg.patch_size=[16,16,16]", "planner_cfg.base_features=4", "planner_cfg.pyramid_channels=8"]


@pytest.fixture
def task(tmp_path, monkeypatch):
    """Six scans; of sub-02 and of sub-06, which is healthy, only a block of 8 voxels a side was judged."""
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    monkeypatch.setenv("det_models", str(tmp_path / "models"))
    task = make_tiny_task(tmp_path / "data", n_train=6, n_test=1, modalities=("swi",), shape=(20, 24, 24))
    for case in Dataset.load(task).cases("Tr"):
        if case.case_id in ("sub-02", "sub-06"):
            mask, grid = read_mask(case.label)
            judged = np.zeros(mask.shape, np.uint8)
            judged[8:16, 8:16, 8:16] = 1
            write_image(task.extra("judged", "Tr") / f"{case.case_id}.nii.gz", judged, grid)
    assert nndet_prep(["900", "-np", "0", "-npp", "0", "-o", *SMALL]) == 0
    return task


def test_prepared_cases_know_what_was_judged(task):
    folder = task.prepared("D3CMB_3d", "Tr")
    whole, part, healthy = (StoredCase.open(folder, f"sub-0{n}") for n in (1, 2, 6))
    assert whole.judged is None
    assert whole.judged_boxes is None
    judged = part.judged[:]
    assert judged.shape == part.shape
    assert (judged[part.instances[:] > 0] == 1).all()
    assert len(healthy.judged_boxes) == 1
    assert healthy.judged[:].sum() > 0
    low, high = healthy.judged_boxes[0][:3].astype(int), healthy.judged_boxes[0][3:].astype(int)
    assert healthy.judged[:][tuple(map(slice, low, high))].all()

    # Folds validate on whole scans; those that were judged in places are trained on by all.
    for split in read_splits(task.splits):
        assert {"sub-02", "sub-06"} <= set(split["train"])
        assert not {"sub-02", "sub-06"} & set(split["val"])


def test_a_changed_mask_is_prepared_again(task, capsys):
    path = task.extra("judged", "Tr") / "sub-06.nii.gz"
    _, grid = read_mask(path)
    write_image(path, np.zeros(grid.shape, np.uint8), grid)
    assert nndet_prep(["900", "-np", "0", "-npp", "0", "-o", *SMALL]) == 0
    again = StoredCase.open(task.prepared("D3CMB_3d", "Tr"), "sub-06")
    assert len(again.judged_boxes) == 0
    assert not again.judged[:].any()
    path.unlink()
    assert nndet_prep(["900", "-np", "0", "-npp", "0", "-o", *SMALL]) == 0
    assert StoredCase.open(task.prepared("D3CMB_3d", "Tr"), "sub-06").judged is None


@pytest.mark.parametrize("augment", [None, AugmentConfig(spatial=1.0, thick_slices=1.0), AugmentConfig()])
def test_patches_say_where_somebody_has_judged(task, augment):
    folder = task.prepared("D3CMB_3d", "Tr")
    case = StoredCase.open(folder, "sub-06")
    augmentation = augment and Augmentation(PATCH, (1.5, 1.2, 1.2), augment)
    data = PatchDataset(PreparedCases(folder, ("sub-06",)), batch_size=2, foreground_fraction=0.5,
                        augmentation=augmentation, patch_size=PATCH, seed=0)  # fmt: skip
    shares = []
    for index in range(12):
        sample = data[index]
        assert sample.judged.shape == PATCH
        shares.append(float(sample.judged.float().mean()))
        if augment is None:
            start = np.array(sample.place[1:])
            inside = tuple(slice(max(0, a), a + 8) for a in start)
            assert int(sample.judged.sum()) == int(case.judged[inside].sum())
        assert sample.foreground.max() == 0
    assert min(shares) > 0  # no patch in which nobody has judged anything
    assert max(shares) < 1 or augment is None
    whole = PatchDataset(PreparedCases(folder, ("sub-01",)), batch_size=2, foreground_fraction=0.5,
                         augmentation=augmentation, patch_size=PATCH, seed=0)  # fmt: skip
    assert whole[0].judged is None


def test_what_lies_beyond_the_scan_was_judged_by_nobody(task):
    folder = task.prepared("D3CMB_3d", "Tr")
    data = PatchDataset(PreparedCases(folder, ("sub-02",)), batch_size=1, foreground_fraction=0.0,
                        augmentation=None, patch_size=(64, 64, 64), seed=0)  # fmt: skip
    sample, case = data[0], StoredCase.open(folder, "sub-02")
    assert int(sample.judged.sum()) == int(case.judged[:].sum())
    assert int(torch.count_nonzero(sample.foreground)) == int((case.instances[:] > 0).sum())


def test_folds_around_judged_cases():
    cases = {f"c{i}": i % 2 for i in range(8)}
    patients = {name: name for name in cases} | {"c7": "c0"}
    splits = splits_around({"c6", "c7"}, cases, patients)
    assert sorted(case for split in splits for case in split["val"]) == [f"c{i}" for i in range(6)]
    for split in splits:
        assert "c6" in split["train"]
        assert ("c7" in split["train"]) == ("c0" not in split["val"])  # the same patient
    assert splits_around({"c0"}, {"c0": 1}, {}) == [{"train": ["c0"], "val": []}]


def test_trainers_that_take_the_rest_for_background_refuse(task, capsys):
    assert nndet_train(["900", "-o", "module=DeepMIRUNet", "train=demo"]) == 2
    error = capsys.readouterr().err
    assert "sub-02 was judged in places only (2 cases were)" in error
    assert "nndet_review --done_only" in error
    quick = ["train=demo", "trainer_cfg.epochs=1", "trainer_cfg.steps_per_epoch=3", "trainer_cfg.swa_epochs=0"]
    assert nndet_train(["900", "-o", *quick, "trainer_cfg.batch_size=2", "augment=domains"]) == 0
    fold = next((task.root.parent.parent / "models" / task.name).glob("*/fold0"))
    metrics = read_json(fold / "val_results" / "metrics.json")
    assert metrics["n_cases"] == len(read_splits(task.splits)[0]["val"])
    assert json.loads((fold / "splits.json").read_text(encoding="utf-8")) == read_splits(task.splits)


def test_a_mask_on_another_grid_is_named(task, capsys):
    path = task.extra("judged", "Tr") / "sub-06.nii.gz"
    _, grid = read_mask(path)
    other = type(grid)((4, 4, 4), grid.spacing, grid.origin, grid.direction)
    write_image(path, np.ones((4, 4, 4), np.uint8), other)
    assert nndet_prep(["900", "-np", "0", "-npp", "0", "-o", *SMALL]) == 2
    assert "judgedTr/sub-06.nii.gz: does not lie on the grid of sub-06_0000.nii.gz" in capsys.readouterr().out
