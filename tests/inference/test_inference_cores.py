import blosc2
import numpy as np
import pytest
import torch
from blob_detector import BlobDetector
from dense_net import DenseDetector
from hypothesis import given, settings
from hypothesis import strategies as st

from cmb_plugin.errors import UserError
from cmb_plugin.inference import (
    CoreTiling,
    InferenceConfig,
    PatchDetections,
    PatchDetector,
    PatchSegmenter,
    predict_array,
    segment_array,
)
from cmb_plugin.settings import Overrides

WHOLE = 10**9  # voxels of a tile: one is enough

triples = st.tuples(*[st.sampled_from([1, 2, 4])] * 3)


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32)


def assert_same(found, expected, atol=1e-4):
    """The same set of detections, in any order."""
    assert len(found) == len(expected)
    if not len(found):
        return
    ours, theirs = (
        np.concatenate([d.boxes, d.scores[:, None], d.labels[:, None], d.columns["size"][:, None]], 1)
        for d in (found, expected)
    )
    distances = np.abs(ours[:, None] - theirs[None]).max(-1)
    assert (distances.min(0) < atol).all()
    assert (distances.min(1) < atol).all()


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 70)] * 3),
    st.tuples(*[st.integers(0, 12)] * 3),
    triples,
    st.integers(1, 60_000),
)
def test_cores_cover_the_scan_once_and_tiles_are_they_and_their_halo(shape, halo, divisor, tile_voxels):
    tiling = CoreTiling.of(shape, halo, divisor, tile_voxels)
    seen = np.zeros(shape, dtype=int)
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape) + 1
    padded_shape = [-(-n // d) * d for n, d in zip(shape, divisor, strict=True)]
    padded = np.pad(data[0], [(0, p - n) for p, n in zip(padded_shape, shape, strict=True)])
    for origin in tiling.origins:
        inside, place = tiling.overlap_with_scan(origin)
        seen[inside] += 1
        first, size, tile = tiling.first_voxel(origin), tiling.size(origin), tiling.read(data, origin)
        assert tile.shape[1:] == size
        assert not any(n % d for sides in (first, size) for n, d in zip(sides, divisor, strict=True))
        np.testing.assert_array_equal(tile[0], padded[tuple(slice(a, a + n) for a, n in zip(first, size, strict=True))])
        np.testing.assert_array_equal(tiling.looked_at(tile, origin)[0], data[0][inside])
        np.testing.assert_array_equal(tile[0][place], data[0][inside])
        for axis in range(3):
            assert first[axis] == 0 or inside[axis].start - first[axis] >= halo[axis]
            end = first[axis] + size[axis]
            assert end == padded_shape[axis] or end - inside[axis].stop >= halo[axis]
    assert (seen == 1).all()


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 14)] * 3),
    st.tuples(*[st.integers(0, 3)] * 3),
    triples,
    st.integers(1, 4000),
)
def test_no_other_number_of_equal_cuts_computes_fewer_voxels(shape, halo, divisor, tile_voxels):
    tiling = CoreTiling.of(shape, halo, divisor, tile_voxels)
    sizes = [tiling.size(origin) for origin in tiling.origins]
    least = np.inf
    cells = [-(-n // d) for n, d in zip(shape, divisor, strict=True)]
    for counts in np.ndindex(*cells):
        lengths = []
        for n, h, d, count in zip(cells, halo, divisor, counts, strict=True):
            around, count = -(-h // d), count + 1
            total = n + 2 * around * (count - 1)
            tiles = [d * (total * (i + 1) // count - total * i // count) for i in range(count)]
            lengths.append(tiles if count == 1 or min(tiles) > 2 * around * d else [np.inf])
        if np.prod([max(tiles) for tiles in lengths]) <= tile_voxels:
            least = min(least, np.prod([sum(tiles) for tiles in lengths]))
    if max(np.prod(sizes, axis=1)) <= tile_voxels:
        assert np.prod(sizes, axis=1).sum() == least
    else:
        assert least > 8 * np.prod([n * d for n, d in zip(cells, divisor, strict=True)])
    assert np.prod(sizes, axis=1).sum() <= 8 * np.prod([n * d for n, d in zip(cells, divisor, strict=True)])


def test_tiles_that_would_be_all_halo_have_half_of_each_side_for_their_core():
    tiling = CoreTiling.of((64, 64, 64), (4, 4, 4), (2, 2, 2), 100)
    assert {max(tiling.size(origin)) for origin in tiling.origins} == {16}


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(2, 14), st.integers(2, 40), st.integers(2, 40)),
    st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4])),
    st.integers(4096, 20_000),
    st.sampled_from([1, 2, 8]),
    st.integers(0, 9),
)
def test_many_tiles_answer_what_one_tile_of_the_whole_scan_does(shape, stride, tile_voxels, tta, seed):
    model, data = DenseDetector(seed, stride), noise(shape, seed)
    found = predict_array(model, data, InferenceConfig(tile_voxels=tile_voxels, tta=tta))
    model.calls = []
    expected = predict_array(model, data, InferenceConfig(tile_voxels=WHOLE, tta=tta))
    assert len(model.calls) == tta
    assert_same(found.detections, expected.detections)
    np.testing.assert_allclose(found.foreground.astype(float), expected.foreground, atol=6e-4)  # a digit of float16


