"""Instance masks: 0 for background, then one number per lesion."""

from __future__ import annotations

import numpy as np

from cmb_plugin.detections import Detections

_STEPS = {6: 1, 18: 2, 26: 3}  # connectivity -> squared reach of scipy's structuring element


def label_components(mask: np.ndarray, connectivity: int = 26) -> np.ndarray:
    """Numbers the components of ``mask > 0`` from 1.

    Args:
        mask: [z, y, x].
        connectivity: 6 (faces), 18 (edges too) or 26 (corners too).

    Raises:
        ValueError: another connectivity.
    """
    from scipy.ndimage import generate_binary_structure, label

    if connectivity not in _STEPS:
        raise ValueError(f"connectivity is {connectivity}, expected 6, 18 or 26")
    labels: np.ndarray = label(np.asarray(mask) > 0, structure=generate_binary_structure(3, _STEPS[connectivity]))[0]
    return labels


def detections_of_instances(mask: np.ndarray, probability: np.ndarray | None = None, label: int = 0) -> Detections:
    """Instances as detections of one class, in ascending order of their numbers.

    Args:
        mask: [z, y, x] instance numbers; 0 and negative numbers are background.
        probability: [z, y, x]; the score of an instance is its mean over the instance's voxels. Without it, 1.
        label: their class.
    """
    from scipy.ndimage import mean

    boxes = boxes_of_instances(mask)
    scores = np.ones(len(boxes))
    if probability is not None and boxes:
        scores = np.asarray(mean(probability, mask, list(boxes)))
    return Detections(np.array(list(boxes.values())).reshape(-1, 6), scores, np.full(len(boxes), label))


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
    pieces = {}
    for number, box in boxes_of_instances(mask).items():
        inside = mask[tuple(slice(int(a), int(b)) for a, b in zip(box[:3], box[3:], strict=True))] == number
        pieces[number] = int(label_components(inside).max())
    return pieces


def centroids_of_instances(mask: np.ndarray) -> dict[int, np.ndarray]:
    """The mean place of every instance's voxels: float64 [3] voxel-edge coordinates z, y, x."""
    centroids = {}
    for number, box in boxes_of_instances(mask).items():
        inside = mask[tuple(slice(int(a), int(b)) for a, b in zip(box[:3], box[3:], strict=True))] == number
        centroids[number] = np.argwhere(inside).mean(axis=0) + box[:3] + 0.5
    return centroids
