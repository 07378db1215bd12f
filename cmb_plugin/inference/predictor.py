"""``predict_array``: models and a prepared scan in, detections and foreground probability out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmb_plugin.detections import Detections
from cmb_plugin.workers import release_freed_memory

from .config import InferenceConfig
from .detector import PatchDetections, PatchDetector, PatchSegmenter
from .merging import merge_cores, merge_tiles, merge_views, place_in_scan, strongest
from .tiles import collector, informative_tiles, tiled, views_of
from .tiling import CoreTiling, Tiling, Triple

KEPT_BYTES = 4 * 1024**3
"""Of freed memory that is kept from one scan to the next: what a tile of 8 million voxels needs."""

LEAST_OF_A_VIEW = 1000
"""So many detections of each view are merged with the other views', even where fewer may be kept in the end."""


@dataclass
class Prediction:
    """What was found in a prepared scan.

    Attributes:
        detections: boxes in voxels of the network's array, highest score first.
        foreground: float16 [Z, Y, X] probability of lesion, None where no model gave one.
        dropped: detections beyond ``max_detections``, which were left out.
    """

    detections: Detections
    foreground: np.ndarray | None
    dropped: int = 0


def predict_array(
    models: PatchDetector | Sequence[PatchDetector],
    data: Any,
    settings: InferenceConfig | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    ranking: str | None = None,
) -> Prediction:
    """Tiled prediction of one scan by one or several models.

    Tiles overlap; each is seen by every model in every mirroring. Detections of one model and mirroring are merged
    over tiles by non-maximum suppression that trusts the middle of a tile more, then over models and mirrorings by
    weighted box clustering. Tiles in which every channel is constant hold nothing and are passed over. Memory: one
    float32 and one float16 volume of the scan's size, whatever the number of models, mirrorings and classes.

    Where every model has a ``halo``, the scan is cut into few large cores without overlap, and each tile, a core and
    its halo, answers for its core alone: detections with their centre there, foreground probability there. The result
    is that of one tile as large as the scan. Cores in which every channel is constant are passed over. Memory: one
    float16 volume, and what the networks need for ``tile_voxels``: of an encoder with a pyramid about six maps of its
    finest stage (16 channels in float32: 0.36 GB a million voxels, 2.9 GB for 8 million).

    Args:
        models: detectors of one patch size, or with a halo each, on ``device`` and in evaluation mode; or segmenters,
            whose lesions are made of the mean probabilities of all tiles, mirrorings and models.
        data: [C, Z, Y, X] prepared scan: numpy, or anything that slices like it, such as a blosc2 array.
        settings: the defaults of ``InferenceConfig`` if None.
        device: where the models are.
        progress: called with (tiles done, all tiles) after each batch.
        ranking: the column of scores by which detections are kept where there are more than ``max_detections``; None
            for the score that the models give.
    """
    release_freed_memory(above=KEPT_BYTES)  # of the scan before, which may have had another shape
    if isinstance(models[0] if isinstance(models, Sequence) else models, PatchSegmenter):
        return _segmented(models, data, settings or InferenceConfig(), device, progress, ranking)  # type: ignore[arg-type]
    members, tiling, settings = tiled(models, data, settings, device)
    views = views_of(members, settings.tta)
    found: list[list[Detections]] = [[] for _ in range(len(members) * len(views))]
    foreground = collector(tiling) if settings.foreground else None
    for origins, batch in informative_tiles(data, tiling, settings.batch_size, device, progress):
        probability = _detect_all(members, views, batch, origins, tiling, settings, found)
        if foreground:
            foreground.add(origins, probability)
    exact = isinstance(tiling, CoreTiling)
    per_view = [merge_cores(parts) if exact else merge_tiles(parts, settings) for parts in found]
    # Bounds the work of clustering where a network sees lesions everywhere.
    most = max(LEAST_OF_A_VIEW, 2 * settings.max_detections)
    kept = [strongest(view, most, ranking) for view in per_view]
    beyond = max(len(view) for view in per_view) - max(len(view) for view in kept)
    merged = merge_views(kept, settings, len(members))
    detections = strongest(merged, settings.max_detections, ranking)
    dropped = beyond + len(merged) - len(detections)
    return Prediction(detections, foreground.result() if foreground else None, dropped)


def _segmented(
    models: PatchSegmenter | Sequence[PatchSegmenter],
    data: Any,
    settings: InferenceConfig,
    device: torch.device | str,
    progress: Callable[[int, int], None] | None,
    ranking: str | None,
) -> Prediction:
    """The lesions that segmenters see."""
    from .segmenter import segment_array  # most trainers are detectors

    probabilities = segment_array(models, data, settings, device, progress)
    found = (models[0] if isinstance(models, Sequence) else models).lesions(probabilities)
    found = found[found.scores >= settings.min_score]
    kept = strongest(found, settings.max_detections, ranking)
    foreground = probabilities[1:].sum(axis=0) if settings.foreground else None
    return Prediction(kept, foreground, len(found) - len(kept))


def _detect_all(
    members: Sequence[PatchDetector],
    views: Sequence[tuple[int, ...]],
    batch: Tensor,
    origins: Sequence[Triple],
    tiling: Tiling | CoreTiling,
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
                mirrored = mirror_detections(patch, axes, batch.shape[2:])
                found[m * len(views) + v].append(place_in_scan(mirrored, origin, tiling, settings.min_score))
    return None if total is None else total / count


def mirror_detections(found: PatchDetections, axes: Sequence[int], size: Sequence[int]) -> PatchDetections:
    """Detections of a patch of ``size`` that was mirrored along ``axes`` (0 z, 1 y, 2 x), turned back."""
    boxes = found.boxes.clone()
    for axis in axes:
        boxes[:, axis], boxes[:, axis + 3] = size[axis] - found.boxes[:, axis + 3], size[axis] - found.boxes[:, axis]
    return dataclasses.replace(found, boxes=boxes)
