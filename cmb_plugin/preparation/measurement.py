"""Measures one case of a data set: its entry in the fingerprint."""

from __future__ import annotations

from collections.abc import Mapping as Dictionary
from collections.abc import Sequence

import numpy as np

from cmb_plugin.images import Grid, Mapping, boxes_of_instances, voxels_of_instances

from .case import find_brain, foreground_extent
from .fingerprint import PERCENTILES, CaseFingerprint, Size, Triple
from .intensities import replace_nonfinite
from .modalities import brain_channel
from .schemes import brain_values, bulk

SHELL = 3  # voxels around a lesion that its contrast is taken against


def fingerprint_case(
    case_id: str,
    images: np.ndarray,
    grid: Grid,
    instances: np.ndarray | None,
    classes: Dictionary[int, int],
    modalities: Sequence[str] = (),
    brain: np.ndarray | None = None,
) -> CaseFingerprint:
    """Measures one case.

    Args:
        case_id: its name.
        images: [C, z, y, x] on ``grid``.
        grid: place of the scan.
        instances: integers [z, y, x], or None without labels.
        classes: instance number -> class index.
        modalities: names of the channels: which of them shows the brain.
        brain: [z, y, x] mask of the brain; None estimates it.
    """
    oriented = Mapping.plan(grid)
    images = oriented.orient(replace_nonfinite(images)[0])
    mask = None if instances is None else oriented.orient(instances)
    start, stop = foreground_extent(images)
    inside = images[(slice(None), *map(slice, start, stop))]
    boxes = {} if mask is None else boxes_of_instances(mask)
    counts = {} if mask is None else voxels_of_instances(mask)
    inner, given = _brain(images, oriented, modalities, brain)
    sizes = [(box[3:] - box[:3]) * oriented.oriented_spacing for box in boxes.values()]
    return CaseFingerprint(
        case_id=case_id,
        shape=oriented.shape,
        spacing=oriented.oriented_spacing,
        cropped_shape=_triple([b - a for a, b in zip(start, stop, strict=True)]),
        orientation=grid.axis_codes,
        sizes_mm=tuple(_size(size) for size in sizes),
        voxels=tuple(counts[number] for number in boxes),
        labels=tuple(int(classes[number]) for number in boxes),
        percentiles=tuple(_size(np.percentile(channel, PERCENTILES)) for channel in inside),
        brain_shape=None if inner is None else _block_shape(inner),
        brain_given=given,
        contrasts=tuple(_contrasts(images, mask, number, box) for number, box in boxes.items() if mask is not None),
        extremes=tuple((float(channel.min()), float(channel.max())) for channel in images),
        bulks=tuple(float(f"{bulk(brain_values(channel, inner)):.5g}") for channel in images),
    )


def _brain(
    images: np.ndarray, oriented: Mapping, modalities: Sequence[str], brain: np.ndarray | None
) -> tuple[np.ndarray | None, bool]:
    """bool [Z, Y, X]: the brain, as far as it is known, and whether it is the given mask."""
    present = [channel for channel, image in enumerate(images) if image.any()][: len(modalities)]
    among_present = brain_channel([modalities[channel] for channel in present])
    if among_present is None:
        return None, False
    channel = present[among_present]
    given = None if brain is None else oriented.orient(brain) != 0
    inner = find_brain(images, oriented.oriented_spacing, channel, given)
    return inner, inner is not None and inner is given


def _block_shape(mask: np.ndarray) -> Triple:
    start, stop = foreground_extent(mask[None])
    return _triple([b - a for a, b in zip(start, stop, strict=True)])


def _contrasts(images: np.ndarray, mask: np.ndarray, number: int, box: np.ndarray) -> tuple[float, ...]:
    """For each modality the lesion's mean minus that of a shell around it, over the shell's standard deviation.

    The shell is the lesion's box with ``SHELL`` voxels on each side, without any lesion. NaN-free: 0 where it is empty
    or even.
    """
    low = [max(0, int(value) - SHELL) for value in box[:3]]
    high = [int(value) + SHELL for value in box[3:]]
    place = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    inside, around = mask[place] == number, mask[place] == 0
    contrasts = []
    for channel in images:
        shell = channel[place][around].astype(np.float64)
        deviation = shell.std() if shell.size else 0.0
        difference = channel[place][inside].mean(dtype=np.float64) - shell.mean() if deviation > 0 else 0.0
        contrasts.append(round(float(difference / deviation), 3) if deviation > 0 else 0.0)
    return tuple(contrasts)


def _triple(values: Sequence[int]) -> Triple:
    z, y, x = (int(value) for value in values)
    return z, y, x


def _size(values: Sequence[float] | np.ndarray) -> Size:
    z, y, x = (round(float(value), 5) for value in values)
    return z, y, x
