"""Augmentation of one patch with batchgeneratorsv2, deterministic for a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.local.brightness_gradient import BrightnessGradientAdditiveTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.noise.sharpen import SharpeningTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from torch import Tensor

from cmb_plugin.errors import UserError

from .config import AugmentConfig
from .painting import with_painted
from .slices import with_thick_slices

ANISOTROPIC = 2.0  # ratio of spacings from which out-of-plane rotation would mix thick slices


class Augmentation:
    """Random rotation, scaling, mirroring, slicing and intensity changes of an image patch and its instance mask.

    Args:
        patch_size: size of the result in voxels, z, y, x.
        spacing: voxel size in mm, z, y, x.
        config: probabilities and ranges.
        mirror_axes: axes of a patch, 0 z, 1 y, 2 x, along which it may be mirrored.
        circular: for each channel whether it holds angles in radians; None for none.
        polarity: for each channel how a microbleed shows in it; None for dark in all.

    Raises:
        UserError: the range of the scaling begins above its end.
    """

    def __init__(
        self,
        patch_size: Sequence[int],
        spacing: Sequence[float],
        config: AugmentConfig,
        mirror_axes: Sequence[int] = (0, 1, 2),
        circular: Sequence[bool] | None = None,
        polarity: Sequence[str] | None = None,
    ) -> None:
        low, high = config.scaling
        if low > high:
            raise UserError(
                f"augment_cfg.scaling=[{low:g},{high:g}]: begins above its end", remedy=f"give [{high:g},{low:g}]"
            )
        self.patch_size = tuple(patch_size)
        self.spacing = tuple(spacing)
        self.circular = circular
        self.polarity = polarity
        self.config = config
        angle = math.radians(config.rotation_degrees)
        anisotropic = max(spacing) / min(spacing) >= ANISOTROPIC
        self._rotates = (angle, 0.0, 0.0) if anisotropic else (angle, angle, angle)
        self._spatial = SpatialTransform(
            self.patch_size,
            patch_center_dist_from_border=0,
            random_crop=False,
            p_rotation=1,
            rotation=self._angle,
            p_scaling=1,
            scaling=config.scaling,
            p_synchronize_scaling_across_axes=1,
            mode_seg="nearest",  # the bilinear mode loops over labels, and instances have many
        )
        self._mirror = MirrorTransform(allowed_axes=tuple(mirror_axes)) if config.mirror > 0 else None
        self._intensity = ComposeTransforms(self._intensity_transforms(config))

    def _angle(self, *_: Any, dim: int, **__: Any) -> float:
        return float(np.random.uniform(-self._rotates[dim], self._rotates[dim]))

    @staticmethod
    def _intensity_transforms(config: AugmentConfig) -> list[RandomTransform]:
        changes = [
            (config.noise, GaussianNoiseTransform(noise_variance=(0, 0.1), synchronize_channels=True)),
            (config.blur, GaussianBlurTransform(blur_sigma=(0.4, 0.8), p_per_channel=0.5)),
            (
                config.brightness,
                MultiplicativeBrightnessTransform(BGContrast((0.75, 1.25)), synchronize_channels=False),
            ),
            (
                config.contrast,
                ContrastTransform(BGContrast((0.75, 1.25)), preserve_range=True, synchronize_channels=False),
            ),
            (
                config.low_resolution,
                SimulateLowResolutionTransform(
                    scale=(0.6, 1), synchronize_channels=False, synchronize_axes=True, ignore_axes=(), p_per_channel=0.5
                ),
            ),
            (
                config.gamma,
                GammaTransform(
                    BGContrast((0.7, 1.5)),
                    p_invert_image=0,
                    synchronize_channels=False,
                    p_per_channel=1,
                    p_retain_stats=1,
                ),
            ),
            (config.sharpness, SharpeningTransform(strength=(0.1, 0.5))),
            (
                config.bias_field,
                BrightnessGradientAdditiveTransform(
                    scale=_bias_extent, loc=(-0.5, 1.5), max_strength=_bias_strength, same_for_all_channels=False
                ),
            ),
        ]
        return [RandomTransform(transform, probability) for probability, transform in changes if probability > 0]

    def source_size(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """Size of the region to read: the patch itself, or, for a patch that will be rotated and scaled, enough around
        it that no corner is empty at moderate angles, and by its last axis always more than the patch."""
        if rng.random() >= self.config.spatial:
            return self.patch_size  # type: ignore[return-value]
        sides = np.asarray(self.patch_size, dtype=float)
        for axis, most in enumerate(self._rotates):
            first, second = (i for i in range(3) if i != axis)
            a, b = sides[first], sides[second]
            sides[first], sides[second] = _turned_extent(a, b, most), _turned_extent(b, a, most)
        if not any(self._rotates):
            sides *= max(1.0, self.config.scaling[1])
        sides[2] = max(sides[2], self.patch_size[2] + 1)  # by which __call__ knows
        z, y, x = (math.ceil(side) for side in sides)
        return z, y, x

    def __call__(self, image: Tensor, instances: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """image: [C, Z, Y, X] float32; instances: [Z, Y, X] integer, of the size that ``source_size`` gave.

        Returns:
            both at ``patch_size``. An instance whose centre stays inside never vanishes: should rotation lose a tiny
            one, the patch is only cropped. Painted lesions are numbered on from the highest number of ``instances``.
        """
        with seeded(seed):
            data = {"image": image, "segmentation": instances[None].to(torch.int16)}
            if image.shape[1:] != self.patch_size:
                inner = self._cropped(data)
                data = self._turned(data)
                if _lost(inner["segmentation"], data["segmentation"]):
                    data = inner
            if self._mirror is not None and np.random.uniform() < 2 * self.config.mirror:
                data = self._mirror(**data)
            image, instances = self._sliced(*self._painted(data["image"], data["segmentation"][0], instances))
            image = self._intensity(image=image)["image"]
            return image.contiguous(), instances.contiguous()

    def _turned(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rotated and scaled; angles as cosines and sines, because what is interpolated between two angles on either
        side of a wrap is neither."""
        angles = [channel for channel, is_angle in enumerate(self.circular or ()) if is_angle]
        if not angles:
            turned: dict[str, Tensor] = self._spatial(**data)
            return turned
        image = data["image"]
        parts = torch.cat([image, image[angles].sin()])
        parts[angles] = image[angles].cos()
        turned = self._spatial(**{**data, "image": parts})
        image, sines = turned["image"].tensor_split([len(image)])
        image[angles] = torch.atan2(sines, image[angles])
        return {**turned, "image": image}

    def _painted(self, image: Tensor, instances: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Both with deposits and vessels, as often as the configuration has it; drawn as in ``_sliced``. No number of a
        lesion of ``source`` is given again."""
        if self.config.painted <= 0 or np.random.uniform() >= self.config.painted:
            return image, instances
        polarity = self.polarity or ("dark",) * len(image)
        return with_painted(image, instances, self.spacing, polarity, np.random.randint(2**31), int(source.max()))

    def _sliced(self, image: Tensor, instances: Tensor) -> tuple[Tensor, Tensor]:
        """Both with thick slices, as often as the configuration has it. Nothing is drawn where that is never: patches
        are those of before there was such a change."""
        config = self.config
        if config.thick_slices <= 0 or np.random.uniform() >= config.thick_slices:
            return image, instances
        thickness, shift = np.random.uniform(*config.slice_mm), np.random.uniform()
        circular = self.circular or (False,) * len(image)
        image, drawn = with_thick_slices(image, instances, self.spacing, thickness, shift, circular)
        # Negative numbers are no lesions, but places; what is 0 beside them is left out of the losses, if by a slice.
        return image, torch.where((drawn == 0) & (instances < 0), instances, drawn)

    def _cropped(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        start = [(side - size) // 2 for side, size in zip(data["image"].shape[1:], self.patch_size, strict=True)]
        z, y, x = (slice(s, s + size) for s, size in zip(start, self.patch_size, strict=True))
        return {name: values[:, z, y, x] for name, values in data.items()}


def _turned_extent(side: float, other: float, most: float) -> float:
    """What a rectangle covers along its ``side`` at the worst of the angles from 0 to ``most`` radians."""
    worst = min(most, math.atan2(other, side))
    return side * math.cos(worst) + other * math.sin(worst)


def _bias_extent(shape: Sequence[int], axis: int) -> float:
    """Standard deviation in voxels of the Gaussian that the brightness follows: coils are as large as heads."""
    return float(np.random.uniform(0.5, 1.5) * shape[axis])


def _bias_strength(*_: Any) -> float:
    """Height of the gradient, in standard deviations of the normalised scan, brighter or darker."""
    return float(np.random.uniform(-1, 1))


def _lost(before: Tensor, after: Tensor) -> bool:
    """True when an instance well inside the patch is gone after the transform."""
    z, y, x = (slice(side // 6, side - side // 6) for side in before.shape[1:])
    inner = before[0, z, y, x]
    return bool(set(inner.unique().tolist()) - set(after.unique().tolist()) - {0})


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators that batchgeneratorsv2 draws from, and restores their states afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
