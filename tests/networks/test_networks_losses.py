"""Losses against closed formulas and MONAI."""

import math

import monai.losses
import pytest
import torch
import torch.nn.functional as F

from cmb_plugin.networks import classification_loss, regression_loss, sample_anchors, segmentation_loss


def test_sampling_keeps_every_positive_when_there_are_few_and_balances_negatives():
    matches = torch.full((2, 5000), -1)
    matches[0, :5] = 0
    positives, negatives = sample_anchors(matches, torch.rand(2, 5000), per_image=32, positive_fraction=1 / 3)
    assert sorted(positives.tolist()) == [0, 1, 2, 3, 4]
    assert len(negatives) == int(64 * 2 / 3)
    assert (matches.flatten()[negatives] == -1).all()


def test_sampling_limits_positives_to_their_share():
    matches = torch.zeros(1, 1000, dtype=torch.long)
    matches[0, 500:] = -1
    positives, negatives = sample_anchors(matches, torch.rand(1, 1000), per_image=30, positive_fraction=1 / 3)
    assert (len(positives), len(negatives)) == (10, 20)


def test_sampling_draws_negatives_from_the_hard_pool_only():
    matches = torch.full((1, 10_000), -1)
    scores = torch.arange(10_000.0)[None]
    _, negatives = sample_anchors(matches, scores, per_image=30, positive_fraction=1 / 3, pool=5)
    assert negatives.min() >= 10_000 - 20 * 5
    assert len(negatives.unique()) == 20


def test_sampling_is_repeatable_with_a_generator():
    matches, scores = torch.full((1, 1000), -1), torch.rand(1, 1000)
    draws = [sample_anchors(matches, scores, generator=torch.Generator().manual_seed(s))[1].tolist() for s in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]


def test_sampling_copes_with_neither_kind():
    nothing = torch.full((1, 0), -1)
    assert [len(part) for part in sample_anchors(nothing, torch.zeros(1, 0))] == [0, 0]
    all_positive = torch.zeros(1, 3, dtype=torch.long)
    assert [len(part) for part in sample_anchors(all_positive, torch.rand(1, 3))] == [3, 0]


def test_classification_loss_is_binary_cross_entropy_of_each_class():
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.5], [9.0, 9.0]])
    labels = torch.tensor([0, 0, 0])
    loss = classification_loss(logits, labels, positives=torch.tensor([0]), negatives=torch.tensor([1]))
    by_hand = [math.log1p(math.exp(-2)), math.log1p(math.exp(-1)), math.log1p(math.exp(0.5)), math.log1p(math.exp(0.5))]
    assert loss.item() == pytest.approx(sum(by_hand) / 4)


def test_regression_loss_is_zero_for_equal_boxes_and_for_none():
    boxes = torch.tensor([[0.0, 0, 0, 2, 3, 4], [5, 5, 5, 6, 6, 6]])
    assert regression_loss(boxes, boxes).item() == pytest.approx(0, abs=1e-6)
    none = torch.zeros(0, 6, requires_grad=True)
    regression_loss(none, none).backward()
    assert none.grad is not None


def test_segmentation_loss_equals_cross_entropy_and_monai_batch_dice():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 4, 5, 6, generator=generator)
    target = (torch.rand(2, 4, 5, 6, generator=generator) < 0.3).long()
    dice = monai.losses.DiceLoss(batch=True, smooth_nr=1e-5, smooth_dr=1e-5)(logits.softmax(1)[:, 1:], target[:, None])
    expected = 0.5 * F.cross_entropy(logits, target) + 0.5 * dice
    torch.testing.assert_close(segmentation_loss(logits, target), expected)


def test_segmentation_loss_without_lesions_is_the_cross_entropy_half():
    logits, target = torch.randn(1, 2, 3, 3, 3), torch.zeros(1, 3, 3, 3)
    torch.testing.assert_close(segmentation_loss(logits, target), 0.5 * F.cross_entropy(logits, target.long()))


def test_the_foreground_weight_is_that_of_weighted_cross_entropy():
    logits, target = torch.randn(1, 2, 4, 4, 4), torch.zeros(1, 4, 4, 4, dtype=torch.long)
    target[0, 1, 1, 1] = 1
    with_weight, without = (segmentation_loss(logits, target, weight) for weight in (50.0, 1.0))
    expected = F.cross_entropy(logits, target, torch.tensor([1.0, 50.0])) - F.cross_entropy(logits, target)
    torch.testing.assert_close(with_weight - without, 0.5 * expected)
