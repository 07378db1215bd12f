"""Where the tiles of a scan lie, what each reads, and how much a place in a tile is trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Triple = tuple[int, int, int]

SIGMA_SCALE = 1 / 8  # of the Gaussian, in tile sides, as in nnU-Net


def tile_starts(size: int, tile: int, overlap: float) -> list[int]:
    """First voxels of tiles along one axis, evenly spread, overlapping by at least ``overlap`` of a tile as in nnU-Net.

    A scan smaller than the tile gets one tile that hangs over both ends equally (its start is then negative).

    Args:
        size: voxels of the scan.
        tile: voxels of a tile.
        overlap: share of a tile, 0..1 (exclusive).
    """
    if size <= tile:
        return [-((tile - size) // 2)]
    steps = math.ceil((size - tile) / (tile * (1 - overlap)))
    distance = (size - tile) / steps
    return sorted({round(distance * step) for step in range(steps + 1)})


@dataclass(frozen=True)
class Tiling:
    """All tiles of one scan: every combination of the starts along the three axes.

    Attributes:
        shape: of the scan in voxels, z, y, x.
        tile: size of a tile in voxels.
        starts: first voxels of the tiles along each axis, ascending.
    """

    shape: Triple
    tile: Triple
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @classmethod
    def of(cls, shape: Sequence[int], tile: Sequence[int], overlap: float) -> Tiling:
        """The tiling of a scan of ``shape`` (z, y, x)."""
        z, y, x = (tuple(tile_starts(n, t, overlap)) for n, t in zip(shape, tile, strict=True))
        return cls((shape[0], shape[1], shape[2]), (tile[0], tile[1], tile[2]), (z, y, x))

    @property
    def origins(self) -> list[Triple]:
        """First voxel of every tile, x fastest."""
        return [(z, y, x) for z in self.starts[0] for y in self.starts[1] for x in self.starts[2]]

    def read(self, data: Any, origin: Triple) -> np.ndarray:
        """Reads one tile: [C, Z, Y, X] float32; what lies outside the scan is 0.

        Args:
            data: [C, Z, Y, X], a numpy array or anything that slices like one (blosc2 decompresses only the tile).
            origin: first voxel of the tile.
        """
        inside, place = self.overlap_with_scan(origin)
        patch = np.zeros((data.shape[0], *self.tile), dtype=np.float32)
        patch[(slice(None), *place)] = data[(slice(None), *inside)]
        return patch

    def overlap_with_scan(self, origin: Triple) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The part of the scan that a tile covers, and the part of the tile that this fills."""
        starts = [max(o, 0) for o in origin]
        stops = [min(o + t, n) for o, t, n in zip(origin, self.tile, self.shape, strict=True)]
        inside = tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
        place = tuple(slice(a - o, b - o) for a, b, o in zip(starts, stops, origin, strict=True))
        return inside, place

    def weight_sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The Gaussian weights that all tiles together put on each voxel, as three factors, one per axis.

        The tiles are a product of axes and the weights too, so the sum over tiles is the outer product of the three: a
        large scan needs no second volume for it.
        """
        factors = []
        for size, tile, starts in zip(self.shape, self.tile, self.starts, strict=True):
            total = np.zeros(size)
            weights = gaussian(tile)
            for start in starts:
                low, high = max(start, 0), min(start + tile, size)
                total[low:high] += weights[low - start : high - start]
            factors.append(total.astype(np.float32))
        return factors[0], factors[1], factors[2]

    def cut_off(self, boxes: np.ndarray, origin: Triple, margin: float = 1.0) -> np.ndarray:
        """Which detections of a tile a neighbouring tile sees better, because a face of this tile may cut them.

        Args:
            boxes: [N, 6] in voxels of the scan.
            origin: first voxel of the tile that found them.
            margin: a box that ends so near to a face, in voxels, may go on beyond it.

        Returns:
            [N] True where the box reaches a face of the tile inside the scan and begins well inside the neighbour
            across that face. A box as long as the overlap of the two tiles is not given up: no neighbour would see it
            whole. No box is given up by every tile: the neighbour must be clearly farther from its own face.
        """
        cut = np.zeros(len(boxes), dtype=bool)
        for axis, (start, tile, starts) in enumerate(zip(origin, self.tile, self.starts, strict=True)):
            index = starts.index(start)
            low, high = boxes[:, axis], boxes[:, axis + 3]
            if index > 0:
                previous_end = starts[index - 1] + tile
                cut |= (low <= start + margin) & (high <= previous_end - 2 * margin)
            if index + 1 < len(starts):
                next_start = starts[index + 1]
                cut |= (high >= start + tile - margin) & (low >= next_start + 2 * margin)
        return cut


def gaussian(tile: int) -> np.ndarray:
    """[tile] weights along one axis of a tile: 1 in its middle, standard deviation an eighth of its side (nnU-Net's).

    Centred on the tile's true middle; nnU-Net's is half a voxel off for even sides.
    """
    offsets = np.arange(tile) + 0.5 - tile / 2
    weights: np.ndarray = np.exp(-0.5 * np.square(offsets / (tile * SIGMA_SCALE)))
    return weights


def gaussian_map(tile: Sequence[int]) -> np.ndarray:
    """[Z, Y, X] float32, the product of the three axes' ``gaussian``."""
    z, y, x = (gaussian(n) for n in tile)
    weights: np.ndarray = (z[:, None, None] * y[None, :, None] * x[None, None, :]).astype(np.float32)
    return weights


def gaussian_at(points: np.ndarray, tile: Sequence[int]) -> np.ndarray:
    """The same Gaussian at points [N, 3] in voxel-edge coordinates of the tile; [N]."""
    size = np.asarray(tile, dtype=float)
    offsets = (np.asarray(points, dtype=float) - size / 2) / (size * SIGMA_SCALE)
    weights: np.ndarray = np.exp(-0.5 * np.square(offsets).sum(axis=1))
    return weights
