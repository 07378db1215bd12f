"""One scan set becomes the array that a network sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid, Mapping, boxes_of_instances

from .brain import estimate_brain
from .intensities import normalise, replace_nonfinite
from .recipe import Preprocessing
from .resampling import resample_images, resample_instances, resample_phase, resample_regions
from .schemes import find_scheme

Triple = tuple[int, int, int]
_DECIMALS = 3  # of a number of voxels, before it is made whole: headers hold 1.2 mm as 1.2000000477 or 1.1999999285


@dataclass(frozen=True)
class PreparedCase:
    """A preprocessed case.

    Attributes:
        data: float32 [C, Z, Y, X].
        instances: int16 [Z, Y, X] with one number per lesion, or None for a scan without labels.
        mapping: the way from the scan's voxels to the array's and back.
        truth: instance number -> box [6] in the scan's voxels, of those in the array.
        redrawn: numbers of the instances that resampling alone would have lost.
        nonfinite: number of values that were NaN or infinite and became 0.
        outside: the same as ``truth``, of the lesions of which no voxel lies in the crop.
        judged: int16 [Z, Y, X], 1 where somebody has judged, lesions included; None where that is everywhere.
    """

    data: np.ndarray
    instances: np.ndarray | None
    mapping: Mapping
    truth: dict[int, np.ndarray]
    redrawn: tuple[int, ...] = ()
    nonfinite: int = 0
    outside: dict[int, np.ndarray] = field(default_factory=dict)
    judged: np.ndarray | None = None


def preprocess_case(
    images: np.ndarray,
    grid: Grid,
    instances: np.ndarray | None,
    recipe: Preprocessing,
    brain: np.ndarray | None = None,
    regions: bool = False,
    judged: np.ndarray | None = None,
) -> PreparedCase:
    """Orients, crops, normalises and resamples one case; nnU-Net's order, in which normalisation precedes resampling.

    The crop follows from the images and the brain alone, so that a scan with labels gives the very array that it gives
    without them: what a network scores on it is what it would score on a new scan.

    Args:
        images: float32 [C, z, y, x], one channel per modality, all on ``grid``; 0 where a modality is missing, and then
            0 in the result.
        grid: place of the scan.
        instances: integers [z, y, x] on the same grid, 0 background, one number per lesion; None without labels.
        recipe: what to do.
        brain: [z, y, x] on the same grid, not 0 in the brain, where it is known; else it is estimated if the recipe
            names a modality for that.
        regions: ``instances`` are regions that fill the brain, not lesions.
        judged: bool [z, y, x] on the same grid, where somebody has looked for lesions; None for everywhere.

    Returns:
        the case; every instance is in the array or among those ``outside``, of regions those that a voxel is left of.

    Raises:
        UserError: the voxels are so large that the lesions do not find one each.
    """
    images, nonfinite = replace_nonfinite(images)
    oriented = Mapping.plan(grid, recipe.transpose)
    images = oriented.orient(images)
    mask = None if instances is None else oriented.orient(instances)
    inside = None
    if recipe.brain_channel is not None:
        given = None if brain is None else oriented.orient(brain) != 0
        inside = find_brain(images, oriented.oriented_spacing, showing_brain(images, recipe), given)
    start, stop = foreground_extent(images) if recipe.crop_to_nonzero else ((0, 0, 0), oriented.shape)
    if inside is not None:
        start, stop = brain_extent(inside, oriented.oriented_spacing, recipe.brain_margin_mm, (start, stop))
    cropped = [b - a for a, b in zip(start, stop, strict=True)]
    shape = target_shape(cropped, oriented.oriented_spacing, recipe.spacing)
    mapping = Mapping.plan(grid, recipe.transpose, start, stop, shape)

    data = normalise(mapping.crop(images), recipe.normalisation, None if inside is None else mapping.crop(inside))
    data = _resample(data, shape, mapping.oriented_spacing, recipe)
    if mask is None or instances is None:
        return PreparedCase(data, None, mapping, {}, (), nonfinite)
    truth = boxes_of_instances(instances)
    kept = np.ascontiguousarray(mapping.crop(mask))
    if regions:
        coarse = resample_regions(kept, shape)
        present = boxes_of_instances(coarse)
        truth = {number: box for number, box in truth.items() if number in present}
        return PreparedCase(data, coarse, mapping, truth, (), nonfinite)
    within = boxes_of_instances(kept)
    outside = {number: box for number, box in truth.items() if number not in within}
    truth = {number: box for number, box in truth.items() if number in within}
    try:
        resampled, redrawn = resample_instances(kept, shape, recipe.min_instance_voxels)
    except ValueError:
        voxels, mm = ("x".join(f"{side:g}" for side in sides) for sides in (shape, recipe.spacing))
        raise UserError(
            f"{len(truth)} lesions find no room in the {voxels} voxels of {mm} mm that are left of the scan",
            remedy="plan for finer voxels: look at planner_cfg.spacing and the plan's preprocessing.spacing",
        ) from None
    lost = set(truth) - set(boxes_of_instances(resampled))
    if lost:
        raise RuntimeError(f"instances {sorted(lost)} were lost in resampling")
    looked = None
    if judged is not None:
        looked = resample_regions(np.ascontiguousarray(mapping.crop(oriented.orient(judged.astype(np.uint8)))), shape)
        looked[resampled > 0] = 1  # a lesion has been judged, however its voxels fell
    return PreparedCase(data, resampled, mapping, truth, redrawn, nonfinite, outside, looked)


def find_brain(
    images: np.ndarray, spacing: tuple[float, ...], channel: int | None, given: np.ndarray | None = None
) -> np.ndarray | None:
    """bool [Z, Y, X]: the mask given unless it is empty, else the estimate on ``images[channel]``; None without
    either."""
    if given is not None and given.any():
        return given
    return None if channel is None else estimate_brain(images[channel], spacing)


def showing_brain(images: np.ndarray, recipe: Preprocessing) -> int | None:
    """The channel of [C, Z, Y, X] to look for the brain in: the recipe's; where the scan lacks it, the first other one
    that is neither phase nor QSM, in which the head has no edge; None where there is none."""
    others = [n for n, step in enumerate(recipe.normalisation) if find_scheme(step.scheme).shows_head]
    candidates = [] if recipe.brain_channel is None else [recipe.brain_channel, *others]
    return next((channel for channel in candidates if images[channel].any()), None)


def brain_extent(
    brain: np.ndarray,
    spacing: tuple[float, ...],
    margin_mm: float,
    within: tuple[Triple, Triple] | None = None,
) -> tuple[Triple, Triple]:
    """First voxel, and one past the last, of the brain's block and a margin around it; no more than ``within``."""
    start, stop = foreground_extent(brain[None])
    margin = [int(np.ceil(round(margin_mm / side, _DECIMALS))) for side in spacing]
    low, high = within or ((0, 0, 0), brain.shape)
    start = _triple([max(a - n, b) for a, n, b in zip(start, margin, low, strict=True)])
    stop = _triple([min(a + n, b) for a, n, b in zip(stop, margin, high, strict=True)])
    return start, stop


