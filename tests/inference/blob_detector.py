"""A detector that needs no training: it finds bright blobs, so that everything around a network is testable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from cmb_plugin.inference import PatchDetections, PatchDetector


class BlobDetector(PatchDetector):
    """Each connected component above ``threshold`` is a lesion; its score is the brightest value in it.

    The box is the component's tight box in a patch whose values are Gaussians: its centre is the brightness-weighted
    centroid, so that places between voxels are seen.
    """

    def __init__(self, patch_size: tuple[int, int, int], threshold: float = 0.3, segments: bool = True) -> None:
        self.patch_size = patch_size
        self.threshold = threshold
        self.segments = segments
        self.calls = 0

    def detect(self, patches: Tensor) -> tuple[list[PatchDetections], Tensor | None]:
        assert tuple(patches.shape[2:]) == self.patch_size
        self.calls += len(patches)
        found = [self.find(patch[0].numpy()) for patch in patches]
        return found, (patches[:, 0] > self.threshold).float() if self.segments else None

    def find(self, image: np.ndarray) -> PatchDetections:
        pieces, count = ndimage.label(image > self.threshold, structure=np.ones((3, 3, 3)))
        boxes, scores = [], []
        for number, place in enumerate(ndimage.find_objects(pieces), start=1):
            inside = pieces == number
            centre = np.array(ndimage.center_of_mass(np.where(inside, image, 0))) + 0.5
            half = np.array([s.stop - s.start for s in place]) / 2
            boxes.append([*(centre - half), *(centre + half)])
            scores.append(min(float(image[inside].max()), 1.0))
        return PatchDetections(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 6),
            torch.tensor(scores, dtype=torch.float32),
            torch.zeros(count, dtype=torch.int64),
        )


def blob(
    shape: tuple[int, ...], centre: tuple[float, ...], sigma: float | Sequence[float] = 1.2, peak: float = 0.9
) -> np.ndarray:
    """[Z, Y, X] float32 Gaussian with its middle at ``centre`` (voxel-edge coordinates)."""
    axes = np.meshgrid(*(np.arange(n) + 0.5 for n in shape), indexing="ij")
    widths = np.broadcast_to(sigma, 3)
    squares = sum(np.square((axis - c) / w) for axis, c, w in zip(axes, centre, widths, strict=True))
    return (peak * np.exp(-0.5 * squares)).astype(np.float32)
