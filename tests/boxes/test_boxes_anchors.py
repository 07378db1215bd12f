"""Anchors, ATSS and box coding against MONAI and closed formulas."""

from __future__ import annotations

import math

import pytest
import torch
from box_strategies import boxes, random_boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.apps.detection.utils.ATSS_matcher import ATSSMatcher
from monai.apps.detection.utils.box_coder import BoxCoder
from monai.data.box_utils import box_iou as monai_iou
from torch import Tensor

from cmb_plugin.boxes import (
    anchors_for_level,
    anchors_for_levels,
    atss_match,
    box_centres,
    box_iou,
    decode,
    encode,
    paired_giou,
)

SIZES = [(3.0, 3.0, 3.0), (2.5, 7.0, 7.0), (11.0, 6.0, 4.3)]
STRIDES = [(1, 2, 2), (2, 4, 4)]


def lattice(shape: tuple[int, int, int] = (8, 12, 10)) -> tuple[Tensor, list[int], int]:
    coarse = tuple(side // 2 for side in shape)
    return anchors_for_levels([shape, coarse], STRIDES, [SIZES, [[2 * s for s in size] for size in SIZES]])


def monai_match(
    gt: Tensor, anchors: Tensor, per_level: list[int], candidates: int, center_in_gt: bool = False
) -> Tensor:
    # Told of one anchor per location, MONAI caps the candidates of a level at its anchors, as the paper does; told of
    # more, it caps them at its locations.
    matcher = ATSSMatcher(candidates, monai_iou, center_in_gt=center_in_gt)
    matcher.min_dist = 0.0  # its demand that a centre lies so far inside a lesion is no part of the paper
    return matcher.compute_matches(gt, anchors, per_level, 1)[1]


def test_anchors_are_centred_on_their_locations_and_keep_their_exact_sizes() -> None:
    anchors = anchors_for_level((2, 3, 4), (1, 2, 4), SIZES).reshape(2, 3, 4, len(SIZES), 6)
    for z, y, x in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        for index, size in enumerate(SIZES):
            anchor = anchors[z, y, x, index]
            assert ((anchor[:3] + anchor[3:]) / 2).tolist() == pytest.approx([z + 0.5, 2 * y + 1, 4 * x + 2])
            assert (anchor[3:] - anchor[:3]).tolist() == pytest.approx(size)


def test_levels_follow_one_another_and_their_counts_add_up() -> None:
    anchors, per_level, per_location = lattice((4, 6, 8))
    assert (per_level, per_location) == ([4 * 6 * 8 * 3, 2 * 3 * 4 * 3], 3)
    assert len(anchors) == sum(per_level)
    torch.testing.assert_close(anchors[: per_level[0]], anchors_for_level((4, 6, 8), STRIDES[0], SIZES))


def test_levels_with_different_numbers_of_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        anchors_for_levels([(2, 2, 2)] * 2, STRIDES, [SIZES, SIZES[:1]])


@pytest.mark.parametrize("center_in_gt", [False, True])
@given(count=st.integers(1, 6), seed=st.integers(0, 10_000), candidates=st.integers(1, 6))
@settings(max_examples=60)
def test_atss_on_anchor_lattices_equals_monai(center_in_gt: bool, count: int, seed: int, candidates: int) -> None:
    anchors, per_level, per_location = lattice()
    gt = random_boxes(count, seed, volume=14.0, largest=9.0)
    ours = atss_match(gt, anchors, per_level, per_location, candidates, center_in_gt)
    expected = monai_match(gt, anchors, per_level, candidates * per_location, center_in_gt)
    assert_equal_but_for_the_empty_handed(ours, expected, count)


@given(count=st.integers(1, 8), anchors=st.integers(8, 200), seed=st.integers(0, 10_000), candidates=st.integers(4, 12))
@settings(max_examples=100)
def test_atss_on_any_anchors_equals_monai(count: int, anchors: int, seed: int, candidates: int) -> None:
    some, gt = random_boxes(anchors, seed, volume=20.0), random_boxes(count, seed + 1, volume=20.0)
    per_level = [anchors // 2, anchors - anchors // 2]
    ours = atss_match(gt, some, per_level, 1, candidates)
    assert_equal_but_for_the_empty_handed(ours, monai_match(gt, some, per_level, candidates), count)


def assert_equal_but_for_the_empty_handed(ours: Tensor, expected: Tensor, count: int) -> None:
    """Equal, except that each lesion to which MONAI gives nothing has one anchor."""
    helped = [lesion for lesion in range(count) if not (expected == lesion).any()]
    changed = (ours != expected).nonzero().flatten()
    assert sorted(ours[changed].tolist()) == helped


@given(gt=boxes(min_count=1, max_count=8, extent=10))
def test_every_lesion_gets_an_anchor_near_it(gt: Tensor) -> None:
    gt = gt - gt[:, :3].amin()  # lesions that touch, coincide, contain each other; some outside the map
    anchors, per_level, per_location = lattice((12, 8, 8))
    matches = atss_match(gt, anchors, per_level, per_location)
    assert sorted(matches.unique().tolist()) == [-1, *range(len(gt))]


def test_identical_lesions_share_the_anchors() -> None:
    anchors, per_level, per_location = lattice()
    gt = torch.tensor([[3.0, 3, 3, 6, 6, 6]]).repeat(4, 1)
    matches = atss_match(gt, anchors, per_level, per_location)
    assert set(matches.unique().tolist()) == {-1, 0, 1, 2, 3}


def test_a_lesion_of_one_voxel_takes_the_smallest_anchor_nearest_to_it() -> None:
    anchors, per_level, per_location = anchors_for_levels([(16, 16, 16)], [(2, 2, 2)], [[(2, 2, 2), (8, 8, 8)]])
    gt = torch.tensor([[10.0, 10, 10, 11, 11, 11]])
    positives = (atss_match(gt, anchors, per_level, per_location) == 0).nonzero().flatten()
    assert (box_iou(gt, anchors)[0, positives] == 1 / 8).all()
    assert box_centres(anchors[positives]).tolist() == [[11, 11, 11]]


def test_equally_distant_locations_are_taken_in_order() -> None:
    anchors, per_level, per_location = anchors_for_levels([(4, 4, 4)], [(2, 2, 2)], [[(2, 2, 2)]])
    gt = torch.tensor([[2.0, 2, 2, 6, 6, 6]])  # its centre is a corner of 8 cells, each with IoU 1/8
    positives = (atss_match(gt, anchors, per_level, per_location, candidates=4) == 0).nonzero().flatten()
    by_hand = [(z * 4 + y) * 4 + x for z in (1, 2) for y in (1, 2) for x in (1, 2)][:4]
    assert positives.tolist() == by_hand


def test_atss_without_lesions_is_all_background() -> None:
    anchors, per_level, per_location = lattice()
    assert (atss_match(torch.zeros(0, 6), anchors, per_level, per_location) == -1).all()


def test_atss_refuses_counts_that_do_not_add_up() -> None:
    anchors, per_level, per_location = lattice()
    with pytest.raises(ValueError, match="adds up"):
        atss_match(anchors[:1], anchors[:-1], per_level, per_location)


@given(st.integers(0, 10_000), st.integers(0, 20))
def test_coding_equals_monai(seed: int, count: int) -> None:
    weights = (10.0, 10.0, 10.0, 5.0, 5.0, 5.0)
    coder, gt, anchors = BoxCoder(weights), random_boxes(count, seed), random_boxes(count, seed + 1)
    deltas = encode(gt, anchors, weights)
    torch.testing.assert_close(deltas, coder.encode_single(gt, anchors), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        decode(deltas, anchors, weights), coder.decode_single(deltas, anchors), rtol=1e-4, atol=1e-4
    )


@given(st.integers(0, 10_000))
def test_decoding_undoes_encoding(seed: int) -> None:
    gt, anchors = random_boxes(20, seed), random_boxes(20, seed + 1)
    torch.testing.assert_close(decode(encode(gt, anchors), anchors), gt, rtol=1e-4, atol=1e-3)


def test_a_wild_prediction_stays_finite_as_in_monai() -> None:
    anchors, deltas = random_boxes(3, 0), torch.full((3, 6), 1e4)
    decoded = decode(deltas, anchors)
    assert decoded.isfinite().all()
    torch.testing.assert_close(decoded, BoxCoder((1.0,) * 6).decode_single(deltas, anchors))


def test_a_box_at_the_limit_of_growth_is_drawn_back() -> None:
    deltas = torch.tensor([[0.0, 0, 0, 9, 9, 9]], requires_grad=True)
    anchors = torch.tensor([[4.0, 4, 4, 7, 7, 7]])
    (1 - paired_giou(decode(deltas, anchors), anchors)).sum().backward()
    assert deltas.grad is not None
    assert (deltas.grad[0, 3:] > 0).all()  # a step against the gradient makes it smaller


def test_the_deltas_of_a_doubled_and_shifted_box_are_as_by_hand() -> None:
    anchor = torch.tensor([[0.0, 0, 0, 2, 4, 8]])
    box = torch.tensor([[0.0, 0, 0, 4, 4, 8]])
    expected = torch.tensor([[0.5, 0, 0, math.log(2), 0, 0]])
    torch.testing.assert_close(encode(box, anchor), expected)
