"""nndet_eval and nndet_sweep on a small Task folder: files, numbers, exit codes, one-line errors."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
from by_name import evaluate, predictions, sweep
from tiny_task import make_tiny_task

from cmb_plugin.commands import eval as eval_command
from cmb_plugin.commands import sweep as sweep_command
from cmb_plugin.dataset import Dataset, read_truth
from cmb_plugin.dataset.predictions import (
    CasePredictions,
    instances_file,
    read_case_predictions,
    write_case_predictions,
)
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import EvaluationConfig, measure
from cmb_plugin.files import write_json
from cmb_plugin.images import Grid
from cmb_plugin.models.operating_point import OperatingPoint
from cmb_plugin.models.trained import TrainedModel
from cmb_plugin.paths import FoldFolder, ModelFolder

FILES = ["detections.tsv", "froc.png", "gallery.png", "metrics.json", "report.html", "results_boxes.json"]


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    monkeypatch.setenv("det_models", str(tmp_path / "models"))
    return make_tiny_task(tmp_path / "data")


@pytest.fixture
def fold(task, tmp_path):
    """A fold that validated on sub-02 and sub-04 (healthy): all lesions but the first of each scan were found, a voxel
    off, and one thing that is none."""
    fold = FoldFolder(tmp_path / "models" / task.name / "Model_Plan" / "fold0")
    fold.root.mkdir(parents=True)
    fold.last.touch()
    write_json(fold.splits, [{"train": ["sub-01", "sub-03"], "val": ["sub-02", "sub-04"]}])
    for split, cases in (("val", ["sub-02", "sub-04"]), ("test", ["sub-51", "sub-52"])):
        for case_id in cases:
            predict(task, fold, split, case_id)
    return fold


def predict(task, fold, split, case_id, classes=("cmb",), grid=None):
    truth = read_truth(next(c for s in ("Tr", "Ts") for c in Dataset.load(task).cases(s) if c.case_id == case_id))
    boxes = np.concatenate([truth.boxes[1:] + 1, np.array([[0, 0, 0, 2, 2, 2]])])
    scores = np.append(np.linspace(0.9, 0.7, len(boxes) - 1), 0.2)
    found = CasePredictions(case_id, Detections(boxes, scores, np.zeros(len(boxes))), grid or truth.grid, classes, 0.5)
    write_case_predictions(fold.predictions(split), found)
    return len(truth)


def test_validation_scans_are_measured_and_every_file_is_written(task, fold, capsys):
    assert eval_command.main([task.name]) == 0
    folder = fold.results("val")
    assert sorted(path.name for path in folder.iterdir()) == FILES
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["schema"], metrics["n_cases"], metrics["n_healthy"]) == (1, 2, 1)
    assert metrics["sensitivity"] == (metrics["n_lesions"] - 1) / metrics["n_lesions"]
    assert (metrics["precision"], metrics["fp_per_scan"], metrics["missing_cases"]) == (1.0, 0.0, [])
    assert metrics["operating_point"] == {"score": 0.5, "source": "predictions", "ranking": None}
    boxes = json.loads((folder / "results_boxes.json").read_text(encoding="utf-8"))
    names = ("AP_IoU_0.10_MaxDet_100", "mAP_IoU_0.10_0.50_0.05_MaxDet_100", "FROC_score_IoU_0.10")
    assert set(boxes) == {*names, *(f"cmb_{name}" for name in names)}
    assert boxes["AP_IoU_0.10_MaxDet_100"] == metrics["overall"]["iou"]["AP_IoU_0.10"]
    printed = capsys.readouterr().out
    assert "within 5 mm" in printed
    assert f"95 % intervals over 2 patients: sensitivity {metrics['sensitivity']:.3f} (" in printed
    assert "froc.png" in printed
    with (folder / "detections.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["case"] for row in rows if row["status"] == "missed"] == ["sub-02"]


def test_the_sweep_writes_an_operating_point_that_evaluation_uses(task, fold, capsys):
    assert sweep_command.main([task.name, "Model_Plan", "0"]) == 0
    point = json.loads(fold.operating_point.read_text(encoding="utf-8"))
    assert 0.2 < point["score"] < 0.7
    assert (point["rule"], point["fp_per_scan"]) == ("fp_per_scan", 0.0)
    assert eval_command.main([task.name, "Model_Plan", "0", "--test"]) == 0
    metrics = json.loads((fold.results("test") / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["operating_point"] == {"score": point["score"], "source": "operating_point.json", "ranking": None}
    assert "predict again" in capsys.readouterr().out
    assert eval_command.main([task.name, "--test", "-o", "eval_cfg.operating_point=0.1"]) == 0
    metrics = json.loads((fold.results("test") / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["operating_point"]["source"], metrics["fp_per_scan"]) == ("setting", 1.0)


def test_each_class_has_its_own_threshold_in_every_command(tmp_path, monkeypatch, capsys):
    """Lesions of one class have low scores and no false positive, those of the other high ones and many."""
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    monkeypatch.setenv("det_models", str(tmp_path / "models"))
    task = make_tiny_task(tmp_path / "data", classes=("cmb", "iron"), healthy=False)
    fold = FoldFolder(tmp_path / "models" / task.name / "Model_Plan" / "fold0")
    fold.root.mkdir(parents=True)
    fold.last.touch()
    held_out = [case.case_id for case in Dataset.load(task).cases("Tr")]
    write_json(fold.splits, [{"train": [], "val": held_out}])
    for case_id in held_out:
        truth = read_truth(next(c for c in Dataset.load(task).cases("Tr") if c.case_id == case_id))
        wrong = np.array([[z, 0, 0, z + 2, 2, 2] for z in range(0, 16, 3)])
        boxes = np.concatenate([truth.boxes, wrong])
        labels = np.append(truth.labels, np.ones(len(wrong)))
        scores = np.append(np.where(truth.labels == 0, 0.3, 0.95), np.linspace(0.8, 0.7, len(wrong)))
        found = Detections(boxes, scores, labels).by_score()
        predictions = CasePredictions(case_id, found, truth.grid, ("cmb", "iron"), 0.5)
        write_case_predictions(fold.predictions("val"), predictions)
    assert sweep_command.main([task.name, "Model_Plan", "0"]) == 0
    assert "Each class has its own threshold: cmb 0.15, iron 0.87" in capsys.readouterr().out
    first = fold.operating_point.read_text(encoding="utf-8")
    assert eval_command.main([task.name, "Model_Plan", "0"]) == 0
    metrics = json.loads((fold.results("val") / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["sensitivity"], metrics["fp_per_scan"]) == (1.0, 0.0)
    # What nndet_predict writes afterwards has other scores; they are measured alike, and the next sweep sees through.
    swept = OperatingPoint.load(fold.operating_point)
    for path in fold.predictions("val").glob("*_boxes.json"):
        case = read_case_predictions(path)
        moved = dataclasses.replace(case, detections=swept.apply(case.detections), operating_point=swept.score)
        assert moved.reported.sum() == (case.detections.scores > 0.9).sum() + (case.detections.scores < 0.4).sum()
        write_case_predictions(fold.predictions("val"), moved)
    assert eval_command.main([task.name, "Model_Plan", "0"]) == 0
    again = json.loads((fold.results("val") / "metrics.json").read_text(encoding="utf-8"))
    assert (again["sensitivity"], again["fp_per_scan"], again["froc_score"]) == (1.0, 0.0, metrics["froc_score"])
    assert sweep_command.main([task.name, "Model_Plan", "0"]) == 0
    assert json.loads(fold.operating_point.read_text(encoding="utf-8")) == json.loads(first)


def test_a_case_without_predictions_counts_as_missed_is_named_and_exit_code_is_2(task, fold, capsys):
    complete = evaluate(task.name, split="test").metrics
    (fold.predictions("test") / "sub-51_boxes.json").unlink()
    assert eval_command.main([task.name, "--test"]) == 2
    metrics = json.loads((fold.results("test") / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["n_lesions"], metrics["n_cases"]) == (complete["n_lesions"], 2)
    assert (metrics["missing_cases"], metrics["sensitivity"]) == (["sub-51"], 0.0)
    assert "no predictions of sub-51" in capsys.readouterr().out


def test_one_unreadable_label_is_left_out_and_named(task, fold, capsys):
    (task.labels("Ts") / "sub-51.nii.gz").write_bytes(b"nonsense")
    assert eval_command.main([task.name, "--test"]) == 2
    metrics = json.loads((fold.results("test") / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["n_cases"], metrics["unreadable_cases"]) == (1, ["sub-51"])
    assert "left out sub-51" in capsys.readouterr().out


def test_all_folds_together_are_measured_on_the_validation_scans_of_each(task, fold):
    other = FoldFolder(fold.root.with_name("fold1"))
    other.root.mkdir()
    other.last.touch()
    splits = [{"train": ["sub-01", "sub-03"], "val": ["sub-02", "sub-04"]}, {"train": ["sub-02"], "val": ["sub-01"]}]
    for folder in (fold, other):
        write_json(folder.splits, splits)
    predict(task, other, "val", "sub-01")
    together = FoldFolder(fold.root.with_name("consolidated"))
    assert eval_command.main([task.name, "Model_Plan", "-1"]) == 0
    metrics = json.loads((together.results("val") / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["n_cases"], metrics["missing_cases"]) == (3, [])
    assert evaluate(task.name, fold=1).metrics["n_cases"] == 1
    with pytest.raises(UserError, match=r"nndet_predict Task900_Tiny Model_Plan$"):
        evaluate(task.name, split="test")
    predict(task, together, "test", "sub-51")
    write_json(fold.operating_point, {"score": 0.6})
    write_json(other.operating_point, {"score": 0.9})
    run = evaluate(task.name, split="test")
    assert (run.metrics["operating_point"]["score"], run.metrics["missing_cases"]) == (0.75, ["sub-52"])
    with pytest.raises(UserError, match="name one: 0, 1"):
        sweep(task.name)


def test_a_model_that_is_packed_with_other_weights_than_were_measured_says_so(task, fold, monkeypatch, tmp_path):
    from cmb_plugin.workflows import consolidate as workflow

    monkeypatch.setattr(workflow, "pack", lambda model, whole: tmp_path)
    write_json(fold.splits, [{"train": ["sub-01", "sub-03"], "val": ["sub-02", "sub-04"]}])
    dataset, model = Dataset.load(task), TrainedModel(ModelFolder(fold.root.parent), (0,), "best")
    for made_with, said in (("last", True), ("best", False)):
        write_json(fold.predictions("val") / "run.json", {"checkpoint": made_with})
        notes = workflow.consolidate(dataset, model, EvaluationConfig(resamples=0)).evaluation.notes
        assert any("with checkpoint last, not best" in note for note in notes) == said
    (fold.predictions("val") / "run.json").unlink()
    assert not model.doubt_of_checkpoint  # nobody says with which they were made


def test_predictions_elsewhere_are_measured_without_a_model(task, fold, tmp_path):
    run = evaluate(task.name, split="test", predictions_folder=fold.predictions("test"), output=tmp_path / "results")
    assert run.metrics == evaluate(task.name, split="test").metrics
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == FILES
    with pytest.raises(UserError, match="--output"):
        evaluate(task.name, split="test", predictions_folder=fold.predictions("test"))


def test_flags_of_nndetection_are_accepted_and_say_what_they_do(task, fold, capsys):
    flags = ["--test", "--boxes", "--case", "--seg", "--instances", "--analyze_boxes"]
    assert eval_command.main([task.name, "Model_Plan", "0", *flags]) == 0
    assert capsys.readouterr().out.count("no effect") == 3


def test_the_rates_of_the_curve_are_printed_as_they_are(task, fold, capsys):
    assert eval_command.main([task.name, "--test", "-o", "eval_cfg.fp_rates=[0.125,0.3,0.75,2]"]) == 0
    heading = next(line for line in capsys.readouterr().out.splitlines() if "FP/scan of" in line)
    assert heading.split()[-4:] == ["1/8", "0.3", "0.75", "2"]


def test_masks_drawn_at_another_score_are_named(task, fold, capsys):
    for case in Dataset.load(task).cases("Tr"):
        if case.case_id in ("sub-02", "sub-04"):
            shutil.copy(case.label, instances_file(fold.predictions("val"), case.case_id))

    def said(*flags):
        """Whether the evaluation says at which score masks were drawn."""
        assert eval_command.main([task.name, "Model_Plan", "0", *flags]) == 0
        return "of masks that were drawn from score 0.5 on" in capsys.readouterr().out

    assert not said("--instances")
    write_json(fold.operating_point, {"score": 0.3})  # the scans were predicted before the sweep
    assert said("--instances")
    assert not said()


def test_a_possible_lesion_of_the_data_set_is_not_missed(task, fold):
    before = evaluate(task.name, split="test").metrics
    lesions = {"lesions": [{"instance": 1, "certainty": "possible"}]}
    write_json(task.extra("lesions", "Ts") / "sub-51.json", lesions)
    after = evaluate(task.name, split="test").metrics
    assert before["sensitivity"] < 1
    assert (after["sensitivity"], after["n_possible"]) == (1.0, 1)
    assert after["sensitivity_all"] == pytest.approx(before["sensitivity"])


def test_mimics_of_the_data_set_tell_what_false_positives_are(task, fold):
    assert evaluate(task.name, split="test").metrics["false_positive_kinds"] is None
    for name in ("sub-51", "sub-52"):
        write_json(task.extra("mimics", "Ts") / f"{name}.json", {"mimics": [{"kind": "vein", "box": [0] * 6}]})
    run = evaluate(task.name, split="test", overrides=["eval_cfg.operating_point=0.1"])
    assert run.metrics["false_positive_kinds"]["per_scan"] == {
        "vein": 1.0,
        "none": 0.0,
    }  # both scans have one at 0, 0, 0


def test_the_scans_of_a_split_are_loaded_as_they_are_measured(task, fold):
    write_json(fold.operating_point, {"score": 0.15})
    truths = {}
    scored = predictions(task.name, split="test").read(truths=truths)
    config, _ = scored.at_operating_point(EvaluationConfig())
    metrics = evaluate(task.name, split="test").metrics
    assert measure(scored.cases, ["cmb"], config)["overall"] == metrics["overall"]
    (task.labels("Ts") / "sub-51.nii.gz").write_bytes(b"nonsense")  # what is known is not read again
    again = predictions(task.name, split="test").read(truths=truths)
    assert again.cases[0].instances is scored.cases[0].instances
    assert len(truths) == 2
    (fold.predictions("test") / "sub-52_boxes.json").unlink()
    with pytest.raises(UserError, match="no predictions of sub-52"):
        predictions(task.name, split="test").read(truths=truths).check_complete()


@pytest.mark.parametrize(
    ("arguments", "break_it", "hint"),
    [
        (["--test"], "test predictions", "nndet_predict Task900_Tiny Model_Plan -f 0"),
        ([], "val predictions", "nndet_predict Task900_Tiny Model_Plan -f 0 --test_split"),
        (["--test"], "labels", "add labels"),
        (["--test", "-o", "eval_cfg.match=3"], "", "eval_cfg.match_mm"),
        (["--test", "-o", "eval_cfg.fp_rates=[]"], "", "eval_cfg.fp_rates: is ()"),
        (["--test", "-o", "eval_cfg.resamples=-1"], "", "eval_cfg.resamples: is -1"),
        (["--test", "-o", "eval_cfg.connectivity=5"], "", "eval_cfg.connectivity: is 5"),
        (["--test", "-o", "eval_cfg.match_mm=-1"], "", "eval_cfg.match_mm: is -1"),
        (["Model_Plan", "3"], "", "trained folds: 0"),
        (["Modl_Plan"], "", "Model_Plan"),
    ],
)
def test_what_the_user_can_fix_is_one_line_with_a_remedy(task, fold, capsys, arguments, break_it, hint):
    broken = {"test predictions": fold.predictions("test"), "val predictions": fold.predictions("val")}
    broken["labels"] = task.labels("Ts")
    if break_it:
        for path in broken[break_it].iterdir():
            path.unlink()
    assert eval_command.main([task.name, *arguments]) == 2
    error = capsys.readouterr().err
    assert hint in error
    assert error.count("\n") == 1
    assert not fold.results("test").exists()


def test_predictions_of_another_scan_or_with_other_classes_are_not_measured(task, fold):
    predict(task, fold, "test", "sub-51", grid=Grid((5, 5, 5), (1.0, 1.0, 1.0)))
    predict(task, fold, "test", "sub-52", classes=("iron",))
    with pytest.raises(UserError, match="another grid"):
        evaluate(task.name, split="test")
    predict(task, fold, "test", "sub-51")
    run = evaluate(task.name, split="test")
    assert run.metrics["unreadable_cases"] == ["sub-52"]
    assert any("has the classes iron" in note for note in run.notes)


def test_a_sweep_with_a_missing_or_wrong_setting_or_case_is_refused(task, fold):
    with pytest.raises(UserError, match="did you mean"):
        sweep(task.name, overrides=["sweep_cfg.rule=fp_per_scans"])
    (fold.predictions("val") / "sub-04_boxes.json").unlink()
    with pytest.raises(UserError, match="sub-04"):
        sweep(task.name)
    assert not fold.operating_point.exists()
