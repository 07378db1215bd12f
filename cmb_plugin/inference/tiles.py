"""Tiles of a scan as batches on a device, and the mean of what a model says about each voxel in several tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .config import InferenceConfig
from .detector import PatchDetector, PatchSegmenter
from .tiling import CoreTiling, Tiling, Triple, gaussian_map

M = TypeVar("M", PatchDetector, PatchSegmenter)

CPU_TILE, OTHER_TILE = 8_000_000, 16_000_000  # voxels of a tile of models with a halo, where none are set

# Axes of a patch [Z, Y, X] that each view mirrors, in the order in which ``tta`` adds them: left-right first, then
# the plane (after transposition the first axis is the one of lowest resolution), then through the plane.
VIEWS: tuple[tuple[int, ...], ...] = ((), (2,), (1,), (1, 2), (0,), (0, 2), (0, 1), (0, 1, 2))


def views_of(models: Sequence[PatchDetector] | Sequence[PatchSegmenter], tta: int | None) -> list[tuple[int, ...]]:
    """The axes that each view of a tile mirrors: the first ``tta`` of ``VIEWS`` that every model allows, at least the
    tile as it is."""
    allowed = set.intersection(*(set(model.mirror_axes) for model in models))
    return [axes for axes in VIEWS if allowed.issuperset(axes)][: max(tta or 1, 1)]


def tiled(
    models: M | Sequence[M], data: Any, settings: InferenceConfig | None, device: torch.device | str
) -> tuple[list[M], Tiling | CoreTiling, InferenceConfig]:
    """Models as a list, the tiles of a scan for them, and settings: cores and their halo where every model has one,
    else overlapping tiles of the patch size.

    Raises:
        ValueError: the models have several patch sizes, and not all have a halo.
    """
    members = list(models) if isinstance(models, Sequence) else [models]
    settings = settings or InferenceConfig()
    halos = [getattr(member, "halo", None) for member in members]
    if all(halo is not None for halo in halos):
        halo = [max(sides) for sides in zip(*halos, strict=True)]
        divisor = [math.lcm(*steps) for steps in zip(*(member.divisor for member in members), strict=True)]
        most = settings.tile_voxels or (CPU_TILE if torch.device(device).type == "cpu" else OTHER_TILE)
        return members, CoreTiling.of(data.shape[1:], halo, divisor, most), replace(settings, batch_size=1)
    sizes = {tuple(member.patch_size) for member in members}
    if len(sizes) != 1:
        raise ValueError(f"models of several patch sizes cannot be put together: {sorted(sizes)}")
    return members, Tiling.of(tuple(int(n) for n in data.shape[1:]), sizes.pop(), settings.overlap), settings


def informative_tiles(
    data: Any,
    tiling: Tiling | CoreTiling,
    batch_size: int | None,
    device: torch.device | str,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[list[Triple], Tensor]]:
    """Batches of tiles [B, C, Z, Y, X] on ``device`` and their origins, without tiles in which, or in whose core, every
    channel is constant: these hold nothing.

    Args:
        data: [C, Z, Y, X] prepared scan, numpy or anything that slices like it.
        tiling: where the tiles lie.
        batch_size: tiles in a batch; None takes 1 on a CPU and 4 elsewhere.
        device: where the batches go.
        progress: called with (tiles done, all tiles) after each batch.
    """
    on_cpu = torch.device(device).type == "cpu"
    done = 0
    for origins, patches in read_tiles(data, tiling, batch_size or (1 if on_cpu else 4), ahead=not on_cpu):
        done += len(origins)
        informative = [
            i
            for i, (origin, patch) in enumerate(zip(origins, patches, strict=True))
            if not _is_constant(tiling.looked_at(patch, origin))
        ]
        if informative:
            yield [origins[i] for i in informative], torch.from_numpy(patches[informative]).to(device)
        if progress:
            progress(done, len(tiling.origins))


class TileMean:
    """Gaussian-weighted mean of the tiles' probabilities, of one volume or of one per class."""

    def __init__(self, tiling: Tiling) -> None:
        self.tiling = tiling
        self.sum: np.ndarray | None = None

    def add(self, origins: Sequence[Triple], probability: Tensor | None) -> None:
        """Adds tiles [B, Z, Y, X] or [B, K, Z, Y, X]; a tile that is never added counts as probability 0."""
        if probability is None:
            return
        if self.sum is None:
            self.sum = np.zeros((*probability.shape[1:-3], *self.tiling.shape), dtype=np.float32)
            self.weights = torch.from_numpy(gaussian_map(self.tiling.tile)).to(probability.device)
        weighted = (probability * self.weights).cpu().numpy()
        for origin, tile in zip(origins, weighted, strict=True):
            inside, place = self.tiling.overlap_with_scan(origin)
            in_scan: tuple[Any, ...] = (..., *inside)
            self.sum[in_scan] += tile[(..., *place)]

    def result(self) -> np.ndarray | None:
        """float16 [Z, Y, X] or [K, Z, Y, X], slice by slice, so that no further volume in float32 is needed; None
        where no tile was added."""
        if self.sum is None:
            return None
        z, y, x = self.tiling.weight_sums()
        plane = y[:, None] * x[None, :]
        mean = np.empty(self.sum.shape, dtype=np.float16)
        for index, weight in enumerate(z):
            mean[..., index, :, :] = self.sum[..., index, :, :] / (weight * plane)
        return mean


