"""Intensities: what is no number is replaced, each modality is normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmb_plugin.errors import UserError

from .recipe import Normalisation
from .schemes import find_scheme


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
    """Normalises each modality by its scheme.

    Args:
        images: finite [C, Z, Y, X].
        recipe: one entry per modality.
        brain: bool [Z, Y, X], where some schemes take their statistics; None leaves them every non-zero voxel.

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
    head = nonzero_mask(images) if any(step.masked for step in recipe) else None
    result = np.array(images, dtype=np.float32)
    for channel, step in zip(result, recipe, strict=True):
        channel[...] = find_scheme(step.scheme).normalise(channel, step, brain, head if step.masked else None)
    return result