def test_the_foreground_of_a_core_is_exact_in_float32():
    model, data = DenseDetector(3, (2, 4, 4)), noise((10, 70, 66))
    tiling = CoreTiling.of(data.shape[1:], model.halo, model.divisor, 12_000)
    assert len(tiling.origins) > 4
    whole = CoreTiling.of(data.shape[1:], model.halo, model.divisor, WHOLE).read(data, (0, 0, 0))
    with torch.inference_mode():
        expected = model.maps(torch.from_numpy(whole[None]))[2][0].numpy()
        for origin in tiling.origins:
            inside, place = tiling.overlap_with_scan(origin)
            found = model.maps(torch.from_numpy(tiling.read(data, origin)[None]))[2][0].numpy()
            np.testing.assert_allclose(found[place], expected[inside], atol=1e-5)


def test_a_halo_that_is_too_small_shows():
    class Shortsighted(DenseDetector):
        halo = (1, 1, 1)

    model, data = Shortsighted(0, (2, 4, 4)), noise((10, 70, 66))
    found, expected = (predict_array(model, data, InferenceConfig(tile_voxels=n)) for n in (10_000, WHOLE))
    assert np.abs(found.foreground.astype(float) - expected.foreground).max() > 0.01


def test_an_ensemble_takes_the_larger_halo_and_the_common_divisor():
    members, data = [DenseDetector(0, (1, 2, 4)), DenseDetector(1, (2, 3, 1))], noise((9, 50, 41))
    found, expected = (predict_array(members, data, InferenceConfig(tile_voxels=n)) for n in (20_000, WHOLE))
    assert members[0].calls[-1] == (10, 54, 44)
    assert_same(found.detections, expected.detections)


def test_one_model_without_a_halo_makes_all_overlap():
    member = DenseDetector(0, (1, 2, 2))
    member.patch_size = (16, 16, 16)
    predict_array([member, BlobDetector((16, 16, 16))], noise((20, 20, 20)))
    assert set(member.calls) == {(16, 16, 16)}


def test_tiles_are_read_from_compressed_data_and_reported_as_progress():
    model, data, ticks = DenseDetector(0), noise((8, 61, 61)), []
    config = InferenceConfig(tile_voxels=8000, batch_size=4)
    plain = predict_array(model, data, config, progress=lambda done, total: ticks.append((done, total)))
    assert len({*model.calls}) > 1  # tiles differ in size, whatever the batch
    assert ticks[-1] == (len(model.calls), len(model.calls))
    lazy = predict_array(model, blosc2.asarray(data, chunks=(1, 8, 16, 16)), config)
    np.testing.assert_array_equal(lazy.detections.boxes, plain.detections.boxes)
    np.testing.assert_array_equal(lazy.foreground, plain.foreground)


class Corners(PatchDetector):
    """A voxel of 1 or more is a lesion: the box around the point of its low corner, its side from the value."""

    patch_size, halo, divisor = (1, 1, 1), (4, 4, 4), (2, 2, 2)

    def __init__(self, shift=0.0):
        self.shift, self.tiles = shift, 0

    def detect(self, patches):
        self.tiles += 1
        places = (patches[0, 0] >= 1).nonzero()
        half = patches[0, 0][tuple(places.T)][:, None] / 2
        middles = places + self.shift * (-1) ** self.tiles
        boxes = torch.cat([middles - half, middles + half], 1)
        return [PatchDetections(boxes, torch.full((len(boxes),), 0.9), torch.zeros(len(boxes)).long())], None


