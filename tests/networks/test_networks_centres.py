"""The head and the loss of a map of centres, and the norms between convolutions."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from cmb_plugin.networks import LOCAL_NORMS, NORMS, CentreHead, centre_loss, hard_centre_loss, sample_anchors


def test_the_centre_loss_is_cornernets_formula():
    """Law & Deng 2018, equation 1, with alpha 2 and beta 4, location by location."""
    rng = np.random.default_rng(0)
    logits, target = rng.normal(0, 3, (2, 3, 50)), rng.random((2, 3, 50))
    target[0, 1, 4] = target[1, 2, 7] = target[1, 0, 9] = 1
    total = 0.0
    for logit, y in zip(logits.ravel(), target.ravel(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        total -= (1 - p) ** 2 * math.log(p) if y == 1 else (1 - y) ** 4 * p**2 * math.log(1 - p)
    loss = centre_loss(torch.tensor(logits), torch.tensor(target))
    assert loss.item() == pytest.approx(total / 3, rel=1e-9)


def test_a_map_without_centres_is_divided_by_one():
    logits = torch.zeros(4)
    assert centre_loss(logits, torch.zeros(4)).item() == pytest.approx(4 * 0.25 * math.log(2))


@pytest.mark.parametrize("centres", [0, 1, 5])
def test_the_hard_loss_is_the_entropy_of_positives_and_of_the_hardest_others(centres):
    """Location by location, with the sorting of plain Python."""
    rng = np.random.default_rng(0)
    logits, target = rng.normal(0, 3, (2, 60, 1)), rng.random((2, 60, 1)) * 0.9
    target[1, :centres] = 1
    hits, misses = [], []
    for logit, y in zip(logits.ravel(), target.ravel(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        if y == 1:
            hits.append(-math.log(p))
        else:
            misses.append(-((1 - y) ** 4) * math.log(1 - p))
    hardest = sorted(misses, reverse=True)[: 3 * max(centres, 2)]
    expected = (sum(hits) + 2 / 3 * sum(hardest)) / max(1, centres)
    loss = hard_centre_loss(torch.tensor(logits), torch.tensor(target), centres, 3)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_the_hard_loss_of_a_map_with_fewer_locations_than_negatives_takes_them_all():
    loss = hard_centre_loss(torch.zeros(1, 5, 1), torch.zeros(1, 5, 1), 0, 100, weight=100.0)
    assert loss.item() == pytest.approx(5 * math.log(2))


@pytest.mark.parametrize("value", [100.0, -100.0])
@pytest.mark.parametrize("formula", [centre_loss, lambda logits, target: hard_centre_loss(logits, target, 2, 1)])
def test_the_gradient_of_the_centre_loss_is_finite_for_the_surest_wrong_answers(value, formula):
    logits = torch.full((1, 6), value, requires_grad=True)
    target = torch.tensor([[0, 0.5, 0.999999, 1, 1, 0]])
    loss = formula(logits, target)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    wrong = 3 if value < 0 else 0
    assert logits.grad[0, wrong].abs() > 0.1  # it is pulled back


@pytest.mark.parametrize("classes", [1, 3])
def test_a_centre_head_says_a_logit_per_class_and_a_box_per_location(classes):
    torch.manual_seed(0)
    head = CentreHead(8, classes, prior=0.01).eval()
    features = torch.randn(2, 8, 3, 4, 5)
    logits, codes = head([features])
    assert logits.shape == (2, 60, classes)
    assert codes.shape == (2, 60, 6)
    assert torch.sigmoid(logits).mean().item() == pytest.approx(0.01, rel=0.2)
    assert codes.abs().mean() < 0.1


def test_the_locations_of_a_centre_head_are_in_the_order_of_a_flattened_map():
    torch.manual_seed(0)
    head = CentreHead(8, 2)
    features = torch.randn(2, 8, 3, 4, 5)
    logits, codes = head([features])
    one = [out[0, 0] for out in head([features[1:, :, 1:2, 2:3, 3:4]])]
    torch.testing.assert_close([logits[1, (1 * 4 + 2) * 5 + 3], codes[1, (1 * 4 + 2) * 5 + 3]], one)


def test_a_centre_head_answers_in_float32_under_bfloat16():
    """In bfloat16 (8 bits) neighbouring locations of a clear lesion would have one score, and no peak."""
    torch.manual_seed(0)
    head = CentreHead(8, 1).train()
    nn.init.normal_(head.logits.weight, std=3)
    features = torch.randn(1, 8, 6, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, codes = head([features])
    assert logits.dtype == codes.dtype == torch.float32
    assert len(logits.unique()) > len(logits.bfloat16().unique())
    (logits.sum() + codes.sum()).backward()
    assert all(torch.isfinite(weight.grad).all() for weight in head.parameters())


@pytest.mark.parametrize("name", NORMS)
def test_norms_keep_the_shape_and_local_ones_do_not_look_beyond_a_location(name):
    torch.manual_seed(0)
    norm = NORMS[name](32)
    features = torch.randn(2, 32, 4, 4, 4) * 3 + 1
    assert norm.train()(features).shape == features.shape
    changed = features.clone()
    changed[..., 3] += 10
    is_local = torch.equal(norm.eval()(features)[..., :3], norm(changed)[..., :3])
    assert is_local == (name in LOCAL_NORMS)


def test_negatives_without_a_pool_are_drawn_from_all_alike():
    matches, scores = torch.full((1, 10_000), -1), torch.arange(10_000.0)[None]
    generator = torch.Generator().manual_seed(0)
    _, negatives = sample_anchors(matches, scores, per_image=1500, pool=None, generator=generator)
    assert len(negatives.unique()) == 1000
    shares = np.histogram(negatives.numpy(), bins=10, range=(0, 10_000))[0]
    assert shares.min() > 70  # 100 expected, standard deviation 9.5
