"""What the user sees of a running training, and the checkpoints that survive its end."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from cmb_plugin.files import atomic
from cmb_plugin.paths import FoldFolder

from .history import History
from .validation import Validation


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints under a temporary name first: a kill or a power failure leaves the one before whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Writes the checkpoint and waits until the disk has it."""
        with atomic(path, durable=True) as temporary:
            super().save_checkpoint(checkpoint, temporary, storage_options)


class Checkpoints(Checkpoint):
    """Saves ``model_last.ckpt`` after every epoch and ``model_best.ckpt`` after the best validation."""

    def __init__(self, folder: FoldFolder, validation: Validation) -> None:
        self.folder = folder
        self.validation = validation
        self.best: float | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the epoch, and as the best one if its validation is no worse than those before."""
        score = self.validation.score
        if score is not None and (self.best is None or score >= self.best):
            self.best = score
            trainer.save_checkpoint(self.folder.best)
        trainer.save_checkpoint(self.folder.last)

    def state_dict(self) -> dict[str, Any]:
        """The score of the best validation, kept in the checkpoint."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the best score up where the checkpoint left it."""
        self.best = state_dict["best"]


class TrainingProgress(Callback):
    """A progress bar over all steps on a terminal; elsewhere one line per epoch.

    Lightning's bars (2.6) begin anew in each epoch, write every refresh into a log file, and know nothing of validation
    by a callback, nor when the whole training will end.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self._bar: Any = None
        self._task: Any = None
        self._begin = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the bar on a terminal and starts the clock."""
        self._begin, self._first_step = time.monotonic(), trainer.global_step
        if not trainer.is_global_zero or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._bar.start()
        self._task = self._bar.add_task(self._text(trainer), total=_steps(trainer), completed=trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, description=self._text(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the line of the epoch where there is no bar."""
        if self._bar is not None or not trainer.is_global_zero:
            return
        elapsed = time.monotonic() - self._begin
        left = elapsed / max(1, trainer.global_step - self._first_step) * (_steps(trainer) - trainer.global_step)
        print(f"{self._text(trainer)}  {elapsed:.0f} s, {left:.0f} s left", file=sys.stderr, flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the bar away."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Takes the bar away, so that the error stands on a line of its own."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _text(self, trainer: Trainer) -> str:
        losses = self.history.mean_losses()
        shown = [f"{name} {value:.3f}" for name, value in losses.items()]
        validated = [row for row in self.history.rows if row.get("val_sensitivity") is not None]
        if validated:
            shown.append(f"validation sensitivity {validated[-1]['val_sensitivity']:.2f} at 1 FP/scan")
        dice = [row["val_dice"] for row in self.history.rows if row.get("val_dice") is not None]
        if dice:
            shown.append(f"validation Dice {dice[-1]:.3f}")
        return f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {'  '.join(shown)}"


def _steps(trainer: Trainer) -> int:
    return int((trainer.max_epochs or 0) * trainer.num_training_batches)
