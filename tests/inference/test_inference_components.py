"""Lesions of a segmentation: pieces, their cores and scores, and the way from tiles to files."""

import numpy as np
import pytest
import torch

from cmb_plugin.images import Grid, Mapping
from cmb_plugin.inference import InferenceConfig, PatchSegmenter, component_detections, predict_array
from cmb_plugin.inference.restore import restore


def probabilities(shape=(20, 20, 20), classes=2):
    found = np.zeros((1 + classes, *shape), dtype=np.float32)
    found[1, 4:7, 4:7, 4:7] = 0.9
    found[1, 3, 5, 5] = 0.25  # the blurred edge of a clear lesion
    found[1, 12:14, 12:14, 12:15], found[2, 12:14, 12:14, 12:15] = 0.1, 0.3  # faint, more likely of the second class
    found[0] = 1 - found[1:].sum(axis=0)
    return found


def test_each_piece_has_the_box_of_its_core_its_class_and_scores_that_rank_it():
    found = component_detections(probabilities(), threshold=0.2)
    np.testing.assert_array_equal(found.boxes, [[4, 4, 4, 7, 7, 7], [12, 12, 12, 14, 14, 15]])
    np.testing.assert_array_equal(found.labels, [0, 1])
    np.testing.assert_allclose(found.scores, [0.9, 0.3], atol=1e-6)
    assert found.rankings == ["score_mean", "score_peak", "score_piece", "score_sum", "score_odds"]
    sums = np.array([27 * 0.9 + 0.25, 12 * 0.3])
    np.testing.assert_allclose(found.columns["score_piece"], sums / [28, 12], atol=1e-6)
    np.testing.assert_allclose(found.columns["score_sum"], sums / (1 + sums), atol=1e-6)


def test_a_microbleed_at_the_edge_of_iron_is_found_as_if_it_lay_alone():
    volume = np.zeros((3, 16, 24, 24), dtype=np.float32)
    volume[1, 6:8, 6:8, 6:8] = 0.6
    alone = component_detections(volume, threshold=0.2)
    volume[2, 4:12, 8:20, 4:20] = 0.9  # touches it
    found = component_detections(volume, threshold=0.2)
    np.testing.assert_array_equal(found.labels, [1, 0])
    np.testing.assert_array_equal(found.boxes, [[4, 8, 4, 12, 20, 20], *alone.boxes])
    assert found.scores[1] == alone.scores[0]


def test_what_is_nearly_sure_is_still_ranked_in_the_half_precision_that_volumes_are_kept_in():
    volume, logits = np.zeros((3, 4, 4, 30)), [4.0, 6.0, 8.0, 9.0, 10.0, 11.0, 12.0]
    for place, logit in enumerate(logits):
        volume[1, 1, 1, 4 * place] = 1 / (1 + np.exp(-logit))
        volume[2, 1, 1, 4 * place] = 0.25 / (1 + np.exp(logit))
    volume[0] = 1 - volume[1:].sum(axis=0)
    exact = component_detections(volume, threshold=0.2)
    found = component_detections(volume.astype(np.float16), threshold=0.2)
    np.testing.assert_array_equal(found.boxes, exact.boxes)
    assert len(set(np.round(found.columns["score_peak"].astype(float), 6))) == len(logits)
    np.testing.assert_allclose(found.columns["score_peak"], exact.columns["score_peak"], atol=1e-4)


def test_what_has_one_in_all_six_decimals_of_a_file_is_still_ranked():
    volume = np.zeros((2, 3, 3, 20))
    for place, left in enumerate([0.3, 1e-3, 4e-7, 2e-7, 1e-7, 0]):
        volume[:, 1, 1, 3 * place] = left, 1 - left
    found = component_detections(volume.astype(np.float16), threshold=0.2).ranked_by("score_odds")
    assert list(found.boxes[:, 2]) == [15, 12, 9, 6, 3, 0]
    assert len(set(np.round(found.scores.astype(float), 6))) == 6
    assert found.scores[-1] == pytest.approx((7 / 3) ** 0.25 / (1 + (7 / 3) ** 0.25), abs=1e-3)


def test_lesions_of_a_scan_with_thick_slices_come_back_in_its_own_space():
    grid = Grid((9, 40, 40), (5.0, 0.5, 0.5), (3.0, -2.0, 1.0))
    mapping = Mapping.plan(grid, shape=(9, 20, 20))  # pixels of 1 mm, slices as they are
    volume = np.zeros((2, 9, 20, 20), dtype=np.float32)
    volume[1, 2, 5:7, 5:7] = volume[1, 3, 7, 7] = 0.8  # the next slice, one pixel on: it touches
    volume[1, 5, 7, 7] = 0.7  # a slice is between: 10 mm away
    found = restore(component_detections(volume, threshold=0.5), mapping)
    np.testing.assert_allclose(found.boxes, [[2, 10, 10, 4, 16, 16], [5, 14, 14, 6, 16, 16]], atol=1e-4)


def test_faint_and_small_pieces_are_left_out_when_asked():
    assert len(component_detections(probabilities(), threshold=0.5)) == 1
    assert len(component_detections(probabilities(), threshold=0.2, least_voxels=13)) == 1
    assert len(component_detections(np.stack([np.ones((4, 4, 4)), np.zeros((4, 4, 4))]), threshold=0.2)) == 0


def test_pieces_that_touch_by_a_corner_are_one():
    volume = np.zeros((2, 6, 6, 6))
    volume[1, 1, 1, 1] = volume[1, 2, 2, 2] = 0.8
    volume[0] = 1 - volume[1]
    assert len(component_detections(volume, threshold=0.5)) == 1


class Echo(PatchSegmenter):
    """The image is the probability of lesion."""

    patch_size = (8, 8, 8)
    mirror_axes = (0, 1, 2)

    def segment(self, patches):
        return torch.stack([1 - patches[:, 0], patches[:, 0]], dim=1)

    def lesions(self, probabilities):
        return component_detections(probabilities, 0.2)


@pytest.mark.parametrize("tta", [1, 8])
def test_a_lesion_cut_by_tiles_is_found_once_and_whole(tta):
    image = np.zeros((1, 20, 20, 20), dtype=np.float32)
    image[0, 2:18, 9:11, 9:11] = 0.75  # longer than a tile
    found = predict_array(Echo(), image, InferenceConfig(tta=tta))
    np.testing.assert_array_equal(found.detections.boxes, [[2, 9, 9, 18, 11, 11]])
    assert found.detections.scores[0] == pytest.approx(0.75, abs=1e-3)
    np.testing.assert_allclose(found.foreground, image[0], atol=1e-3)
    two = predict_array([Echo(), Echo()], image, InferenceConfig(min_score=0.8))
    assert len(two.detections) == 0
