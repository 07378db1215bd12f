"""``nndet_train`` around the training: what counts as trained, who may train a fold, and what folds must share."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from dies_at import DiesAt
from small_plan import PLAN as SMALL_PLAN
from tiny_task import make_tiny_task

from cmb_plugin.commands.consolidate import main as nndet_consolidate
from cmb_plugin.commands.eval import main as nndet_eval
from cmb_plugin.commands.names import find_task
from cmb_plugin.commands.predict import main as nndet_predict
from cmb_plugin.commands.prep import main as nndet_prep
from cmb_plugin.commands.train import main as nndet_train
from cmb_plugin.errors import UserError
from cmb_plugin.paths import FoldFolder, ModelFolder, TaskFolder
from cmb_plugin.planning import Plan
from cmb_plugin.plugins import trainers
from cmb_plugin.settings import Overrides, plain_settings, write_settings
from cmb_plugin.training import loop
from cmb_plugin.workflows.train import split_of
from cmb_plugin.workflows.training_run import TrainingRun, resolve
from cmb_plugin.workflows.unchanged import check_unchanged

PLAN = ["planner_cfg.patch_size=[16,16,16]", "planner_cfg.base_features=4", "planner_cfg.pyramid_channels=8"]
SHORT = ["module=RetinaUNetV001", "train=demo", "trainer_cfg.epochs=1", "trainer_cfg.steps_per_epoch=2",
         "trainer_cfg.swa_epochs=1", "inference_cfg.overlap=0"]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model whose fold 0 is trained."""
    root = tmp_path_factory.mktemp("train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("det_data", str(root / "data"))
        patch.setenv("det_models", str(root / "models"))
        make_tiny_task(root / "data", n_train=5, n_test=1)
        assert nndet_prep(["900", "-np", "0", "-o", *PLAN]) == 0
        assert nndet_train(["900", "-o", *SHORT]) == 0
        yield ModelFolder(root / "models" / "Task900_Tiny" / "RetinaUNetV001_D3CMB_3d")


@pytest.fixture
def two_folds(model):
    """The model with a second fold beside the first, which the test may change."""
    fold = model.fold(1)
    shutil.copytree(model.fold(0).root, fold.root)
    yield model
    shutil.rmtree(fold.root)


def one_line(capsys):
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error")]
    assert len(lines) == 1, error
    return lines[0]


def test_a_trained_fold_says_so(model):
    assert model.fold(0).is_finished()
    assert json.loads(model.fold(0).training.read_text(encoding="utf-8")) == {"schema": 1, "finished": True}
    assert not model.fold(0).lock.exists()


def test_a_fold_that_is_still_training_predicts_with_no_other(two_folds, capsys):
    two_folds.fold(1).mark(finished=False)
    assert two_folds.trained_folds() == [0]
    assert nndet_predict(["900", "-npp", "0", "--overwrite"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "fold 0, checkpoint" in shown
    assert "left out, since not finished: fold 1; train.mode=resume goes on" in shown
    for command in (nndet_predict, nndet_eval):
        words = ["900", "-f", "1"] if command is nndet_predict else ["900", two_folds.name, "1"]
        assert command(words) == 2
        message = one_line(capsys)
        assert "the training of fold 1 has not finished" in message
        assert "exp.fold=1 train.mode=resume" in message
    assert nndet_consolidate(["900", two_folds.name, "--num_folds", "2"]) == 2
    assert "the training of fold 1 has not finished" in one_line(capsys)


def test_a_model_of_which_no_fold_has_finished_is_no_default(model, capsys):
    model.fold(0).mark(finished=False)
    try:
        assert nndet_predict(["900"]) == 2
        assert "the training of fold 0 has not finished" in one_line(capsys)
    finally:
        model.fold(0).mark(finished=True)


def test_folds_from_before_the_note_are_judged_by_their_epochs(two_folds):
    fold = two_folds.fold(1)
    fold.training.unlink()
    assert two_folds.trained_folds() == [0, 1]
    rows = fold.history.read_text(encoding="utf-8").splitlines()
    assert len(rows) == 3
    fold.history.write_text("\n".join(rows[:-1]))
    assert two_folds.trained_folds() == [0]
    fold.history.unlink()  # as a model that was packed
    assert two_folds.trained_folds() == [0, 1]


def test_two_processes_do_not_train_one_fold(model, capsys):
    words = ["900", "-o", *SHORT, "exp.tag=twice"]
    fold = ModelFolder(model.root.with_name(f"{model.name}_twice")).fold(0)
    code = "import sys; from cmb_plugin.commands.train import main; sys.exit(main(sys.argv[1:]))"
    first = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL, env=os.environ.copy())
    try:
        end = time.monotonic() + 200
        while not fold.settings.is_file():
            assert first.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        for mode in ("new", "resume", "overwrite"):
            assert nndet_train([*words, f"train.mode={mode}"]) == 2
            assert f"process {first.pid}" in one_line(capsys)
        assert first.wait(timeout=200) == 0
    finally:
        first.kill()
    assert fold.is_finished()
    assert (fold.results("val") / "metrics.json").is_file()
    shutil.rmtree(fold.root.parent)


def test_a_fold_with_a_checkpoint_is_kept_though_its_settings_are_gone(two_folds, capsys):
    fold = two_folds.fold(1)
    fold.settings.unlink()
    before = fold.last.read_bytes()
    for mode in ("new", "resume"):
        assert nndet_train(["900", "-o", *SHORT, "exp.fold=1", f"train.mode={mode}"]) == 2
        assert str(fold.root) in one_line(capsys)
    assert fold.last.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["trainer_cfg.optimizer=adam"], "optimizer 'adam'"),
        (["trainer_cfg.precision=fp16"], "unknown precision 'fp16'"),
        (["trainer_cfg.accelerator=mps"], "trainer_cfg.accelerator=mps"),
        (["trainer_cfg.accelerator=cuda:1"], "trainer_cfg.accelerator=cuda:1"),
        (["trainer_cfg.accelerator=cpu", "trainer_cfg.devices=0"], "trainer_cfg.devices=0"),
        (["trainer_cfg.accelerator=cpu", "trainer_cfg.devices=-1"], "trainer_cfg.devices=-1"),
        (
            ["module=CMBRetinaUNet", "model_cfg.window=2", "model_cfg.assignment=atss", "model_cfg.widths=plan",
             "model_cfg.prototype_score=false"],
            "model_cfg.window=2: is even",
        ),
        (["augment=[domains]"], "unknown preset 'augment=['domains']'"),
        (["augment_cfg.scaling=[1.4,0.7]"], "augment_cfg.scaling=[1.4,0.7]: begins above its end"),
        (["exp.tag=a/b"], "exp.tag=a/b: is a path"),
        (["exp.tag=/../../other"], "exp.tag=/../../other: is a path"),
    ],
)  # fmt: skip
def test_overwriting_with_a_wrong_setting_keeps_the_fold(two_folds, capsys, words, complaint):
    fold = two_folds.fold(1)
    before = {path.relative_to(fold.root): path.read_bytes() for path in fold.root.rglob("*") if path.is_file()}
    assert nndet_train(["900", "-o", *SHORT, "exp.fold=1", "train.mode=overwrite", *words]) == 2
    assert complaint in one_line(capsys)
    assert before == {path.relative_to(fold.root): path.read_bytes() for path in fold.root.rglob("*") if path.is_file()}
    assert two_folds.trained_folds() == [0, 1]


