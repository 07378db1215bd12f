"""Boxes seen from locations, targets of a dense map, and its peaks: against closed forms, brute force and SciPy."""

import math

import numpy as np
import pytest
import torch
from box_strategies import boxes, random_boxes
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import maximum_filter

from cmb_plugin.boxes import (
    box_centres,
    cells_of,
    centre_map,
    decode_from,
    encode_from,
    flat_index,
    growth_of,
    image_of_boxes,
    locations_near,
    middles_of,
    peaks,
)
from cmb_plugin.boxes import locations as module

REACH = (1.0, 3.0, 3.0)
SIDES = (2.0, 4.0, 4.5)
SPACING = (2.0, 0.5, 0.6)
STRIDE = (1, 2, 2)
SHAPE = (7, 9, 8)  # 7 x 18 x 16 voxels
CELLS = torch.tensor(list(np.ndindex(*SHAPE)))


def lesions(count: int, seed: int = 0) -> torch.Tensor:
    """Boxes whose centres lie anywhere in the map's voxels, near the border too."""
    rng = np.random.default_rng(seed)
    extent = np.array(SHAPE) * STRIDE
    centres, halves = rng.uniform(0.01, extent - 0.01, (count, 3)), rng.uniform(0.5, 3, (count, 3))
    return torch.tensor(np.hstack([centres - halves, centres + halves]), dtype=torch.float32)


# Codes ------------------------------------------------------------------------------------------------------------


@given(boxes(max_count=6), st.integers(0, 2**16))
def test_decoding_undoes_encoding_from_any_location(found, seed):
    generator = torch.Generator().manual_seed(seed)
    points = box_centres(found) + torch.randn(len(found), 3, generator=generator) * 5
    codes = encode_from(found, points, REACH, SIDES)
    assert torch.isfinite(codes).all()
    torch.testing.assert_close(decode_from(codes, points, REACH, SIDES), found, rtol=1e-5, atol=1e-3)


@given(st.lists(st.lists(st.floats(-30, 30, width=32), min_size=6, max_size=6), min_size=1, max_size=5))
def test_encoding_undoes_decoding_of_sides_above_the_least(rows):
    codes = torch.tensor(rows, dtype=torch.float64)
    least = math.log(math.expm1(module.LEAST_RATIO * math.log(2)))
    codes[:, 3:] = codes[:, 3:].clamp(min=least + 1e-6)
    points = torch.zeros(len(codes), 3, dtype=torch.float64)
    again = encode_from(decode_from(codes, points, REACH, SIDES), points, REACH, SIDES)
    torch.testing.assert_close(again, codes, rtol=1e-6, atol=1e-6)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=6, max_size=6))
def test_no_side_is_negative_and_none_grows_faster_than_its_code(values):
    codes = torch.tensor([values])
    decoded = decode_from(codes, torch.zeros(1, 3), REACH, SIDES)
    sides = decoded[:, 3:] - decoded[:, :3]
    assert torch.isfinite(decoded).all()
    assert (sides >= 0).all()
    assert (sides <= codes.new_tensor(SIDES) * (codes[:, 3:].clamp(min=0) / math.log(2) + 1) + 1).all()


