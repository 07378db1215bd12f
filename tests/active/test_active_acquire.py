"""From two folders to a model: a pool is ranked, its queue reviewed, weak answers become labels, training goes on."""

import shutil

import numpy as np
import pytest
from tiny_task import make_tiny_task

from cmb_plugin.commands.active import main as nndet_active
from cmb_plugin.commands.active import pools_named
from cmb_plugin.commands.merge import main as nndet_merge
from cmb_plugin.commands.prep import main as nndet_prep
from cmb_plugin.commands.review import main as nndet_review
from cmb_plugin.commands.train import main as nndet_train
from cmb_plugin.dataset import Dataset, read_case_predictions, write_case_predictions
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import read_mask
from cmb_plugin.paths import TaskFolder
from cmb_plugin.review.queue import ReviewQueue
from cmb_plugin.review.session import ReviewSession

SMALL = ["planner_cfg.patch_size=[16,16,16]", "planner_cfg.base_features=4", "planner_cfg.pyramid_channels=8"]
QUICK = ["train=demo", "trainer_cfg.epochs=1", "trainer_cfg.steps_per_epoch=1", "trainer_cfg.swa_epochs=1",
         "trainer_cfg.batch_size=2", "trainer_cfg.precision=32-true"]  # fmt: skip
SERIAL = ["-np", "0", "-npp", "0"]
SHAPE = (20, 24, 24)


def judge(session, case_id, verdicts, done=False):
    """Decides about the first candidates of a scan."""
    events = [{"kind": "judge", "lesion": str(i), "verdict": verdict} for i, verdict in enumerate(verdicts, start=1)]
    for event in [*events, {"kind": "done", "done": True}] if done else events:
        revision = session.review(case_id).revision
        session.store.append(case_id, session.key(case_id), event, revision, session.scope(case_id))


