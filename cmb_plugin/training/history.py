"""The course of a training: one row per epoch in the checkpoint, in ``history.csv`` and in ``progress.png``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cmb_plugin.tabular import columns_of, write_table

Row = dict[str, float | int | None]


class History(Callback):
    """Collects the mean losses of every epoch, and what validation adds to them through ``add``.

    The rows are part of the checkpoint: after a resume the files hold exactly the epochs that the weights have seen.

    Attributes:
        rows: one dictionary per finished epoch: ``epoch`` (from 1), ``learning_rate`` of its last step, ``loss``, each
            named loss, validation figures.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[Row] = []
        self._sums: dict[str, Tensor] = {}
        self._steps: Counter[str] = Counter()
        self._extra: Row = {}
        self._rate: float | None = None

    def add(self, values: Row) -> None:
        """Adds figures to the row of the running epoch."""
        self._extra.update(values)

    def mean_losses(self) -> Row:
        """Mean of every loss over those steps of the running epoch so far that had it."""
        return {name: float(total) / self._steps[name] for name, total in self._sums.items()}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the figures of the epoch before."""
        self._sums, self._steps, self._extra = {}, Counter(), {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Notes the learning rate of the step: when it has ended, the schedule has gone on to the next."""
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the losses of the step, on the device, so that nobody waits for it."""
        for name, value in outputs.items():
            self._steps[name] += 1
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the row of the epoch, gives it to the loggers and writes the files."""
        losses = self.mean_losses()
        self.rows.append({"epoch": trainer.current_epoch + 1, "learning_rate": self._rate, **losses, **self._extra})
        for logger in trainer.loggers:
            logger.log_metrics({k: v for k, v in self.rows[-1].items() if v is not None}, step=trainer.global_step)
        if trainer.is_global_zero:
            from cmb_plugin.reporting.figures import progress_figure, save_figure

            write_table(self.folder / "history.csv", columns_of(self.rows), self.rows)
            save_figure(progress_figure(self.rows), self.folder / "progress.png", dpi=120)

    def state_dict(self) -> dict[str, Any]:
        """The rows, kept in the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the rows up where the checkpoint left them."""
        self.rows = list(state_dict["rows"])
