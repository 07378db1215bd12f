"""Instance masks: 0 for background, then one number per lesion."""

from __future__ import annotations

import numpy as np


def boxes_of_instances(mask: np.ndarray) -> dict[int, np.ndarray]:
    """The tight box around every instance.

    Args:
        mask: integers [z, y, x]; 0 and negative numbers are background.

    Returns:
        instance number -> float64 [6] half-open voxel-edge box ``(z0, y0, x0, z1, y1, x1)``, in ascending order.
    """
    from scipy.ndimage import find_objects

    if mask.dtype == bool:
        mask = mask.astype(np.uint8)
    places = find_objects(mask)
    return {
        number: np.array([s.start for s in place] + [s.stop for s in place], dtype=float)
        for number, place in enumerate(places, start=1)
        if place is not None
    }


def voxels_of_instances(mask: np.ndarray) -> dict[int, int]:
    """Number of voxels of every instance, in ascending order."""
    numbers, counts = np.unique(mask[mask > 0], return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))


def pieces_of_instances(mask: np.ndarray) -> dict[int, int]:
    """Number of separate pieces of every instance; voxels that touch by a corner belong together (26-connectivity)."""
    from scipy.ndimage import label

    pieces = {}
    for number, box in boxes_of_instances(mask).items():
        inside = mask[tuple(slice(int(a), int(b)) for a, b in zip(box[:3], box[3:], strict=True))] == number
        pieces[number] = int(label(inside, structure=np.ones((3, 3, 3)))[1])
    return pieces


def centroids_of_instances(mask: np.ndarray) -> dict[int, np.ndarray]:
    """The mean place of every instance's voxels: float64 [3] voxel-edge coordinates z, y, x."""
    centroids = {}
    for number, box in boxes_of_instances(mask).items():
        inside = mask[tuple(slice(int(a), int(b)) for a, b in zip(box[:3], box[3:], strict=True))] == number
        centroids[number] = np.argwhere(inside).mean(axis=0) + box[:3] + 0.5
    return centroids
