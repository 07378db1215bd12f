"""A small fully convolutional detector with batch norm: its answer at a location depends on its halo alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmb_plugin.inference import PatchDetections, PatchDetector
from cmb_plugin.networks import ReceptiveField

Triple = tuple[int, int, int]


class DenseDetector(nn.Module, PatchDetector):
    """One encoder stage of a stride, brought up again, peaks of a map of scores, boxes with sub-voxel centres.

    Args:
        seed: of the weights, and of the statistics of the norms.
        stride: of the coarse stage, which is the divisor.
        classes: maps of scores.
        width: of the maps.
    """

    patch_size = (1, 1, 1)  # nobody asks for it
    mirror_axes = (0, 1, 2)
    divisor = (1, 1, 1)

    def __init__(self, seed: int = 0, stride: Triple = (1, 2, 2), classes: int = 2, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.classes, self.divisor, self.calls = classes, stride, []
        self.fine = nn.Sequential(nn.Conv3d(1, width, 3, padding=1), nn.BatchNorm3d(width), nn.ReLU())
        self.coarse = nn.Sequential(
            nn.Conv3d(width, width, 3, stride, padding=1), nn.BatchNorm3d(width), nn.ReLU(),
            nn.ConvTranspose3d(width, width, stride, stride),
        )  # fmt: skip
        self.head = nn.Conv3d(width, classes + 7, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
        nn.init.normal_(self.head.weight, std=0.4)
        self.eval()

    @property
    def halo(self) -> Triple:
        """The network's field, one voxel more to tell a peak, and one for centres that lie off their location."""
        fields = [ReceptiveField.of_input(step).conv(3) for step in self.divisor]
        z, y, x = (
            field.conv(3, step).upsampled(step).joined(field).conv(3).halo + 2
            for field, step in zip(fields, self.divisor, strict=True)
        )
        return z, y, x

    def maps(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [B, K, Z, Y, X], offsets and sides [B, 6, Z, Y, X], foreground [B, Z, Y, X]."""
        fine = self.fine(patches)
        out = self.head(fine + self.coarse(fine))
        return out[:, : self.classes].sigmoid(), out[:, self.classes : -1], out[:, -1].sigmoid()

    def detect(self, patches: Tensor) -> tuple[list[PatchDetections], Tensor | None]:
        assert all(side % step == 0 for side, step in zip(patches.shape[2:], self.divisor, strict=True))
        self.calls.append(tuple(patches.shape[2:]))
        scores, boxes, foreground = self.maps(patches)
        peaks = (scores == F.max_pool3d(scores, 3, 1, 1)) & (scores > 0.5)
        found = []
        for peak, score, box in zip(peaks, scores, boxes, strict=True):
            label, *place = torch.nonzero(peak, as_tuple=True)
            values = box[(slice(None), *place)].T
            centres = torch.stack(place, 1) + 0.5 + values[:, :3].tanh()
            sides = 1 + 4 * values[:, 3:].sigmoid()
            boxes_ = torch.cat([centres - sides / 2, centres + sides / 2], 1)
            found.append(PatchDetections(boxes_, score[peak], label, {"size": sides.mean(1)}))
        return found, foreground
