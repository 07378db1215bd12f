import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window

from cmb_plugin.errors import UserError
from cmb_plugin.inference import InferenceConfig, Tiling, gaussian_map, tile_starts
from cmb_plugin.inference.tiling import gaussian_at
from cmb_plugin.settings import Overrides


@given(st.integers(8, 64), st.integers(0, 300), st.sampled_from([0.0, 0.25, 0.5, 0.75]))
def test_tiles_lie_where_nnunet_puts_them(tile, more, overlap):
    expected = compute_steps_for_sliding_window((tile + more,), (tile,), 1 - overlap)[0]
    assert tile_starts(tile + more, tile, overlap) == expected


@pytest.mark.parametrize("size", [1, 7, 16])
def test_small_scan_gets_one_tile_that_hangs_over_equally(size):
    (start,) = tile_starts(size, 16, 0.5)
    before, after = -start, 16 + start - size
    assert 0 <= after - before <= 1


@pytest.mark.parametrize("tile", [(9, 17, 25), (31, 15, 15)])
def test_gaussian_equals_nnunets_for_odd_sides(tile):
    expected = compute_gaussian(tile, dtype=torch.float64, device=torch.device("cpu")).numpy()
    np.testing.assert_allclose(gaussian_map(tile), expected, rtol=1e-4, atol=1e-9)


def test_gaussian_is_symmetric_for_even_sides():
    weights = gaussian_map((8, 12, 16))
    for axis in range(3):
        np.testing.assert_array_equal(weights, np.flip(weights, axis))


def test_gaussian_at_voxel_centres_is_the_map():
    points = np.argwhere(np.ones((6, 7, 8))) + 0.5
    np.testing.assert_allclose(gaussian_at(points, (6, 7, 8)).reshape(6, 7, 8), gaussian_map((6, 7, 8)), rtol=1e-5)


@pytest.mark.parametrize("shape", [(20, 33, 47), (10, 40, 16), (5, 6, 7)])
def test_weight_sums_equal_the_sum_over_all_tiles(shape):
    tiling = Tiling.of(shape, (16, 16, 16), 0.5)
    total = np.zeros(shape)
    for origin in tiling.origins:
        inside, place = tiling.overlap_with_scan(origin)
        total[inside] += gaussian_map(tiling.tile)[place]
    z, y, x = tiling.weight_sums()
    np.testing.assert_allclose(np.einsum("i,j,k->ijk", z, y, x), total, rtol=1e-4)


def test_a_tile_reads_the_scan_and_zeros_around_it():
    data = np.arange(1, 1 + 2 * 4 * 20 * 20, dtype=np.float32).reshape(2, 4, 20, 20)
    tiling = Tiling.of(data.shape[1:], (8, 16, 16), 0.5)
    padded = np.pad(data, [(0, 0), (2, 2), (0, 0), (0, 0)])
    for origin in tiling.origins:
        z, y, x = origin[0] + 2, origin[1], origin[2]
        np.testing.assert_array_equal(tiling.read(data, origin), padded[:, z : z + 8, y : y + 16, x : x + 16])


@settings(max_examples=100)
@given(
    st.tuples(*[st.integers(8, 60)] * 3),
    st.sampled_from([0.0, 0.25, 0.5, 0.7]),
    st.tuples(*[st.floats(0, 1)] * 3),
    st.tuples(*[st.floats(0.5, 20)] * 3),
)
def test_no_lesion_is_given_up_by_every_tile_that_sees_it(shape, overlap, place, size):
    tiling = Tiling.of(shape, (16, 12, 10), overlap)
    low = np.asarray(place) * (np.asarray(shape) - 0.5)
    box = np.concatenate([low, np.minimum(low + size, shape)])
    seen = kept = 0
    for origin in tiling.origins:
        end = np.add(origin, tiling.tile)
        visible = np.concatenate([np.maximum(box[:3], origin), np.minimum(box[3:], end)])
        if (visible[3:] - visible[:3] > 0.25).all():
            seen += 1
            kept += not tiling.cut_off(visible[None], origin)[0]
    assert not seen or kept


@pytest.mark.parametrize(("name", "value"), [("overlap", 1.0), ("tta", 9), ("batch_size", 0), ("min_score", -0.1)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(UserError, match=name):
        Overrides.parse([f"inference_cfg.{name}={value}"]).apply(inference_cfg=InferenceConfig())
