"""``predict_array``: models and a prepared scan in, detections and foreground probability out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmb_plugin.detections import Detections

from .config import InferenceConfig
from .detector import PatchDetections, PatchDetector
from .merging import merge_tiles, merge_views, place_in_scan
from .tiling import Tiling, Triple, gaussian_map

# Axes of a patch [Z, Y, X] that each view mirrors, in the order in which ``tta`` adds them: left-right first, then
# the plane (after transposition the first axis is the one of lowest resolution), then through the plane.
VIEWS: tuple[tuple[int, ...], ...] = ((), (2,), (1,), (1, 2), (0,), (0, 2), (0, 1), (0, 1, 2))


@dataclass
class Prediction:
    """What was found in a prepared scan.

    Attributes:
        detections: boxes in voxels of the network's array, highest score first.
        foreground: float16 [Z, Y, X] probability of lesion, None where no model gave one.
    """

    detections: Detections
    foreground: np.ndarray | None


def predict_array(
    models: PatchDetector | Sequence[PatchDetector],
    data: Any,
    settings: InferenceConfig | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Prediction:
    """Tiled prediction of one scan by one or several models.

    Tiles overlap; each is seen by every model in every mirroring. Detections of one model and mirroring are merged
    over tiles by non-maximum suppression that trusts the middle of a tile more, then over models and mirrorings by
    weighted box clustering. Tiles in which every channel is constant hold nothing and are passed over. Memory: one
    float32 and one float16 volume of the scan's size, whatever the number of models, mirrorings and classes.

    Args:
        models: detectors of one patch size, on ``device`` and in evaluation mode.
        data: [C, Z, Y, X] prepared scan: numpy, or anything that slices like it, such as a blosc2 array.
        settings: the defaults of ``InferenceConfig`` if None.
        device: where the models are.
        progress: called with (tiles done, all tiles) after each batch.
    """
    members = list(models) if isinstance(models, Sequence) else [models]
    settings = settings or InferenceConfig()
    sizes = {tuple(member.patch_size) for member in members}
    if len(sizes) != 1:
        raise ValueError(f"models of several patch sizes cannot be put together: {sorted(sizes)}")
    tiling = Tiling.of(tuple(int(n) for n in data.shape[1:]), sizes.pop(), settings.overlap)
    views = VIEWS[: max(settings.tta or 1, 1)]
    found: list[list[Detections]] = [[] for _ in range(len(members) * len(views))]
    foreground = _Foreground(tiling) if settings.foreground else None
    done = 0
    on_cpu = torch.device(device).type == "cpu"
    batch_size = settings.batch_size or (1 if on_cpu else 4)
    for origins, patches in _read_tiles(data, tiling, batch_size, ahead=not on_cpu):
        done += len(origins)
        informative = [i for i, patch in enumerate(patches) if not _is_constant(patch)]
        if informative:
            batch = torch.from_numpy(patches[informative]).to(device)
            places = [origins[i] for i in informative]
            probability = _detect_all(members, views, batch, places, tiling, settings, found)
            if foreground:
                foreground.add(places, probability)
        if progress:
            progress(done, len(tiling.origins))
    per_view = [merge_tiles(parts, settings) for parts in found]
    return Prediction(merge_views(per_view, settings), foreground.result() if foreground else None)


def _detect_all(
    members: Sequence[PatchDetector],
    views: Sequence[tuple[int, ...]],
    batch: Tensor,
    origins: Sequence[Triple],
    tiling: Tiling,
    settings: InferenceConfig,
    found: list[list[Detections]],
) -> Tensor | None:
    """Runs every model on every mirroring of a batch of tiles [B, C, Z, Y, X].

    Adds the detections to ``found`` (one list per model and mirroring) and returns the mean foreground probability
    [B, Z, Y, X], or None.
    """
    total: Tensor | None = None
    count = 0
    for m, member in enumerate(members):
        for v, axes in enumerate(views):
            dims = [axis - 3 for axis in axes]
            with torch.inference_mode():
                detections, probability = member.detect(batch.flip(dims) if dims else batch)
                if probability is not None and settings.foreground:
                    probability = probability.float()
                    probability = probability.flip(dims) if dims else probability
                    total = probability if total is None else total + probability
                    count += 1
            for origin, patch in zip(origins, detections, strict=True):
                mirrored = mirror_detections(patch, axes, tiling.tile)
                found[m * len(views) + v].append(place_in_scan(mirrored, origin, tiling, settings.min_score))
    return None if total is None else total / count


def mirror_detections(found: PatchDetections, axes: Sequence[int], size: Sequence[int]) -> PatchDetections:
    """Detections of a patch of ``size`` that was mirrored along ``axes`` (0 z, 1 y, 2 x), turned back."""
    boxes = found.boxes.clone()
    for axis in axes:
        boxes[:, axis], boxes[:, axis + 3] = size[axis] - found.boxes[:, axis + 3], size[axis] - found.boxes[:, axis]
    return dataclasses.replace(found, boxes=boxes)


class _Foreground:
    """Gaussian-weighted mean of the tiles' foreground probabilities."""

    def __init__(self, tiling: Tiling) -> None:
        self.tiling = tiling
        self.sum: np.ndarray | None = None

    def add(self, origins: Sequence[Triple], probability: Tensor | None) -> None:
        """Adds tiles [B, Z, Y, X]; a tile that is never added counts as probability 0."""
        if probability is None:
            return
        if self.sum is None:
            self.sum = np.zeros(self.tiling.shape, dtype=np.float32)
            self.weights = torch.from_numpy(gaussian_map(self.tiling.tile)).to(probability.device)
        weighted = (probability * self.weights).cpu().numpy()
        for origin, tile in zip(origins, weighted, strict=True):
            inside, place = self.tiling.overlap_with_scan(origin)
            self.sum[inside] += tile[place]

    def result(self) -> np.ndarray | None:
        """float16 [Z, Y, X], slice by slice, so that no further volume in float32 is needed."""
        if self.sum is None:
            return None
        z, y, x = self.tiling.weight_sums()
        plane = y[:, None] * x[None, :]
        mean = np.empty(self.sum.shape, dtype=np.float16)
        for index in range(len(mean)):
            mean[index] = self.sum[index] / (z[index] * plane)
        return mean


def _is_constant(patch: np.ndarray) -> bool:
    """True when every channel of [C, Z, Y, X] holds one value only: empty border or padding."""
    return bool((patch == patch[:, :1, :1, :1]).all())


def _read_tiles(data: Any, tiling: Tiling, batch_size: int, ahead: bool) -> Iterator[tuple[list[Triple], np.ndarray]]:
    """Batches of tile origins and tiles [B, C, Z, Y, X].

    ``ahead`` reads the next batch in a thread while the caller works on this one, which pays while a GPU does the
    work; on a CPU it would only compete with the network for the cores.
    """

    def read(origins: Sequence[Triple]) -> np.ndarray:
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
