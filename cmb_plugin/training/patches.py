"""Training patches: a pure function of seed and index, so that a resumed run sees what an uninterrupted one would."""

from __future__ import annotations

import dataclasses
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from cmb_plugin.preparation import StoredCase

from .augmentation import Augmentation
from .cases import PreparedCases


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
        judged: uint8 [B, Z, Y, X], 1 where somebody has judged, so that what is unlabelled is background; None for
            everywhere. A trainer that gets such batches says so (``TrainingModule.leaves_out_unjudged``).
        extra: a trainer's own data, by the names that its samples give them, each [B, ...].
    """

    images: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    foreground: Tensor
    outlined: Tensor | None = None
    places: Tensor | None = None
    class_map: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    judged: Tensor | None = None

    def pin_memory(self) -> Self:
        """The same in page-locked memory, out of which a GPU reads while it computes; a ``DataLoader`` asks for it."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: _pinned(value) for name, value in own.items()})


def _pinned(value: Any) -> Any:
    """A field of a batch with its tensors in page-locked memory."""
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, dict):
        return {name: _pinned(one) for name, one in value.items()}
    return [_pinned(one) for one in value] if isinstance(value, list) else value


@dataclass
class Sample:
    """One patch: image [C, Z, Y, X], boxes [N, 6], labels [N], foreground [Z, Y, X], whether its lesions were
    outlined by somebody, where it was read: number of the case, first voxel z, y, x, the class map [Z, Y, X], a
    trainer's own data: tensors of one shape in all patches, and where somebody has judged [Z, Y, X], None for
    everywhere."""

    image: Tensor
    boxes: Tensor
    labels: Tensor
    foreground: Tensor
    outlined: bool = True
    place: tuple[int, ...] = (-1, 0, 0, 0)
    class_map: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    judged: Tensor | None = None


MOST_OPEN = 128
"""Cases that a process holds open: each takes two or three file handles, of which a process usually has 1024."""

