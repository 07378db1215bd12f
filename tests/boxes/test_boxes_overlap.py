"""Overlaps, volumes and distances against MONAI and SciPy."""

from __future__ import annotations

import pytest
import torch
from box_strategies import boxes, random_boxes
from hypothesis import given
from hypothesis import strategies as st
from monai.data import box_utils as monai_boxes
from scipy.spatial.distance import cdist
from torch import Tensor

from cmb_plugin.boxes import (
    box_area,
    box_centres,
    box_giou,
    box_iou,
    centre_distance,
    clip_boxes,
    nonempty,
    paired_giou,
    paired_iou,
)

ONE_VOXEL = torch.tensor([[3.0, 4.0, 5.0, 4.0, 5.0, 6.0]])


@given(boxes(), boxes())
def test_iou_equals_monai(boxes1: Tensor, boxes2: Tensor) -> None:
    torch.testing.assert_close(box_iou(boxes1, boxes2), monai_boxes.box_iou(boxes1, boxes2), rtol=1e-5, atol=1e-6)


@given(boxes(), boxes())
def test_giou_equals_monai(boxes1: Tensor, boxes2: Tensor) -> None:
    torch.testing.assert_close(box_giou(boxes1, boxes2), monai_boxes.box_giou(boxes1, boxes2), rtol=1e-5, atol=1e-6)


@given(st.integers(0, 10_000))
def test_paired_overlaps_are_the_diagonal_of_the_pairwise_ones(seed: int) -> None:
    boxes1, boxes2 = random_boxes(5, seed), random_boxes(5, seed + 1)
    torch.testing.assert_close(paired_iou(boxes1, boxes2), box_iou(boxes1, boxes2).diagonal())
    torch.testing.assert_close(paired_giou(boxes1, boxes2), box_giou(boxes1, boxes2).diagonal())
    torch.testing.assert_close(paired_giou(boxes1, boxes2), monai_boxes.box_pair_giou(boxes1, boxes2))


@given(boxes(min_count=1))
def test_a_box_overlaps_itself_entirely(some: Tensor) -> None:
    assert (paired_iou(some, some) == 1).all()
    assert (paired_giou(some, some) == 1).all()


@given(boxes(), boxes(), st.integers(-500, 500))
def test_overlap_is_symmetric_and_does_not_depend_on_place(boxes1: Tensor, boxes2: Tensor, shift: int) -> None:
    iou = box_iou(boxes1, boxes2)
    torch.testing.assert_close(iou, box_iou(boxes2, boxes1).T)
    torch.testing.assert_close(iou, box_iou(boxes1 + shift, boxes2 + shift))


def test_touching_voxels_do_not_overlap_and_half_a_voxel_gives_a_third() -> None:
    beside, half = ONE_VOXEL + torch.tensor([0, 0, 1, 0, 0, 1]), ONE_VOXEL + torch.tensor([0, 0, 0.5, 0, 0, 0.5])
    assert box_iou(ONE_VOXEL, beside).item() == 0
    assert box_giou(ONE_VOXEL, beside).item() == 0  # together they fill their enclosing box
    assert box_iou(ONE_VOXEL, half).item() == pytest.approx(1 / 3)


def test_boxes_of_no_volume_give_defined_numbers() -> None:
    point = torch.tensor([[1.0, 1, 1, 1, 1, 1], [2.0, 2, 2, 1, 3, 3]])  # the second is inverted along z
    assert box_area(point).tolist() == [0, 0]
    assert box_iou(point, torch.cat([point, ONE_VOXEL])).abs().max() == 0
    assert box_giou(point, ONE_VOXEL).isfinite().all()


def test_16_bit_boxes_are_computed_in_32_bits() -> None:
    large = torch.tensor([[0, 0, 0, 100, 100, 100]], dtype=torch.float16)  # a volume of 1e6 is no float16
    assert box_area(large).item() == 1e6
    assert box_iou(large, large).dtype == torch.float32
    assert box_iou(large, large).item() == 1
    assert box_iou(large.int(), large.int()).item() == 1
    assert box_iou(large.double(), large.double()).dtype == torch.float64


def test_giou_draws_distant_boxes_together() -> None:
    far = (ONE_VOXEL + 20).requires_grad_()
    (1 - paired_giou(far, ONE_VOXEL)).sum().backward()
    assert far.grad is not None
    assert (far.grad.reshape(2, 3).sum(dim=0) > 0).all()  # a step down the gradient moves it towards the origin


@given(boxes(), boxes())
def test_centre_distance_equals_scipy(boxes1: Tensor, boxes2: Tensor) -> None:
    spacing = (1.5, 0.5, 0.8)
    centres1, centres2 = (monai_boxes.box_centers(b).double() * torch.tensor(spacing) for b in (boxes1, boxes2))
    expected = torch.from_numpy(cdist(centres1.numpy(), centres2.numpy())).float()
    torch.testing.assert_close(centre_distance(boxes1, boxes2, spacing), expected, rtol=1e-4, atol=1e-3)


def test_distance_of_many_distant_boxes_to_themselves_is_zero() -> None:
    many = random_boxes(100, seed=0) + 4000
    assert centre_distance(many, many, (1, 1, 1)).diagonal().max() == 0


def test_centres_lie_in_the_middle() -> None:
    assert box_centres(ONE_VOXEL).tolist() == [[3.5, 4.5, 5.5]]


@given(boxes(extent=40))
def test_clipping_equals_monai_and_what_lies_outside_becomes_empty(some: Tensor) -> None:
    shape = (10, 20, 30)
    clipped = clip_boxes(some - 2, shape)
    torch.testing.assert_close(clipped, monai_boxes.clip_boxes_to_image(some - 2, shape, remove_empty=False)[0])
    inside = box_iou(some - 2, torch.tensor([[0, 0, 0, *shape]])).flatten() > 0
    assert (nonempty(clipped) == inside).all()


def test_nonempty_asks_every_side() -> None:
    some = torch.tensor([[0.0, 0, 0, 1, 1, 1], [0, 0, 0, 2, 2, 0], [0, 0, 0, 2, 2, 2]])
    assert nonempty(some).tolist() == [True, False, True]
    assert nonempty(some, min_size=2).tolist() == [False, False, True]


def test_no_boxes_give_empty_results() -> None:
    none = torch.zeros(0, 6)
    assert box_iou(none, ONE_VOXEL).shape == (0, 1)
    assert box_giou(ONE_VOXEL, none).shape == (1, 0)
    assert paired_giou(none, none).shape == (0,)
    assert centre_distance(none, ONE_VOXEL, (1, 1, 1)).shape == (0, 1)
    assert clip_boxes(none, (1, 1, 1)).shape == (0, 6)
    assert nonempty(none).shape == (0,)
