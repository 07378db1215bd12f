"""Arrays with a ``Grid`` as SimpleITK images, and resampling by world coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np

from .grid import Grid


def to_itk(array: np.ndarray, grid: Grid) -> Any:
    """A SimpleITK image of ``array`` [z, y, x] at the place of ``grid``."""
    import SimpleITK as sitk

    return _placed(sitk.GetImageFromArray(np.ascontiguousarray(array)), grid)


def resample(
    array: np.ndarray, source: Grid, target: Grid, transform: Any = None, *, nearest: bool = False
) -> np.ndarray:
    """``array`` [z, y, x] on ``source`` -> on ``target``; 0 beyond the source.

    Args:
        transform: SimpleITK transform from the world of the target to that of the source; None where they are one.
        nearest: take the nearest voxel, as labels need it, instead of interpolating linearly.
    """
    import SimpleITK as sitk

    reference = _placed(sitk.Image([int(n) for n in target.shape[::-1]], sitk.sitkUInt8), target)
    interpolator = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    transform = transform or sitk.Transform(3, sitk.sitkIdentity)
    resampled = sitk.Resample(to_itk(array, source), reference, transform, interpolator, 0.0)
    return np.asarray(sitk.GetArrayFromImage(resampled))


def _placed(image: Any, grid: Grid) -> Any:
    image.SetSpacing([float(v) for v in grid.spacing[::-1]])
    image.SetOrigin([float(v) for v in grid.origin])
    image.SetDirection([float(v) for v in grid.direction])
    return image
