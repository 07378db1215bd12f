"""Training patches: a pure function of seed and index, so that a resumed run sees what an uninterrupted one would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from cmb_plugin.preparation import StoredCase

from .augmentation import Augmentation

MOST_TRIES = 50
"""Places tried for a patch without lesions; where lesions are everywhere, the last one is taken as it is."""


@dataclass
class Batch:
    """What a trainer's losses get.

    Attributes:
        images: [B, C, Z, Y, X] float32; channels that a case does without are 0.
        boxes: for each image [N, 6] in patch voxels.
        labels: for each image [N] class indices.
        foreground: [B, Z, Y, X], 1 inside lesions.
        outlined: [B] False where a lesion of the patch was drawn from a point or a box, so that its outline teaches
            nothing; None for all True.
        places: int64 [B, 4] where each patch was read: number of the case, first voxel z, y, x; None if unknown.
        class_map: uint8 [B, Z, Y, X]: 0 background, else 1 + class index of the lesion or region; None if unknown.
    """

    images: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    foreground: Tensor
    outlined: Tensor | None = None
    places: Tensor | None = None
    class_map: Tensor | None = None


@dataclass
class Sample:
    """One patch: image [C, Z, Y, X], boxes [N, 6], labels [N], foreground [Z, Y, X], whether its lesions were
    outlined by somebody, where it was read: number of the case, first voxel z, y, x, and the class map [Z, Y, X]."""

    image: Tensor
    boxes: Tensor
    labels: Tensor
    foreground: Tensor
    outlined: bool = True
    place: tuple[int, ...] = (-1, 0, 0, 0)
    class_map: Tensor | None = None


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one size -> a batch."""
    return Batch(
        torch.stack([s.image for s in samples]),
        [s.boxes for s in samples],
        [s.labels for s in samples],
        torch.stack([s.foreground for s in samples]),
        torch.tensor([s.outlined for s in samples]),
        torch.tensor([s.place for s in samples]),
        torch.stack([s.class_map for s in samples if s.class_map is not None]),
    )