def test_from_two_folders_to_a_model(tmp_path, monkeypatch, capsys):
    """The commands of docs/active_learning.md, in their order."""
    data, models = tmp_path / "data", tmp_path / "models"
    monkeypatch.setenv("det_data", str(data))
    monkeypatch.setenv("det_models", str(models))
    task = make_tiny_task(data, n_train=4, n_test=1, modalities=("swi",), shape=SHAPE, name="Task101_First")
    other = make_tiny_task(tmp_path / "hidden", n_train=3, n_test=0, modalities=("swi",), shape=SHAPE, seed=5)
    pools = {"a": tmp_path / "a", "ge": tmp_path / "ge"}
    for name, path in zip(("a", "a", "ge"), sorted(other.images("Tr").iterdir()), strict=True):
        pools[name].mkdir(exist_ok=True)
        shutil.copy(path, pools[name] / f"new-{path.name}")
    known = task.images("Tr") / "sub-01_0000.nii.gz"
    (pools["ge"] / "again_0000.nii.gz").symlink_to(known)

    assert nndet_prep(["101", *SERIAL, "-o", *SMALL]) == 0
    assert nndet_train(["101", "-o", *QUICK]) == 0
    ask = ["101", "--pool", f"siemens={pools['a']}", f"ge={pools['ge']}", "--acquire", "2", "--device", "cpu"]
    capsys.readouterr()
    for strategy in ("disagreement", "diversity", "uncertainty"):
        assert nndet_active([*ask, "--strategy", strategy]) == 0
    shown = capsys.readouterr().out
    assert "passed over 1 scans that Task101_First has already" in shown
    assert "2 of 3 scans" in shown
    place = task.root / "active"
    queue = ReviewQueue.load(place / "queue_uncertainty.json")
    ranking = (place / "ranking_uncertainty.tsv").read_text(encoding="utf-8").splitlines()
    assert len(ranking) == 1 + 3
    assert [line.split("\t")[1] for line in ranking[1:3]] == [scan.case_id for scan in queue.scans]
    values = [float(line.split("\t")[3]) for line in ranking[1:]]
    assert values == sorted(values, reverse=True)
    assert {scan.domain for scan in ReviewQueue.load(place / "queue_diversity.json").scans} <= {"siemens", "ge"}
    assert not list(place.glob("**/again*"))

    # An afternoon. The network has learned next to nothing, so the candidates are ours.
    first, second = (scan.case_id for scan in queue.scans)
    for scan in queue.scans:
        path = scan.predictions / f"{scan.case_id}_boxes.json"
        before = read_case_predictions(path)
        boxes = np.array([[3, 3, 3, 5, 5, 5], [9, 9, 9, 12, 12, 12], [15, 15, 15, 17, 17, 17], [3, 15, 3, 5, 17, 5]])
        before.detections = Detections(boxes, np.array([0.9, 0.8, 0.7, 0.6]), np.zeros(4))
        before.operating_point, before.volumes_mm3 = 0.5, None
        write_case_predictions(scan.predictions, before)
        (scan.predictions / f"{scan.case_id}_instances.nii.gz").unlink(missing_ok=True)
    dataset = Dataset.load(task)
    session = ReviewSession.of_queue(dataset, queue, "ann")
    assert list(session.cases) == [first, second]
    assert session.describe(first)["images"][0]["name"] == "swi"
    export = ["101", "--queue", str(place / "queue_uncertainty.json"), "--reader", "ann", "--export", "Task301_Round1"]
    assert nndet_review(export) == 2
    assert "nothing is judged" in capsys.readouterr().err
    judge(session, first, ["accept", "reject", "unsure"])  # yes, no, I do not know; the fourth was never looked at
    assert nndet_review([*export, "--done_only"]) == 2
    assert nndet_review(export) == 0
    shown = capsys.readouterr().out
    assert f"judged in places only: {first}" in shown
    assert f"left out {second}: nothing is judged" in shown
    made = Dataset.load(TaskFolder(data / "Task301_Round1"))
    (case,) = made.cases("Tr")
    assert made.annotation_style == "weak"
    assert case.domain == queue.scans[0].domain
    judged, labels = read_mask(case.judged)[0], case.read_labels(1)
    assert set(labels.classes) == {1}
    assert judged[4, 4, 4] == judged[10, 10, 10] == 1  # accepted and rejected
    assert judged[16, 16, 16] == judged[4, 16, 4] == judged[1, 12, 22] == 0  # unsure, not looked at, far away
    assert judged[labels.mask > 0].all()
    assert labels.mask[10, 10, 10] == 0

    assert nndet_merge(["101", "301", "--task", "Task302_All1"]) == 0
    joined = TaskFolder(data / "Task302_All1")
    fold = next(models.glob("Task101_First/*/fold0"))
    assert nndet_prep(["302", *SERIAL, "-o", f"plan_from={fold}"]) == 0
    splits = read_json(joined.splits)
    assert all(f"Round1_{first}" in split["train"] and f"Round1_{first}" not in split["val"] for split in splits)
    assert nndet_train(["302", "-o", *QUICK, f"train.init={fold}", "trainer_cfg.domain_balance=1"]) == 0
    assert "tensors taken" in capsys.readouterr().out

    capsys.readouterr()
    ask[0] = "302"
    assert nndet_active([*ask, "--strategy", "random", "--output", str(place)]) == 0
    assert "passed over 2 scans" in capsys.readouterr().out
    assert first not in (place / "ranking_random.tsv").read_text(encoding="utf-8")


def test_a_queue_that_is_damaged_or_of_another_task_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("det_data", str(tmp_path))
    make_tiny_task(tmp_path, n_train=1, n_test=1, shape=SHAPE, name="Task101_First")
    path = tmp_path / "queue.json"
    for content in ({}, [], {"schema": 1, "task": "T", "title": "", "chosen": {}, "scans": [{"case": "a"}]}):
        write_json(path, content)
        assert nndet_review(["101", "--queue", str(path)]) == 2
        assert "is no queue of nndet_active" in capsys.readouterr().err
    write_json(path, {"schema": 1, "task": "Task9_Other", "title": "", "chosen": {}, "scans": []})
    assert nndet_review(["101", "--queue", str(path)]) == 2
    assert "is of Task9_Other" in capsys.readouterr().err
    scan = {"case": "a", "domain": "", "value": 0, "images": {"0": "/nowhere/a.nii.gz"}, "predictions": "/nowhere",
            "reported": 0, "candidates": 0}  # fmt: skip
    write_json(path, {"schema": 1, "task": "Task101_First", "title": "", "chosen": {}, "scans": [scan]})
    assert nndet_review(["101", "--queue", str(path)]) == 2
    assert "/nowhere/a.nii.gz: is gone" in capsys.readouterr().err


def test_pools_have_names(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    x, y = tmp_path / "x", tmp_path / "y"
    assert pools_named([str(x), str(y)]) == {"": x, "pool2": y}
    assert pools_named([f"ge={x}", f"siemens={y}"]) == {"ge": x, "siemens": y}
    for texts in ([f"ge={x}", f"ge={y}"], [f"g e={x}"], ["ge=nowhere"]):
        with pytest.raises(UserError, match="--pool"):
            pools_named(texts)
