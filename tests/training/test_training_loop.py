"""The loop around Lightning: files, averaging, and a resumed run that equals an uninterrupted one."""

import csv
import signal

import pytest
import torch
from dies_at import DiesAt
from lightning.pytorch.utilities.exceptions import SIGTERMException
from short_training import CONFIG, run

from cmb_plugin.paths import FoldFolder
from cmb_plugin.plugins import trainers
from cmb_plugin.training import learning_rate, loop


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, *run(prepared, folder)


def test_a_run_leaves_its_files(whole):
    folder, history, _ = whole
    assert {"model_last.ckpt", "model_best.ckpt", "history.csv", "progress.png"} <= {p.name for p in folder.iterdir()}
    rows = list(csv.DictReader((folder / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["val_froc_score"] != "" for row in rows] == [False, True, False, True]
    assert len(history.rows) == 4
    # The rate that the last step of each epoch was made with: at the end of an epoch of averaging the lowest.
    rates = [learning_rate(step, CONFIG) for step in (4, 9, 14, 19)]
    assert rates[2:] == pytest.approx([CONFIG.swa_final_learning_rate] * 2)
    assert [row["learning_rate"] for row in history.rows] == pytest.approx(rates)
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("step", [3, 5, 8, 17])
def test_killed_and_resumed_equals_not_killed(prepared, whole, tmp_path, monkeypatch, step):
    monkeypatch.setattr(loop, "TrainingProgress", lambda history: DiesAt(step))
    with pytest.raises(KeyError, match="killed"):
        run(prepared, tmp_path)
    monkeypatch.undo()
    history, checkpoint = run(prepared, tmp_path, resume=FoldFolder(tmp_path).last.is_file())
    assert history.rows == whole[1].rows
    assert_same_weights(checkpoint, whole[2])


def assert_same_weights(checkpoint, expected):
    for kind in ("state_dict", "averaged_weights"):
        for name, value in expected[kind].items():
            assert torch.equal(checkpoint[kind][name], value), name


def test_prototypes_and_replayed_mimics_resume_too(prepared, tmp_path, monkeypatch):
    """The memory of mimics decides which patches are drawn after the first epoch, so losing it would show."""
    cmb = {"trainer": "CMBRetinaUNet", "ids": ("a", "healthy"), "num_workers": 1}
    _, expected = run(prepared, tmp_path / "whole", **cmb)
    memory = next(state for name, state in expected["callbacks"].items() if name.startswith("Replay"))
    assert memory["places"]
    monkeypatch.setattr(loop, "TrainingProgress", lambda history: DiesAt(13))
    with pytest.raises(KeyError, match="killed"):
        run(prepared, tmp_path / "killed", **cmb)
    monkeypatch.undo()
    _, checkpoint = run(prepared, tmp_path / "killed", resume=True, **cmb)
    assert_same_weights(checkpoint, expected)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SIGTERMException])
def test_ctrl_c_and_sigterm_are_an_interruption_not_an_end(prepared, tmp_path, monkeypatch, error):
    monkeypatch.setattr(loop, "TrainingProgress", lambda history: DiesAt(7, error))
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(prepared, tmp_path)
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores further Ctrl-C from here on
    assert FoldFolder(tmp_path).last.is_file()


def test_a_finished_run_resumes_to_itself(prepared, whole):
    folder, history, _ = whole
    again, _ = run(prepared, folder, resume=True)
    assert again.rows == history.rows


def test_the_seed_decides(prepared, whole, tmp_path):
    other, _ = run(prepared, tmp_path, seed=1)
    assert other.rows[-1]["loss"] != whole[1].rows[-1]["loss"]


def test_the_module_is_left_on_the_device_that_it_was_trained_on(prepared, tmp_path, monkeypatch):
    """Lightning takes it to the CPU in the end; what follows a training on a GPU would run there."""
    moves = []
    kind = trainers.get("RetinaUNetV001")
    monkeypatch.setattr(kind, "cpu", lambda self: moves.append("cpu") or self)
    to = kind.to
    monkeypatch.setattr(kind, "to", lambda self, *args, **named: moves.append(args) or to(self, *args, **named))
    run(prepared, tmp_path, epochs=1, swa_epochs=0)
    assert moves[-2:] == ["cpu", (torch.device("cpu"),)]
