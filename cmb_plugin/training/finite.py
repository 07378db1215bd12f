"""A training whose numbers run away ends with a remedy, in all its processes, and leaves its last sound checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cmb_plugin.errors import UserError

LOOK_EVERY = 10
"""Steps between two looks at the losses. Reading a number makes the program wait until the GPU has come to it."""
REMEDY = "lower trainer_cfg.learning_rate or set trainer_cfg.precision=32-true, and train afresh"


class FiniteCheck(Callback):
    """Stops the training where a loss, or at the end of an epoch a weight, is not finite.

    It looks every few steps and, before anything is averaged, validated or saved, at the end of an epoch. The processes
    of a DDP run look together and stop together, since one that waits for another waits for ever.
    """

    def __init__(self) -> None:
        self._recent: list[tuple[int, dict[str, Tensor]]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the losses of the step; looks at them if it is time."""
        self._recent.append((trainer.global_step - 1, outputs))
        if len(self._recent) == LOOK_EVERY:
            self._check_losses(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the losses since the last look and at all weights.

        Raises:
            UserError: one of them is not finite, in this process or another.
        """
        self._check_losses(trainer)
        finite = torch.stack([torch.isfinite(value).all() for value in pl_module.parameters()]).all()
        if not _all_processes(trainer, finite):
            raise UserError(f"the weights are not finite after epoch {trainer.current_epoch + 1}", remedy=REMEDY)

    def _check_losses(self, trainer: Trainer) -> None:
        recent, self._recent = self._recent, []
        totals = [outputs["loss"].detach() for _, outputs in recent]
        finite = torch.isfinite(torch.stack(totals)) if totals else torch.ones(1, dtype=torch.bool)
        if _all_processes(trainer, finite.all()):
            return
        for step, outputs in recent:
            if not torch.isfinite(outputs["loss"]):
                losses = {name: value.item() for name, value in outputs.items() if name != "loss"}
                raise UserError(f"the loss is not finite at step {step} ({losses})", remedy=REMEDY)
        raise UserError("the loss is not finite in another process of this training", remedy=REMEDY)


def _all_processes(trainer: Trainer, fine: Tensor) -> bool:
    return bool(trainer.strategy.reduce_boolean_decision(bool(fine)))
