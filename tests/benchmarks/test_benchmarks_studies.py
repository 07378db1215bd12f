"""The studies of benchmarks/: which rows they run, and what their report says."""

from __future__ import annotations

import argparse
import csv

import numpy as np
import pytest
from tiny_task import make_tiny_task

from benchmarks.accuracy.operating_point import scans
from benchmarks.studies import ablation, compare, deep_mir, deep_mir_report, new_scanner, two_step_kd
from benchmarks.studies.ablation_report import write_report
from benchmarks.studies.generalisation import build
from benchmarks.tools.markdown import put_between_markers
from cmb_plugin.benchmark.machine import machine
from cmb_plugin.dataset import Dataset, read_truth
from cmb_plugin.dataset.predictions import CasePredictions, write_case_predictions
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.files import write_json
from cmb_plugin.models.operating_point import OperatingPoint
from cmb_plugin.settings import write_settings


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    monkeypatch.setenv("det_models", str(tmp_path / "models"))
    task = make_tiny_task(tmp_path / "data", n_test=4)
    for case in Dataset.load(task).cases("Ts"):
        mimics = [{"kind": "vein", "box": [0, 0, 0, 2, 2, 2]}]
        write_json(task.extra("mimics", "Ts") / f"{case.case_id}.json", {"mimics": mimics})
    return task


def study_of(*words):
    args = ablation.study_options("", "ablation").parse_args(["Task900_Tiny", *words])
    return ablation.study(args, "ablation")


def finish(entry, n_false):
    """A run that found every lesion, and ``n_false`` things at the vein that score more."""
    folder = entry.fold_folder
    folder.root.mkdir(parents=True)
    write_settings(folder.settings, {"trainer_cfg": {"epochs": 2, "swa_epochs": 1, "steps_per_epoch": 5}})
    for case in Dataset.load(entry.task).cases("Ts"):
        truth = read_truth(case)
        boxes = np.concatenate([np.array([[0, 0, 0, 2, 2, 2]] * n_false).reshape(-1, 6), truth.boxes])
        found = Detections(boxes, np.linspace(0.9, 0.6, len(boxes)), np.zeros(len(boxes)))
        predictions = CasePredictions(case.case_id, found, truth.grid, ("cmb",), 0.5)
        write_case_predictions(folder.predictions("test"), predictions)
    state = {**entry.state(), "finished": ["train", "predict"], "machine": machine(), "steps": 1}
    state |= {"seconds": {"train": 1.0, "predict": 1.0}, "commands": {"train": "nndet_train"}, "threads": 1, "jobs": 2}
    write_json(entry.record, state)


def write_folder(task, folder, n_false, found=True):
    """Predictions of a folder: every lesion or none, and ``n_false`` things that score less."""
    for case in Dataset.load(task).cases("Ts"):
        truth = read_truth(case)
        lesions = truth.boxes if found else truth.boxes[:0]
        boxes = np.concatenate([lesions, np.array([[0, 0, 0, 2, 2, 2]] * n_false).reshape(-1, 6)])
        scores = np.repeat([0.9, 0.6], [len(lesions), n_false])
        detections = Detections(boxes, scores, np.zeros(len(boxes)))
        write_case_predictions(folder, CasePredictions(case.case_id, detections, truth.grid, ("cmb",), 0.5))


def test_folders_of_predictions_are_compared_with_the_first(task, tmp_path, capsys):
    for name, n_false, found in (("exact", 0, True), ("some", 1, True), ("more", 3, True), ("blind", 1, False)):
        write_folder(task, tmp_path / name, n_false, found)
    rows = [
        f"best={tmp_path / 'exact'}",
        f"two runs={tmp_path / 'some'},{tmp_path / 'more'}",
        f"none={tmp_path / 'blind'}",
    ]
    page = tmp_path / "page.md"
    assert compare.main(["Task900_Tiny", *rows, "--resamples", "50", "--page", str(page)]) == 0
    best, two, none = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in page.read_text(encoding="utf-8").splitlines()[3:6]
    )
    assert best[:3] == ["best", "1", "1.000 (1.000-1.000)"]
    assert best[7:9] == ["1.000 (1.000-1.000)", "0.00 (0.00-0.00)"]
    assert two[1] == "2"
    assert two[8] == "2.00 (2.00-2.00)"  # the mean of one and three
    assert two[-3:] == ["+0.000 (+0.000 to +0.000)", "+0.000 (+0.000 to +0.000)", "+2.00 (+2.00 to +2.00)"]
    assert none[-2] == "-1.000 (-1.000 to -1.000)"
    (tmp_path / "some").joinpath(next((tmp_path / "some").iterdir()).name).unlink()
    assert compare.main(["Task900_Tiny", *rows]) == 2
    assert compare.main(["Task900_Tiny", "nothing"]) == 2
    assert "TITLE=FOLDER" in capsys.readouterr().err


