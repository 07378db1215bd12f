"""Gaussian blur of images whose voxels are no cubes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def blurred(images: Tensor, spacing: Sequence[float], sigma_mm: float) -> Tensor:
    """Gaussian blur of [B, Z, Y, X] by ``sigma_mm``, cut off at three deviations; beyond the edge lies 0.

    Shifted copies are added up: on a CPU ten times quicker than convolutions of one channel.
    """
    for axis, side in enumerate(spacing, start=1):
        length = images.shape[axis]
        reach = min(max(1, math.ceil(3 * sigma_mm / side)), length - 1)
        weights = [math.exp(-0.5 * (step * side / sigma_mm) ** 2) for step in range(reach + 1)]
        total = weights[0] + 2 * sum(weights[1:])
        result = images * (weights[0] / total)
        for step in range(1, reach + 1):
            near, far = (0, length - step), (step, length - step)
            result.narrow(axis, *far).add_(images.narrow(axis, *near), alpha=weights[step] / total)
            result.narrow(axis, *near).add_(images.narrow(axis, *far), alpha=weights[step] / total)
        images = result
    return images