@pytest.mark.parametrize("epochs", [0, 1])
def test_overwriting_that_is_interrupted_keeps_the_fold_until_there_is_another(two_folds, monkeypatch, epochs):
    fold = two_folds.fold(1)
    before = fold.last.read_bytes()
    monkeypatch.setattr(loop, "TrainingProgress", lambda history: DiesAt(2 * epochs, KeyboardInterrupt))
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert nndet_train(["900", "-o", *SHORT, "exp.fold=1", "train.mode=overwrite"]) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    assert (fold.last.read_bytes() == before) == (not epochs)
    assert fold.is_finished() == (not epochs)
    assert [path.name for path in fold.root.parent.iterdir() if path.name.startswith(".")] == []


def test_a_fold_whose_overwriting_was_killed_in_its_first_epoch_is_put_back(two_folds, capsys):
    fold = two_folds.fold(1)
    before = fold.last.read_bytes()
    fold.root.rename(fold.root.with_name(".fold1_replaced"))
    fold.root.mkdir()
    fold.settings.touch()
    assert nndet_train(["900", "-o", *SHORT, "exp.fold=1"]) == 2
    assert "a trained model is there already" in one_line(capsys)
    assert fold.last.read_bytes() == before


def test_a_run_of_before_a_setting_existed_is_resumed_as_what_it_was(tmp_path):
    """Its settings.yaml knows neither ``assignment`` nor a setting whose default has not changed."""
    trainer = trainers.get("CMBRetinaUNet")
    anchors = {"assignment": "atss", "widths": "plan", "norm": "instance"}
    fold = FoldFolder(tmp_path / "fold0")
    fold.root.mkdir()
    SMALL_PLAN.save(fold.plan)

    def run(**model_cfg):
        settings = {"module": "CMBRetinaUNet", "plan": "test_3d", "model_cfg": trainer.model_config(**model_cfg)}
        return TrainingRun(TaskFolder(tmp_path), SMALL_PLAN, trainer, "demo", "resume", settings, fold)

    stored = plain_settings(run(**anchors).settings)
    for name in (*anchors, "replay"):
        del stored["model_cfg"][name]
    write_settings(fold.settings, stored)
    check_unchanged(run(**anchors))
    with pytest.raises(UserError, match=r"model_cfg\.assignment was atss when training began, now it is centre"):
        check_unchanged(run())


