"""Pictures of what was drawn, for a person to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from cmb_plugin.files import atomic
from cmb_plugin.images import Grid, Mapping, boxes_of_instances

WIDTH_MM = 24.0
PIXELS = 96
MOST = 12
"""Lesions per case that are shown."""

OUTLINE = (1.0, 0.75, 0.0)
# Axes that run down and right in the axial, coronal and sagittal view of an array turned to z, y, x = S, P, L.
_PLANES = ((1, 2), (0, 2), (0, 1))


def write_crops(path: Path, image: np.ndarray, mask: np.ndarray, grid: Grid) -> bool:
    """Writes a PNG with a row per lesion: axial without and with its outline, coronal and sagittal with it.

    Crops of 24 mm, in radiological view (the patient's right on the left), the head up.

    Returns:
        whether there was a lesion to show; without one no file is written.
    """
    turned = Mapping.plan(grid)
    image, mask = turned.orient(image), turned.orient(mask)
    boxes = boxes_of_instances(mask)
    if not boxes:
        return False
    spacing = np.asarray(turned.oriented_spacing)
    rows = [_row(image, mask, number, box, spacing) for number, box in list(boxes.items())[:MOST]]
    from matplotlib.image import imsave

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        imsave(temporary, np.concatenate(rows), format="png")
    return True


def _row(image: np.ndarray, mask: np.ndarray, number: int, box: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """float [PIXELS, 4 * PIXELS, 3] of one lesion."""
    centre = (box[:3] + box[3:]) / 2
    steps = (np.arange(PIXELS) + 0.5) / PIXELS * WIDTH_MM - WIDTH_MM / 2
    lower = np.clip(np.floor(centre - WIDTH_MM / spacing), 0, np.asarray(mask.shape) - 1).astype(int)
    upper = np.clip(np.ceil(centre + WIDTH_MM / spacing), lower + 1, mask.shape).astype(int)
    place = tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))
    values, own = np.nan_to_num(image[place].astype(np.float32)), mask[place]
    low, high = np.percentile(values, [1, 99.5])
    panels = []
    for down, right in _PLANES:
        across = 3 - down - right
        points = np.empty((3, PIXELS, PIXELS))
        points[across] = np.floor(centre[across]) - lower[across]
        # Upwards is superior in two views; the axial view has the front on top.
        downwards = steps if down == 1 else -steps
        points[down] = (centre[down] + downwards / spacing[down] - 0.5 - lower[down])[:, None]
        points[right] = (centre[right] + steps / spacing[right] - 0.5 - lower[right])[None]
        crop = ndimage.map_coordinates(values, points, order=1, cval=float(low))
        drawn = ndimage.map_coordinates(own, points, order=0, cval=0) > 0
        grey = np.clip((crop - low) / max(high - low, 1e-6), 0, 1)[..., None].repeat(3, axis=2)
        if (down, right) == _PLANES[0]:
            panels.append(grey.copy())
        grey[drawn & ~ndimage.binary_erosion(drawn)] = OUTLINE
        panels.append(grey)
    row = np.concatenate(panels, axis=1)
    row[-1] = 0.35
    return row
