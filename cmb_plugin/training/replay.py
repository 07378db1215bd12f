"""A memory of mimics across batches: crops without a lesion in which the detector was most wrong are drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from .patches import Batch


class Replay(Callback):
    """Remembers the hardest lesion-free crops of training; ``PatchDataset`` draws around them.

    A trainer says how wrong it was in each crop of a batch (``DetectionModule.hardness``). At the end of an epoch the
    hardest places are written to ``places``, from which the next epoch's patches are drawn. Of crops that lie within
    half a patch of each other only the latest counts, so a place that was learned is forgotten. The memory travels in
    the checkpoint, so that a resumed run draws what an uninterrupted one would.

    Args:
        size: places that are remembered.
        patch_size: of the crops, z, y, x.
    """

    def __init__(self, size: int, patch_size: Sequence[int]) -> None:
        # Shared, because worker processes that live for the whole training must see what each epoch writes.
        self.places = torch.full((size, 4), -1, dtype=torch.int64).share_memory_()
        self._cell = (1, *(max(1, side // 2) for side in patch_size))
        self._hardness: dict[tuple[int, ...], tuple[float, list[int]]] = {}
        self._visits: list[tuple[list[int], float]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        hardness: Tensor | None = getattr(pl_module, "hardness", None)
        if hardness is None or batch.places is None:
            return
        for boxes, place, value in zip(batch.boxes, batch.places.tolist(), hardness.tolist(), strict=True):
            if not len(boxes):
                self._visits.append((place, value))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        visits = [self._visits]
        if trainer.world_size > 1:
            visits = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(visits, self._visits)
        for place, value in (visit for of_rank in visits for visit in of_rank):
            self._hardness[self._cell_of(place)] = (value, place)
        self._visits = []
        hardest = sorted(self._hardness.items(), key=lambda item: -item[1][0])[: len(self.places)]
        self._hardness = dict(hardest)
        self._write()

    def _cell_of(self, place: Sequence[int]) -> tuple[int, ...]:
        return tuple(start // side for start, side in zip(place, self._cell, strict=True))

    def _write(self) -> None:
        self.places.fill_(-1)
        for row, (_, place) in enumerate(self._hardness.values()):
            self.places[row] = torch.tensor(place)

    def state_dict(self) -> dict[str, Any]:
        values = list(self._hardness.values())
        return {"hardness": [value for value, _ in values], "places": [place for _, place in values]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._hardness = {
            self._cell_of(place): (value, place)
            for value, place in zip(state_dict["hardness"], state_dict["places"], strict=True)
        }
        self._write()