class PatchDataset(Dataset[Sample]):
    """Random patches of prepared cases. Item ``i`` depends on ``seed`` and ``i`` alone.

    Of every ``batch_size`` consecutive items the last ``foreground_fraction`` hold a lesion: a case with lesions is
    drawn, then one of its lesions, then a place of the patch that has the lesion's centre inside. The others are drawn
    anywhere, or, with ``lesion_free_background``, where they hold no lesion; with ``replay`` a share of them near the
    places that stand in it at the time.

    Args:
        folder: prepared cases (``preprocessed/{plan}/imagesTr``).
        case_ids: which of them.
        batch_size: items per batch.
        foreground_fraction: share of a batch drawn around lesions.
        augmentation: random changes; None only crops.
        patch_size: size of a patch, z, y, x.
        seed: of everything random here.
        lesion_free_background: keep lesions out of the patches that are not drawn around one.
        replay: int64 [K, 4] places to draw again, as in ``Batch.places``, with -1 for none; others may write to it.
        replay_fraction: share of the patches not drawn around a lesion that come from ``replay``, once it holds any.
    """

    def __init__(
        self,
        folder: Path,
        case_ids: Sequence[str],
        *,
        batch_size: int,
        foreground_fraction: float,
        augmentation: Augmentation | None,
        patch_size: Sequence[int],
        seed: int,
        lesion_free_background: bool = False,
        replay: Tensor | None = None,
        replay_fraction: float = 0.5,
    ) -> None:
        self.folder = folder
        self.case_ids = list(case_ids)
        self.batch_size = batch_size
        self.n_foreground = round(batch_size * foreground_fraction)
        self.augmentation = augmentation
        self.patch_size = tuple(patch_size)
        self.seed = seed
        self.lesion_free_background = lesion_free_background
        self.replay = replay
        self.replay_fraction = replay_fraction
        self._open: dict[str, StoredCase] = {}
        self.positive = [number for number in range(len(self.case_ids)) if len(self.case(self.case_ids[number]).boxes)]
        self._open.clear()  # file handles are not carried into worker processes

    def case(self, case_id: str) -> StoredCase:
        """The prepared case, opened once per process."""
        if case_id not in self._open:
            self._open[case_id] = StoredCase.open(self.folder, case_id)
        return self._open[case_id]

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, index])
        wants_lesion = index % self.batch_size >= self.batch_size - self.n_foreground and bool(self.positive)
        size = self.augmentation.source_size(rng) if self.augmentation else self.patch_size
        number, start = self._place(wants_lesion, size, rng)
        case = self.case(self.case_ids[number])
        image = torch.from_numpy(_read(case.data, start, size))
        instances = torch.from_numpy(_read(case.instances, start, size).astype(np.int16))
        if self.augmentation:
            image, instances = self.augmentation(image, instances, int(rng.integers(2**31)))
            for channel in case.missing:
                image[channel] = 0  # noise would look like a modality
        sample = _sample(image, instances, dict(zip(case.instance_ids.tolist(), case.labels.tolist(), strict=True)))
        sample.outlined = not (case.weak and len(sample.boxes))
        first = start + (np.asarray(size) - self.patch_size) // 2
        sample.place = (number, *first.tolist())
        return sample

    def _place(self, wants_lesion: bool, size: Sequence[int], rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """The number of a case and the first voxel of the region of ``size`` to read from it."""
        numbers = self.positive if wants_lesion else range(len(self.case_ids))
        replayed = None if wants_lesion else self._replayed(rng)
        for _ in range(MOST_TRIES):
            number = int(replayed[0]) if replayed is not None else numbers[rng.integers(len(numbers))]
            case = self.case(self.case_ids[number])
            start = self._start(case, wants_lesion, size, rng, None if replayed is None else replayed[1:])
            if wants_lesion or not self.lesion_free_background or not _touched(case.mask_boxes, start, size).any():
                break
        return number, start

    def _replayed(self, rng: np.random.Generator) -> np.ndarray | None:
        """A remembered place, or None if this patch is to come from anywhere."""
        if self.replay is None:
            return None
        known = self.replay[self.replay[:, 0] >= 0].numpy()
        if not len(known) or rng.random() >= self.replay_fraction:
            return None
        place: np.ndarray = known[rng.integers(len(known))]
        return place

    def _start(
        self,
        case: StoredCase,
        wants_lesion: bool,
        size: Sequence[int],
        rng: np.random.Generator,
        near: np.ndarray | None = None,
    ) -> np.ndarray:
        """First voxel of the region of ``size`` to read; the patch lies in its middle and may hang over the edge of
        the scan. With ``near``, the first voxel of an earlier patch, it lies within a quarter of a patch of it."""
        patch, shape = np.asarray(self.patch_size), np.asarray(case.shape)
        lowest, highest = np.minimum(0, shape - patch), np.maximum(0, shape - patch)
        if wants_lesion:
            box = case.boxes[rng.integers(len(case.boxes))]
            place = rng.uniform(0.1, 0.9, size=3)  # where in the patch the lesion's centre comes to lie
            start = np.clip(np.round((box[:3] + box[3:]) / 2 - place * patch).astype(int), lowest, highest)
        elif near is not None:
            start = np.clip(near + rng.integers(-(patch // 4), patch // 4 + 1), lowest, highest)
        else:
            start = rng.integers(lowest, highest + 1)
        around: np.ndarray = start - (np.asarray(size) - patch) // 2
        return around


def _touched(boxes: np.ndarray, start: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """[N] True for boxes [N, 6] of which a part lies in the region ``start`` .. ``start + size``."""
    touched: np.ndarray = ((boxes[:, 3:] > start) & (boxes[:, :3] < start + np.asarray(size))).all(axis=1)
    return touched


def _read(array: object, start: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Reads ``[..., start : start + size]``; what lies outside the array is 0."""
    shape = np.asarray(array.shape[-3:])  # type: ignore[attr-defined]
    leading = array.shape[:-3]  # type: ignore[attr-defined]
    low, high = np.maximum(start, 0), np.minimum(start + size, shape)
    if np.any(high <= low):
        return np.zeros((*leading, *size), dtype=np.float32)
    inside = np.asarray(array[(*[slice(None)] * len(leading), *map(slice, low, high))])  # type: ignore[index]
    padding = [(0, 0)] * len(leading) + list(zip(low - start, start + size - high, strict=True))
    return np.pad(inside, padding) if any(before or after for before, after in padding) else inside


def _sample(image: Tensor, instances: Tensor, classes: dict[int, int]) -> Sample:
    mask = instances.numpy()
    found = [(i, place) for i, place in enumerate(ndimage.find_objects(mask), start=1) if place is not None]
    boxes = [[*(s.start for s in place), *(s.stop for s in place)] for _, place in found]
    of_instance = np.zeros(1 + max(classes, default=0), dtype=np.uint8)
    of_instance[list(classes)] = [1 + label for label in classes.values()]
    return Sample(
        image=image,
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 6),
        labels=torch.tensor([classes[i] for i, _ in found], dtype=torch.int64),
        foreground=(instances > 0).to(torch.uint8),
        class_map=torch.from_numpy(of_instance[mask]),
    )


class StepSampler(Sampler[int]):
    """Indices of one epoch's patches for one process: every epoch, step and rank has its own, so none repeats.

    Lightning calls ``set_epoch`` before each epoch, also after resuming.
    """

    def __init__(self, steps: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.steps, self.batch_size, self.rank, self.world_size = steps, batch_size, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __iter__(self) -> Iterator[int]:
        for step in range(self.epoch * self.steps, (self.epoch + 1) * self.steps):
            first = (step * self.world_size + self.rank) * self.batch_size
            yield from range(first, first + self.batch_size)
