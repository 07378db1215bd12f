"""The course of a training: one row per epoch in the checkpoint, in ``history.csv`` and in ``progress.png``."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cmb_plugin.files import atomic, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, float | int | None]
LABELS = {
    "val_froc_score": "FROC score",
    "val_sensitivity": "sensitivity at 1 false positive per scan",
    "val_dice": "mean Dice",
}


class History(Callback):
    """Collects the mean losses of every epoch, and what validation adds to them through ``add``.

    The rows are part of the checkpoint: after a resume the files hold exactly the epochs that the weights have seen.

    Attributes:
        rows: one dictionary per finished epoch: ``epoch`` (from 1), ``learning_rate``, ``loss``, each named loss,
            validation figures.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[Row] = []
        self._sums: dict[str, Tensor] = {}
        self._steps: Counter[str] = Counter()
        self._extra: Row = {}

    def add(self, values: Row) -> None:
        """Adds figures to the row of the running epoch."""
        self._extra.update(values)

    def mean_losses(self) -> Row:
        """Mean of every loss over those steps of the running epoch so far that had it."""
        return {name: float(total) / self._steps[name] for name, total in self._sums.items()}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the figures of the epoch before."""
        self._sums, self._steps, self._extra = {}, Counter(), {}

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
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        losses = self.mean_losses()
        self.rows.append({"epoch": trainer.current_epoch + 1, "learning_rate": rate, **losses, **self._extra})
        for logger in trainer.loggers:
            logger.log_metrics({k: v for k, v in self.rows[-1].items() if v is not None}, step=trainer.global_step)
        if trainer.is_global_zero:
            write_text(self.folder / "history.csv", as_csv(self.rows))
            with atomic(self.folder / "progress.png") as temporary:
                progress_figure(self.rows).savefig(temporary, dpi=120)

    def state_dict(self) -> dict[str, Any]:
        """The rows, kept in the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the rows up where the checkpoint left them."""
        self.rows = list(state_dict["rows"])


def as_csv(rows: list[Row]) -> str:
    """Rows as CSV text; the columns are those of all rows, an absent value is empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def progress_figure(rows: list[Row]) -> Figure:
    """Losses above, validation below, over epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    known = {"epoch", "learning_rate"}
    names = dict.fromkeys(name for row in rows for name in row)  # in later epochs others may be learned
    losses = [name for name in names if name not in known and not name.startswith("val_")]
    for name in losses:
        style = {"color": "black", "linewidth": 2} if name == "loss" else {"linewidth": 1}
        points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
        top.plot(*zip(*points, strict=True), label=name, **style)
    top.set(ylabel="training loss", yscale="log")
    top.legend(loc="best", fontsize="small")
    for name in (name for name in names if name.startswith("val_")):
        label = LABELS.get(name) or name.removeprefix("val_").replace("_", " ").replace("dice", "Dice")
        points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            bottom.plot(*zip(*points, strict=True), marker="o", label=label)
    bottom.set(xlabel="epoch", ylabel="validation", ylim=(-0.02, 1.02))
    if bottom.lines:
        bottom.legend(loc="lower right", fontsize="small")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    return figure
