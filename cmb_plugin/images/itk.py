"""Arrays with a ``Grid`` as SimpleITK images, resampling by world coordinates, registration."""

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


def registration_method() -> Any:
    """A SimpleITK registration whose result depends on the images alone: its metric is summed by one thread.

    Several add up their shares in the order in which they happen to finish, so that no two runs end at the same bits,
    nor two machines with unequal numbers of cores.
    """
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfWorkUnits(1)
    return method


def _placed(image: Any, grid: Grid) -> Any:
    image.SetSpacing([float(v) for v in grid.spacing[::-1]])
    image.SetOrigin([float(v) for v in grid.origin])
    image.SetDirection([float(v) for v in grid.direction])
    return image
