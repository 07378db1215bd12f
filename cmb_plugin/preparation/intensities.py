"""Intensities: what is no number is replaced, each modality is normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.plugins import suggest

from .recipe import SCHEMES, Normalisation


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


def normalise(images: np.ndarray, recipe: Sequence[Normalisation]) -> np.ndarray:
    """Normalises each modality.

    The z-score is computed in float64, and a constant image becomes 0: nnU-Net's own divides its rounding error by
    1e-8.

    Args:
        images: finite [C, Z, Y, X].
        recipe: one entry per modality.

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
    mask = nonzero_mask(images) if any(step.masked and step.scheme != "none" for step in recipe) else None
    result = np.array(images, dtype=np.float32)
    for channel, step in zip(result, recipe, strict=True):
        if step.scheme == "zscore":
            _zscore(channel, mask if step.masked else None)
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
