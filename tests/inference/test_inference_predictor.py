import blosc2
import numpy as np
import pytest
import torch
from blob_detector import BlobDetector, blob

from cmb_plugin.detections import Detections, fold_column
from cmb_plugin.inference import InferenceConfig, PatchDetections, Tiling, merge_tiles, merge_views, predict_array
from cmb_plugin.inference.merging import WEIGHT
from cmb_plugin.inference.predictor import mirror_detections
from cmb_plugin.inference.tiles import VIEWS, read_tiles

PATCH = (16, 16, 16)


def noise_free_scan(shape, centres, **options):
    return np.max([blob(shape, centre, **options) for centre in centres], axis=0)[None]


@pytest.mark.parametrize("place", np.linspace(4, 36, 33).tolist())
def test_a_lesion_anywhere_across_tile_borders_is_found_once(place):
    data = noise_free_scan((40, 40, 40), [(place, place, 20.3)])
    found = predict_array(BlobDetector(PATCH), data).detections
    assert len(found) == 1
    np.testing.assert_allclose(found.centres[0], (place, place, 20.3), atol=0.1)


def test_two_lesions_that_nearly_touch_stay_two():
    data = noise_free_scan((40, 40, 40), [(20, 20, 16.5), (20, 20, 22.5)], sigma=1.0)
    assert len(predict_array(BlobDetector(PATCH), data).detections) == 2


@pytest.mark.parametrize("shape", [(5, 40, 40), (9, 9, 9), (40, 11, 16)])
def test_scans_smaller_than_the_patch_are_padded_and_places_stay(shape):
    centre = tuple(n / 2 + 0.3 for n in shape)
    found = predict_array(BlobDetector(PATCH, threshold=0.1), noise_free_scan(shape, [centre], sigma=0.8))
    assert len(found.detections) == 1
    assert found.foreground.shape == shape
    np.testing.assert_allclose(found.detections.centres[0], centre, atol=0.1)


@pytest.mark.parametrize("tta", [0, 1, 2, 4, 8])
def test_mirroring_a_symmetric_detector_changes_nothing(tta):
    data = noise_free_scan((24, 30, 20), [(7.2, 8.6, 9.1), (17.7, 22.4, 12.0)])
    plain = predict_array(BlobDetector(PATCH), data)
    mirrored = predict_array(BlobDetector(PATCH), data, InferenceConfig(tta=tta))
    np.testing.assert_allclose(mirrored.detections.boxes, plain.detections.boxes, atol=1e-3)
    np.testing.assert_allclose(mirrored.detections.scores, plain.detections.scores, atol=1e-5)
    np.testing.assert_allclose(mirrored.foreground, plain.foreground, atol=1e-3)


@pytest.mark.parametrize("axes", VIEWS)
def test_mirrored_boxes_are_turned_back(axes):
    boxes = torch.tensor([[1.0, 2.0, 3.0, 4.0, 6.0, 8.0]])
    image = torch.zeros(10, 11, 12)
    image[1:4, 2:6, 3:8] = 1
    where = image.flip(axes).nonzero() if axes else image.nonzero()
    seen = torch.cat([where.min(0).values, where.max(0).values + 1])[None].float()
    back = mirror_detections(PatchDetections(seen, torch.ones(1), torch.zeros(1)), axes, image.shape)
    torch.testing.assert_close(back.boxes, boxes)


def test_a_lesion_that_one_of_two_models_misses_scores_half():
    data = noise_free_scan((24, 24, 24), [(12, 12, 12)])
    seeing, blind = BlobDetector(PATCH), BlobDetector(PATCH, threshold=2.0)
    both = predict_array([seeing, seeing], data).detections
    one = predict_array([seeing, blind], data).detections
    np.testing.assert_allclose(one.scores, both.scores / 2, rtol=1e-4)


def test_foreground_is_the_gaussian_weighted_mean_of_the_tiles():
    class Constant(BlobDetector):
        def detect(self, patches):
            self.calls += len(patches)
            return [self.find(p[0].numpy()) for p in patches], torch.full((len(patches), *PATCH), 0.25)

    rng = np.random.default_rng(0)
    data = rng.normal(size=(1, 20, 33, 47)).astype(np.float32)
    foreground = predict_array(Constant(PATCH, threshold=99), data).foreground
    assert foreground.dtype == np.float16
    np.testing.assert_allclose(foreground, 0.25, atol=1e-3)


