"""Class probabilities of tiles become one map on the scan's own grid."""

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from cmb_plugin.images import Grid, Mapping
from cmb_plugin.inference import InferenceConfig, PatchSegmenter, class_map, segment_array

OBLIQUE = tuple((np.diag([-1.0, 1.0, -1.0])[[0, 2, 1]]).ravel().tolist())
MAPPING = Mapping.plan(Grid((13, 21, 17), (2.0, 1.0, 1.0), (3.0, 4.0, 5.0), OBLIQUE), (1, 0, 2),
                       crop_start=(1, 2, 3), crop_stop=(12, 19, 16), shape=(9, 6, 7))  # fmt: skip


class Brightness(PatchSegmenter):
    """Class k where the image is near k; sees whether it was mirrored."""

    patch_size = (8, 8, 8)
    mirror_axes = (2,)

    def __init__(self):
        self.seen = []

    def segment(self, patches):
        self.seen.append(patches)
        return torch.stack([-(patches[:, 0] - k).abs() for k in range(3)], dim=1).softmax(dim=1)

    def lesions(self, probabilities):
        raise NotImplementedError("its classes are no lesions")


def test_the_map_equals_scipys_interpolation():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), MAPPING.shape).transpose(3, 0, 1, 2)
    places = np.indices(MAPPING.source.shape).reshape(3, -1).T + 0.5
    inside = MAPPING.points_to_network(places) - 0.5
    seen = [map_coordinates(volume, inside.T, order=1, mode="nearest") for volume in probabilities]
    expected = np.argmax(seen, axis=0)
    cropped = ((inside < -0.5) | (inside > np.array(MAPPING.shape) - 0.5)).any(axis=1)
    expected[cropped] = 0
    found = class_map(probabilities.astype(np.float32), MAPPING)
    assert found.dtype == np.uint8
    assert cropped.any()
    np.testing.assert_array_equal(found.ravel(), expected)


def test_tiles_and_mirrorings_of_a_pointwise_model_leave_no_trace():
    image = np.random.default_rng(1).uniform(0, 2, (1, 11, 19, 9)).astype(np.float32)
    model = Brightness()
    found = segment_array(model, image, InferenceConfig(tta=8))
    np.testing.assert_allclose(found, Brightness().segment(torch.from_numpy(image)[None])[0].numpy(), atol=2e-3)


def test_a_model_is_mirrored_only_where_it_was_in_training():
    image = np.random.default_rng(1).normal(size=(1, 8, 8, 8)).astype(np.float32)
    model = Brightness()
    segment_array(model, image, InferenceConfig(tta=8))
    plain, mirrored = (patches[0].numpy() for patches in model.seen)
    np.testing.assert_array_equal(plain, image)
    np.testing.assert_array_equal(mirrored, image[..., ::-1])


def test_an_empty_scan_is_all_background():
    found = segment_array(Brightness(), np.zeros((1, 12, 12, 12), dtype=np.float32))
    assert found.argmax(axis=0).max() == 0
