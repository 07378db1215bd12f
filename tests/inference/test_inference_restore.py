import numpy as np
import pytest
from blob_detector import BlobDetector, blob
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cmb_plugin.dataset.predictions import instances_file, read_case_predictions
from cmb_plugin.detections import Detections
from cmb_plugin.images import Grid, Mapping, boxes_of_instances, read_mask, voxels_of_instances
from cmb_plugin.inference import Prediction, filled_boxes, instance_mask, predict_array, restore
from cmb_plugin.models.output import write_case
from cmb_plugin.preparation import Preprocessing, preprocess_case


def found(boxes, scores=None):
    return Detections(boxes, np.linspace(0.9, 0.5, len(boxes)) if scores is None else scores, np.zeros(len(boxes)))


def plain_mapping(shape):
    return Mapping.plan(Grid(shape, (1.0, 1.0, 1.0)))


def oblique(degrees, spacing, shape, origin=(11.0, -7.0, 33.0)):
    direction = tuple(Rotation.from_euler("xyz", degrees, degrees=True).as_matrix().ravel())
    return Grid(shape, spacing, origin, direction)


@settings(max_examples=6, deadline=None)
@given(
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.tuples(st.floats(0.8, 1.7), st.floats(0.6, 1.0), st.floats(0.6, 1.0)),
    st.permutations([0, 1, 2]),
    st.tuples(*[st.floats(0.35, 0.65)] * 3),
)
def test_a_lesion_of_an_oblique_scan_is_found_within_a_tenth_of_a_voxel(degrees, spacing, transpose, place):
    grid = oblique(degrees, spacing, (26, 44, 50))
    centre = np.asarray(place) * grid.shape
    # 2 mm along every axis, so a sphere in the world. The spacings differ by less than 3, above which nnunetv2 repeats
    # slices instead of interpolating between them, which moves what is in the image by up to half a new slice.
    sigma = 2.0 / np.asarray(spacing)
    image = blob(grid.shape, tuple(centre), sigma=sigma, peak=1.0) + 0.01
    recipe = Preprocessing(spacing=(1.0, 1.0, 1.0), transpose=tuple(transpose))
    prepared = preprocess_case(image[None], grid, None, recipe)
    peak = float(prepared.data.max())
    scaled = (prepared.data - prepared.data.min()) / (peak - float(prepared.data.min()))
    prediction = predict_array(BlobDetector((24, 24, 24), threshold=0.1), scaled)
    native = restore(prediction.detections, prepared.mapping)
    assert len(native) == 1
    assert np.abs(native.centres[0] - centre).max() <= 0.1


def test_boxes_are_clipped_to_the_scan_and_outside_ones_dropped():
    native = restore(found([[-2, 1, 1, 3, 4, 4], [12, 0, 0, 14, 2, 2]]), plain_mapping((10, 10, 10)))
    np.testing.assert_array_equal(native.boxes, [[0, 1, 1, 3, 4, 4]])


def test_a_mask_is_the_segmented_lesion_of_each_box():
    truth = np.zeros((20, 20, 20), dtype=bool)
    truth[4:8, 5:8, 5:9] = True
    truth[12:15, 12:15, 12:13] = True
    boxes = [[4, 5, 5, 8, 8, 9], [12, 12, 12, 15, 15, 13]]
    mask = instance_mask(found(boxes), truth.astype(np.float16), plain_mapping(truth.shape))
    np.testing.assert_array_equal(mask > 0, truth)
    for number, box in enumerate(boxes, start=1):
        np.testing.assert_array_equal(boxes_of_instances(mask)[number], box)


def test_only_the_piece_at_the_centre_is_the_lesion():
    foreground = np.zeros((20, 20, 20), dtype=np.float16)
    foreground[9:11, 9:11, 9:11] = 1
    foreground[9:11, 9:11, 12:14] = 1
    mask = instance_mask(found([[8, 8, 7, 12, 12, 13]]), foreground, plain_mapping((20, 20, 20)))
    np.testing.assert_array_equal(mask > 0, (foreground > 0) & (np.arange(20) < 12))


