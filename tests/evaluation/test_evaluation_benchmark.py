"""nndet_benchmark: the same splits and budget for all, nnU-Net's own layout, a table that survives a kill."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_task import make_tiny_task

from cmb_plugin.benchmark.entries import Benchmark, Budget, Entry, parse_methods, split_overrides, steps_of
from cmb_plugin.benchmark.nnunet import NnunetTask, collect, components_as_detections, export_task
from cmb_plugin.benchmark.processes import Commands
from cmb_plugin.commands import benchmark as command
from cmb_plugin.dataset import CasePredictions, Dataset, make_splits, read_truth, write_case_predictions
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import read_mask, read_scan, write_image

SMALL = ["planner_cfg.patch_size=[16,16,16]", "planner_cfg.base_features=4", "planner_cfg.pyramid_channels=8"]


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    monkeypatch.setenv("det_models", str(tmp_path / "models"))
    return make_tiny_task(tmp_path / "data", classes=("cmb", "iron"))


def test_a_budget_is_steps_or_time():
    assert (Budget.parse("2000steps"), Budget.parse("90 min"), Budget.parse("1.5h")) == (
        Budget(2000, None),
        Budget(None, 90.0),
        Budget(None, 90.0),
    )
    for text in ("2000", "steps", "0steps", "-3min"):
        with pytest.raises(UserError, match="2000steps, 30min or 2h"):
            Budget.parse(text)


@pytest.mark.parametrize("steps", [1, 6, 16, 17, 250, 2000, 12345])
def test_epochs_times_steps_is_the_budget_within_a_thirtieth(steps):
    epochs, per_epoch = steps_of(steps)
    assert abs(epochs * per_epoch - steps) <= max(1, steps / 30)


@pytest.mark.parametrize(("step", "minutes"), [(3.0, 10.0), (0.4, 3.0), (0.02, 60.0)])
def test_trials_grow_to_the_length_of_an_epoch_and_the_steps_fill_the_budget(
    task, tmp_path, monkeypatch, step, minutes
):
    from cmb_plugin.benchmark import run as workflow

    method = parse_methods("nnunet")
    asked = Benchmark((task,), method, (0,), (0,), Budget(None, minutes), (), tmp_path / "out")
    entry = Entry(asked, task, method[0], 0, 0)
    tried = []

    def trial(entry, steps, commands):
        tried.append(steps)
        return 0.3 + step * steps  # a checkpoint comes once per epoch

    monkeypatch.setattr(workflow, "_trial", trial)
    commands = workflow.Commands(1, print)
    steps = workflow._steps(entry, commands)
    assert len(tried) <= 3
    epochs, per_epoch = steps_of(steps)
    assert epochs * (0.3 + step * per_epoch) == pytest.approx(60 * minutes, rel=0.08)
    before = len(tried)
    assert workflow._steps(entry, commands) == steps
    assert len(tried) == before  # the answer is kept


def test_the_length_of_epochs_is_read_from_what_trainings_print():
    from cmb_plugin.benchmark.run import epoch_seconds

    ours = "Epoch 1/3  loss 2.8  6 s, 12 s left\nEpoch 2/3  loss 2.6  validation Dice 0.900  10 s, 5 s left\n"
    assert epoch_seconds(ours) == [6.0, 4.0]
    theirs = "2026-11-21 15:00:00.1: Epoch 0\n2026-11-21 15:00:09.1: Epoch time: 9.04 s\n"
    assert epoch_seconds(theirs) == [9.04]


def test_a_trial_ends_as_soon_as_it_has_said_how_long_an_epoch_takes(task, tmp_path, monkeypatch):
    from cmb_plugin.benchmark import run as workflow

    method = parse_methods("RetinaUNetV001")
    asked = Benchmark((task,), method, (0,), (0,), Budget(None, 5.0), (), tmp_path / "out")
    entry = Entry(asked, task, method[0], 0, 0)
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print('child', child.pid)\n"
        "for n, since in enumerate([5, 7, 9], 1): print(f'Epoch {n}/4  loss 1.0  {since} s, 9 s left')\n"
        "time.sleep(600)\n"  # the validation at the end of a slow network
    )
    monkeypatch.setattr(workflow, "_train_command", lambda *_: [sys.executable, "-c", script])
    began = time.monotonic()
    assert workflow._trial(entry, 4, Commands(1, print)) == 2.0
    assert time.monotonic() - began < 60
    child = int(re.search(r"child (\d+)", entry.log.read_text(encoding="utf-8"))[1])
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/cmdline").is_file() and b"sleep" in Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "what the trial started outlived it"
        time.sleep(0.05)

    failing = "print('Epoch 1/4  loss 1.0  5 s, 9 s left'); raise SystemExit(3)"
    monkeypatch.setattr(workflow, "_train_command", lambda *_: [sys.executable, "-c", failing])
    with pytest.raises(UserError, match="a trial of 4 steps failed"):
        workflow._trial(entry, 4, Commands(1, print))


def test_methods_are_trainers_with_a_plan_nnunet_and_folders(tmp_path):
    methods = parse_methods(f"RetinaUNetV001,CMBRetinaUNet:D3V001_3d,nnunet,{tmp_path}")
    assert [(m.trainer, m.plan) for m in methods[:3]] == [
        ("RetinaUNetV001", "D3CMB_3d"),
        ("CMBRetinaUNet", "D3V001_3d"),
        ("", ""),
    ]
    assert methods[3].folder == tmp_path.resolve()
    with pytest.raises(UserError, match="RetinaUNetV001"):
        parse_methods("RetinaUNetV01")
    for both in ("nnunet,nnunet", "a: nnunet, b: nnunet"):
        with pytest.raises(UserError, match="twice"):
            parse_methods(both)
    with pytest.raises(UserError, match="twice"):  # which would train in one folder
        parse_methods("CMBRetinaUNet,CMBRetinaUNet:D3CMB_3d")


def test_a_method_has_a_name_and_overrides_of_its_own(task, tmp_path):
    rows = f"CMBRetinaUNet, + FFM: CMBRetinaUNet:D3V001_3d model_cfg.hspl=false x=[1,2], other lab: {tmp_path}"
    plain, ffm, other = parse_methods(rows)
    assert (ffm.name, ffm.slug, ffm.trainer, ffm.plan) == ("+ FFM", "FFM", "CMBRetinaUNet", "D3V001_3d")
    assert ffm.overrides == ("model_cfg.hspl=false", "x=[1,2]")
    assert (other.name, other.folder) == ("other lab", tmp_path.resolve())
    asked = Benchmark((task,), (plain, ffm), (0,), (0,), Budget(1, None), ("train=fast",), tmp_path / "out")
    entries = asked.entries(task)
    assert [entry.model.name for entry in entries] == [
        "CMBRetinaUNet_D3CMB_3d_out_seed0",
        "CMBRetinaUNet_D3V001_3d_out_FFM_seed0",
    ]
    assert entries[1].overrides == ("train=fast", "model_cfg.hspl=false", "x=[1,2]")  # its own are the last word
    (unnamed,) = parse_methods("CMBRetinaUNet model_cfg.hspl=false")
    assert unnamed.name == "CMBRetinaUNet model_cfg.hspl=false"
    for wrong in ("nnunet x=1", "CMBRetinaUNet eval_cfg.match_mm=3", "CMBRetinaUNet planner_cfg.seed=1"):
        with pytest.raises(UserError, match="one method alone"):
            parse_methods(wrong)


@pytest.mark.parametrize(
    ("word", "option"), [("module=X", "--models"), ("plan=X", "TRAINER:PLAN"), ("exp.seed=3", "--seeds")]
)
def test_what_the_benchmark_decides_cannot_be_overridden(word, option, tmp_path):
    with pytest.raises(UserError, match=option):
        Benchmark((), (), (0,), (0,), Budget(1, None), (word,), tmp_path)
    with pytest.raises(UserError, match=option):
        parse_methods(f"CMBRetinaUNet {word}")


@pytest.mark.parametrize(
    ("word", "remedy"), [("eval_cfg.fp_rates=[1,2]", "nndet_eval"), ("eval_cfg.resamples=9", "--resamples")]
)
def test_settings_that_would_change_nothing_are_refused(word, remedy, tmp_path):
    with pytest.raises(UserError, match="changes no number") as refused:
        Benchmark((), (), (0,), (0,), Budget(1, None), (word,), tmp_path)
    assert remedy in str(refused.value)
    for name in ("match_mm", "operating_point"):  # these do
        Benchmark((), (), (0,), (0,), Budget(1, None), (f"eval_cfg.{name}=0.5",), tmp_path)


def test_a_record_of_other_overrides_is_refused_before_anything_begins(task, tmp_path):
    (method,) = parse_methods("x: CMBRetinaUNet model_cfg.hspl=false")
    asked = Benchmark((task,), (method,), (0,), (0,), Budget(1, None), (), tmp_path / "out")
    (entry,) = asked.entries(task)
    write_json(entry.record, {**entry.state(), "words": ["model_cfg.hspl=true"], "finished": ["train", "predict"]})
    with pytest.raises(UserError, match=r"hspl=true, now it is model_cfg\.hspl=false"):
        entry.state()
    table = dataclasses.replace(entry, benchmark=dataclasses.replace(asked, phases=("eval",)))
    assert table.state()["finished"] == []  # its model is gone
    entry.fold_folder.root.mkdir(parents=True)
    assert table.is_finished()


@pytest.mark.parametrize(
    ("before", "now"), [("RetinaUNetV001", "CMBRetinaUNet"), ("nnunet", "CMBRetinaUNet"), ("CMBRetinaUNet", "nnunet")]
)
def test_a_record_of_another_method_of_the_same_name_is_refused(task, tmp_path, before, now):
    def entry_of(what):
        asked = Benchmark((task,), parse_methods(f"x: {what}"), (0,), (0,), Budget(None, 5.0), (), tmp_path / "out")
        return asked.entries(task)[0]

    write_json(entry_of(before).record, {**entry_of(before).state(), "finished": ["train", "predict"], "steps": 7})
    with pytest.raises(UserError, match=f"begun with trainer {before}.*, now it is {now}"):
        entry_of(now).state()
    record = {key: value for key, value in read_json(entry_of(now).record).items() if key != "trainer"}
    write_json(entry_of(now).record, record)  # as records were before
    assert entry_of(now).state()["steps"] == 7


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_method_that_fails_is_named_and_the_others_go_on(task, tmp_path, monkeypatch, jobs):
    from cmb_plugin.benchmark.run import run_benchmark

    write_json(task.splits, [{"train": ["sub-01"], "val": ["sub-02"]}])
    methods = parse_methods("RetinaUNetV001, broken: CMBRetinaUNet x=1, CMBRetinaUNet")
    asked = Benchmark((task,), methods, (0,), (0, 1), Budget(20, None), (), tmp_path / "out", jobs=jobs)
    asked = dataclasses.replace(asked, phases=("train", "predict"))
    called = []

    def call(self, command, log, environment=None):
        called.append(command)
        for entry in asked.entries(task):
            if {f"module={entry.method.trainer}", f"exp.tag={entry.tag}"} <= set(command):
                entry.fold_folder.root.mkdir(parents=True, exist_ok=True)
        return int("x=1" in command)

    monkeypatch.setattr(Commands, "call", call)
    done = run_benchmark(asked, log=lambda _: None)
    assert list(done.failed) == [f"{task.name} broken_fold0_seed0", f"{task.name} broken_fold0_seed1"]
    assert [entry.name for entry in done.finished] == [
        f"{name}_fold0_seed{seed}" for seed in (0, 1) for name in ("RetinaUNetV001", "CMBRetinaUNet")
    ]
    record = done.finished[0].state()
    assert record["jobs"] == jobs
    assert {"processor", "cores", "torch", "commit"} <= set(record["machine"])
    assert record["commands"]["train"].startswith(f"nndet_train {task.root} -o module=RetinaUNetV001")
    assert len(called) == 10  # four train and predict, two fail to train
    called.clear()
    assert len(run_benchmark(asked, log=lambda _: None).failed) == 2  # again: what failed alone is tried again
    assert len(called) == 2
    entry = done.finished[0]
    write_json(entry.record, {**entry.state(), "seconds": {"train": 1000.0, "predict": 1000.0}})
    entry.fold_folder.root.rmdir()
    run_benchmark(asked, log=lambda _: None)  # trained anew: the seconds of the former network are not its own
    assert entry.is_finished()
    assert max(entry.state()["seconds"].values()) < 1000


def test_jobs_work_side_by_side_with_a_share_of_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("cmb_plugin.benchmark.processes.default_workers", lambda: 6)
    commands = Commands(2, lambda _: None)
    # Each waits for the file of the other, which one after the other would never see.
    code = (
        "import os, pathlib, sys, time; own, other = map(pathlib.Path, sys.argv[1:]); "
        "own.write_text(os.environ['OMP_NUM_THREADS']); end = time.monotonic() + 30\n"
        "while not other.is_file() and time.monotonic() < end: time.sleep(0.01)\n"
        "sys.exit(not other.is_file())"
    )
    pairs = [(tmp_path / "a", tmp_path / "b"), (tmp_path / "b", tmp_path / "a")]

    def call(pair):
        return commands.call([sys.executable, "-c", code, *map(str, pair)], tmp_path / "log")

    assert commands.run_all(call, pairs) == [0, 0]
    assert [path.read_text(encoding="utf-8") for path, _ in pairs] == ["3", "3"]


def test_sigterm_ends_the_commands_and_begins_no_other(tmp_path):
    script = (
        "import os, sys, threading, time\n"
        "from pathlib import Path\n"
        "from cmb_plugin.benchmark.processes import Commands\n"
        "folder = Path(sys.argv[1]); commands = Commands(2, lambda _: None)\n"
        "child = 'import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)'\n"
        "def call(n):\n"
        "    return commands.call([sys.executable, '-c', child, str(folder / str(n))], folder / 'log')\n"
        "try: commands.run_all(call, range(4))\n"
        "except KeyboardInterrupt: sys.exit(3)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    deadline = time.monotonic() + 60
    while not ((tmp_path / "0").is_file() and (tmp_path / "1").is_file()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.terminate()
    assert process.wait(20) == 3
    assert not running(str(tmp_path / "0"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "log"]


def test_overrides_go_to_the_command_that_knows_them():
    parts = split_overrides(["planner_cfg.seed=1", "eval_cfg.match_mm=3", "inference_cfg.overlap=0.3", "train=fast"])
    assert parts == {
        "prep": ["planner_cfg.seed=1"],
        "eval": ["eval_cfg.match_mm=3"],
        "predict": ["inference_cfg.overlap=0.3"],
        "train": ["inference_cfg.overlap=0.3", "train=fast"],  # whose validation scans choose the operating point
    }


def test_a_task_goes_out_in_the_layout_of_nnunet_with_our_splits(task, tmp_path):
    # One modality's header differs a little, as scanners write them: nnU-Net would refuse it.
    phase, grid = read_scan(task.images("Tr") / "sub-02_0001.nii.gz")
    moved = type(grid)(grid.shape, grid.spacing, (31.001, 42.5, -17.25), grid.direction)
    phase[0, 0, 0] = np.nan
    write_image(task.images("Tr") / "sub-02_0001.nii.gz", phase, moved)
    splits = make_splits({"sub-01": 1, "sub-02": 2, "sub-04": 0}, folds=2)
    target = NnunetTask(task, tmp_path / "nnunet")
    for _ in range(2):  # the second time keeps what is there
        export_task(target, splits)
    assert target.raw.name == "Dataset900_Tiny"
    assert sorted(path.name for path in (target.raw / "imagesTr").iterdir()) == [
        f"{case}_000{m}.nii.gz" for case in ("sub-01", "sub-02", "sub-04") for m in (0, 1)
    ]
    definition = read_json(target.raw / "dataset.json")
    assert definition["labels"] == {"background": 0, "cmb": 1, "iron": 2}
    assert (definition["numTraining"], definition["channel_names"]) == (3, {"0": "swi", "1": "phase"})
    assert read_json(target.preprocessed / "splits_final.json") == splits
    exported, own = read_scan(target.raw / "imagesTr" / "sub-02_0001.nii.gz")
    assert own.matches(grid, 1e-4)
    assert np.isfinite(exported).all()
    mask, _ = read_mask(task.labels("Tr") / "sub-01.nii.gz")
    classes, _ = read_mask(target.raw / "labelsTr" / "sub-01.nii.gz")
    listed = read_json(task.labels("Tr") / "sub-01.json")["instances"]
    for number, label in listed.items():
        assert set(np.unique(classes[mask == int(number)])) == {label + 1}
    assert not read_mask(target.raw / "labelsTr" / "sub-04.nii.gz")[0].any()


def test_components_come_back_as_detections_with_the_mean_probability(task, tmp_path):
    cases = [case for case in Dataset.load(task).cases("Ts") if case.case_id == "sub-51"]
    truth = read_truth(cases[0])
    mask, _ = read_mask(cases[0].label)
    probabilities = np.zeros((3, *mask.shape), np.float32)
    listed = read_json(cases[0].classes_file)["instances"]
    for number, label in listed.items():
        probabilities[label + 1][mask == int(number)] = 0.5 + int(number) / 20
    probabilities[0] = 1 - probabilities[1:].sum(axis=0)
    found = components_as_detections(probabilities)
    assert found.scores == pytest.approx([0.5 + n / 20 for n in range(len(truth), 0, -1)])
    np.testing.assert_array_equal(found.boxes[::-1], truth.boxes)
    assert found.labels[::-1].tolist() == truth.labels.tolist()
    assert len(components_as_detections(np.ones((2, 4, 4, 4)) * [[[[0.9]]], [[[0.1]]]])) == 0

    target = NnunetTask(task, tmp_path / "nnunet")
    with pytest.raises(UserError, match="was not predicted"):
        collect(target, cases, tmp_path, tmp_path / "out")
    np.savez(tmp_path / "sub-51.npz", probabilities=probabilities)
    collect(target, cases, tmp_path, tmp_path / "out")
    assert read_json(tmp_path / "out" / "sub-51_boxes.json")["model"] == "nnunet"


def start(*words):
    code = "import sys; from cmb_plugin.commands.benchmark import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rows_of(output: Path) -> list[list[str]]:
    with (output / "benchmark.csv").open() as file:
        return list(csv.reader(file))


def running(words: str) -> bool:
    """Whether any process was started with these words."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if words in path.read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                return True
        except OSError:
            continue
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="commands that die with their parent are Linux's")
def test_killed_for_good_and_started_again_gives_the_same_table(task, tmp_path, capsys):
    from cmb_plugin.dataset import boxes_file
    from cmb_plugin.dataset.predictions import CasePredictions, write_case_predictions
    from cmb_plugin.detections import Detections

    given = tmp_path / "perfect"
    for case in Dataset.load(task).cases("Ts"):
        truth = read_truth(case)
        found = Detections(truth.boxes, np.linspace(0.9, 0.8, len(truth)), truth.labels)
        write_case_predictions(given, CasePredictions(case.case_id, found, truth.grid, ("cmb", "iron"), 0.5))
    assert boxes_file(given, "sub-51").is_file()
    methods = [task.name, "--models", f"RetinaUNetV001,{given}"]
    settings = ["--resamples", "100", "-o", *SMALL, "trainer_cfg.batch_size=2", "inference_cfg.overlap=0"]
    common = [*methods, "--budget", "20steps", *settings]
    whole, broken = tmp_path / "models" / "whole", tmp_path / "models" / "broken"
    assert command.main([*common, "--output", str(whole)]) == 0
    assert "FROC score" in capsys.readouterr().out
    fold = tmp_path / "models" / task.name / "RetinaUNetV001_D3CMB_3d_broken_seed0" / "fold0"
    process = start(*common, "--output", str(broken), "--only", "train,predict,eval")
    deadline = time.monotonic() + 120
    while not (fold / "model_last.ckpt").is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while running("exp.tag=broken_seed0") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running("exp.tag=broken_seed0"), "the training outlived the benchmark"
    assert command.main([*common, "--output", str(broken)]) == 0
    assert rows_of(broken) == rows_of(whole)

    rows = [row for row in rows_of(whole)[1:] if row[2] in ("sensitivity", "difference:sensitivity")]
    by_name = {(row[1], row[2]): float(row[3]) for row in rows}
    assert by_name["perfect", "sensitivity"] == 1.0
    expected = 1.0 - by_name["RetinaUNetV001", "sensitivity"]
    assert by_name["perfect", "difference:sensitivity"] == pytest.approx(expected)
    text = (whole / "benchmark.html").read_text(encoding="utf-8")
    assert "http" not in text
    table = (whole / "benchmark.md").read_text(encoding="utf-8")
    assert "perfect" in table
    assert "| RetinaUNetV001 | 20 | 2 |" in table, "patches of a step are those trained with, not the plan's"
    # Nothing is left to do: the table alone is written anew; another budget is another benchmark.
    before = (fold / "model_last.ckpt").stat().st_mtime_ns
    assert command.main([*common, "--output", str(broken), "--only", "eval"]) == 0
    assert command.main([*methods, "--budget", "40steps", *settings, "--output", str(broken)]) == 2
    assert "another --output" in capsys.readouterr().err
    assert (fold / "model_last.ckpt").stat().st_mtime_ns == before
    assert json.loads((broken / task.name / "RetinaUNetV001_fold0_seed0.json").read_text(encoding="utf-8"))[
        "finished"
    ] == [
        "train",
        "predict",
    ]


