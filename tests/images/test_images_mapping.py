"""The way from a scan to the network array and back is exact, whatever the scan's orientation."""

import json
import warnings

import numpy as np
import pytest
import SimpleITK
from geometry_strategies import grids, mappings
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from skimage.transform import resize

from cmb_plugin.images import Grid, Mapping, boxes_of_instances

seeds = st.integers(0, 2**32 - 1)


def random_boxes(seed: int, shape: tuple[int, ...], n: int = 5) -> np.ndarray:
    corners = np.sort(np.random.default_rng(seed).uniform(0, 1, (n, 2, 3)) * shape, axis=1)
    return corners.reshape(n, 6)


@given(mappings(), seeds)
@settings(max_examples=200, deadline=None)
def test_scan_to_network_to_scan_brings_box_centres_back(mapping, seed):
    boxes = random_boxes(seed, mapping.source.shape)
    there = mapping.boxes_to_network(boxes)
    assert (there[:, :3] <= there[:, 3:]).all()
    # Through float32, as detections travel.
    back = mapping.boxes_to_source(there.astype(np.float32))
    centres, returned = ((b[:, :3] + b[:, 3:]) / 2 for b in (boxes, back))
    assert np.abs(centres - returned).max() < 0.1
    np.testing.assert_allclose(mapping.boxes_to_source(there), boxes, atol=1e-9)
    np.testing.assert_allclose(mapping.points_to_source(mapping.points_to_network(centres)), centres, atol=1e-9)


@given(mappings())
@settings(max_examples=100, deadline=None)
def test_network_axes_point_up_backwards_left_and_spacing_measures_them_in_mm(mapping):
    world = mapping.source.to_world(mapping.points_to_source(np.vstack([np.zeros(3), np.eye(3)])))
    steps = world[1:] - world[0]
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1), mapping.network_spacing, rtol=1e-6)
    unit = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    np.testing.assert_allclose(unit @ unit.T, np.eye(3), atol=1e-6)
    # The axis of L, P or S that each runs along is positive; transposing only changes their order.
    own_world = [2 - list(Mapping.plan(mapping.source).axes).index(axis) for axis in mapping.axes]
    assert (unit[range(3), own_world] >= 0).all()


@given(mappings(), seeds)
@settings(max_examples=50, deadline=None)
def test_distances_in_the_network_array_are_distances_in_the_world(mapping, seed):
    points = np.random.default_rng(seed).uniform(0, 1, (2, 3)) * mapping.source.shape
    in_world = np.linalg.norm(np.diff(mapping.source.to_world(points), axis=0))
    in_network = np.linalg.norm(np.diff(mapping.points_to_network(points), axis=0) * mapping.network_spacing)
    assert in_network == pytest.approx(in_world, rel=1e-6)


@given(grids(min_side=2, max_side=7, max_tilt=25.0), seeds)
@settings(max_examples=60, deadline=None)
def test_orientation_equals_itk_dicom_orient(grid, seed):
    array = np.random.default_rng(seed).integers(0, 1000, grid.shape)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(grid.spacing[::-1])
    image.SetDirection(grid.direction)
    expected = SimpleITK.GetArrayFromImage(SimpleITK.DICOMOrient(image, "LPS"))
    mapping = Mapping.plan(grid)
    np.testing.assert_array_equal(mapping.orient(array), expected)
    np.testing.assert_array_equal(mapping.unorient(mapping.orient(array)), array)


@given(st.data(), seeds)
@settings(max_examples=60, deadline=None)
def test_boxes_follow_the_voxels_of_a_mask(data, seed):
    """Oracle: the mask itself is turned, cropped and repeated, and boxes are found anew."""
    rng = np.random.default_rng(seed)
    grid = data.draw(grids(min_side=4, max_side=12))
    mask = np.zeros(grid.shape, dtype=np.int32)
    for number in (1, 2, 3):
        start = rng.integers(1, np.array(grid.shape) - 2)
        size = rng.integers(1, 4, 3)
        stop = np.minimum(start + size, np.array(grid.shape) - 1)
        mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = number
    transpose = data.draw(st.permutations(range(3)))
    zoom = rng.integers(1, 4, 3)
    turned = Mapping.plan(grid, transpose).oriented_shape
    cropped = np.array(turned) - 2
    mapping = Mapping.plan(grid, transpose, (1, 1, 1), np.array(turned) - 1, cropped * zoom)
    network = mapping.crop(mapping.orient(mask))
    for axis in range(3):
        network = np.repeat(network, zoom[axis], axis)
    assert network.shape == mapping.shape
    expected = boxes_of_instances(network)
    for number, box in boxes_of_instances(mask).items():
        np.testing.assert_allclose(mapping.boxes_to_network([box])[0], expected[number], atol=1e-9)