def test_compressed_data_are_read_tile_by_tile_with_the_same_result():
    rng = np.random.default_rng(0)
    data = noise_free_scan((20, 40, 30), [(10, 18, 9), (6, 31, 22)]) + rng.uniform(0, 0.1, (1, 20, 40, 30))
    data = data.astype(np.float32)
    stored = blosc2.asarray(data, chunks=(1, 16, 16, 16))
    plain, lazy = predict_array(BlobDetector(PATCH), data), predict_array(BlobDetector(PATCH), stored)
    np.testing.assert_array_equal(lazy.detections.boxes, plain.detections.boxes)
    np.testing.assert_array_equal(lazy.foreground, plain.foreground)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_batch_size_does_not_matter(batch_size):
    data = noise_free_scan((30, 30, 30), [(9, 9, 9), (20, 21, 22)])
    found = predict_array(BlobDetector(PATCH), data, InferenceConfig(batch_size=batch_size))
    expected = predict_array(BlobDetector(PATCH), data)
    np.testing.assert_array_equal(found.detections.boxes, expected.detections.boxes)
    np.testing.assert_array_equal(found.foreground, expected.foreground)


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_reading_ahead_gives_the_same_tiles(batch_size):
    data = np.random.default_rng(0).normal(size=(1, 20, 33, 47)).astype(np.float32)
    tiling = Tiling.of(data.shape[1:], PATCH, 0.5)
    here, ahead = (list(read_tiles(data, tiling, batch_size, ahead)) for ahead in (False, True))
    assert [origins for origins, _ in here] == [origins for origins, _ in ahead]
    assert [origin for origins, _ in here for origin in origins] == tiling.origins
    for (_, tiles), (_, same) in zip(here, ahead, strict=True):
        np.testing.assert_array_equal(tiles, same)


def test_constant_tiles_are_passed_over():
    data = np.zeros((2, 64, 64, 64), dtype=np.float32)
    data[0, :12, :12, :12] = blob((12, 12, 12), (6, 6, 6))
    detector = BlobDetector(PATCH)
    ticks = []
    found = predict_array(detector, data, progress=lambda done, total: ticks.append((done, total)))
    assert detector.calls == 8
    assert ticks[-1] == (7**3, 7**3)
    assert len(found.detections) == 1


def test_an_empty_scan_has_no_detections():
    found = predict_array(BlobDetector(PATCH), np.zeros((1, 20, 20, 20), np.float32), InferenceConfig(tta=8))
    assert len(found.detections) == 0
    assert found.detections.boxes.shape == (0, 6)


def test_columns_of_detections_reach_the_result():
    class WithColumns(BlobDetector):
        def find(self, image):
            found = super().find(image)
            found.columns = {"distance": found.scores * 2, "prototype": torch.full((len(found.scores),), 3)}
            return found

    data = noise_free_scan((24, 24, 24), [(12, 12, 12)])
    found = predict_array([WithColumns(PATCH)] * 2, data, InferenceConfig(tta=2)).detections
    np.testing.assert_allclose(found.columns["distance"], found.scores * 2, rtol=1e-5)
    np.testing.assert_array_equal(found.columns["prototype"], [3])
    assert set(found.columns) == {"distance", "prototype", fold_column(None)}


def some(boxes, scores, weights, labels=None):
    return Detections(boxes, scores, np.zeros(len(boxes)) if labels is None else labels, {WEIGHT: np.array(weights)})


def test_of_two_tiles_the_one_that_sees_the_lesion_nearer_its_middle_counts():
    central = some([[0, 0, 0, 4, 4, 4]], [0.6], [1.0])
    marginal = some([[0, 0, 1, 4, 4, 5]], [0.8], [0.1])
    merged = merge_tiles([marginal, central], InferenceConfig())
    np.testing.assert_array_equal(merged.boxes, central.boxes)
    np.testing.assert_allclose(merged.scores, [0.6])


def test_classes_do_not_suppress_each_other():
    two = some([[0, 0, 0, 4, 4, 4]] * 2, [0.6, 0.5], [1.0, 1.0], labels=[0, 1])
    assert len(merge_views([merge_tiles([two], InferenceConfig())] * 2, InferenceConfig())) == 2


def test_views_are_merged_by_the_formula_of_weighted_box_clustering():
    boxes, scores, weights = [[0, 0, 0, 4, 4, 4], [0, 0, 0, 4, 4, 8]], [0.9, 0.3], [1.0, 0.5]
    views = [some([b], [s], [w]) for b, s, w in zip(boxes, scores, weights, strict=True)]
    merged = merge_views([*views, Detections.empty()], InferenceConfig())
    value = np.array([1.0 * 1.0, 0.5 * 0.5])  # weight times IoU with the best box
    expected = (value * scores).sum() / (value.sum() + value.mean())  # one of three views saw nothing
    np.testing.assert_allclose(merged.scores, [expected], rtol=1e-5)
    edge = (value * scores * [4, 8]).sum() / (value * scores).sum()
    np.testing.assert_allclose(merged.boxes, [[0, 0, 0, 4, 4, edge]], rtol=1e-5)


