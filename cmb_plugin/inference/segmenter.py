"""``segment_array``: models and a prepared scan in, class probabilities out; and their map on the scan's own grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from cmb_plugin.images import Mapping

from .config import InferenceConfig
from .detector import PatchSegmenter
from .tiles import collector, informative_tiles, tiled, views_of


def segment_array(
    models: PatchSegmenter | Sequence[PatchSegmenter],
    data: Any,
    settings: InferenceConfig | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Tiled segmentation of one scan: the mean of what all models say in all mirrorings and tiles, Gaussian-weighted
    towards the middle of a tile; of models with a halo, what they say in the core of each tile.

    Args:
        models, data, settings, device, progress: as for ``predict_array``.

    Returns:
        float16 [K, Z, Y, X] class probabilities, background first; all 0 where every tile was constant.
    """
    members, tiling, settings = tiled(models, data, settings, device)
    views = views_of(members, settings.tta)
    mean = collector(tiling)
    for origins, batch in informative_tiles(data, tiling, settings.batch_size, device, progress):
        mean.add(origins, _mean_of_views(members, views, batch))
    result = mean.result()
    return np.zeros((1, *tiling.shape), dtype=np.float16) if result is None else result


def _mean_of_views(
    members: Sequence[PatchSegmenter], views: Sequence[tuple[int, ...]], batch: torch.Tensor
) -> torch.Tensor:
    total: torch.Tensor | None = None
    for member in members:
        for axes in views:
            dims = [axis - 3 for axis in axes]
            with torch.inference_mode():
                seen = member.segment(batch.flip(dims) if dims else batch).float()
                seen = seen.flip(dims) if dims else seen
                total = seen if total is None else total + seen
    assert total is not None, "there is a model and a view"
    return total / (len(members) * len(views))


def class_map(probabilities: np.ndarray, mapping: Mapping) -> np.ndarray:
    """The most probable class of every voxel of the scan; probabilities are interpolated linearly, never classes.

    One slice at a time, so that memory is that of the map alone, however fine the scan.

    Args:
        probabilities: [K, Z, Y, X] on the network's array, background first.
        mapping: the way between the two.

    Returns:
        uint8 [z, y, x] on the scan's grid; 0 where the network saw nothing of the scan.
    """
    z, y, x = (_interpolation(new, old) for new, old in zip(mapping.cropped_shape, mapping.shape, strict=True))
    inside = np.empty(mapping.cropped_shape, dtype=np.uint8)
    for row, labels in zip(z, inside, strict=True):
        near = np.flatnonzero(row)  # one or two slices of the network's array
        plane = np.tensordot(row[near], probabilities[:, near].astype(np.float32), axes=(0, 1))  # [K, Y, X]
        labels[...] = np.argmax(y @ plane @ x.T, axis=0)
    return np.ascontiguousarray(mapping.unorient(mapping.uncrop(inside)))


def _interpolation(new: int, old: int) -> np.ndarray:
    """float32 [new, old]: weights of linear interpolation along one axis, edges on edges, constant beyond the outermost
    voxel centres."""
    places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(old))).astype(np.float32)
