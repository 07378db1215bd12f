"""Thick slices made of thin ones: what preparation makes of a thick-sliced scan, and labels that stay."""

import math

import numpy as np
import pytest
import torch
from scipy.special import erf

from cmb_plugin.preparation import resample_images, resample_phase, wrap
from cmb_plugin.training import Augmentation, AugmentConfig
from cmb_plugin.training.slices import with_thick_slices

SHAPE = (24, 12, 10)
NOTHING = torch.zeros(SHAPE, dtype=torch.int16)


def sliced(image, instances=NOTHING, spacing=(1.0, 1.0, 1.0), thickness=4.0, shift=0.0, circular=(False,)):
    return with_thick_slices(torch.as_tensor(image), instances, spacing, thickness, shift, circular)


def block_means(image, factor):
    channels, depth, *rest = image.shape
    return image.reshape(channels, depth // factor, factor, *rest).mean(axis=2)


@pytest.mark.parametrize("factor", [2, 3, 4, 6])
def test_a_patch_becomes_what_preparation_makes_of_the_thick_scan(factor):
    """Cubic splines below three times the pixels' width, the nearest slice above."""
    thin = np.random.default_rng(factor).normal(size=(2, *SHAPE)).astype(np.float32)
    thick = block_means(thin, factor).astype(np.float32)
    prepared = resample_images(thick, SHAPE, (factor, 1, 1), (1, 1, 1))
    shown, _ = sliced(thin, thickness=float(factor), circular=(False, False))
    np.testing.assert_allclose(shown.numpy(), prepared, atol=1e-5)


@pytest.mark.parametrize("factor", [3, 4])
def test_phase_is_averaged_and_interpolated_on_its_circle(factor):
    rng = np.random.default_rng(0)
    thin = wrap(3.0 + rng.normal(0, 0.3, size=(1, *SHAPE)))  # about the cut, so that means of numbers would be near 0
    thick = np.arctan2(block_means(np.sin(thin), factor), block_means(np.cos(thin), factor)).astype(np.float32)
    shown, _ = sliced(thin, thickness=float(factor), circular=(True,))
    prepared = resample_phase(thick, SHAPE, (factor, 1, 1), (1, 1, 1))
    assert np.abs(wrap(shown.numpy() - prepared)).max() < 1e-4
    assert np.abs(shown.numpy()).min() > 2


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.8])
def test_a_gaussian_blob_keeps_the_share_that_its_slices_hold(shift):
    """The mean of a Gaussian over a slice, in closed form."""
    depth, thickness, sigma, centre = 60, 5.0, 3.0, 30.3
    spacing = (0.5, 0.5, 0.5)
    low, high = (np.arange(depth) + np.array([[0], [1]])) * spacing[0]

    def mean(first, last):
        scale = sigma * math.sqrt(2)
        whole = sigma * math.sqrt(math.pi / 2)
        return whole * (erf((last - centre / 2) / scale) - erf((first - centre / 2) / scale)) / (last - first)

    thin = torch.from_numpy(mean(low, high)).float()[None, :, None, None].expand(1, depth, 2, 2)
    shown, _ = with_thick_slices(
        thin, torch.zeros(depth, 2, 2, dtype=torch.int16), spacing, thickness, shift, circular=(False,)
    )
    middles = (low + high) / 2
    first = (np.floor(middles / thickness + shift) - shift) * thickness  # of the slice in which each voxel lies
    inside = (first >= 0) & (first + thickness <= depth * spacing[0])
    np.testing.assert_allclose(shown[0, inside, 0, 0], mean(first, first + thickness)[inside], atol=1e-5)


def test_a_slab_thinner_than_a_slice_loses_contrast_in_proportion():
    thin = np.ones((1, *SHAPE), dtype=np.float32)
    thin[:, 9:11] = 0  # 2 mm within the slice from 8 to 12 mm
    shown, _ = sliced(thin, thickness=4.0)
    assert shown[0, :, 3, 3].tolist() == [1.0] * 8 + [0.5] * 4 + [1.0] * 12


def test_a_lesion_is_drawn_on_whole_slices_where_it_fills_most_of_them():
    instances = NOTHING.clone()
    instances[7:10, 4:7, 4:7] = 1  # a voxel in the slice 4..8, two in 8..12
    instances[7, 8, 8] = 2
    _, drawn = sliced(torch.zeros(1, *SHAPE), instances)
    expected = torch.zeros_like(instances)
    expected[4:12, 4:7, 4:7] = 1  # the one is half of the other: drawn too
    expected[4:8, 8, 8] = 2
    assert torch.equal(drawn, expected)
    assert drawn.dtype == instances.dtype


@pytest.mark.parametrize("seed", range(20))
def test_no_lesion_is_lost_and_none_leaves_its_place(seed):
    rng = np.random.default_rng(seed)
    instances = NOTHING.clone()
    for number in range(1, 8):
        z, y, x = (int(rng.integers(0, side)) for side in SHAPE)
        instances[z : z + 2, y : y + 2, x : x + 2] = number
    thickness, shift = rng.uniform(1.5, 8), rng.uniform()
    _, drawn = sliced(torch.zeros(1, *SHAPE), instances, thickness=thickness, shift=shift)
    for number in instances.unique()[1:]:
        before, after = (torch.nonzero(mask == number) for mask in (instances, drawn))
        assert len(after)
        moved = (before.double().mean(0) - after.double().mean(0)).abs()
        assert moved[0] <= thickness
        assert (moved[1:] <= 1).all()


def test_slices_that_are_no_thinner_stay_as_they_are():
    image, instances = torch.rand(1, *SHAPE), torch.ones(SHAPE, dtype=torch.int16)
    shown, drawn = sliced(image, instances, spacing=(4.0, 1.0, 1.0), thickness=3.9)
    assert shown is image
    assert drawn is instances


def augmented(seed, **settings):
    config = AugmentConfig(
        spatial=0, mirror=0, noise=0, blur=0, brightness=0, contrast=0, low_resolution=0, gamma=0, **settings
    )
    image = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    augmentation = Augmentation(SHAPE, (1.0, 1.0, 1.0), config, circular=(False, True))
    return image, augmentation(image, NOTHING, seed)[0]


def test_thickness_and_place_of_the_slices_depend_on_the_seed_alone():
    _, first = augmented(1, thick_slices=1)
    _, again = augmented(1, thick_slices=1)
    _, other = augmented(2, thick_slices=1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_as_many_patches_are_sliced_as_the_configuration_has_it():
    runs = [augmented(seed, thick_slices=0.25) for seed in range(200)]
    changed = sum(not torch.equal(image, result) for image, result in runs)
    assert 30 <= changed <= 70


def test_each_channel_is_averaged_in_its_own_way():
    """Slices of the patch's own length: a mean of the numbers in one channel, of points of a circle in the other."""
    image, result = augmented(3, thick_slices=1, slice_mm=(1000.0, 1000.0))
    values, angles = image
    torch.testing.assert_close(result[0], values.mean(dim=0).expand(SHAPE))
    torch.testing.assert_close(result[1], torch.atan2(angles.sin().sum(0), angles.cos().sum(0)).expand(SHAPE))
