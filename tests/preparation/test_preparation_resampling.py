"""Resampling: images as nnU-Net does it, and no lesion lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import downscale_local_mean

from cmb_plugin.images import boxes_of_instances
from cmb_plugin.preparation import resample_images, resample_instances


def one_voxel_lesions(shape: tuple[int, int, int], count: int, seed: int) -> np.ndarray:
    mask = np.zeros(shape, dtype=np.int16)
    mask.flat[np.random.default_rng(seed).choice(mask.size, count, replace=False)] = np.arange(1, count + 1)
    return mask


@pytest.mark.parametrize(
    ("spacing", "target"), [((1.2, 0.8, 0.8), (1.0, 1.0, 1.0)), ((4.0, 0.5, 0.5), (3.0, 0.7, 0.7))]
)
def test_images_equal_nnunets_resampling(spacing: tuple[float, ...], target: tuple[float, ...]) -> None:
    from nnunetv2.preprocessing.resampling.default_resampling import (
        compute_new_shape,
        resample_data_or_seg_to_spacing,
    )

    images = np.random.default_rng(0).normal(size=(2, 12, 20, 24)).astype(np.float32)
    theirs = resample_data_or_seg_to_spacing(images, spacing, target, order=3, order_z=0, force_separate_z=None)
    shape = compute_new_shape(images.shape[1:], spacing, target)
    ours = resample_images(images, shape.tolist(), spacing, target)
    np.testing.assert_allclose(ours, np.clip(theirs, images.min(), images.max()), atol=3e-6)  # theirs is float64


def test_resampled_images_stay_within_the_range_of_the_scan() -> None:
    step = np.zeros((1, 8, 16, 16), dtype=np.float32)
    step[..., 8:] = 1  # splines overshoot at an edge
    for spacing in ((1.0, 1.0, 1.0), (4.0, 1.0, 1.0)):
        result = resample_images(step, (8, 27, 27), spacing, (spacing[0], 0.6, 0.6))
        assert result.min() >= 0
        assert result.max() <= 1


def test_sixty_one_voxel_lesions_survive_halving_the_resolution() -> None:
    mask = one_voxel_lesions((64, 64, 64), 60, seed=0)
    resampled, redrawn = resample_instances(mask, (32, 32, 32))
    assert len(np.unique(resampled)) - 1 == 60
    assert len(redrawn) == 60
    boxes = boxes_of_instances(resampled)
    for number, place in boxes_of_instances(mask).items():
        assert np.all(boxes[number][:3] <= place[:3] / 2)
        assert np.all(boxes[number][3:] >= place[3:] / 2)


def test_coverage_equals_block_means_where_voxels_are_halved() -> None:
    mask = np.zeros((16, 16, 16), dtype=np.int16)
    mask[2:9, 3:10, 4:11] = 1
    mask[10:15, 11:16, 1:6] = 7
    resampled, redrawn = resample_instances(mask, (8, 8, 8))
    assert redrawn == ()
    for number in (1, 7):
        expected = downscale_local_mean((mask == number).astype(float), (2, 2, 2)) >= 0.5
        np.testing.assert_array_equal(resampled == number, expected)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 12),
    shape=st.tuples(*[st.integers(6, 20)] * 3),
    zoom=st.tuples(*[st.floats(0.3, 2.5)] * 3),
    least=st.integers(1, 3),
)
def test_every_instance_survives_any_zoom(
    seed: int, count: int, shape: tuple[int, int, int], zoom: tuple[float, float, float], least: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, dtype=np.int16)
    for number in range(1, count + 1):
        start = [int(rng.integers(0, side)) for side in shape]
        mask[tuple(slice(s, s + int(rng.integers(1, 4))) for s in start)] = number
    new_shape = tuple(max(3, round(side * z)) for side, z in zip(shape, zoom, strict=True))
    resampled, redrawn = resample_instances(mask, new_shape, least)  # type: ignore[arg-type]
    before, after = np.unique(mask[mask > 0]), np.unique(resampled[resampled > 0])
    np.testing.assert_array_equal(after, before)
    assert set(redrawn) <= set(before.tolist())
    if new_shape != shape:
        assert all(np.count_nonzero(resampled == number) >= least for number in after)


def test_eight_lesions_in_one_network_voxel_all_survive() -> None:
    mask = np.zeros((12, 12, 12), dtype=np.int16)
    mask[4:6, 4:6, 4:6] = np.arange(1, 9).reshape(2, 2, 2)
    resampled, redrawn = resample_instances(mask, (6, 6, 6))
    assert sorted(np.unique(resampled[resampled > 0])) == list(range(1, 9))
    assert redrawn == tuple(range(1, 9))
    assert np.abs(np.argwhere(resampled > 0) - 2).max() <= 1  # none strays farther than the next voxel


def test_a_small_lesion_does_not_erase_its_neighbour() -> None:
    mask = np.zeros((8, 8, 8), dtype=np.int16)
    mask[2:4, 2:4, 2:4] = 1  # exactly one network voxel
    mask[2, 2, 2] = 2
    resampled, _ = resample_instances(mask, (4, 4, 4))
    assert {1, 2} <= set(np.unique(resampled))


def test_a_redrawn_lesion_keeps_its_volume() -> None:
    mask = np.zeros((9, 9, 9), dtype=np.int16)
    mask[3:6, 3:6, 3:6] = 1  # at half the resolution: eight voxels, a corner each is covered less than half
    resampled, redrawn = resample_instances(mask, (3, 9, 9), least_voxels=9)
    assert redrawn == ()
    assert np.count_nonzero(resampled) == 9
    thin = np.zeros((8, 8, 8), dtype=np.int16)
    thin[1:7, 3, 3] = 1  # 6 voxels of 1/8: three quarters of a network voxel, none covered by half
    resampled, redrawn = resample_instances(thin, (4, 4, 4))
    assert redrawn == (1,)
    assert np.count_nonzero(resampled) == 1


def test_more_lesions_than_voxels_is_an_error() -> None:
    mask = np.arange(1, 28, dtype=np.int16).reshape(3, 3, 3)
    with pytest.raises(ValueError, match="no free voxel"):
        resample_instances(mask, (2, 2, 2))