def test_the_code_of_a_typical_lesion_at_a_location_is_that_of_an_untrained_head():
    points = middles_of(CELLS, STRIDE)[:5]
    halves = torch.tensor(SIDES) / 2
    typical = torch.cat([points - halves, points + halves], dim=1)
    torch.testing.assert_close(decode_from(torch.zeros(5, 6), points, REACH, SIDES), typical)
    torch.testing.assert_close(encode_from(typical, points, REACH, SIDES), torch.zeros(5, 6), atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", [0.0, 1000.0])
def test_codes_of_flat_and_of_huge_boxes_are_finite(side):
    box = torch.tensor([[5.0, 5, 5, 5 + side, 5 + side, 5 + side]])
    codes = encode_from(box, torch.zeros(1, 3), (1.0,) * 3, (1.0,) * 3)
    assert torch.isfinite(codes).all()
    torch.testing.assert_close(decode_from(codes, torch.zeros(1, 3), (1.0,) * 3, (1.0,) * 3), box, rtol=1e-5, atol=0.03)


def test_locations_lie_in_the_middle_of_their_voxels_in_the_order_of_a_flattened_map():
    points = middles_of(CELLS, STRIDE)
    expected = [((z + 0.5) * STRIDE[0], (y + 0.5) * STRIDE[1], (x + 0.5) * STRIDE[2]) for z, y, x in np.ndindex(*SHAPE)]
    torch.testing.assert_close(points, torch.tensor(expected, dtype=torch.float32))
    flat = cells_of(points, SHAPE, STRIDE)
    assert flat.tolist() == [list(index) for index in np.ndindex(*SHAPE)]
    assert flat_index(CELLS, SHAPE).tolist() == list(range(len(CELLS)))


def test_points_outside_a_map_belong_to_its_nearest_location():
    points = torch.tensor([[-3.0, 5.0, 100.0], [7.0, 18.0, 16.0]])
    assert cells_of(points, SHAPE, STRIDE).tolist() == [[0, 2, 7], [6, 8, 7]]


# Targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [9, 2 * module.LESIONS_AT_ONCE + 1])
def test_the_target_is_the_nearest_lesions_gaussian_and_one_at_its_own_location(count):
    found = lesions(count)
    labels = torch.arange(count) % 2
    target = centre_map(found, labels, 3, SHAPE, STRIDE, SPACING, sigma_mm=1.2)
    assert target.shape == (3, *SHAPE)
    points = middles_of(CELLS, STRIDE).double().numpy() * SPACING
    centres = box_centres(found).double().numpy() * SPACING
    for label in range(2):
        own = centres[labels.numpy() == label]
        distance = np.linalg.norm(points[:, None] - own[None], axis=2).min(axis=1)
        expected = np.exp(-(distance**2) / (2 * 1.2**2)).reshape(SHAPE)
        cells = np.floor(own / SPACING / STRIDE).astype(int)
        expected[tuple(cells.T)] = 1
        np.testing.assert_allclose(target[label].numpy(), expected, atol=1e-5)
        assert int((target[label] == 1).sum()) == len({*map(tuple, cells.tolist())})
    assert (target[2] == 0).all()


def test_a_lesion_at_the_border_or_cut_by_it_has_its_one():
    edge = torch.tensor([[-2.0, 0, 0, 2, 1, 1], [6.5, 17.5, 15.5, 7, 18, 16], [5, 17, 15, 9, 19, 17]])
    target = centre_map(edge, torch.zeros(3, dtype=torch.long), 1, SHAPE, STRIDE, SPACING, 0.01)
    assert (target == 1).nonzero().tolist() == [[0, 0, 0, 0], [0, 6, 8, 7]]


def test_a_patch_without_lesions_has_neither_target_nor_locations():
    none = torch.zeros(0, 6)
    assert (centre_map(none, torch.zeros(0, dtype=torch.long), 2, SHAPE, STRIDE, SPACING, 1.2) == 0).all()
    assert [len(part) for part in locations_near(none, SHAPE, STRIDE, SPACING, 1.5)] == [0, 0]


@pytest.mark.parametrize("reach", [0.05, 1.0, 1.5, 4.0])
def test_locations_near_a_centre_are_those_of_brute_force(reach):
    found = lesions(12, seed=round(reach * 10))
    location, lesion = locations_near(found, SHAPE, STRIDE, SPACING, reach)
    points = middles_of(CELLS, STRIDE).double().numpy() * SPACING
    distance = np.linalg.norm(points[:, None] - box_centres(found).double().numpy() * SPACING, axis=2)  # [T, N]
    wanted = distance <= reach
    for index, cell in enumerate(cells_of(box_centres(found), SHAPE, STRIDE).tolist()):
        wanted[np.ravel_multi_index(tuple(cell), SHAPE), index] = True
    expected = {int(t): int(np.where(wanted[t], distance[t], np.inf).argmin()) for t in wanted.any(axis=1).nonzero()[0]}
    assert dict(zip(location.tolist(), lesion.tolist(), strict=True)) == expected
    assert location.tolist() == sorted(expected)


def test_a_wide_lesion_has_a_wider_target_and_more_locations_learn_its_box():
    narrow, wide = torch.tensor([[2.0, 2, 2, 4, 8, 8]]), torch.tensor([[2.0, 7, 5, 6, 17, 15]])
    both, reach = torch.cat([narrow, wide]), 1.5
    growth = growth_of(both, SPACING, 3.0, 2.0)  # shortest sides 3 and 5 mm
    torch.testing.assert_close(growth, torch.tensor([1.0, 5 / 3]))
    assert growth_of(torch.cat([both / 9, both * 9]), SPACING, 3.0, 2.0).tolist() == [1, 1, 2, 2]
    labels = torch.tensor([0, 1])
    target = centre_map(both, labels, 2, SHAPE, STRIDE, SPACING, 1.2 * growth)
    for index, sigma in enumerate((1.2, 2.0)):
        alone = centre_map(both[[index]], labels[:1], 1, SHAPE, STRIDE, SPACING, sigma)
        torch.testing.assert_close(target[index], alone[0])
    image = torch.tensor([0, 1])
    flat, lesion = locations_near(both, SHAPE, STRIDE, SPACING, reach * growth, image, 2 * reach)
    for index, scale in enumerate(growth.tolist()):
        alone, _ = locations_near(both[[index]], SHAPE, STRIDE, SPACING, reach * scale)
        assert (flat[lesion == index] % math.prod(SHAPE)).tolist() == alone.tolist()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 2**16))
