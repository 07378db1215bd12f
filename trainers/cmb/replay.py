"""A memory of mimics across batches: crops without a lesion in which the detector was most wrong are drawn again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cmb_plugin.training import Batch, PatchDataset, PreparedCases

MOST_TRIES = 50
"""Places tried for a patch without lesions; where lesions are everywhere, the last one is taken as it is."""

REPLAYED_PLACES = 256
"""Places that are remembered."""


class MimicPatches(PatchDataset):
    """Patches of which those not drawn around a lesion hold none, and a share of these come from the memory.

    Args:
        cases, options: as for ``PatchDataset``.
        replay: int64 [K, 4] places to draw again, as in ``Batch.places``, with -1 for none; ``Replay`` writes to it.
            None for no memory.
        replay_fraction: share of the patches not drawn around a lesion that come from ``replay``, once it holds any.
    """

    def __init__(
        self, cases: PreparedCases, *, replay: Tensor | None = None, replay_fraction: float = 0.5, **options: Any
    ) -> None:
        super().__init__(cases, **options)
        self.replay = replay
        self.replay_fraction = replay_fraction

    def place(self, wants_lesion: bool, size: Sequence[int], rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """``PatchDataset.place``; without a lesion wanted, a place that holds none."""
        if wants_lesion:
            return super().place(wants_lesion, size, rng)
        remembered = self._remembered(rng)
        for _ in range(MOST_TRIES):
            number, start = super().place(False, size, rng) if remembered is None else self._near(remembered, size, rng)
            if not _touched(self.case(number).mask_boxes, start, size).any():
                break
        return number, start

    def _remembered(self, rng: np.random.Generator) -> np.ndarray | None:
        """A remembered place, or None if this patch is to come from anywhere."""
        if self.replay is None:
            return None
        known = self.replay[self.replay[:, 0] >= 0].numpy()
        if not len(known) or rng.random() >= self.replay_fraction:
            return None
        place: np.ndarray = known[rng.integers(len(known))]
        return place

    def _near(self, place: np.ndarray, size: Sequence[int], rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """A place within a quarter of a patch of an earlier patch's."""
        number, reach = int(place[0]), np.asarray(self.patch_size) // 4
        lowest, highest = self.start_range(number)
        start = np.clip(place[1:] + rng.integers(-reach, reach + 1), lowest, highest)
        return number, self.region_around(start, size)


def _touched(boxes: np.ndarray, start: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """[N] True for boxes [N, 6] of which a part lies in the region ``start`` .. ``start + size``."""
    touched: np.ndarray = ((boxes[:, 3:] > start) & (boxes[:, :3] < start + np.asarray(size))).all(axis=1)
    return touched


class Replay(Callback):
    """Remembers the hardest lesion-free crops of training; ``MimicPatches`` draws around them.

    The trainer says how wrong it was in each crop of a batch (its ``hardness``). At the end of an epoch the
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
        """Notes where the patches of the batch lay, and how wrong the network was there."""
        hardness: Tensor | None = getattr(pl_module, "hardness", None)
        if hardness is None or batch.places is None:
            return
        for boxes, place, value in zip(batch.boxes, batch.places.tolist(), hardness.tolist(), strict=True):
            if not len(boxes) and value > -math.inf:  # nobody has judged anything in the patch
                self._visits.append((place, value))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts what all processes noted into the memory, and keeps the hardest places."""
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
        """What a checkpoint keeps of the memory."""
        values = list(self._hardness.values())
        return {"hardness": [value for value, _ in values], "places": [place for _, place in values]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remembers what a checkpoint kept."""
        self._hardness = {
            self._cell_of(place): (value, place)
            for value, place in zip(state_dict["hardness"], state_dict["places"], strict=True)
        }
        self._write()