def test_without_test_labels_the_folds_are_pooled_case_by_case(task, tmp_path):
    from cmb_plugin.benchmark.run import run_benchmark

    for path in task.labels("Ts").iterdir():
        path.unlink()
    splits = [{"train": ["sub-03"], "val": ["sub-01", "sub-02"]}, {"train": ["sub-01"], "val": ["sub-03", "sub-04"]}]
    write_json(task.splits, splits)
    given = tmp_path / "binary"
    for case in Dataset.load(task).cases("Tr"):
        mask, grid = read_mask(case.label)
        write_image(given / f"{case.case_id}.nii.gz", (mask == 1).astype(np.uint8), grid)
    benchmark = Benchmark(
        tasks=(task,),
        methods=parse_methods(str(given)),
        folds=(0, 1),
        seeds=(0,),
        budget=Budget(1, None),
        overrides=(),
        output=tmp_path / "out",
        phases=("eval",),
        resamples=50,
    )
    (row,) = run_benchmark(benchmark, log=lambda _: None).table
    assert (row.n_cases, len(row.statistics.subjects), row.missing) == (4, 4, [])


def test_scans_that_any_run_has_not_predicted_are_named(task, tmp_path):
    from cmb_plugin.benchmark.run import run_benchmark

    write_json(task.splits, [{"train": ["sub-01"], "val": ["sub-02"]}])
    asked = Benchmark(
        (task,), parse_methods("nnunet"), (0,), (0, 1), Budget(1, None), (), tmp_path / "out", ("eval",), resamples=10
    )
    cases = Dataset.load(task).cases("Ts")
    for entry in asked.entries(task):
        write_json(entry.record, {**entry.state(), "finished": ["train", "predict"], "steps": 1})
        for case in cases if entry.seed else cases[1:]:  # the first run lacks one, the last has them all
            truth = read_truth(case)
            found = Detections(truth.boxes, np.ones(len(truth)), truth.labels)
            predictions = CasePredictions(case.case_id, found, truth.grid, ("cmb", "iron"), 0.5)
            write_case_predictions(entry.predictions("test"), predictions)
    done = run_benchmark(asked, log=lambda _: None)
    assert [row.missing for row in done.table] == [[cases[0].case_id]]
    assert f"count as scans without detections: {cases[0].case_id}" in (asked.output / "benchmark.md").read_text()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--only", "training"], "train"),
        (["--folds", "x"], "--folds 0,1"),
        (["--models", "Nothing"], "known"),
        (["--only", "eval"], "not prepared"),
        (["--only", "eval", "-o", "eval_cfg.match=3"], "eval_cfg.match_mm"),  # before anything is prepared or trained
        (["--resamples", "-1"], "0 or more"),
        (["--budget", "soon"], "30min"),
    ],
)
def test_what_the_user_can_fix_is_one_line(task, capsys, words, hint):
    assert command.main([task.name, *words]) == 2
    error = capsys.readouterr().err
    assert hint in error
    assert error.count("\n") == 1


def test_the_squares_of_nndetection_are_solid_or_hollow(tmp_path, monkeypatch):
    from cmb_plugin.commands import example
    from cmb_plugin.commands.names import find_task
    from cmb_plugin.dataset import check_dataset

    monkeypatch.setenv("det_data", str(tmp_path))
    words = ["--kind", "squares", "--train", "5", "--test", "1", "-np", "0"]
    assert example.main(words) == 0
    assert example.main(words) == 0
    assert example.main([*words, "--seed", "1"]) == 2
    task = find_task("Task000D3_Example")
    dataset = Dataset.load(task)
    assert dataset.classes == ("SquareHole", "Square")
    assert not check_dataset(dataset).errors
    for case in dataset.cases("Tr"):
        truth = read_truth(case)
        z, y, x = ((truth.boxes[0, :3] + truth.boxes[0, 3:]) / 2).astype(int)
        mask, _ = read_mask(case.label)
        assert bool(mask[z, y, x]) == (truth.labels[0] == 1)