@pytest.mark.parametrize("method", ["skimage", "nnunetv2"])
@pytest.mark.parametrize("seed", range(6))
def test_points_follow_a_blob_through_real_resampling(method, seed):
    """Oracle: a blob is turned, cropped and resampled by a library; its centre lies where the mapping says."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(36, 52, 3).tolist())
    direction = Rotation.random(random_state=seed).as_matrix() @ np.diag(rng.choice([-1.0, 1.0], 3))
    spacing = tuple(rng.uniform(0.5, 2.0, 3).tolist())
    grid = Grid(shape, spacing, (10.0, -20.0, 5.0), tuple(direction.ravel().tolist()))
    transpose = rng.permutation(3)
    whole = Mapping.plan(grid, transpose)
    start, stop = rng.integers(0, 4, 3), np.array(whole.oriented_shape) - rng.integers(0, 4, 3)
    zoomed = np.round((stop - start) * rng.uniform(0.6, 1.6, 3)).astype(int)
    mapping = Mapping.plan(grid, transpose, start, stop, zoomed)

    centre = np.array(shape) / 2 + rng.uniform(-3, 3, 3)
    offsets = np.indices(shape).transpose(1, 2, 3, 0) + 0.5 - centre
    blob = np.exp(-(offsets**2).sum(-1) / (2 * 2.5**2)).astype(np.float32)
    cropped = np.ascontiguousarray(mapping.crop(mapping.orient(blob)))
    if method == "skimage":
        network = resize(cropped, mapping.shape, order=1, mode="edge", anti_aliasing=False)
    else:
        from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spacings = (mapping.oriented_spacing, mapping.network_spacing)
            network = resample_data_or_seg_to_shape(cropped[None], mapping.shape, *spacings, order=3, order_z=0)[0]
    places = np.indices(mapping.shape).transpose(1, 2, 3, 0) + 0.5
    weights = np.clip(network, 0, None)
    centroid = (places * weights[..., None]).sum((0, 1, 2)) / weights.sum()
    assert np.abs(centroid - mapping.points_to_network([centre])[0]).max() < 0.1


@given(mappings(), seeds)
@settings(max_examples=50, deadline=None)
def test_mapping_survives_json(mapping, seed):
    copy = Mapping.from_json(json.loads(json.dumps(mapping.to_json())))
    assert copy == mapping
    boxes = random_boxes(seed, mapping.source.shape)
    np.testing.assert_array_equal(copy.boxes_to_network(boxes), mapping.boxes_to_network(boxes))


def test_uncrop_puts_a_crop_back_at_its_place():
    mapping = Mapping.plan(Grid((6, 7, 8), (1.0, 1.0, 1.0)), crop_start=(1, 2, 3), crop_stop=(5, 6, 7))
    image = np.arange(2 * 6 * 7 * 8).reshape(2, 6, 7, 8)
    whole = mapping.uncrop(mapping.crop(image), fill=-1)
    np.testing.assert_array_equal(mapping.crop(whole), mapping.crop(image))
    assert np.count_nonzero(whole == -1) == image.size - 2 * 4 * 4 * 4


def test_scans_at_45_degrees_are_turned_alike_whatever_their_rounding():
    turned = set()
    for error in (-1e-6, -1e-9, 0.0, 1e-9, 1e-6):
        direction = Rotation.from_euler("x", np.pi / 4 + error).as_matrix()
        mapping = Mapping.plan(Grid((4, 5, 6), (1.0, 1.0, 1.0), direction=tuple(direction.ravel().tolist())))
        assert sorted(mapping.axes) == [0, 1, 2]
        turned.add((mapping.axes, mapping.flips))
    assert len(turned) == 1


def test_no_box_stays_no_box():
    mapping = Mapping.plan(Grid((4, 5, 6), (1.0, 1.0, 1.0)))
    assert mapping.boxes_to_network(np.zeros((0, 6))).shape == (0, 6)
    assert mapping.boxes_to_source([]).shape == (0, 6)


@pytest.mark.parametrize("crop", [((0, 0, 0), (5, 5, 6)), ((-1, 0, 0), (4, 5, 6)), ((2, 2, 2), (2, 3, 3))])
def test_a_crop_outside_the_scan_is_refused(crop):
    with pytest.raises(ValueError, match="does not fit"):
        Mapping.plan(Grid((4, 5, 6), (1.0, 1.0, 1.0)), crop_start=crop[0], crop_stop=crop[1])
