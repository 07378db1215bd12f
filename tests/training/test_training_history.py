"""The course of a training whose losses change on the way."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from cmb_plugin.reporting.figures import progress_figure
from cmb_plugin.training.history import History


def test_a_loss_is_averaged_over_the_steps_that_had_it(tmp_path):
    history = History(tmp_path)
    history.on_train_epoch_start(None, None)
    for step, outputs in enumerate(({"teacher": 2.0}, {"teacher": 4.0}, {"student": 0.5})):
        losses = {name: torch.tensor(value) for name, value in outputs.items()}
        history.on_train_batch_end(None, None, {"loss": torch.tensor(step + 1.0), **losses}, None, step)
    assert history.mean_losses() == pytest.approx({"loss": 2.0, "teacher": 3.0, "student": 0.5})


def test_losses_of_early_epochs_stay_in_file_and_figure(tmp_path):
    history = History(tmp_path)
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    for epoch, name in enumerate(("teacher", "student")):
        history.on_train_epoch_start(None, None)
        history.on_train_batch_start(SimpleNamespace(optimizers=[optimizer]), None, None, 0)
        history.on_train_batch_end(None, None, {"loss": torch.tensor(1.0), name: torch.tensor(1.0)}, None, 0)
        trainer = SimpleNamespace(
            optimizers=[optimizer], current_epoch=epoch, loggers=[], global_step=epoch, is_global_zero=True
        )
        history.on_train_epoch_end(trainer, None)
    lines = (tmp_path / "history.csv").read_text(encoding="utf-8").splitlines()
    assert lines == ["epoch,learning_rate,loss,teacher,student", "1,0.1,1.0,1.0,", "2,0.1,1.0,,1.0"]
    top, _ = progress_figure(history.rows).axes
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["loss", "teacher", "student"]
    assert (tmp_path / "progress.png").stat().st_size > 1000
