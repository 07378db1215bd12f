"""Vessels taken out of an image, as a step before the search for lesions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .gaussian import blurred


def inpaint_vessels(
    images: Tensor, spacing: Sequence[float], sigma_mm: float = 0.8, threshold: float = 3.0, around_mm: float = 2.0
) -> Tensor:
    """Replaces bright tubes by what lies around them.

    With the eigenvalues l1 <= l2 <= l3 of the Hessian, a bright tube has two low ones and one near 0 along itself, a
    ball three alike: max(-l2, 0) - |l3| is high in tubes alone (after Sato et al. 1998). Where it is above
    ``threshold`` times its mean over the image, the voxel becomes the Gaussian mean of the others near it.

    A lesion beside a vessel, or one that thick slices draw long, goes with it.

    Args:
        images: [B, Z, Y, X] in which vessels are bright; invert those in which they are dark.
        spacing: mm per voxel along z, y, x.
        sigma_mm: radius of the vessels.
        threshold: how clear a tube must be.
        around_mm: width of the Gaussian that fills.

    Returns:
        float32 [B, Z, Y, X].
    """
    with torch.autocast(images.device.type, enabled=False):
        images = images.float()
        steps = tuple(map(float, spacing))
        first = torch.gradient(blurred(images, spacing, sigma_mm), spacing=steps, dim=(1, 2, 3))
        rows = [torch.stack(torch.gradient(g, spacing=steps, dim=(1, 2, 3)), dim=-1) for g in first]
        hessian = torch.stack(rows, dim=-1)
        values = torch.linalg.eigvalsh((hessian + hessian.transpose(-1, -2)) / 2)
        tubes = (-values[..., 1]).clamp(min=0) - values[..., 2].abs()
        strength = tubes.clamp(min=0)
        vessel = strength > threshold * strength.mean(dim=(1, 2, 3), keepdim=True)
        others = (~vessel).float()
        filled = blurred(images * others, spacing, around_mm) / blurred(others, spacing, around_mm).clamp(min=1e-6)
        return torch.where(vessel, filled, images)