def test_views_are_merged_above_min_score_highest_first():
    rng = np.random.default_rng(0)
    corners = 10.0 * np.argwhere(np.ones((5, 5, 5)))
    scores = rng.permutation(np.linspace(0.001, 0.9, 125)).astype(np.float32)
    many = some(np.concatenate([corners, corners + 3], axis=1), scores, np.ones(125))
    merged = merge_views([many], InferenceConfig(min_score=0.5))
    np.testing.assert_array_equal(merged.scores, np.sort(scores[scores >= 0.5])[::-1])


def scan_of_many(rng, n_side=6):
    """A scan of well separated blobs, each of its own brightness."""
    data = np.zeros((1, *[8 * n_side] * 3), dtype=np.float32)
    for corner, peak in zip(np.ndindex(*[n_side] * 3), rng.permutation(np.linspace(0.4, 0.9, n_side**3)), strict=True):
        z, y, x = (8 * c for c in corner)
        data[0, z : z + 8, y : y + 8, x : x + 8] = blob((8, 8, 8), (4.2, 4.1, 3.9), peak=peak)
    return data


def test_the_hundreds_of_lesions_of_amyloid_angiopathy_are_all_kept():
    found = predict_array(BlobDetector(PATCH), scan_of_many(np.random.default_rng(0)))
    assert len(found.detections) == 216
    assert found.dropped == 0


@pytest.mark.parametrize("tta", [1, 4])
def test_what_is_beyond_the_limit_is_the_weakest_by_the_ranking_in_use_and_is_counted(tta):
    class Contrary(BlobDetector):
        """Its second score says the opposite of the first."""

        def find(self, image):
            found = super().find(image)
            found.columns = {"score_other": 1 - found.scores}
            return found

    data = scan_of_many(np.random.default_rng(0), n_side=4)
    whole = predict_array(Contrary(PATCH), data, InferenceConfig(tta=tta)).detections
    for ranking, kept in ((None, slice(None, 10)), ("score_other", slice(-10, None))):
        settings = InferenceConfig(max_detections=10, tta=tta)
        found = predict_array(Contrary(PATCH), data, settings, ranking=ranking)
        np.testing.assert_array_equal(found.detections.boxes, whole[kept].boxes)
        assert found.dropped == 54


@pytest.mark.parametrize(("allowed_axes", "expected"), [((0, 1, 2), 8), ((2,), 2), ((), 1)])
def test_a_detector_is_mirrored_along_the_axes_that_its_trainer_allows_and_no_others(allowed_axes, expected):
    class Watching(BlobDetector):
        @property
        def mirror_axes(self):
            return allowed_axes

        def detect(self, patches):
            seen.add(patches.numpy().tobytes())
            return super().detect(patches)

    seen, data = set(), np.random.default_rng(0).uniform(0, 0.2, (1, *PATCH)).astype(np.float32)
    predict_array(Watching(PATCH), data, InferenceConfig(tta=8))
    allowed = [axes for axes in VIEWS if set(axes) <= set(allowed_axes)]
    assert len(allowed) == expected
    assert seen == {
        np.ascontiguousarray(np.flip(data[None], [axis + 2 for axis in axes])).tobytes() for axes in allowed
    }


class Telling(BlobDetector):
    """Adds a second score and a category to each detection."""

    def __init__(self, names: list[str], **options):
        super().__init__(PATCH, **options)
        self.names = names

    def find(self, image):
        found = super().find(image)
        found.columns = {"score_other": found.scores / 2, "looks_like": torch.full((len(found.scores),), 1)}
        found.categories = {"looks_like": self.names}
        return found


def test_a_second_score_falls_with_the_first_where_only_some_models_see_a_lesion():
    data = noise_free_scan((24, 24, 24), [(12, 12, 12)])
    seeing, blind = Telling(["a", "b"]), Telling(["a", "b"], threshold=2.0)
    found = predict_array([seeing, blind], data).detections
    np.testing.assert_allclose(found.columns["score_other"], found.scores / 2, rtol=1e-4)
    assert found.ranked_by("score_other").scores == pytest.approx(found.scores / 2)


def test_numbers_become_words_before_models_that_number_differently_are_merged():
    data = noise_free_scan((24, 24, 24), [(12, 12, 12)])
    found = predict_array([Telling(["vein", "iron"]), Telling(["iron", "vein"])], data).detections
    assert set(found.columns["looks_like"]) <= {"iron", "vein"}
    alone = predict_array(Telling(["vein", "iron"]), data).detections
    assert alone.columns["looks_like"].tolist() == ["iron"] * len(alone)