JUDGED = -1
"""In a mask that is augmented: background that somebody has judged, where a scan was judged in places only. Everything
that is 0 there, also what lies beyond the scan's edge, is nobody's judgement."""


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one size -> a batch."""
    class_maps = [s.class_map for s in samples if s.class_map is not None]
    return Batch(
        torch.stack([s.image for s in samples]),
        [s.boxes for s in samples],
        [s.labels for s in samples],
        torch.stack([s.foreground for s in samples]),
        torch.tensor([s.outlined for s in samples]),
        torch.tensor([s.place for s in samples]),
        torch.stack(class_maps) if len(class_maps) == len(samples) else None,
        {name: torch.stack([s.extra[name] for s in samples]) for name in samples[0].extra},
        _judged(samples),
    )


def _judged(samples: Sequence[Sample]) -> Tensor | None:
    if all(sample.judged is None for sample in samples):
        return None
    return torch.stack([torch.ones_like(s.foreground) if s.judged is None else s.judged for s in samples])


class PatchDataset(Dataset[Sample]):
    """Random patches of prepared cases. Item ``i`` depends on ``seed`` and ``i`` alone.

    Of every ``batch_size`` consecutive items the last ``foreground_fraction`` hold a lesion, in turn one more or less
    where that is no whole number: a case with lesions is drawn, then one of its lesions, then a place of the patch that
    has the lesion's centre inside. The others are drawn anywhere, in a case that was judged in places only around one
    of these. Scans are equally likely, or, the more so the larger ``domain_balance`` is, domains. A trainer with
    another rule derives from it and overrides ``place``.

    Args:
        cases: prepared cases to draw from.
        batch_size: items per batch.
        foreground_fraction: share of a batch drawn around lesions.
        augmentation: random changes; None only crops.
        patch_size: size of a patch, z, y, x.
        seed: of everything random here.
        domain_balance: from 0, all scans alike, to 1, all domains alike; see ``domain_shares``.

    Attributes:
        case_ids: names of the cases; their places in it are the cases' numbers.
        positive: numbers of the cases with lesions.
    """

    def __init__(
        self,
        cases: PreparedCases,
        *,
        batch_size: int,
        foreground_fraction: float,
        augmentation: Augmentation | None,
        patch_size: Sequence[int],
        seed: int,
        domain_balance: float = 0.0,
    ) -> None:
        self.cases = cases
        self.case_ids = list(cases.case_ids)
        self.batch_size = batch_size
        self.foreground_fraction = foreground_fraction
        self.augmentation = augmentation
        self.patch_size = tuple(patch_size)
        self.seed = seed
        self._open: OrderedDict[str, StoredCase] = OrderedDict()
        self.positive = [number for number in range(len(self.case_ids)) if len(self.case(number).boxes)]
        domains = [cases.domain.get(case_id, "") for case_id in self.case_ids]
        self._shares = domain_shares(domains, domain_balance)
        self._positive_shares = domain_shares([domains[number] for number in self.positive], domain_balance)
        self._open.clear()  # file handles are not carried into worker processes

    def case(self, number: int) -> StoredCase:
        """The prepared case of a number; those that were wanted last stay open."""
        case_id = self.case_ids[number]
        if case_id not in self._open:
            if len(self._open) >= MOST_OPEN:
                self._open.popitem(last=False)
            self._open[case_id] = self.cases.open(case_id)
        self._open.move_to_end(case_id)
        return self._open[case_id]

    def wants_lesion(self, index: int) -> bool:
        """Whether item ``index`` is one of its batch's lesions."""
        batch, place = divmod(index, self.batch_size)
        before, after = (int(n * self.batch_size * self.foreground_fraction + 1e-6) for n in (batch, batch + 1))
        return place >= self.batch_size - (after - before) and bool(self.positive)

    def __getitem__(self, index: int) -> Sample:
        """Patch number ``index`` of the run."""
        rng = np.random.default_rng([self.seed, index])
        size = self.augmentation.source_size(rng) if self.augmentation else self.patch_size
        number, start = self.place(self.wants_lesion(index), size, rng)
        case = self.case(number)
        image = torch.from_numpy(read_region(case.data, start, size))
        mask = read_region(case.instances, start, size).astype(np.int16)
        if case.judged is not None:
            mask[(read_region(case.judged, start, size) > 0) & (mask == 0)] = JUDGED
        instances = torch.from_numpy(mask)
        classes = dict(zip(case.instance_ids.tolist(), case.labels.tolist(), strict=True))
        if self.augmentation:
            last = int(instances.max())
            image, instances = self.augmentation(image, instances, int(rng.integers(2**31)))
            painted = range(max(0, last) + 1, int(instances.max()) + 1)
            classes |= dict.fromkeys(painted, self.augmentation.config.painted_class)
            for channel in case.missing:
                image[channel] = 0  # noise would look like a modality
        sample = _sample(image, instances.clamp(min=0), classes)
        if case.judged is not None:
            sample.judged = (instances != 0).to(torch.uint8)
        sample.outlined = not (case.weak and len(sample.boxes))
        first = start + (np.asarray(size) - self.patch_size) // 2
        sample.place = (number, *first.tolist())
        return sample

    def place(self, wants_lesion: bool, size: Sequence[int], rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """Where a patch is read.

        Args:
            wants_lesion: around a lesion, or anywhere.
            size: voxels of the region to read, z, y, x: the patch, or more where it will be rotated.
            rng: source of all chance.

        Returns:
            the number of a case, and the first voxel of the region in it.
        """
        numbers = self.positive if wants_lesion else range(len(self.case_ids))
        shares = self._positive_shares if wants_lesion else self._shares
        chosen = rng.integers(len(numbers)) if shares is None else rng.choice(len(numbers), p=shares)
        number = int(numbers[chosen])
        lowest, highest = self.start_range(number)
        boxes = self.case(number).boxes if wants_lesion else self.case(number).judged_boxes
        if boxes is not None and len(boxes):
            box = boxes[rng.integers(len(boxes))]
            where = rng.uniform(0.1, 0.9, size=3)  # in the patch, the lesion's centre comes to lie here
            centre = (box[:3] + box[3:]) / 2
            start = np.clip(np.round(centre - where * np.asarray(self.patch_size)).astype(int), lowest, highest)
        else:
            start = rng.integers(lowest, highest + 1)
        return number, self.region_around(start, size)

    def start_range(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """[3] lowest and highest first voxel of a patch in a case; below 0 where the scan is smaller than the patch."""
        patch, shape = np.asarray(self.patch_size), np.asarray(self.case(number).shape)
        return np.minimum(0, shape - patch), np.maximum(0, shape - patch)

    def region_around(self, start: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """[3] first voxel of the region of ``size`` that has the patch that begins at ``start`` in its middle; the
        region may hang over the edge of the scan."""
        around: np.ndarray = start - (np.asarray(size) - np.asarray(self.patch_size)) // 2
        return around


def domain_shares(domains: Sequence[str], balance: float) -> np.ndarray | None:
    """How often each case is drawn: proportional to n^-balance, n being the cases of its domain.

    So a domain is drawn proportionally to n^(1 - balance), a temperature of 1 / (1 - balance): with 0 as often as it
    has scans, with 1 as often as any other, and a scan of a small domain the more often.

    Args:
        domains: of each case.
        balance: 0 to 1.

    Returns:
        [len(domains)] with sum 1; None where all are alike.
    """
    sizes = Counter(domains)
    if balance == 0 or len(sizes) < 2:
        return None
    weights = np.array([float(sizes[domain]) for domain in domains]) ** -balance
    shares: np.ndarray = weights / weights.sum()
    return shares


def read_region(array: Any, start: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Reads ``[..., start : start + size]`` of anything that slices like an array; what lies outside it is 0."""
    shape = np.asarray(array.shape[-3:])
    leading = array.shape[:-3]
    low, high = np.maximum(start, 0), np.minimum(start + size, shape)
    if np.any(high <= low):
        return np.zeros((*leading, *size), dtype=np.float32)
    inside = np.asarray(array[(*[slice(None)] * len(leading), *map(slice, low, high))])
    padding = [(0, 0)] * len(leading) + list(zip(low - start, start + size - high, strict=True))
    return np.pad(inside, padding) if any(before or after for before, after in padding) else inside


def _sample(image: Tensor, instances: Tensor, classes: dict[int, int]) -> Sample:
    mask = instances.numpy()
    places = [(i, place) for i, place in enumerate(ndimage.find_objects(mask), start=1) if place is not None]
    boxes = [[*(s.start for s in place), *(s.stop for s in place)] for _, place in places]
    of_instance = np.zeros(1 + max(classes, default=0), dtype=np.uint8)
    of_instance[list(classes)] = [1 + label for label in classes.values()]
    return Sample(
        image=image,
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 6),
        labels=torch.tensor([classes[i] for i, _ in places], dtype=torch.int64),
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
        """The next indices are those of ``epoch``, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __iter__(self) -> Iterator[int]:
        for step in range(self.epoch * self.steps, (self.epoch + 1) * self.steps):
            first = (step * self.world_size + self.rank) * self.batch_size
            yield from range(first, first + self.batch_size)