def test_images_of_a_batch_have_together_what_each_has_alone(counts, seed):
    images = [lesions(count, seed + index) for index, count in enumerate(counts)]
    owner = image_of_boxes(images)
    assert owner.tolist() == [index for index, count in enumerate(counts) for _ in range(count)]
    flat, lesion = locations_near(torch.cat(images), SHAPE, STRIDE, SPACING, 1.5, owner)
    target = centre_map(torch.cat(images), owner, len(images), SHAPE, STRIDE, SPACING, 1.2)
    before = 0
    for index, found in enumerate(images):
        own = flat // math.prod(SHAPE) == index
        alone = locations_near(found, SHAPE, STRIDE, SPACING, 1.5)
        assert (flat[own] % math.prod(SHAPE)).tolist() == alone[0].tolist()
        assert (lesion[own] - before).tolist() == alone[1].tolist()
        label = torch.zeros(len(found), dtype=torch.long)
        torch.testing.assert_close(target[index], centre_map(found, label, 1, SHAPE, STRIDE, SPACING, 1.2)[0])
        before += len(found)


# Peaks ------------------------------------------------------------------------------------------------------------


def by_maximum_filter(scores: np.ndarray, least: float, window: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """Peaks as SciPy tells them, highest first."""
    size = (1, *(2 * n + 1 for n in window))
    highest = maximum_filter(scores, size=size, mode="constant", cval=-np.inf)
    found = np.argwhere((scores == highest) & (scores >= least))
    return [tuple(place) for place in found[np.argsort(-scores[tuple(found.T)], kind="stable")].tolist()]


@pytest.mark.parametrize("window", [(1, 1, 1), (1, 2, 3), (0, 4, 1)])
@pytest.mark.parametrize("levels", [None, 5], ids=["all differ", "ties and plateaus"])
def test_peaks_are_those_of_a_maximum_filter(window, levels):
    scores = np.random.default_rng(0).random((3, 6, 11, 10)).astype(np.float32)
    if levels:
        scores = np.floor(scores * levels) / levels
    expected = by_maximum_filter(scores, 0.6, window)
    found = [tuple(row) for row in peaks(torch.from_numpy(scores), 10_000, 0.6, window).tolist()]
    assert {*found} == {*expected}
    assert len(found) == len(expected) > 3
    ranked = [float(scores[place]) for place in found]
    assert ranked == sorted(ranked, reverse=True)


def test_the_highest_peaks_are_kept_however_many_candidates_there_are():
    scores = np.random.default_rng(1).random((2, 6, 14, 14)).astype(np.float32)
    expected = by_maximum_filter(scores, 0.0, (1, 1, 1))
    for most in (1, 40, len(expected), 10**6):
        found = [tuple(row) for row in peaks(torch.from_numpy(scores), most, 0.0, (1, 1, 1)).tolist()]
        assert found == expected[:most]


@pytest.mark.parametrize("levels", [None, 5], ids=["all differ", "ties and plateaus"])
def test_peaks_of_each_map_are_those_it_has_alone(levels):
    scores = torch.from_numpy(np.random.default_rng(2).random((4, 5, 9, 8)).astype(np.float32))
    scores[2] = 0  # has none
    if levels:
        scores = (scores * levels).floor() / levels
    for most in (1, 7, 10**6):
        found = peaks(scores, most, 0.5, (1, 1, 1), of_each=True)
        for index in range(4):
            alone = peaks(scores[index : index + 1], most, 0.5, (1, 1, 1))
            assert found[found[:, 0] == index, 1:].tolist() == alone[:, 1:].tolist()
        assert found[:, 0].tolist() == sorted(found[:, 0].tolist())


def test_a_map_below_the_least_score_has_no_peaks():
    assert peaks(torch.full((2, 3, 3, 3), 0.1), 10, 0.2, (1, 1, 1)).shape == (0, 4)


def test_codes_and_targets_are_differentiable_and_of_full_precision_under_autocast():
    found = random_boxes(4, 0)
    codes = torch.zeros(4, 6, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoded = decode_from(codes, box_centres(found), REACH, SIDES)
        encoded = encode_from(found, box_centres(found), REACH, SIDES)
    assert decoded.dtype == encoded.dtype == torch.float32
    decoded.sum().backward()
    assert torch.isfinite(codes.grad).all()
