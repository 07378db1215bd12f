"""Prepared cases on disk."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid
from cmb_plugin.preparation import (
    PreparedCase,
    Preprocessing,
    StoredCase,
    is_current,
    prepared_cases,
    preprocess_case,
    save_case,
    work_key,
)

RECIPE = Preprocessing((1.0, 1.0, 1.0))
CASE = "sub-01.a_ses-2"


def prepared(seed: int = 0, labelled: bool = True) -> PreparedCase:
    images = np.random.default_rng(seed).normal(100, 10, size=(1, 20, 24, 28)).astype(np.float32)
    mask = np.zeros((20, 24, 28), dtype=np.int32)
    mask[2:6, 4:9, 10:14] = 2
    mask[15, 15, 15] = 5
    return preprocess_case(images, Grid((20, 24, 28), (0.5, 1.0, 1.0)), mask if labelled else None, RECIPE)


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    case = prepared()
    save_case(tmp_path, CASE, case, {2: 1, 5: 0}, patch_size=(8, 16, 16), key="k")
    stored = StoredCase.open(tmp_path, CASE)
    np.testing.assert_array_equal(stored.data[:], case.data)
    np.testing.assert_array_equal(stored.instances[:], case.instances)
    np.testing.assert_array_equal(stored.data[:, 2:7, 3:5, 1:9], case.data[:, 2:7, 3:5, 1:9])
    assert stored.shape == (10, 24, 28)
    assert stored.mapping == case.mapping
    assert stored.labels.tolist() == [1, 0]
    assert stored.instance_ids.tolist() == [2, 5]
    np.testing.assert_array_equal(stored.truth[0], [2, 4, 10, 6, 9, 14])
    np.testing.assert_array_equal(stored.boxes, [[1, 4, 10, 3, 9, 14], [7.5, 15, 15, 8, 16, 16]])
    np.testing.assert_array_equal(stored.mask_boxes, [[1, 4, 10, 3, 9, 14], [7, 15, 15, 8, 16, 16]])
    assert stored.boxes.dtype == np.float32
    assert stored.labels.dtype == np.int64


def test_saving_again_replaces_the_case_even_while_it_is_open(tmp_path: Path) -> None:
    save_case(tmp_path, CASE, prepared(0), {2: 0, 5: 0})
    old = StoredCase.open(tmp_path, CASE)
    first = old.data[:]
    save_case(tmp_path, CASE, prepared(1), {2: 0, 5: 0})
    assert not np.array_equal(StoredCase.open(tmp_path, CASE).data[:], first)
    np.testing.assert_array_equal(old.data[:], first)
    assert prepared_cases(tmp_path) == [CASE]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{CASE}.b2nd", f"{CASE}.json", f"{CASE}_instances.b2nd"]


def test_a_case_that_was_killed_while_saving_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_case(tmp_path, CASE, prepared(0), {2: 0, 5: 0}, key="k")
    assert is_current(tmp_path, CASE, "k")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cmb_plugin.preparation.storage.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        save_case(tmp_path, CASE, prepared(1), {2: 0, 5: 0}, key="k")
    assert not is_current(tmp_path, CASE, "k")
    assert prepared_cases(tmp_path) == []


def test_a_scan_without_labels_has_no_instances(tmp_path: Path) -> None:
    save_case(tmp_path, "x", prepared(labelled=False), {})
    stored = StoredCase.open(tmp_path, "x")
    assert stored.instances is None
    assert not stored.labelled
    assert stored.boxes.shape == (0, 6)


def test_a_healthy_case_has_an_empty_mask(tmp_path: Path) -> None:
    images = np.ones((1, 4, 5, 6), dtype=np.float32)
    healthy = preprocess_case(images, Grid((4, 5, 6), (1.0, 1.0, 1.0)), np.zeros((4, 5, 6), dtype=int), RECIPE)
    save_case(tmp_path, "x", healthy, {})
    stored = StoredCase.open(tmp_path, "x")
    assert not stored.instances[:].any()
    assert stored.labels.shape == (0,)
    assert stored.mask_boxes.shape == (0, 6)


def test_a_case_travels_to_another_process_by_name(tmp_path: Path) -> None:
    save_case(tmp_path, CASE, prepared(), {2: 0, 5: 0})
    stored = StoredCase.open(tmp_path, CASE)
    stored.data[:, :1]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(stored)).boxes, stored.boxes)


def test_a_missing_case_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nobody\.json.*nndet_prep"):
        StoredCase.open(tmp_path, "nobody")


def test_a_damaged_json_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{", encoding="utf-8")
    assert not is_current(tmp_path, "x", "k")


def test_key_follows_recipe_and_sources(tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii"
    scan.write_text("a", encoding="utf-8")
    key = work_key([scan], RECIPE)
    assert key == work_key([scan], RECIPE)
    assert key != work_key([scan], Preprocessing((1.0, 1.0, 1.1)))
    assert key != work_key([scan])
    os.utime(scan, (1, 1))
    assert key != work_key([scan], RECIPE)


def test_stored_cases_are_read_without_simpleitk(tmp_path: Path) -> None:
    save_case(tmp_path, "x", prepared(), {2: 0, 5: 0})
    script = (
        "import sys; sys.modules['SimpleITK'] = None\n"
        "from pathlib import Path; from cmb_plugin.preparation import StoredCase\n"
        f"print(StoredCase.open(Path({str(tmp_path)!r}), 'x').data[:, :2].shape, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "(1, 2, 24, 28) False"
