"""Label maps brought to the grid of a scan, by the nearest voxel in world coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np

from cmb_plugin.images import Grid


def itk_image(array: np.ndarray, grid: Grid) -> Any:
    """A SimpleITK image of ``array`` [z, y, x] at the place of ``grid``."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing([float(v) for v in grid.spacing[::-1]])
    image.SetOrigin([float(v) for v in grid.origin])
    image.SetDirection([float(v) for v in grid.direction])
    return image


def resample_labels(labels: np.ndarray, source: Grid, target: Grid, transform: Any = None) -> np.ndarray:
    """Labels [z, y, x] on ``source`` -> on ``target``, each voxel that of the nearest centre; 0 beyond the source.

    Args:
        transform: SimpleITK transform from the world of the target to that of the source; None where they are one.
    """
    import SimpleITK as sitk

    if transform is None and source.matches(target):
        return labels
    reference = sitk.Image([int(n) for n in target.shape[::-1]], sitk.sitkUInt8)
    reference.SetSpacing([float(v) for v in target.spacing[::-1]])
    reference.SetOrigin([float(v) for v in target.origin])
    reference.SetDirection([float(v) for v in target.direction])
    resampled = sitk.Resample(
        itk_image(labels, source),
        reference,
        transform or sitk.Transform(3, sitk.sitkIdentity),
        sitk.sitkNearestNeighbor,
    )
    return np.asarray(sitk.GetArrayFromImage(resampled))
