"""From spacing and patch to the stages of a network: nnU-Net's rule for where to pool."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .plan import Architecture, Triple

SMALLEST_MAP = 4  # no map gets a side under this many voxels
MOST_POOLINGS = 5  # per axis


def plan_topology(spacing: Sequence[float], patch_size: Sequence[int]) -> tuple[list[Triple], list[Triple], Triple]:
    """Strides and kernels of each stage, and the patch padded to a multiple of the total stride.

    nnU-Net's rule: an axis is pooled while its voxels are within a factor of two of the finest ones and its map has
    at least eight voxels; a kernel is 3 along an axis once its voxels are within a factor of two of the finest.

    Args:
        spacing: network voxel in mm, z, y, x.
        patch_size: wanted sides in voxels.
    """
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    _, strides, kernels, padded, _ = get_pool_and_conv_props(
        list(spacing), list(patch_size), SMALLEST_MAP, MOST_POOLINGS
    )
    return [_triple(s) for s in strides], [_triple(k) for k in kernels], _triple(padded)


def shrink_patch(spacing: Sequence[float], patch_size: Triple, median_shape: Sequence[float]) -> Triple | None:
    """The next smaller patch: the axis that covers most of the median scan gives way by one step of the total stride.

    As in nnU-Net, the total stride is looked up again for the smaller side, so that no valid size is skipped.

    Returns:
        the padded patch, or None when it cannot shrink any more.
    """
    order = np.argsort([-side / extent for side, extent in zip(patch_size, median_shape, strict=True)], kind="stable")
    for axis in order:
        divisor = _divisor(spacing, patch_size)[axis]
        trial = list(patch_size)
        trial[axis] -= divisor
        if trial[axis] < SMALLEST_MAP:
            continue
        trial[axis] = patch_size[axis] - _divisor(spacing, trial)[axis]
        _, _, padded = plan_topology(spacing, trial)
        if int(np.prod(padded)) < int(np.prod(patch_size)):
            return padded
    return None


def build_architecture(
    strides: Sequence[Triple],
    kernels: Sequence[Triple],
    *,
    base_features: int,
    max_features: int,
    pyramid_channels: int,
    finest_level: int,
    levels: int,
    convs_per_stage: int = 2,
) -> Architecture:
    """Widths doubling from ``base_features`` up to ``max_features``; detection on up to ``levels`` stages from
    ``finest_level``, or on the coarsest stage alone where the network has fewer stages."""
    stages = len(strides)
    finest = min(finest_level, stages - 1)
    return Architecture(
        features=tuple(min(base_features * 2**stage, max_features) for stage in range(stages)),
        strides=tuple(strides),
        kernels=tuple(kernels),
        convs_per_stage=(convs_per_stage,) * stages,
        pyramid_channels=pyramid_channels,
        detection_levels=tuple(range(finest, min(finest + levels, stages))),
    )


def _divisor(spacing: Sequence[float], patch_size: Sequence[int]) -> Triple:
    strides, _, _ = plan_topology(spacing, patch_size)
    return _triple(np.prod(strides, axis=0))


def _triple(values: Sequence[float] | np.ndarray) -> Triple:
    z, y, x = (int(value) for value in values)
    return z, y, x