class CoreValues:
    """The probabilities of all cores put together, of one volume or of one per class, in float16."""

    def __init__(self, tiling: CoreTiling) -> None:
        self.tiling = tiling
        self.values: np.ndarray | None = None

    def add(self, origins: Sequence[Triple], probability: Tensor | None) -> None:
        """Puts in tiles [B, Z, Y, X] or [B, K, Z, Y, X]; a core that is never put in has probability 0."""
        if probability is None:
            return
        if self.values is None:
            self.values = np.zeros((*probability.shape[1:-3], *self.tiling.shape), dtype=np.float16)
        for origin, tile in zip(origins, probability, strict=True):
            inside, place = self.tiling.overlap_with_scan(origin)
            in_scan: tuple[Any, ...] = (..., *inside)
            self.values[in_scan] = tile[(..., *place)].cpu().numpy()

    def result(self) -> np.ndarray | None:
        """float16 [Z, Y, X] or [K, Z, Y, X]; None where no tile was put in."""
        return self.values


def collector(tiling: Tiling | CoreTiling) -> TileMean | CoreValues:
    """What makes one volume of the tiles' probabilities."""
    return CoreValues(tiling) if isinstance(tiling, CoreTiling) else TileMean(tiling)


def _is_constant(patch: np.ndarray) -> bool:
    """True when every channel of [C, Z, Y, X] holds one value only: empty border or padding."""
    return bool((patch == patch[:, :1, :1, :1]).all())


def read_tiles(
    data: Any, tiling: Tiling | CoreTiling, batch_size: int, ahead: bool
) -> Iterator[tuple[list[Triple], np.ndarray]]:
    """Batches of tile origins and tiles [B, C, Z, Y, X].

    ``ahead`` reads the next batch in a thread while the caller works on this one, which pays while a GPU does the
    work; on a CPU it would only compete with the network for the cores.
    """

    def read(origins: Sequence[Triple]) -> np.ndarray:
        """[B, C, Z, Y, X] of the tiles at ``origins``."""
        return np.stack([tiling.read(data, origin) for origin in origins])

    origins = tiling.origins
    batches = [origins[start : start + batch_size] for start in range(0, len(origins), batch_size)]
    if not ahead:
        yield from ((batch, read(batch)) for batch in batches)
        return
    with ThreadPoolExecutor(1) as reader:
        upcoming = reader.submit(read, batches[0])
        for index, batch in enumerate(batches):
            patches = upcoming.result()
            if index + 1 < len(batches):
                upcoming = reader.submit(read, batches[index + 1])
            yield batch, patches
