"""Stochastic weight averaging: after the main schedule, the weights of each epoch's end are averaged (Izmailov et al.
2018).

Lightning's ``WeightAveraging`` (2.6) was tried instead. It resumes exactly, but it keeps the mean under ``state_dict``
and the raw weights elsewhere, so that a fold which was begun before could not go on; until the first average that mean
is the untrained network, which every checkpoint of the main schedule would give to prediction; and it averages around
Lightning's own validation loop, which whole scans do not go through.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn


class WeightAveraging(Callback):
    """Keeps the mean of the weights at the end of every epoch from ``first_epoch`` on.

    Weights are the parameters and the running statistics of batch norm, of which the mean is that of the averaged
    network, as far as it is linear between the epochs. Other buffers are the last ones. The mean travels in the
    checkpoint under ``averaged_weights``; the optimiser goes on from the raw weights, so that a resumed run equals an
    uninterrupted one.

    Attributes:
        count: epochs that the mean is of.
        mean: float32 means of the weights by name, on the CPU.
    """

    def __init__(self, first_epoch: int) -> None:
        self.first_epoch = first_epoch
        self.count = 0
        self.mean: dict[str, Tensor] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the weights of the epoch that ends to the mean; several processes first agree about the statistics of
        batch norm, which each has of its own patches."""
        if trainer.world_size > 1:
            for statistics in _statistics(pl_module).values():
                torch.distributed.all_reduce(statistics)
                statistics /= trainer.world_size
        if trainer.current_epoch < self.first_epoch:
            return
        self.count += 1
        for name, value in _weights(pl_module).items():
            value = value.float().cpu()
            self.mean[name] = (
                value.clone() if self.count == 1 else self.mean[name] + (value - self.mean[name]) / self.count
            )

    @contextmanager
    def applied(self, module: LightningModule) -> Iterator[None]:
        """Puts the mean into ``module`` for the time of the block, if there is one yet."""
        if not self.count:
            yield
            return
        raw = {name: value.clone() for name, value in _weights(module).items()}
        module.load_state_dict(module.state_dict() | self.mean)
        try:
            yield
        finally:
            module.load_state_dict(module.state_dict() | raw)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the averaged network, its mean weights and the last of the other buffers, to the checkpoint."""
        if self.count:
            buffers = {name: value for name, value in checkpoint["state_dict"].items() if name not in self.mean}
            checkpoint["averaged_weights"] = {**self.mean, **buffers}
            checkpoint["averaged_epochs"] = self.count

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes the mean up where the checkpoint left it."""
        self.count = checkpoint.get("averaged_epochs", 0)
        averaged, parameters = checkpoint.get("averaged_weights", {}), _weights(pl_module)
        self.mean = {name: torch.as_tensor(value) for name, value in averaged.items() if name in parameters}


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and statistics of batch norm under all their names in ``state_dict``; a shared one has several."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return {name: value.detach() for name, value in parameters.items()} | _statistics(module)


def _statistics(module: nn.Module) -> dict[str, Tensor]:
    """Running means and variances of batch norm under all their names."""
    return {
        name: value
        for name, value in module.named_buffers(remove_duplicate=False)
        if name.endswith(("running_mean", "running_var"))
    }
