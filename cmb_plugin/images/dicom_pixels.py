"""The pixels of DICOM files in the units of their headers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.errors import UserError

from .dicom_headers import import_pydicom


def pixels_of_file(file: Path, numbers: Sequence[int]) -> list[np.ndarray]:
    """Frames of a file, [rows, columns] each; the stored integers where nothing is rescaled, otherwise float32.

    Pixels that pydicom and its plugins cannot decompress come through SimpleITK.

    Raises:
        UserError: the file is damaged, is in colours, or is compressed in a way that neither knows.
    """
    pydicom = import_pydicom()
    try:
        dataset = pydicom.dcmread(file, force=True)
        if int(dataset.get("SamplesPerPixel") or 1) != 1:
            raise UserError(f"{file}: is in colours", remedy="leave the series out")
        stored = dataset.pixel_array
    except UserError:
        raise
    except Exception as error:  # whatever a damaged or unknown file makes pydicom stumble over
        return _by_itk(file, numbers, error)
    frames = stored if stored.ndim == 3 else stored[None]
    try:
        return [_rescaled(frames[number], *_scale(dataset, number)) for number in numbers]
    except IndexError:
        raise _damaged(file, "it holds fewer frames than its header says") from None


def _scale(dataset: Any, number: int) -> tuple[float, float]:
    """RescaleSlope and RescaleIntercept of a frame."""
    own = dataset.get("PerFrameFunctionalGroupsSequence")
    groups = [own[number]] if own else []
    groups += list(dataset.get("SharedFunctionalGroupsSequence") or ())
    sources = [g.PixelValueTransformationSequence[0] for g in groups if g.get("PixelValueTransformationSequence")]
    source = next(iter(sources), dataset)
    slope, intercept = source.get("RescaleSlope"), source.get("RescaleIntercept")
    return 1.0 if slope in (None, "") else float(slope), 0.0 if intercept in (None, "") else float(intercept)


def _rescaled(pixels: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    if (slope, intercept) == (1.0, 0.0):
        return pixels
    return (pixels.astype(np.float64) * slope + intercept).astype(np.float32)


def _by_itk(file: Path, numbers: Sequence[int], error: Exception) -> list[np.ndarray]:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO="GDCMImageIO"))  # rescaled
        frames = array if array.ndim == 3 else array[None]
        return [frames[number] for number in numbers]
    except (RuntimeError, IndexError):
        raise _damaged(file, " ".join(str(error).split())[:200]) from None


def _damaged(file: Path, reason: str) -> UserError:
    return UserError(
        f"{file}: its pixels cannot be read ({reason})",
        remedy="copy it again, or export it uncompressed (Explicit VR Little Endian)",
    )
