"""One domain left out: what is trained on, where it is kept, and the table of domains by domains."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from small_plan import PLAN
from tiny_task import make_tiny_task

from cmb_plugin.benchmark.domain_table import matrix, measured_columns
from cmb_plugin.commands.benchmark import main as nndet_benchmark
from cmb_plugin.commands.eval import main as nndet_eval
from cmb_plugin.commands.predict import main as nndet_predict
from cmb_plugin.commands.prep import main as nndet_prep
from cmb_plugin.dataset import CasePredictions, Dataset, read_truth, write_case_predictions
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import CaseResult, EvaluationConfig, SweepConfig
from cmb_plugin.files import write_json
from cmb_plugin.models.new_domain import COMMON, choose_anew
from cmb_plugin.paths import ModelFolder
from cmb_plugin.plugins import trainers
from cmb_plugin.training import AugmentConfig, ExperimentConfig, TrainerConfig
from cmb_plugin.workflows.train import folds_of
from cmb_plugin.workflows.training_run import TrainingRun, model_folder

SMALL = ["planner_cfg.patch_size=[16,16,16]", "planner_cfg.base_features=4", "planner_cfg.pyramid_channels=8"]


def define(task, **entries):
    path = task.root / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **entries}))


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    monkeypatch.setenv("det_models", str(tmp_path / "models"))
    return tmp_path


def run_of(task, fold):
    trainer, exp = trainers.get("RetinaUNetV001"), ExperimentConfig(fold)
    settings = {"exp": exp, "trainer_cfg": TrainerConfig(), "augment_cfg": AugmentConfig()}
    place = model_folder(task, "T", "P", exp).fold(exp.number)
    return TrainingRun(task, PLAN, trainer, "demo", "new", settings, place)


def test_a_model_without_a_domain_has_one_fold_of_its_own(root):
    task = make_tiny_task(root / "data", n_train=5, n_test=0, modalities=("swi",), shape=(16, 20, 20))
    task.splits.parent.mkdir(parents=True)
    names = [f"sub-0{i}" for i in range(1, 6)]
    task.splits.write_text(json.dumps([{"train": names[:3], "val": names[3:]}]))
    with pytest.raises(UserError, match=r"no second domain.*domains=geometry"):
        folds_of(run_of(task, "without:ukb"))
    define(task, domain={"sub-01": "ukb", "sub-02": "Site 1/3T", "sub-04": "ukb"})
    run = run_of(task, "without:ukb")
    assert run.fold.root.parent.name == "T_P_without-ukb"
    assert run.fold.root.name == "fold0"
    # Of Site 1/3T no scan is validated on, so it has none in the fold.
    assert folds_of(run) == [{"train": ["sub-02", "sub-03"], "val": ["sub-05"], "unseen": ["sub-01", "sub-04"]}]
    assert run_of(task, "without:Site 1/3T").fold.root.parent.name == "T_P_without-Site_1_3T"
    assert folds_of(run_of(task, "without:unnamed"))[0]["unseen"] == ["sub-03", "sub-05"]
    with pytest.raises(UserError, match=r"has no domain ukbb.*ukb"):
        folds_of(run_of(task, "without:ukbb"))
    with pytest.raises(UserError, match=r"exp.fold=last: is no fold"):
        run_of(task, "last")
    define(task, domain={"sub-04": "ukb"}, session_id=dict.fromkeys(names, "one"))
    with pytest.raises(UserError, match="all patients have scans of ukb"):
        folds_of(run_of(task, "without:ukb"))
    assert folds_of(run_of(task, 0)) == [{"train": names[:3], "val": names[3:]}]


def scan(name, lesions, false, shift):
    """A scan whose lesions score 0.8 and whose false positives score 0.3 to 0.6, all shifted."""
    boxes = [[0, 0, 20 * i, 2, 2, 20 * i + 2] for i in range(lesions + false)]
    scores = [0.8] * lesions + np.linspace(0.3, 0.6, false).tolist()
    found = Detections(
        np.array(boxes, np.float32).reshape(-1, 6),
        np.array(scores, np.float32) - np.float32(shift),
        np.zeros(lesions + false, np.int64),
    )
    truth = np.array(boxes[:lesions], np.float32).reshape(-1, 6)
    return CaseResult(name, found, truth, np.zeros(lesions, np.int64), (1.0, 1.0, 1.0))


def test_a_point_chosen_anew_finds_what_the_old_one_would_miss_and_never_sees_its_scan():
    cases = [scan(f"c{i}", 1 + i % 2, 6, shift=0.25) for i in range(6)]  # a scanner on which all scores are lower
    patients = {f"c{i}": f"p{i // 2}" for i in range(6)}
    anew = choose_anew(cases, SweepConfig(), EvaluationConfig(), patients)
    assert sorted(case.case_id for case in anew) == sorted(patients)
    for case in anew:
        reported = case.detections.scores >= COMMON
        assert reported.sum() - len(case.truth_boxes) <= 1  # as the rule asks of the other scans
        assert reported[: len(case.truth_boxes)].all()
    odd = [*cases[:4], *(dataclasses.replace(scan(f"c{i}", 1, 6, shift=-0.15)) for i in (4, 5))]
    both = choose_anew(odd, SweepConfig(), EvaluationConfig(), patients)
    false = {case.case_id: int((case.detections.scores >= COMMON).sum()) - len(case.truth_boxes) for case in both}
    assert false["c4"] > 1  # its threshold is the other patients', for which scores were lower
    assert choose_anew(cases[:2], SweepConfig(), EvaluationConfig(), patients) is None


def test_domains_are_measured_on_scans_that_no_model_was_trained_on(root):
    task = make_tiny_task(root / "data", n_train=5, n_test=2, modalities=("swi",), shape=(16, 20, 20))
    task.splits.parent.mkdir(parents=True)
    names = [f"sub-0{i}" for i in range(1, 6)]
    task.splits.write_text(json.dumps([{"train": names[:2], "val": names[2:]}]))
    define(
        task,
        domain={**dict.fromkeys(names[:4], "a"), "sub-05": "b", "sub-51": "b", "sub-52": "c"},
        session_id={"sub-04": "both", "sub-05": "both"},
    )
    columns = measured_columns(task)
    assert {domain: [case.case_id for case in cases] for domain, cases in columns.items()} == {
        "a": ["sub-03"], "b": ["sub-51"]
    }  # fmt: skip


def test_the_table_shows_a_scanner_whose_scores_are_lower(root, capsys):
    """Predictions alone: what the model without ``b`` says of ``b`` scores below its operating point."""
    task = make_tiny_task(root / "data", n_train=6, n_test=0, modalities=("swi",), shape=(16, 24, 24), healthy=False)
    names = [f"sub-0{i}" for i in range(1, 7)]
    define(task, domain={name: "ab"[i % 2] for i, name in enumerate(names)})  # a: 01, 03, 05; b: 02, 04, 06
    write_json(task.splits, [{"train": names[2:], "val": names[:2]}, {"train": names[:2], "val": names[2:]}])
    truths = {case.case_id: read_truth(case) for case in Dataset.load(task).cases("Tr")}
    out = root / "out"
    for without, unseen, val in (("a", names[::2], ["sub-02"]), ("b", names[1::2], ["sub-01"])):
        model = root / "models" / task.name / f"RetinaUNetV001_D3CMB_3d_without-{without}_out_seed0"
        fold = ModelFolder(model).fold(0)
        write_json(fold.operating_point, {"score": 0.5})
        for split, cases in (("unseen", unseen), ("val", val)):
            score = 0.4 if split == "unseen" and without == "b" else 0.8
            for name in cases:
                truth = truths[name]
                found = Detections(truth.boxes, np.full(len(truth), score, np.float32), truth.labels)
                write_case_predictions(
                    fold.predictions(split), CasePredictions(name, found, truth.grid, ("cmb",), 0.5, "m", (0,))
                )
        about = {"method": "RetinaUNetV001", "fold": f"without:{without}", "seed": 0, "steps": 2, "seconds": {}}
        record = {**about, "words": [], "budget": {"steps": 2000, "minutes": None}, "finished": ["train", "predict"]}
        write_json(out / task.name / f"RetinaUNetV001_without-{without}_seed0.json", record)
    words = ["900", "--folds", "domains", "--models", "RetinaUNetV001", "--only", "eval", "--output", str(out)]
    assert nndet_benchmark([*words, "--resamples", "50"]) == 0
    rows = list(csv.DictReader((out / "domains.csv").read_text(encoding="utf-8").splitlines()))
    value = {(row["without"], row["measured_on"], row["number"]): float(row["value"] or "nan") for row in rows}
    assert value["b", "b", "sensitivity"] == 0  # the threshold does not carry over,
    assert value["b", "b", "sensitivity@1"] == 1  # though the ranking does
    assert value["a", "b", "sensitivity"] == value["b", "a", "sensitivity"] == value["a", "a", "sensitivity"] == 1
    assert value["difference", "b", "sensitivity"] == -1
    assert value["difference", "a", "sensitivity"] == 0
    assert value["b", "b all", "carried sensitivity"] == 0
    assert value["b", "b all", "anew sensitivity"] == 1
    assert "| without b |" in (out / "domains.md").read_text(encoding="utf-8")


def test_leave_one_domain_out_in_one_command(root, capsys):
    """The whole chain: folds, two trainings without a domain, unseen scans, the table; then the single commands."""
    task = make_tiny_task(root / "data", n_train=6, n_test=0, modalities=("swi",), shape=(16, 24, 24), healthy=False)
    define(task, domain={f"sub-0{i}": "ab"[i % 2] for i in range(1, 7)})
    assert nndet_prep(["900", "-np", "0", "-o", *SMALL]) == 0
    shown = capsys.readouterr().out
    assert "training" in shown
    assert len([line for line in shown.splitlines() if line.split()[1:2] in (["a"], ["b"])]) == 2
    words = ["900", "--folds", "domains", "--models", "RetinaUNetV001", "--budget", "2steps", "--resamples", "20"]
    words += ["-o", "inference_cfg.overlap=0", "trainer_cfg.domain_balance=1", "augment=domains"]
    assert nndet_benchmark(words) == 0
    assert "without a" in capsys.readouterr().out
    folder = ModelFolder(root / "models" / "Task900_Tiny" / "RetinaUNetV001_D3CMB_3d_without-a_benchmark_seed0")
    fold = folder.fold(0)
    (split,) = json.loads(fold.splits.read_text(encoding="utf-8"))
    assert split["unseen"] == ["sub-02", "sub-04", "sub-06"]
    assert set(split["train"] + split["val"]) == {"sub-01", "sub-03", "sub-05"}
    assert sorted(path.name for path in fold.predictions("unseen").glob("*_boxes.json")) == [
        f"sub-0{i}_boxes.json" for i in (2, 4, 6)
    ]
    metrics = json.loads((fold.results("unseen") / "metrics.json").read_text(encoding="utf-8"))
    assert set(metrics["strata"]["domain"]) == {"a"}
    text = (root / "models" / "benchmark" / "domains.md").read_text(encoding="utf-8")
    assert "| without a |" in text
    assert "Δ unseen, seen" in text
    rows = (root / "models" / "benchmark" / "domains.csv").read_text(encoding="utf-8").splitlines()
    assert any("carried fp_per_scan" in row for row in rows)
    assert (root / "models" / "benchmark" / "domains.html").stat().st_size > 1000
    assert nndet_predict(["900", folder.name, "--unseen", "-npp", "0"]) == 0
    assert "3 kept" in capsys.readouterr().out
    assert nndet_eval(["900", folder.name, "0", "--unseen"]) == 0
    assert nndet_eval(["900", folder.name, "0", "--unseen", "--test"]) == 2
    assert nndet_benchmark([*words[:3], "--models", "nnunet", "--output", str(root / "other")]) == 2
    assert "cannot be trained without a domain" in capsys.readouterr().err


def test_the_matrix_marks_what_was_never_seen(root):
    from cmb_plugin.benchmark.domain_table import DomainRow
    from cmb_plugin.evaluation import Estimate

    cells = {"a": {"x": Estimate(0.5, 0.4, 0.6)}, "b": {"x": Estimate(0.9, 0.8, 1.0)}}
    rows = [DomainRow("T", "m", "a", 1, cells), DomainRow("T", "m", "", 0, {"a": {"x": Estimate(-0.4, -0.5, -0.1)}})]
    assert matrix(rows, "x", 2) == (
        ["", "a", "b"],
        [
            ["without a", "**0.50 (0.40-0.60)**", "0.90 (0.80-1.00)"],
            ["Δ unseen, seen", "-0.40 (-0.50 to -0.10)", "-"],
        ],
    )
