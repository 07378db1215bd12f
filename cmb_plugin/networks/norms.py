"""The norms between convolutions, and which of them make the answer at a place depend on what else is in view."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

GROUP = 16  # channels of a group, in group norm


def _instance(channels: int) -> nn.Module:
    return nn.InstanceNorm3d(channels, eps=1e-5, affine=True)


def _group(channels: int) -> nn.Module:
    return nn.GroupNorm(max(1, channels // GROUP), channels)


def _none(channels: int) -> nn.Module:
    return nn.Identity()


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": _instance,
    "group": _group,
    "batch": nn.BatchNorm3d,
    "none": _none,
}
"""Makes the norm of a name for so many channels."""

LOCAL_NORMS = ("batch", "none")
"""Norms with which the answer at a place of a trained network depends on its surroundings only, not on the tile."""