def test_all_rows_of_a_seed_come_before_the_next_seed(task):
    study = study_of("--seeds", "2", "--rows", "baseline,both", "-o", "train=fast")
    entries = study.entries(task)
    assert [entry.name for entry in entries] == [
        "RetinaUNetV001_fold0_seed0",
        "dense_FFM_HSPL_fold0_seed0",
        "RetinaUNetV001_fold0_seed1",
        "dense_FFM_HSPL_fold0_seed1",
    ]
    loss, *ideas = "model_cfg.hard_negatives=0", "model_cfg.ffm=true", "model_cfg.hspl=true"
    assert entries[3].overrides == ("train=fast", loss, *ideas)
    assert entries[3].model.name == "CMBRetinaUNet_D3CMB_3d_ablation_dense_FFM_HSPL_seed1"
    with pytest.raises(UserError, match="baseline"):
        study_of("--rows", "baselin")
    with pytest.raises(UserError, match="one fold"):
        study_of("--folds", "0,1")


def test_the_report_compares_rows_on_the_seeds_that_all_of_them_have(task, tmp_path):
    output = tmp_path / "out"
    rows = "baseline: RetinaUNetV001, both: CMBRetinaUNet model_cfg.hspl=true"
    entries = study_of("--seeds", "2", "--models", rows, "--output", str(output)).entries(task)
    for entry, n_false in zip(entries[:3], (3, 1, 0), strict=True):  # both of seed 1 is not finished
        finish(entry, n_false)
    page = tmp_path / "page.md"
    page.write_text("By hand.\n<!-- begin ablation -->\nold\n<!-- end ablation -->\nBelow.\n")
    files = write_report(entries, output, page=page, figure=tmp_path / "figure.png", resamples=50)
    assert all(path.is_file() for path in files)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("By hand.\n")
    assert text.endswith("Below.\n")
    assert "old" not in text
    assert "1 seed (0)" in text
    assert "Not finished, so not in these numbers: both seed 1" in text
    row = next(line for line in text.splitlines() if line.startswith("| both |"))
    assert row.split(" | ")[2:5] == ["1.00 (1.00-1.00)", "1.00 (1.00-1.00)", "0.33 (0.33-0.33)"]
    with (output / "runs.csv").open() as file:
        numbers = [line for line in csv.DictReader(file) if line["lesions"] == "definite"]
    assert [(line["row"], line["seed"], line["fp_vein"]) for line in numbers] == [
        ("baseline", "0", "3.0"),
        ("both", "0", "1.0"),
        ("baseline", "1", "0.0"),
    ]
    assert {line["steps"] for line in numbers} == {"15"}