def test_a_fine_tuning_goes_on_with_the_weights_that_it_began_with(tmp_path):
    """Killed before its first checkpoint it would begin anew, from random weights."""
    trainer, fold = trainers.get("CMBRetinaUNet"), FoldFolder(tmp_path / "fold0")
    fold.root.mkdir()
    SMALL_PLAN.save(fold.plan)
    settings = {"module": "CMBRetinaUNet", "plan": "test_3d", "model_cfg": trainer.model_config()}
    begun = {**settings, "init": {"from": "pretrained", "weights": "abc"}}
    write_settings(fold.settings, begun)
    check_unchanged(TrainingRun(TaskFolder(tmp_path), SMALL_PLAN, trainer, "demo", "resume", begun, fold))
    with pytest.raises(UserError, match=r"init\.weights was abc when training began, now it is None"):
        check_unchanged(TrainingRun(TaskFolder(tmp_path), SMALL_PLAN, trainer, "demo", "resume", settings, fold))


def test_a_training_that_goes_on_keeps_the_scans_that_it_holds_out(model):
    """splits.json is made anew when there are new cases, and may not go back when they are taken away."""
    task = find_task("900")
    before = task.splits.read_text(encoding="utf-8")
    run = resolve(task, Overrides.parse([*SHORT, "train.mode=resume"]))
    train, val = split_of(run)
    try:
        task.splits.write_text(json.dumps([{"train": val, "val": train}]), encoding="utf-8")
        assert split_of(run) == (train, val)
        assert split_of(resolve(task, Overrides.parse(SHORT))) == (val, train)
    finally:
        task.splits.write_text(before, encoding="utf-8")


def test_a_fold_of_another_network_is_refused_before_it_is_trained(model, capsys):
    wider = "model_cfg.detections_per_patch=77"
    assert nndet_train(["900", "-o", *SHORT, "exp.fold=1", wider]) == 2
    message = one_line(capsys)
    assert "model_cfg.detections_per_patch is 100, here it is 77" in message
    assert "exp.tag=NAME" in message
    assert not model.fold(1).root.exists()


def test_a_fold_of_another_plan_is_refused_before_it_is_trained(model, capsys):
    path = find_task("900").plan("D3CMB_3d")
    before = path.read_text(encoding="utf-8")
    plan = json.loads(before)
    path.write_text(json.dumps({**plan, "classes": ["bleed"]}))
    try:
        assert nndet_train(["900", "-o", *SHORT, "exp.fold=1"]) == 2
        assert "the classes of its plan are not those of the plan now" in one_line(capsys)
    finally:
        path.write_text(before)
    assert not model.fold(1).root.exists()


def test_folds_of_different_networks_do_not_predict_together(two_folds, capsys):
    path = two_folds.fold(1).settings
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["model_cfg"]["detections_per_patch"] = 77
    path.write_text(yaml.safe_dump(settings))
    assert nndet_predict(["900"]) == 2
    assert "model_cfg.detections_per_patch is 77, fold 0's is 100" in one_line(capsys)
    settings["model_cfg"].pop("detections_per_patch")  # an older fold, from before there was such a setting
    path.write_text(yaml.safe_dump(settings))
    assert nndet_predict(["900", "-npp", "0"]) == 0


def test_a_validation_scan_that_cannot_be_predicted_is_named(model, capsys):
    """The run is trained; it ends with the scan's name, not with what its missing predictions lead to."""
    case = json.loads(model.fold(0).splits.read_text(encoding="utf-8"))[0]["val"][0]
    scan = find_task("900").images("Tr") / f"{case}_0000.nii.gz"
    whole = scan.read_bytes()
    scan.write_bytes(whole[:100])
    shutil.rmtree(model.fold(0).predictions("val"))
    try:
        assert nndet_train(["900", "-o", *SHORT, "train.mode=resume"]) == 2
        message = one_line(capsys)
        assert f"1 of its scans cannot be predicted ({case}: " in message
        assert "train.mode=resume" in message
    finally:
        scan.write_bytes(whole)
    assert nndet_train(["900", "-o", *SHORT, "train.mode=resume"]) == 0


@pytest.mark.parametrize(
    ("words", "painted"),
    [
        ([], 0.1),
        (["train=finetune", "augment=domains"], 0.1),
        (["train=demo"], 0.0),
        (["augment_cfg.painted=0"], 0.0),
        (["module=RetinaUNetV001"], 0.0),
        (["plan=phase"], 0.0),
    ],
)
def test_the_default_paints_deposits_where_the_plan_has_something_to_paint(model, words, painted):
    task = find_task("900")
    plan = Plan.load(task.plan("D3CMB_3d"))
    signed = dataclasses.replace(plan, name="phase", modalities=("phase",) * len(plan.modalities), polarity=())
    signed.save(task.plan("phase"))
    assert resolve(task, Overrides.parse(words)).settings["augment_cfg"].painted == painted
