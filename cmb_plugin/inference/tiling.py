"""Where the tiles of a scan lie, what each reads, and what it answers for.

``Tiling``: tiles of one size that overlap, for networks whose answer depends on the tile; a place in a tile is trusted
more or less. ``CoreTiling``: for networks that know how far they look; each tile answers for its core alone, and there
exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Triple = tuple[int, int, int]

SIGMA_SCALE = 1 / 8  # of the Gaussian, in tile sides, as in nnU-Net
EDGE = 0.1
"""Voxels by which two tiles may place one detection differently (bfloat16). One that lies so near to the face between
two cores is kept by both tiles, and counted once when they are merged."""

MOST_WORK = 8
"""Times the voxels of a scan that all tiles of cores together may hold, lest small tiles be all halo."""


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

    def first_voxel(self, origin: Triple) -> Triple:
        """First voxel of a tile: its origin."""
        return origin

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

    def looked_at(self, patch: np.ndarray, origin: Triple) -> np.ndarray:
        """The part of a tile [C, Z, Y, X] that decides whether it holds anything: all of it."""
        return patch

    def trust(self, points: np.ndarray) -> np.ndarray:
        """[N] trust in what a tile says at points [N, 3] of it, a Gaussian of the place between 0.5 and 1."""
        # Between nnDetection's bounds: with weights that fall to nearly 0 a clear view of a lesion from off the middle
        # of a tile would lose to a weak one from the middle of another.
        weights: np.ndarray = 0.5 + 0.5 * gaussian_at(points, self.tile)
        return weights

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

    def answers_for(self, boxes: np.ndarray, origin: Triple) -> np.ndarray:
        """[N] True for the boxes [N, 6] of a tile, in voxels of the scan, that no neighbour sees better."""
        return ~self.cut_off(np.clip(boxes, 0, [*self.shape, *self.shape], dtype=boxes.dtype), origin)

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


@dataclass(frozen=True)
class CoreTiling:
    """Cores that cover a scan without overlap; a tile is a core and the halo around it.

    The scan is padded with 0 at its high ends to multiples of the divisor, and no tile goes beyond it, so that a
    network pads a tile at the scan's border as it pads the scan as a whole. All faces lie on the divisor's grid: every
    location of a strided map falls on the same voxels in each tile.

    Attributes:
        shape: of the scan in voxels, z, y, x.
        halo: voxels around a core that its tile also holds, as far as the scan goes; multiples of the divisor.
        cuts: along each axis the first voxel of every core, then the end of the padded scan; multiples of the divisor.
    """

    shape: Triple
    halo: Triple
    cuts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @classmethod
    def of(cls, shape: Sequence[int], halo: Sequence[int], divisor: Sequence[int], tile_voxels: int) -> CoreTiling:
        """The tiling of a scan that computes the fewest voxels with tiles of at most ``tile_voxels``.

        Args:
            shape: of the scan, z, y, x.
            halo: voxels beyond which the input does not change the answer; rounded up to multiples of the divisor.
            divisor: sides of a tile are multiples of it.
            tile_voxels: exceeded where the tiles would together hold more than ``MOST_WORK`` times the scan, for there
                they are nearly all halo: they then have the least size whose core is half of each side.
        """
        cells = [math.ceil(side / step) for side, step in zip(shape, divisor, strict=True)]
        around = [math.ceil(side / step) for side, step in zip(halo, divisor, strict=True)]
        counts = _fewest_voxels(cells, around, tile_voxels / math.prod(divisor))
        z, y, x = (
            tuple(step * cut for cut in _even_cuts(n, h, count))
            for n, h, step, count in zip(cells, around, divisor, counts, strict=True)
        )
        d, h = divisor, around
        return cls((shape[0], shape[1], shape[2]), (h[0] * d[0], h[1] * d[1], h[2] * d[2]), (z, y, x))

    @property
    def origins(self) -> list[Triple]:
        """First voxel of every core, x fastest; a tile is known by it."""
        return [(z, y, x) for z in self.cuts[0][:-1] for y in self.cuts[1][:-1] for x in self.cuts[2][:-1]]

    def core_stop(self, origin: Triple) -> Triple:
        """End of the core that begins at ``origin``, in voxels of the padded scan."""
        z, y, x = (cuts[cuts.index(start) + 1] for start, cuts in zip(origin, self.cuts, strict=True))
        return z, y, x

    def first_voxel(self, origin: Triple) -> Triple:
        """First voxel of the tile whose core begins at ``origin``."""
        z, y, x = (max(0, start - halo) for start, halo in zip(origin, self.halo, strict=True))
        return z, y, x

    def size(self, origin: Triple) -> Triple:
        """Voxels of the tile whose core begins at ``origin``, multiples of the divisor."""
        stops = zip(self.core_stop(origin), self.halo, self.cuts, strict=True)
        ends = [min(cuts[-1], stop + halo) for stop, halo, cuts in stops]
        z, y, x = (end - first for end, first in zip(ends, self.first_voxel(origin), strict=True))
        return z, y, x

    def read(self, data: Any, origin: Triple) -> np.ndarray:
        """Reads one tile: [C, Z, Y, X] float32; what lies beyond the scan is 0.

        Args:
            data: [C, Z, Y, X], a numpy array or anything that slices like one (blosc2 decompresses only the tile).
            origin: first voxel of its core.
        """
        first, size = self.first_voxel(origin), self.size(origin)
        stops = [min(a + n, end) for a, n, end in zip(first, size, self.shape, strict=True)]
        patch = np.zeros((data.shape[0], *size), dtype=np.float32)
        filled = tuple(slice(0, stop - a) for a, stop in zip(first, stops, strict=True))
        patch[(slice(None), *filled)] = data[(slice(None), *(slice(a, b) for a, b in zip(first, stops, strict=True)))]
        return patch

    def overlap_with_scan(self, origin: Triple) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The part of the scan that a core covers, and the part of its tile that this is."""
        stops = [min(stop, end) for stop, end in zip(self.core_stop(origin), self.shape, strict=True)]
        inside = tuple(slice(a, b) for a, b in zip(origin, stops, strict=True))
        place = tuple(slice(s.start - f, s.stop - f) for s, f in zip(inside, self.first_voxel(origin), strict=True))
        return inside, place

    def looked_at(self, patch: np.ndarray, origin: Triple) -> np.ndarray:
        """The part of a tile [C, Z, Y, X] that decides whether it holds anything: its core."""
        _, place = self.overlap_with_scan(origin)
        return patch[(slice(None), *place)]

    def trust(self, points: np.ndarray) -> np.ndarray:
        """[N] trust in what a tile says at points [N, 3] of it: within a core all is exact."""
        return np.ones(len(points))

    def answers_for(self, boxes: np.ndarray, origin: Triple) -> np.ndarray:
        """[N] True where the middle of a box [N, 6] in voxels of the scan, not clipped to it, lies in the tile's core
        or within ``EDGE`` of a face between it and another. Cores at the scan's border own what lies beyond it."""
        middles = (boxes[:, :3] + boxes[:, 3:]) / 2
        inside = np.ones(len(boxes), dtype=bool)
        for axis, (start, stop, cuts) in enumerate(zip(origin, self.core_stop(origin), self.cuts, strict=True)):
            if start > cuts[0]:
                inside &= middles[:, axis] >= start - EDGE
            if stop < cuts[-1]:
                inside &= middles[:, axis] < stop + EDGE
        return inside


