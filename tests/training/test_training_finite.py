"""A training whose numbers run away: it stops with a remedy, and what it saved before is sound."""

import pytest
import torch
from lightning import Callback
from short_training import run

from cmb_plugin.errors import UserError
from cmb_plugin.training import finite, loop


class Spoils(Callback):
    """Writes a NaN into one weight after a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == self.step:
            with torch.no_grad():
                next(module.parameters()).view(-1)[0] = float("nan")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (7, "the loss is not finite at step 7 .*learning_rate"),
        (10, "the weights are not finite after epoch 2.*learning_rate"),
    ],
)
def test_the_last_checkpoint_is_the_epoch_before(prepared, tmp_path, monkeypatch, step, message):
    monkeypatch.setattr(loop, "TrainingProgress", lambda history: Spoils(step))
    with pytest.raises(UserError, match=message):
        run(prepared, tmp_path)
    checkpoint = torch.load(tmp_path / "model_last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 0
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    assert not (tmp_path / "model_best.ckpt").exists()


def test_losses_are_read_every_few_steps_only(prepared, tmp_path, monkeypatch):
    looks = []
    monkeypatch.setattr(finite, "LOOK_EVERY", 4)
    monkeypatch.setattr(finite, "_all_processes", lambda trainer, fine: looks.append(trainer.global_step) or bool(fine))
    run(prepared, tmp_path, epochs=1, swa_epochs=1, steps_per_epoch=10)
    assert looks == [4, 8, 10, 10, 14, 18, 20, 20]  # at the end of an epoch losses and weights
