"""``Mapping``: the exact way from a scan's voxels to the network's array and back."""

from __future__ import annotations

from collections.abc import Mapping as JsonObject
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from .grid import Grid

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Mapping:
    """Scan grid <-> network array: axes permuted and flipped, cropped, then zoomed.

    All coordinates are voxel-edge coordinates (voxel i covers [i, i+1)), and zooming maps edges to edges, as
    ``skimage.transform.resize`` and nnunetv2's resampling do. All results are float64, and boxes come back with their
    lower corner first whatever was flipped.

    Attributes:
        source: grid of the scan.
        axes: network axis k comes from array axis ``axes[k]`` of the scan.
        flips: whether network axis k runs against it.
        crop_start: first kept voxel along each network axis, before zooming.
        crop_stop: one past the last kept voxel.
        shape: shape of the network array, after zooming.

    Example:
        >>> mapping = Mapping.plan(Grid((30, 40, 50), (3.0, 1.0, 1.0)), crop_start=(5, 0, 0), shape=(75, 40, 50))
        >>> mapping.points_to_network([[10.0, 20.0, 20.0]])
        array([[15., 20., 20.]])
    """

    source: Grid
    axes: Triple
    flips: tuple[bool, bool, bool]
    crop_start: Triple
    crop_stop: Triple
    shape: Triple

    def __post_init__(self) -> None:
        full = self.oriented_shape
        for start, stop, side, out in zip(self.crop_start, self.crop_stop, full, self.shape, strict=True):
            if not (0 <= start < stop <= side and out > 0):
                raise ValueError(
                    f"crop {self.crop_start}..{self.crop_stop} to {self.shape} does not fit a scan of {full}"
                )

    @classmethod
    def plan(
        cls,
        source: Grid,
        transpose: Sequence[int] = (0, 1, 2),
        crop_start: Sequence[int] = (0, 0, 0),
        crop_stop: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
    ) -> Mapping:
        """Turns the scan's axes to superior, posterior, left (+z, +y, +x of LPS) as near as they come, then transposes.

        Args:
            source: grid of the scan.
            transpose: order in which the oriented z, y, x axes become the network's axes.
            crop_start: first kept voxel along each network axis.
            crop_stop: one past the last; None keeps everything to the end.
            shape: network shape after zooming; None does not zoom.
        """
        axes, flips = _orientation(source)
        axes = _triple([axes[k] for k in transpose])
        flips = (flips[transpose[0]], flips[transpose[1]], flips[transpose[2]])
        start = _triple(crop_start)
        stop = _triple([source.shape[a] for a in axes] if crop_stop is None else crop_stop)
        cropped = [b - a for a, b in zip(start, stop, strict=True)]
        return cls(source, axes, flips, start, stop, _triple(cropped if shape is None else shape))

    @property
    def oriented_shape(self) -> Triple:
        """Shape of ``orient(scan)``."""
        return _triple([self.source.shape[a] for a in self.axes])

    @property
    def oriented_spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along the network axes, before zooming."""
        z, y, x = (float(self.source.spacing[a]) for a in self.axes)
        return (z, y, x)

    @property
    def cropped_shape(self) -> Triple:
        """Shape of ``crop(orient(scan))``."""
        return _triple([b - a for a, b in zip(self.crop_start, self.crop_stop, strict=True)])

    @property
    def network_spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along the network axes: the cropped extent divided by ``shape``."""
        z, y, x = (float(v) for v in np.asarray(self.oriented_spacing) / self._zoom)
        return (z, y, x)

    def points_to_network(self, points: np.ndarray | Sequence[Any]) -> np.ndarray:
        """[N, 3] edge coordinates z, y, x in the scan -> [N, 3] in the network array."""
        oriented = np.asarray(points, dtype=float).reshape(-1, 3)[:, list(self.axes)]
        oriented = np.where(self.flips, np.asarray(self.oriented_shape) - oriented, oriented)
        return (oriented - self.crop_start) * self._zoom

    def points_to_source(self, points: np.ndarray | Sequence[Any]) -> np.ndarray:
        """[N, 3] edge coordinates in the network array -> [N, 3] z, y, x in the scan."""
        oriented = np.asarray(points, dtype=float).reshape(-1, 3) / self._zoom + self.crop_start
        oriented = np.where(self.flips, np.asarray(self.oriented_shape) - oriented, oriented)
        return oriented[:, list(np.argsort(self.axes))]

    def boxes_to_network(self, boxes: np.ndarray | Sequence[Any]) -> np.ndarray:
        """[N, 6] boxes in the scan -> [N, 6] in the network array; nothing is clipped."""
        boxes = np.asarray(boxes, dtype=float).reshape(-1, 6)
        return _sorted_corners(self.points_to_network(boxes[:, :3]), self.points_to_network(boxes[:, 3:]))

    def boxes_to_source(self, boxes: np.ndarray | Sequence[Any]) -> np.ndarray:
        """[N, 6] boxes in the network array -> [N, 6] in the scan; nothing is clipped."""
        boxes = np.asarray(boxes, dtype=float).reshape(-1, 6)
        return _sorted_corners(self.points_to_source(boxes[:, :3]), self.points_to_source(boxes[:, 3:]))

    def orient(self, array: np.ndarray) -> np.ndarray:
        """Permutes and flips the last three axes of a scan [..., z, y, x]; a view, nothing is copied."""
        lead = array.ndim - 3
        array = array.transpose(*range(lead), *(lead + a for a in self.axes))
        return np.flip(array, axis=self._flipped(lead))

    def unorient(self, array: np.ndarray) -> np.ndarray:
        """Inverse of ``orient``; a view."""
        lead = array.ndim - 3
        array = np.flip(array, axis=self._flipped(lead))
        return array.transpose(*range(lead), *(lead + int(a) for a in np.argsort(self.axes)))

    def crop(self, array: np.ndarray) -> np.ndarray:
        """Cuts the kept part out of an oriented array [..., Z, Y, X]; a view."""
        z, y, x = (slice(a, b) for a, b in zip(self.crop_start, self.crop_stop, strict=True))
        return array[..., z, y, x]

    def uncrop(self, array: np.ndarray, fill: float = 0) -> np.ndarray:
        """Inverse of ``crop``: puts a cropped array [..., Z, Y, X] into the oriented shape, ``fill`` around it."""
        whole = np.full((*array.shape[:-3], *self.oriented_shape), fill, dtype=array.dtype)
        self.crop(whole)[...] = array
        return whole

    def to_json(self) -> dict[str, Any]:
        """Plain data, which ``from_json`` reads."""
        return {
            "source": self.source.to_json(),
            "axes": list(self.axes),
            "flips": list(self.flips),
            "crop_start": list(self.crop_start),
            "crop_stop": list(self.crop_stop),
            "shape": list(self.shape),
        }

    @classmethod
    def from_json(cls, data: JsonObject[str, Any]) -> Mapping:
        """What ``to_json`` gave.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: ``data`` describes no mapping.
        """
        z, y, x = (bool(v) for v in data["flips"])
        axes, start, stop, shape = (_triple(data[key]) for key in ("axes", "crop_start", "crop_stop", "shape"))
        if sorted(axes) != [0, 1, 2]:
            raise ValueError(f"axes {axes} are no order of 0, 1, 2")
        return cls(Grid.from_json(data["source"]), axes, (z, y, x), start, stop, shape)

    @property
    def _zoom(self) -> np.ndarray:
        return np.asarray(self.shape, dtype=float) / np.asarray(self.cropped_shape, dtype=float)

    def _flipped(self, lead: int) -> tuple[int, ...]:
        return tuple(lead + k for k in range(3) if self.flips[k])


def _orientation(grid: Grid) -> tuple[Triple, tuple[bool, bool, bool]]:
    """Which array axis runs most along S, P and L, each used once, and which run against it.

    The permutation with the largest sum of |cosine|; at a tie (45 degrees) the first in lexical order, so that scans of
    one protocol that differ by rounding are turned alike.
    """
    cosines = grid.affine[2::-1, :3] / np.asarray(grid.spacing)  # rows S, P, L; columns array axes z, y, x

    def alignment(axes: tuple[int, ...]) -> float:
        """Sum of the cosines between the array axes, so ordered, and S, P, L."""
        return round(sum(abs(float(cosines[k, a])) for k, a in enumerate(axes)), 4)

    best = max(permutations(range(3)), key=alignment)
    z, y, x = (bool(cosines[k, a] < 0) for k, a in enumerate(best))
    return _triple(best), (z, y, x)


def _sorted_corners(corners1: np.ndarray, corners2: np.ndarray) -> np.ndarray:
    return np.concatenate([np.minimum(corners1, corners2), np.maximum(corners1, corners2)], axis=1)


def _triple(values: Sequence[int]) -> Triple:
    z, y, x = (int(v) for v in values)
    return (z, y, x)
