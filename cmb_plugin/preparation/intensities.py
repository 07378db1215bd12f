"""Intensities: what is no number is replaced, each modality is normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.plugins import suggest

from .brain import AIR
from .phase import to_radians
from .recipe import SCHEMES, Normalisation

MAD_TO_DEVIATION = 1.4826  # of a normal distribution: 1 / its 75th percentile
ROBUST_CLIP = 10.0  # voids lie 4 to 9 below the brain's median on SWI and T2*; fat and flow are no more than bright
MICROBLEED_PPM = 0.5  # on a QSM, blurred by its regularisation: a microbleed becomes about 1
QSM_CLIP = 4.0  # 2 ppm: beyond it there are artefacts at air and bone
PPM_LIMIT = 5.0  # no tissue has more; a scan whose bulk has more is stored in ppb
BULK = 99.0  # percentile that counts as bulk: the brightest hundredth are veins, bleeds and artefacts


def replace_nonfinite(images: np.ndarray) -> tuple[np.ndarray, int]:
    """Replaces NaN and infinities by 0, which is what scanners and brain masks write where there is no signal.

    Args:
        images: float [C, z, y, x].

    Returns:
        the images (the same array when nothing had to be replaced) and the number of replaced values.
    """
    finite = np.isfinite(images)
    count = int(finite.size - np.count_nonzero(finite))
    return (np.where(finite, images, np.float32(0)), count) if count else (images, 0)


def nonzero_mask(images: np.ndarray) -> np.ndarray:
    """[Z, Y, X] True where any modality [C, Z, Y, X] is not 0, holes filled: nnU-Net's idea of what belongs to the
    head."""
    from scipy.ndimage import binary_fill_holes

    mask: np.ndarray = binary_fill_holes((images != 0).any(axis=0))
    return mask


def normalise(images: np.ndarray, recipe: Sequence[Normalisation], brain: np.ndarray | None = None) -> np.ndarray:
    """Normalises each modality.

    The z-score is computed in float64, and a constant image becomes 0: nnU-Net's own divides its rounding error by
    1e-8.

    Args:
        images: finite [C, Z, Y, X].
        recipe: one entry per modality.
        brain: bool [Z, Y, X], where ``robust`` and ``qsm`` take their statistics; None takes every non-zero voxel.

    Returns:
        a new float32 [C, Z, Y, X].

    Raises:
        UserError: the recipe does not fit the modalities, or names an unknown scheme.
    """
    if len(recipe) != len(images):
        raise UserError(
            f"plan: {len(recipe)} entries under 'normalisation', but the data set has {len(images)} modalities",
            remedy="give one entry per modality, or run nndet_prep without -o plan=",
        )
    mask = nonzero_mask(images) if any(step.masked and step.scheme == "zscore" for step in recipe) else None
    result = np.array(images, dtype=np.float32)
    for channel, step in zip(result, recipe, strict=True):
        if step.scheme == "zscore":
            _zscore(channel, mask if step.masked else None)
        elif step.scheme == "robust":
            _robust(channel, brain)
        elif step.scheme == "phase":
            channel[...] = to_radians(channel)
        elif step.scheme == "qsm":
            _susceptibility(channel, brain)
        elif step.scheme != "none":
            raise UserError(f"plan: unknown normalisation scheme '{step.scheme}'", remedy=suggest(step.scheme, SCHEMES))
    return result


def _zscore(image: np.ndarray, mask: np.ndarray | None) -> None:
    """Shifts and scales ``image`` in place; with a mask only inside it, and everything outside becomes 0."""
    inside = image if mask is None else image[mask]
    if inside.size == 0:
        return
    mean, deviation = inside.mean(dtype=np.float64), inside.std(dtype=np.float64)
    scale = 1.0 / deviation if deviation > 1e-6 * abs(mean) and deviation > 0 else 0.0
    image -= np.float32(mean)
    image *= np.float32(scale)
    if mask is not None:
        image[~mask] = 0


def _robust(image: np.ndarray, brain: np.ndarray | None) -> None:
    """In place: minus the brain's median, over 1.4826 times its median absolute deviation, clipped.

    Mean and standard deviation follow whatever the head holds besides brain: air, fat, sinuses. Median and MAD do not
    move for a tenth of foreign voxels, so the same tissue gets the same number on every scanner.
    """
    inside = _inside(image, brain)
    median = np.median(inside)
    deviation = MAD_TO_DEVIATION * np.median(np.abs(inside - median))
    if not deviation > 1e-6 * abs(median):  # more than half of the brain has one value: a mask, not a scan
        deviation = inside.std()
    image -= np.float32(median)
    image *= np.float32(1.0 / deviation if deviation > 1e-6 * abs(median) and deviation > 0 else 0.0)
    np.clip(image, -ROBUST_CLIP, ROBUST_CLIP, out=image)


def _susceptibility(image: np.ndarray, brain: np.ndarray | None) -> None:
    """In place: ppm (or ppb, told by its size) against the brain's median, over that of a microbleed, clipped.

    QSM knows differences only; what it calls 0 is a choice of the reconstruction, so the median of the brain is 0 here.
    """
    inside = _inside(image, brain)
    scale = 1e-3 if np.percentile(np.abs(inside), BULK) > PPM_LIMIT else 1.0
    image -= np.float32(np.median(inside))
    image *= np.float32(scale / MICROBLEED_PPM)
    np.clip(image, -QSM_CLIP, QSM_CLIP, out=image)


def _inside(image: np.ndarray, brain: np.ndarray | None) -> np.ndarray:
    """float64 values of the brain; without one of all that is not air: not 0, and in a magnitude not dark noise."""
    if brain is not None and brain.any():
        return np.asarray(image[brain], dtype=np.float64)
    found = image[image != 0] if image.min() < 0 else image[image > AIR * np.percentile(image, 98.0)]
    return np.asarray(found if found.size else image.ravel(), dtype=np.float64)