def _even_cuts(cells: int, halo: int, count: int) -> list[int]:
    """Where ``count`` cores begin, and the end, so that their tiles are as equally long as can be: a tile at the
    border has a halo on one side only, and a longer core. All lengths in cells of the divisor."""
    total = cells + 2 * halo * (count - 1)
    ends = [total * index // count - 2 * halo * index + halo for index in range(1, count)]
    return [0, *ends, cells]


def _fewest_voxels(cells: Sequence[int], halo: Sequence[int], limit: float) -> tuple[int, int, int]:
    """Number of cores along each axis for which the tiles together hold the fewest cells, with at most ``limit`` each,
    or, where that is more than ``MOST_WORK`` times the scan, with cores of at least half a tile's side."""
    counts, work = _fewest_within(cells, halo, limit)
    if work > MOST_WORK * math.prod(cells):
        half = math.prod(min(length, max(1, 4 * around)) for length, around in zip(cells, halo, strict=True))
        counts, _ = _fewest_within(cells, halo, half)
    return counts


def _fewest_within(cells: Sequence[int], halo: Sequence[int], limit: float) -> tuple[tuple[int, int, int], float]:
    """As ``_fewest_voxels``, without its way out: the cores, and the cells of all tiles; infinite where none is so
    small.

    Along one axis ``n`` cores make tiles of together ``cells + 2 * halo * (n - 1)``, the longest of which has the n-th
    part of that, rounded up; over three axes both multiply.
    """
    sums, longest = [], []
    for length, around in zip(cells, halo, strict=True):
        counts = np.arange(1, max(1, length - 2 * around) + 1)  # an inner core has at least one cell
        sums.append(length + 2 * around * (counts - 1))
        longest.append(-(-sums[-1] // counts))
    # More cores are shorter, but more work: of those along x the fewest that keep to the limit.
    plane = longest[0][:, None] * longest[1][None, :]
    fewest = np.searchsorted(-longest[2], -(limit // plane))
    feasible = fewest < len(longest[2])
    work = sums[0][:, None] * sums[1][None, :] * sums[2][np.minimum(fewest, len(longest[2]) - 1)].astype(float)
    work = np.where(feasible, work, np.inf)
    z, y = np.unravel_index(work.argmin(), work.shape)
    return (int(z) + 1, int(y) + 1, int(fewest[z, y]) + 1), float(work[z, y])


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
