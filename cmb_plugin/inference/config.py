"""``InferenceConfig``: the settings of tiled prediction (``-o inference_cfg.*``)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cmb_plugin.settings import within

if TYPE_CHECKING:
    import torch


@dataclass
class InferenceConfig:
    """How a scan is predicted. What ``nndet_train`` is given, a model keeps; ``nndet_predict`` can change it.

    Attributes:
        overlap: share of a tile that its neighbour also sees, 0..1 (exclusive); of models without a halo.
        tile_voxels: a tile of models with a halo has at most so many voxels, and needs memory for the network's maps of
            that size; null takes 8 million on a CPU and 16 million elsewhere.
        tta: views of every tile: 0 or 1 only as it is, 2..8 so many mirrorings (2 adds left-right, 4 all in-plane
            ones); null is 1, or 8 where ``nndet_predict`` runs on a GPU.
        batch_size: tiles sent through the network together; null takes 1 on a CPU and 4 elsewhere. Tiles of models
            with a halo differ in size and go one by one.
        nms_iou: of two detections of one class that overlap by more, the one less central in its tile or less certain
            goes.
        wbc_iou: detections of several mirrorings and folds that overlap by more than this are one lesion. Far below
            nnDetection's 0.5, because boxes of 3 voxels that differ by half a voxel per axis overlap by only 0.4.
        min_score: detections below are dropped at once.
        max_detections: at most so many per scan are kept, the highest by the score in use; the user is told of more.
            Beyond what a scan of amyloid angiopathy holds, which can be hundreds.
        foreground: also predict the foreground probability, from which the instance masks are drawn.
    """

    overlap: float = within(0.5, 0, 0.95)
    tile_voxels: int | None = within(None, 4096)
    tta: int | None = within(None, 0, 8)
    batch_size: int | None = within(None, 1, 1024)
    nms_iou: float = within(0.1, 0, 1)
    wbc_iou: float = within(0.1, 0, 1)
    min_score: float = within(0.02, 0, 1)
    max_detections: int = within(1000, 1)
    foreground: bool = True

    def on(self, device: torch.device, views: int | None = None) -> InferenceConfig:
        """The settings on a device: where ``tta`` is open, 8 views on a GPU and 1 elsewhere, but never more than the
        ``views`` with which the operating point was chosen."""
        usual = 8 if device.type == "cuda" else 1
        return self if self.tta is not None else replace(self, tta=usual if views is None else min(usual, views))