def test_a_report_without_a_finished_run_says_so(task, tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        write_report(study_of().entries(task), tmp_path / "out")


def test_a_block_is_added_to_a_page_that_has_none(tmp_path):
    put_between_markers(tmp_path / "new.md", "a", "one")
    put_between_markers(tmp_path / "new.md", "b", "two")
    put_between_markers(tmp_path / "new.md", "a", r"three \1")
    expected = "<!-- begin a -->\nthree \\1\n<!-- end a -->\n\n<!-- begin b -->\ntwo\n<!-- end b -->\n"
    assert (tmp_path / "new.md").read_text(encoding="utf-8") == expected


def test_other_scanners_are_chosen_by_protocol(task, tmp_path):
    source = Dataset.load(task)
    names = {}
    for split in ("Tr", "Ts"):
        for case, protocol in zip(source.cases(split), "abcabc", strict=False):
            write_json(task.extra("lesions", split) / f"{case.case_id}.json", {"protocol": protocol, "lesions": []})
            names.setdefault(protocol, []).append(case.case_id)
    target = type(task)(tmp_path / "data" / "Task901_Other")
    for _ in range(2):  # a second time changes nothing
        build(source, target, ["a", "b"], ["c"])
    made = Dataset.load(target)
    assert [case.case_id for case in made.cases("Tr")] == ["sub-01", "sub-02", "sub-04"]
    assert [case.case_id for case in made.cases("Ts")] == sorted(names["c"])
    assert len(read_truth(made.cases("Tr")[0])) == len(read_truth(source.cases("Tr")[0]))
    with pytest.raises(UserError, match="no case of d"):
        build(source, target, ["a"], ["d"])
    with pytest.raises(UserError, match="something else"):
        build(source, target, ["a"], ["c"])


def test_one_class_against_several_on_the_same_scans(tmp_path, monkeypatch):
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    monkeypatch.setenv("det_models", str(tmp_path / "models"))
    source = make_tiny_task(tmp_path / "data", n_train=3, n_test=3, classes=("cmb", "iron"), healthy=False)
    dataset = Dataset.load(source)
    single = type(source)(tmp_path / "data" / "Task901_One")
    for _ in range(2):  # a second time changes nothing
        deep_mir.of_first_class(dataset, single)
    one = Dataset.load(single)
    assert (one.classes, one.modalities) == (("cmb",), dataset.modalities)
    for task in (source, single):
        write_json(task.splits, [{"train": ["sub-01", "sub-02"], "val": ["sub-03"]}])
    for ours, theirs in zip(one.cases("Ts"), dataset.cases("Ts"), strict=True):
        assert [path.read_bytes() for path in ours.images] == [path.read_bytes() for path in theirs.images]
        kept, whole = read_truth(ours), read_truth(theirs)
        np.testing.assert_array_equal(kept.boxes, whole.boxes[whole.labels == 0])

    arguments = deep_mir.parser("")
    deep_mir.add_options(arguments, "DeepMIRUNet", "deep_mir")
    args = arguments.parse_args([str(source.root), str(single.root), "--output", str(tmp_path / "out")])
    benchmark = deep_mir.benchmark_of(args, "deep_mir")
    for task in (source, single):
        finish(benchmark.entries(task)[0], 0)
    combinations = deep_mir.predictions_of(benchmark)
    assert [c.modalities for c in combinations] == [("swi", "phase"), ("swi",), ("phase",)] * 2
    for combination in combinations:  # of each scan the first microbleed is found, and something else; with both, all
        task = Dataset.load(combination.entry.task)
        for split, folder in (("Tr", combination.validation), ("Ts", combination.test)):
            for case in task.cases(split):
                truth = read_truth(case)
                shown = truth.boxes if len(combination.modalities) == 2 else truth.boxes[:1]
                boxes = np.concatenate([shown, [[0, 0, 0, 2, 2, 2]]])
                labels = np.append(truth.labels[: len(shown)], 0)
                found = Detections(boxes, np.linspace(0.9, 0.6, len(boxes)), labels)
                predictions = CasePredictions(case.case_id, found, truth.grid, task.classes, 0.5)
                write_case_predictions(folder, predictions)
    files = deep_mir_report.write_report(combinations, tmp_path / "out", None, resamples=20)
    rows = [line.strip("| ").split(" | ") for line in files[0].read_text(encoding="utf-8").splitlines()]
    of = {tuple(row[:3]): row[3:] for row in rows if len(row) > 4}
    assert of["cmb", "*24 patients, Rashid et al. 2021*", "*any*"][:2] == ["0.84-0.88", "0.40-0.59"]
    assert of["cmb", "cmb, iron", "swi + phase"][3] == of["cmb", "cmb", "swi + phase"][3] == "1.00 (1.00-1.00)"
    assert of["iron", "cmb, iron", "swi + phase"][0] == "1.00 (1.00-1.00)"
    assert of["iron", "cmb, iron", "swi"][0] == "0.00 (0.00-0.00)"
    assert of["iron", "cmb, iron", "swi"][4].startswith("-1.00")
    assert 0 < float(of["cmb", "cmb", "phase"][0][:4]) < 1


def test_each_step_is_measured_by_its_own_score_and_without_what_it_let_go(task, tmp_path, monkeypatch, capsys):
    """Every scan: its lesions; a false candidate that the student knows; one that student and clean-up know; and one
    below the threshold."""
    other = make_tiny_task(tmp_path / "data", n_train=1, n_test=2, name="Task901_Other", seed=5)
    write_json(task.splits, [{"train": ["sub-01"], "val": ["sub-02", "sub-03"]}])
    words = ["900", "--other", "901", "--output", str(tmp_path / "out"), "--resamples", "20"]
    words += ["--page", str(tmp_path / "page.md")]
    benchmark = two_step_kd.study(two_step_kd.study_options().parse_args(words))
    tasks = [Dataset.load(task), Dataset.load(other)]
    for entry in benchmark.entries(task):
        finish(entry, 0)
        write_json(entry.fold_folder.splits, [{"train": ["sub-01"], "val": ["sub-02", "sub-03"]}])
        validation = [case for case in tasks[0].cases("Tr") if case.case_id in ("sub-02", "sub-03")]
        folders = [(entry.fold_folder.predictions("val"), validation)]
        folders += [(two_step_kd.predictions_of(entry, data), data.cases("Ts")) for data in tasks]
        for folder, cases in folders:
            for case in cases:
                write_steps(folder, case)
    monkeypatch.setattr(two_step_kd, "run", lambda benchmark: argparse.Namespace(failed={}))
    monkeypatch.setattr(two_step_kd, "predict", lambda *words, **options: argparse.Namespace(failures=[]))
    assert two_step_kd.main(words) == 0, capsys.readouterr().err
    with (tmp_path / "out" / "Task900_Tiny" / "steps.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["model"] == "distilled"]
    found, sensitivity = (
        {(line["task"], line["after"]): float(line["value"]) for line in lines if line["number"] == number}
        for number in ("fp_per_scan", "sensitivity")
    )
    assert set(sensitivity.values()) == {1.0}
    expected = {"candidates": 2.0, "student": 0.0, "both together": 1.0, "clean-up": 0.0}
    assert found == {(name, step): n for name in ("Task900_Tiny", "Task901_Other") for step, n in expected.items()}
    assert "| distilled less labels alone | clean-up | +0.000" in (tmp_path / "page.md").read_text(encoding="utf-8")


def write_steps(folder, case):
    truth = read_truth(case)
    far = np.array([[0, 0, 0, 2, 2, 2], [0, 0, 20, 2, 2, 22], [0, 20, 0, 2, 22, 2]])
    boxes, n = np.concatenate([truth.boxes, far]), len(truth.boxes)
    columns = {
        "score_candidate": np.array([0.8] * n + [0.9, 0.7, 0.1]),
        "score_student": np.array([0.09] * n + [0.01, 0.085, 0.099]),  # on a scale of its own
        "score_fused": np.array([0.9] * n + [0.1, 0.95, 0.99]),
        "score_accepted": np.array([0.9] * n + [0.1, 0.03, 0.02]),
        "rejected_by": np.array(["none"] * (n + 1) + ["elongation", "candidates"]),
    }
    found = Detections(boxes, columns["score_accepted"], np.zeros(len(boxes)), columns).by_score()
    write_case_predictions(folder, CasePredictions(case.case_id, found, truth.grid, ("cmb",), 0.5))


def test_operating_points_chosen_on_more_scans_of_a_new_scanner_keep_their_promise_more_often():
    cases = scans(np.random.default_rng(0), 60, strength=1.6)
    patients = {case.case_id: case.case_id for case in cases}
    carried = OperatingPoint(score=0.999)  # of a scanner on which scores are much higher
    none, few, many, every = new_scanner.play(cases, patients, carried, counts=(2, 20), repeats=40)
    assert [outcome.scans for outcome in (none, few, many, every)] == [0, 2, 20, 60]
    best = float(every.sensitivity[0])
    assert none.kept(best) == 0
    assert few.kept(best) < many.kept(best)
    assert np.std(many.fp_per_scan) < np.std(few.fp_per_scan)
    lines = new_scanner.table({"ukb": [none, few, many, every]}).splitlines()
    assert lines[0].startswith("| labelled scans | ukb: sensitivity | ukb: FP per scan | ukb: kept |")
    assert lines[2].startswith("| 0, carried over | ")
    assert len(lines) == 2 + 4
    new_scanner.figure_of({"ukb": [none, few, many, every]})
