"""Boxes, centres, sizes and pieces of instances agree with scikit-image and with masks made by hand."""

import numpy as np
import pytest
from skimage.measure import label, regionprops

from cmb_plugin.images import (
    boxes_of_instances,
    centroids_of_instances,
    detections_of_instances,
    label_components,
    pieces_of_instances,
    voxels_of_instances,
)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_boxes_centroids_and_sizes_equal_regionprops(dtype):
    rng = np.random.default_rng(0)
    mask = (rng.integers(1, 12, (10, 12, 14)) * (rng.random((10, 12, 14)) < 0.02)).astype(dtype)
    expected = {region.label: region for region in regionprops(mask)}
    boxes, centroids, voxels = boxes_of_instances(mask), centroids_of_instances(mask), voxels_of_instances(mask)
    assert list(boxes) == list(centroids) == list(voxels) == sorted(expected)
    for number, region in expected.items():
        np.testing.assert_array_equal(boxes[number], region.bbox)
        np.testing.assert_allclose(centroids[number], np.array(region.centroid) + 0.5)
        assert voxels[number] == region.area


def test_a_single_voxel_has_a_box_of_side_one_and_gaps_in_the_numbers_are_kept():
    mask = np.zeros((4, 5, 6), dtype=np.int32)
    mask[1, 2, 3] = 7
    boxes = boxes_of_instances(mask)
    assert list(boxes) == [7]
    assert boxes[7].tolist() == [1, 2, 3, 2, 3, 4]


def test_an_empty_mask_has_no_instance():
    mask = np.zeros((4, 5, 6), dtype=np.int32)
    assert boxes_of_instances(mask) == pieces_of_instances(mask) == voxels_of_instances(mask) == {}


def test_pieces_that_touch_by_a_corner_are_one_and_others_are_not():
    mask = np.zeros((8, 8, 8), dtype=np.int32)
    mask[1, 1, 1] = mask[2, 2, 2] = 1
    mask[5, 5, 5] = mask[5, 5, 7] = 2
    mask[5, 5, 6] = 3  # another lesion between the two pieces does not join them
    assert pieces_of_instances(mask) == {1: 1, 2: 2, 3: 1}


@pytest.mark.parametrize(("connectivity", "rank"), [(6, 1), (18, 2), (26, 3)])
def test_components_equal_scikit_image(connectivity, rank):
    mask = np.random.default_rng(1).random((12, 13, 14)) < 0.2
    np.testing.assert_array_equal(label_components(mask, connectivity), label(mask, connectivity=rank))


def test_instances_as_detections_have_the_mean_probability_of_their_voxels_as_score():
    rng = np.random.default_rng(2)
    probability = rng.random((10, 12, 14))
    mask = label_components(probability > 0.9)
    regions = regionprops(mask, probability)
    found = detections_of_instances(mask, probability, label=1)
    np.testing.assert_array_equal(found.boxes, [region.bbox for region in regions])
    np.testing.assert_allclose(found.scores, [region.intensity_mean for region in regions], rtol=1e-6)
    assert set(found.labels) == {1}
    assert set(detections_of_instances(mask).scores) == {1.0}
    assert len(detections_of_instances(np.zeros((3, 3, 3), int), np.ones((3, 3, 3)))) == 0
