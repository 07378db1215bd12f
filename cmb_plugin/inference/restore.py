"""From the network's array back to the scan: boxes exactly, and an instance mask of the reported lesions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from cmb_plugin.detections import Detections
from cmb_plugin.images import Mapping

THRESHOLD = 0.5  # foreground probability from which a voxel belongs to a lesion
MIN_SIDE = 0.01  # voxels of the scan


def restore(detections: Detections, mapping: Mapping) -> Detections:
    """Detections in network voxels -> the same in voxels of the scan, clipped to it; order and columns stay.

    Exact: the corners are mapped, nothing is rounded. A box that lies outside the scan is dropped.
    """
    boxes = mapping.boxes_to_source(detections.boxes)
    limits = np.asarray(mapping.source.shape, dtype=float)
    boxes[:, :3], boxes[:, 3:] = np.clip(boxes[:, :3], 0, limits), np.clip(boxes[:, 3:], 0, limits)
    inside = (boxes[:, 3:] - boxes[:, :3] > MIN_SIDE).all(axis=1)
    return Detections(boxes, detections.scores, detections.labels, detections.columns)[inside]


def instance_mask(
    detections: Detections, foreground: np.ndarray | None, mapping: Mapping, margin: float = 1.0
) -> np.ndarray:
    """Draws every detection as one instance of a mask in the scan's own voxels.

    A lesion is made of the voxels in its box, widened by ``margin``, whose foreground probability reaches one half,
    as far as they are connected to the box's centre; where the centre is none of them, the largest piece. Where
    there is no such voxel it is the ellipsoid that fills the box. Every detection keeps at least one voxel: the first
    (highest score) takes its voxels first, a later one what is left of its own.

    Args:
        detections: what to draw, in voxels of the scan, highest score first.
        foreground: [Z, Y, X] probability on the network's array, or None: then all are ellipsoids.
        mapping: the way between the two.
        margin: voxels of the scan by which a box is widened.

    Returns:
        uint16 [z, y, x] on the scan's grid: 0, or 1 + the detection's place in ``detections``.
    """
    mask = np.zeros(mapping.source.shape, dtype=np.uint16)
    for number, box in enumerate(detections.boxes.astype(float), start=1):
        place = _block(box, margin, mask.shape)
        shape = None if foreground is None else _segmented(box, place, foreground, mapping)
        if shape is None:
            shape = _ellipsoid(box, place)
        _paint(mask, number, place, shape, box)
    return mask


def filled_boxes(boxes: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Draws boxes [N, 6] as filled cuboids: uint16 [z, y, x], 0 or 1 + the box's place; as ``instance_mask`` paints."""
    mask = np.zeros(tuple(shape), dtype=np.uint16)
    for number, box in enumerate(np.asarray(boxes, dtype=float), start=1):
        place = _block(box, 0.0, mask.shape)
        z, y, x = (c for c in _centres(place))
        inside = [(c >= box[a]) & (c < box[a + 3]) for a, c in enumerate((z, y, x))]
        cuboid = inside[0][:, None, None] & inside[1][None, :, None] & inside[2][None, None, :]
        _paint(mask, number, place, cuboid, box)
    return mask


def _block(box: np.ndarray, margin: float, shape: Sequence[int]) -> tuple[slice, ...]:
    """Voxels of the scan that the widened box touches; never empty."""
    start = np.clip(np.floor(box[:3] - margin), 0, np.asarray(shape) - 1).astype(int)
    stop = np.clip(np.ceil(box[3:] + margin), start + 1, shape).astype(int)
    return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))


def _centres(place: tuple[slice, ...]) -> list[np.ndarray]:
    """Voxel-edge coordinates of the voxel centres of a block, along each axis."""
    return [np.arange(s.start, s.stop) + 0.5 for s in place]


def _segmented(
    box: np.ndarray, place: tuple[slice, ...], foreground: np.ndarray, mapping: Mapping
) -> np.ndarray | None:
    """Boolean mask of the block: the lesion as the segmentation head sees it; None where it sees nothing.

    Only the block is resampled: the probability at each voxel's centre, linear between the network's voxels.
    """
    sides = [s.stop - s.start for s in place]
    points = np.stack(np.meshgrid(*_centres(place), indexing="ij"), axis=-1).reshape(-1, 3)
    indices = mapping.points_to_network(points) - 0.5  # array indices: voxel i's centre is edge coordinate i + 0.5
    start = np.clip(np.floor(indices.min(axis=0)), 0, np.asarray(foreground.shape) - 1).astype(int)
    stop = np.clip(np.ceil(indices.max(axis=0)) + 1, start + 1, foreground.shape).astype(int)
    near = foreground[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))].astype(np.float32)
    probability = ndimage.map_coordinates(near, (indices - start).T, order=1, mode="nearest").reshape(sides)
    # What was cropped away before the network saw the scan is not lesion, though "nearest" reaches there.
    seen = ((indices >= -0.5) & (indices <= np.asarray(foreground.shape) - 0.5)).all(axis=1).reshape(sides)
    pieces, count = ndimage.label((probability >= THRESHOLD) & seen, structure=np.ones((3, 3, 3)))
    if not count:
        return None
    middle = np.floor((box[:3] + box[3:]) / 2).astype(int) - [s.start for s in place]
    piece = pieces[tuple(np.clip(middle, 0, np.asarray(sides) - 1))]
    if not piece:
        piece = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    chosen: np.ndarray = pieces == piece
    return chosen


def _ellipsoid(box: np.ndarray, place: tuple[slice, ...]) -> np.ndarray:
    """Boolean mask of the block: voxel centres inside the ellipsoid that touches the box's faces. May be empty."""
    middle, radii = (box[:3] + box[3:]) / 2, (box[3:] - box[:3]) / 2
    z, y, x = (np.square((c - m) / r) for c, m, r in zip(_centres(place), middle, radii, strict=True))
    inside: np.ndarray = z[:, None, None] + y[None, :, None] + x[None, None, :] <= 1
    return inside


def _paint(mask: np.ndarray, number: int, place: tuple[slice, ...], shape: np.ndarray, box: np.ndarray) -> None:
    """Gives ``number`` the free voxels of ``shape``; when there are none, one voxel, without taking another's last."""
    block = mask[place]
    free = shape & (block == 0)
    if free.any():
        block[free] = number
        return
    middle = (box[:3] + box[3:]) / 2
    wanted = np.clip(np.floor(middle).astype(int), 0, np.asarray(mask.shape) - 1)
    if mask[tuple(wanted)] == 0:
        mask[tuple(wanted)] = number
        return
    # Every voxel is taken: the nearest of a lesion that has others left, else the nearest free voxel of the scan.
    places = np.argwhere(shape) + [s.start for s in place] if shape.any() else wanted[None]
    for voxel in places[np.argsort(np.square(places + 0.5 - middle).sum(axis=1), kind="stable")]:
        owner = mask[tuple(voxel)]
        if np.count_nonzero(mask == owner) > 1:
            mask[tuple(voxel)] = number
            return
    empty = np.argwhere(mask == 0)
    nearest = empty[np.argmin(np.square(empty + 0.5 - middle).sum(axis=1))]
    mask[tuple(nearest)] = number
