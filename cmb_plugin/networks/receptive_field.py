"""How far a network looks: the input voxels that a location of its maps depends on, in closed form, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from cmb_plugin.planning.plan import Architecture

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class ReceptiveField:
    """What the locations of a map depend on, along one axis.

    Location ``i`` of a map of stride ``s`` covers the input voxels ``i * s`` to ``i * s + s - 1``. Where a network goes
    down and up again, locations look differently far depending on their place in a cell of the coarsest map; all
    repeats from cell to cell. Padding is left out: these are the fields far from the border.

    Attributes:
        stride: input voxels per location.
        low: [P] for each place in a coarsest cell the first voxel that matters, relative to the cell's first.
        high: [P] the last one.
    """

    stride: int
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of_input(cls, divisor: int) -> ReceptiveField:
        """Of the input itself: each voxel depends on itself.

        Args:
            divisor: stride of the network's coarsest map.
        """
        voxels = np.arange(divisor)
        return cls(1, voxels, voxels)

    @property
    def cell(self) -> int:
        """Input voxels of a cell of the coarsest map."""
        return self.stride * len(self.low)

    @property
    def halo(self) -> int:
        """Voxels beyond a location's own that it depends on, on either side; the most of any location."""
        first = np.arange(len(self.low)) * self.stride
        return int(max((first - self.low).max(), (self.high - first - self.stride + 1).max(), 0))

    def at(self, locations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last input voxel that locations (whole numbers of any sign) depend on."""
        cell, place = np.divmod(locations, len(self.low))
        return cell * self.cell + self.low[place], cell * self.cell + self.high[place]

    def conv(self, kernel: int, stride: int = 1, dilation: int = 1) -> ReceptiveField:
        """After a convolution, or a pooling, of an odd kernel that is padded by half of it on either side."""
        first = np.arange(len(self.low) // stride) * stride
        reach = kernel // 2 * dilation
        taps = first[:, None] + np.arange(-reach, reach + 1, dilation)
        low, high = self.at(taps)
        return ReceptiveField(self.stride * stride, low.min(axis=1), high.max(axis=1))

    def convs(self, kernel: int, count: int) -> ReceptiveField:
        """After ``count`` convolutions of stride 1."""
        return reduce(lambda field, _: field.conv(kernel), range(count), self)

    def upsampled(self, factor: int) -> ReceptiveField:
        """After a transposed convolution whose kernel is its stride, or a repetition of values."""
        low, high = self.at(np.arange(len(self.low) * factor) // factor)
        return ReceptiveField(self.stride // factor, low, high)

    def interpolated(self, factor: int) -> ReceptiveField:
        """After linear interpolation between the middles of locations (``align_corners=False``)."""
        # Location i lies at (i + 1/2) / factor - 1/2 of the coarse map, between two of its locations or on one.
        before, beside = np.divmod(2 * np.arange(len(self.low) * factor) + 1 - factor, 2 * factor)
        low, _ = self.at(before)
        _, high = self.at(before + (beside > 0))
        return ReceptiveField(self.stride // factor, low, high)

    def joined(self, other: ReceptiveField) -> ReceptiveField:
        """Of the sum, or the concatenation, of two maps of one stride."""
        return ReceptiveField(self.stride, np.minimum(self.low, other.low), np.maximum(self.high, other.high))


def encoder_fields(architecture: Architecture, axis: int) -> list[ReceptiveField]:
    """Of the maps of ``build_encoder``, full resolution first, along an axis (0 z, 1 y, 2 x)."""
    field, fields = ReceptiveField.of_input(architecture.divisor[axis]), []
    stages = zip(architecture.kernels, architecture.strides, architecture.convs_per_stage, strict=True)
    for kernel, stride, convs in stages:
        field = field.conv(kernel[axis], stride[axis]).convs(kernel[axis], convs - 1)
        fields.append(field)
    return fields


def pyramid_fields(
    stages: Sequence[ReceptiveField], kernels: Sequence[int], read: Sequence[int]
) -> list[ReceptiveField]:
    """Of the maps of ``FeaturePyramid``, full resolution first.

    Args:
        stages: of the encoder's maps.
        kernels: of each stage along the axis.
        read: stages whose map goes through a last convolution.
    """
    merged = [stages[-1]]
    for stage in reversed(stages[:-1]):
        merged.insert(0, stage.joined(merged[0].upsampled(merged[0].stride // stage.stride)))
    return [
        field.conv(kernel) if level in read else field
        for level, (field, kernel) in enumerate(zip(merged, kernels, strict=True))
    ]


def fused_field(maps: Sequence[ReceptiveField]) -> ReceptiveField:
    """Of the first of several maps, finest first, to which the others are brought by linear interpolation from each
    to the next finer one; 1x1x1 convolutions in between see no farther."""
    return reduce(
        lambda coarse, own: own.joined(coarse.interpolated(coarse.stride // own.stride)), reversed(maps[:-1]), maps[-1]
    )


def retina_unet_halo(architecture: Architecture, fused_levels: int = 1, head_convs: int = 2) -> Triple:
    """Voxels along z, y, x beyond which the input changes nothing at a location of a ``RetinaUNet``, in its detection
    maps or in its segmentation; with norms that do not depend on the tile.

    Args:
        architecture: shape of the network.
        fused_levels: decoder maps that the finest detection level is fused of; 1 for no fusion.
        head_convs: 3x3x3 convolutions of the head one after another, its last one included.
    """
    levels = architecture.detection_levels
    halos = []
    for axis in range(3):
        kernels = [kernel[axis] for kernel in architecture.kernels]
        maps = pyramid_fields(encoder_fields(architecture, axis), kernels, (0, *levels))
        heads = [fused_field(maps[levels[0] : levels[0] + fused_levels]), *(maps[level] for level in levels[1:])]
        halos.append(max(maps[0].halo, *(field.convs(3, head_convs).halo for field in heads)))
    return halos[0], halos[1], halos[2]