def test_without_a_piece_at_the_centre_the_largest_is_the_lesion():
    foreground = np.zeros((20, 20, 20), dtype=np.float16)
    foreground[10, 10, 7] = 1
    foreground[9:11, 9:11, 12:14] = 1
    mask = instance_mask(found([[8, 8, 6, 12, 12, 14]]), foreground, plain_mapping((20, 20, 20)))
    assert voxels_of_instances(mask) == {1: 8}
    assert (mask[9:11, 9:11, 12:14] == 1).all()


@pytest.mark.parametrize("foreground", [None, np.zeros((30, 30, 30), np.float16)])
def test_where_nothing_is_segmented_the_ellipsoid_in_the_box_is_drawn(foreground):
    mask = instance_mask(found([[5, 5, 5, 15, 17, 25]]), foreground, plain_mapping((30, 30, 30)))
    np.testing.assert_array_equal(boxes_of_instances(mask)[1], [5, 5, 5, 15, 17, 25])
    assert voxels_of_instances(mask)[1] == pytest.approx(np.pi / 6 * 10 * 12 * 20, rel=0.03)


boxes_anywhere = st.tuples(st.tuples(*[st.floats(0, 9.9)] * 3), st.tuples(*[st.floats(0.02, 4)] * 3)).map(
    lambda t: [*t[0], *np.minimum(np.add(*t), 10)]
)


@settings(max_examples=50, deadline=None)
@given(st.lists(boxes_anywhere, min_size=1, max_size=12), st.booleans())
def test_every_detection_keeps_at_least_one_voxel(boxes, repeated):
    boxes = boxes * 2 if repeated else boxes
    for mask in (
        instance_mask(found(boxes), None, plain_mapping((10, 10, 10))),
        instance_mask(found(boxes), np.ones((10, 10, 10), np.float16), plain_mapping((10, 10, 10))),
        filled_boxes(np.array(boxes), (10, 10, 10)),
    ):
        assert sorted(voxels_of_instances(mask)) == list(range(1, len(boxes) + 1))


def test_the_mask_follows_flips_crop_and_zoom():
    grid = oblique((0, 180, 0), (2.0, 1.0, 1.0), (12, 30, 30))
    image = np.zeros(grid.shape, np.float32)
    image[4:7, 10:16, 18:24] = 1
    mapping = Mapping.plan(grid, (0, 1, 2), (1, 2, 3), (11, 28, 27), (20, 26, 24))
    network = np.repeat(mapping.crop(mapping.orient(image)), 2, axis=0)
    box = [[4, 10, 18, 7, 16, 24]]
    mask = instance_mask(found(box), network.astype(np.float16), mapping)
    np.testing.assert_array_equal(mask, image)


def test_a_written_case_holds_the_same_lesions_in_json_and_mask(tmp_path):
    grid = oblique((10, 20, 30), (2.0, 1.0, 1.0), (12, 30, 30))
    mapping = Mapping.plan(grid, shape=(24, 30, 30))
    boxes = mapping.boxes_to_network(np.array([[4, 10, 18, 7, 16, 24], [8, 3, 3, 10, 6, 6], [1, 1, 1, 3, 3, 3]]))
    prediction = Prediction(found(boxes, [0.9, 0.6, 0.2]), None)
    written = write_case(tmp_path, "sub-1.a", prediction, mapping, classes=("cmb",), operating_point=0.5)
    read = read_case_predictions(tmp_path / "sub-1.a_boxes.json")
    mask, mask_grid = read_mask(instances_file(tmp_path, "sub-1.a"))
    assert mask_grid.matches(grid)
    np.testing.assert_allclose(read.detections.boxes, written.detections.boxes, atol=1e-4)
    np.testing.assert_array_equal(read.reported, [True, True, False])
    volumes = {number: count * 2.0 for number, count in voxels_of_instances(mask).items()}
    assert list(read.volumes_mm3) == [volumes[1], volumes[2], None]
    for number, box in boxes_of_instances(mask).items():
        assert np.abs(box - read.detections.boxes[number - 1]).max() <= 1