def settings_and_faces(shape):
    config = InferenceConfig(tile_voxels=16**3)
    return config, CoreTiling.of(shape, Corners.halo, Corners.divisor, config.tile_voxels).cuts


@pytest.mark.parametrize("shift", [0.0, 0.02, -0.02])
def test_a_lesion_on_a_face_between_cores_counts_once_however_tiles_round_its_place(shift):
    shape = (40, 40, 40)
    config, cuts = settings_and_faces(shape)
    data = noise((40, 40, 40)) * 1e-3
    places = [(20, 20, x) for x in cuts[2][1:-1]] + [(z, 20, 30) for z in cuts[0][1:-1]]
    places += [(cuts[0][1], cuts[1][1], cuts[2][1])]  # an edge of eight
    assert len(places) >= 5
    for place in places:
        data[(0, *place)] = 3
    found = predict_array(Corners(shift), data, config).detections
    assert len(found) == len({*places})
    assert {tuple(c) for c in np.round(found.centres).astype(int)} == {*places}


def test_neighbours_on_either_side_of_a_face_both_count():
    config, cuts = settings_and_faces((40, 40, 40))
    data, face = noise((40, 40, 40)) * 1e-3, cuts[2][1]
    data[0, 20, 20, face - 1 : face + 1] = 3
    assert len(predict_array(Corners(), data, config).detections) == 2


def test_boxes_are_clipped_to_the_scan_and_not_to_the_tile():
    config, cuts = settings_and_faces((39, 40, 40))
    data, face = noise((39, 40, 40)) * 1e-3, cuts[2][1]
    data[0, 38, 20, face + 1] = 20
    (box,) = predict_array(Corners(), data, config).detections.boxes
    np.testing.assert_allclose(box, [28, 10, face + 1 - 10, 39, 30, face + 1 + 10])


def test_tiles_whose_core_is_constant_are_passed_over():
    config, cuts = settings_and_faces((40, 40, 40))
    data = np.zeros((1, 40, 40, 40), dtype=np.float32)
    data[0, cuts[0][0], cuts[1][1], cuts[2][1]] = 3  # in the halo of others
    detector = Corners()
    assert len(predict_array(detector, data, config).detections) == 1
    assert detector.tiles == 1


def test_an_empty_scan_and_one_smaller_than_its_halo_are_predicted():
    model = DenseDetector(0, (4, 4, 4))
    empty = predict_array(model, np.zeros((1, 5, 6, 7), dtype=np.float32))
    assert len(empty.detections) == 0
    assert empty.foreground is None
    assert predict_array(model, noise((3, 2, 1))).foreground.shape == (3, 2, 1)
    assert model.calls == [(4, 4, 4)]


def test_a_segmenter_with_a_halo_is_put_together_of_cores():
    net = DenseDetector(0, (2, 2, 2))

    class Dense(PatchSegmenter):
        patch_size, mirror_axes, halo, divisor = (1, 1, 1), (0, 1, 2), net.halo, net.divisor

        def segment(self, patches):
            foreground = net.maps(patches)[2]
            return torch.stack([1 - foreground, foreground], 1)

        def lesions(self, probabilities):
            raise NotImplementedError

    data = noise((9, 40, 31))
    found, expected = (segment_array(Dense(), data, InferenceConfig(tile_voxels=n, tta=8)) for n in (9000, WHOLE))
    assert found.shape == (2, 9, 40, 31)
    np.testing.assert_allclose(found.astype(float), expected, atol=1e-3)


def test_a_device_chooses_the_size_of_a_tile_and_a_setting_goes_before_it(monkeypatch):
    class AskedError(Exception):
        pass

    def of(*args):
        raise AskedError(args[-1])

    monkeypatch.setattr(CoreTiling, "of", of)
    for device, setting, voxels in (("cpu", None, 8_000_000), ("cuda", None, 16_000_000), ("cuda", 12_345, 12_345)):
        with pytest.raises(AskedError, match=f"^{voxels}$"):
            predict_array(DenseDetector(), noise((4, 4, 4)), InferenceConfig(tile_voxels=setting), device)


def test_a_tile_of_a_handful_of_voxels_is_refused():
    with pytest.raises(UserError, match="tile_voxels"):
        Overrides.parse(["inference_cfg.tile_voxels=100"]).apply(inference_cfg=InferenceConfig())
