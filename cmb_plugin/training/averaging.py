"""Stochastic weight averaging: after the main schedule, the weights of each epoch's end are averaged (Izmailov et al.
2018)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor


class WeightAveraging(Callback):
    """Keeps the mean of the weights at the end of every epoch from ``first_epoch`` on.

    The mean travels in the checkpoint under ``averaged_weights``; the optimiser goes on from the raw weights, so that a
    resumed run equals an uninterrupted one. No batch statistics have to be recomputed: the networks use instance and
    group norm.
    """

    def __init__(self, first_epoch: int) -> None:
        self.first_epoch = first_epoch
        self.count = 0
        self.mean: dict[str, Tensor] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch < self.first_epoch:
            return
        self.count += 1
        for name, value in pl_module.state_dict().items():
            value = value.detach().float().cpu()
            self.mean[name] = (
                value.clone() if self.count == 1 else self.mean[name] + (value - self.mean[name]) / self.count
            )

    @contextmanager
    def applied(self, module: LightningModule) -> Iterator[None]:
        """Puts the mean into ``module`` for the time of the block, if there is one yet."""
        if not self.count:
            yield
            return
        raw = {name: value.detach().clone() for name, value in module.state_dict().items()}
        module.load_state_dict(self.mean)
        try:
            yield
        finally:
            module.load_state_dict(raw)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.count:
            checkpoint["averaged_weights"] = self.mean
            checkpoint["averaged_epochs"] = self.count

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.count = checkpoint.get("averaged_epochs", 0)
        self.mean = {name: torch.as_tensor(value) for name, value in checkpoint.get("averaged_weights", {}).items()}