def _resample(data: np.ndarray, shape: Triple, spacing: tuple[float, ...], recipe: Preprocessing) -> np.ndarray:
    """Channels on another grid, phase on its circle."""
    circular = [find_scheme(step.scheme).circular for step in recipe.normalisation]
    if not any(circular) or tuple(shape) == data.shape[1:]:
        return resample_images(data, shape, spacing, recipe.spacing)
    result = np.empty((len(data), *shape), dtype=np.float32)
    for channel, image, is_phase in zip(result, data, circular, strict=True):
        resample = resample_phase if is_phase else resample_images
        channel[...] = resample(image[None], shape, spacing, recipe.spacing)[0]
    return result


def foreground_extent(images: np.ndarray) -> tuple[Triple, Triple]:
    """First voxel, and one past the last, of the smallest block that holds every non-zero value of [C, Z, Y, X]; the
    whole scan when everything is zero."""
    filled = (images != 0).any(axis=0)
    start, stop = [0, 0, 0], list(filled.shape)
    for axis in range(3):
        along = np.flatnonzero(filled.any(axis=tuple(a for a in range(3) if a != axis)))
        if len(along):
            start[axis], stop[axis] = int(along[0]), int(along[-1]) + 1
    return _triple(start), _triple(stop)


def target_shape(
    shape: list[int] | tuple[int, ...], spacing: tuple[float, ...], new_spacing: tuple[float, ...]
) -> Triple:
    """Shape at another spacing, rounded as nnU-Net does, at least one voxel; the same for spacings that differ only by
    the rounding of a file's header."""
    exact = (old / new * n for n, old, new in zip(shape, spacing, new_spacing, strict=True))
    z, y, x = (max(1, round(round(side, _DECIMALS))) for side in exact)
    return z, y, x


def _triple(values: Sequence[int]) -> Triple:
    z, y, x = (int(value) for value in values)
    return z, y, x
