"""The U-Net of segmentation trainers and its loss, against MONAI and closed forms."""

import math

import monai
import pytest
import torch

from cmb_plugin.networks import UNet, class_shares, dice_and_cross_entropy
from cmb_plugin.planning import Architecture

ARCHITECTURE = Architecture((4, 8, 8), ((1, 1, 1), (2, 2, 2), (1, 2, 2)), ((3, 3, 3),) * 3, (2, 1, 2), 0, ())


def logits_and_classes(seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 1 + classes, 5, 6, 7, generator=generator)
    return logits, torch.randint(0, 1 + classes, (2, 5, 6, 7), generator=generator)


@pytest.mark.parametrize("seed", range(3))
def test_the_sum_equals_monai(seed):
    logits, classes = logits_and_classes(seed)
    monais = monai.losses.DiceCELoss(
        softmax=True, to_onehot_y=True, include_background=False, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
    )
    assert sum(dice_and_cross_entropy(logits, class_shares(classes, 4))) == pytest.approx(
        monais(logits, classes[:, None]).item()
    )


def test_undecided_scores_give_the_closed_form():
    classes = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    classes[0, 0] = 1  # a quarter of the voxels
    dice, cross_entropy = dice_and_cross_entropy(torch.zeros(1, 2, 4, 4, 4), class_shares(classes, 2))
    assert cross_entropy.item() == pytest.approx(math.log(2))
    assert dice.item() == pytest.approx(1 - 2 * 16 * 0.5 / (64 * 0.5 + 16), abs=1e-5)


def test_a_class_that_the_batch_lacks_is_not_pushed():
    logits, _ = logits_and_classes()
    present = torch.randint(0, 3, logits[:, 0].shape, generator=torch.Generator().manual_seed(1))
    without, _ = dice_and_cross_entropy(logits, class_shares(present, 4))
    scores = logits.softmax(dim=1)
    by_hand = [
        1 - 2 * (scores[:, k] * (present == k)).sum() / (scores[:, k].sum() + (present == k).sum()) for k in (1, 2)
    ]
    assert without.item() == pytest.approx(float(sum(by_hand)) / 2, abs=1e-5)
    logits.requires_grad_()
    dice, _ = dice_and_cross_entropy(logits, class_shares(torch.zeros_like(present), 4))
    dice.backward()
    assert dice.item() == 0
    assert logits.grad.abs().max() == 0


def test_weights_of_voxels_make_a_weighted_mean():
    logits, classes = logits_and_classes()
    chosen = torch.zeros(classes.shape)
    chosen[1] = 3.0
    shares = class_shares(classes, 4)
    _, only_second = dice_and_cross_entropy(logits, shares, chosen)
    _, second = dice_and_cross_entropy(logits[1:], shares[1:])
    assert only_second.item() == pytest.approx(second.item())


def test_a_voxel_of_two_classes_costs_the_mean_of_both():
    logits, classes = logits_and_classes()
    half = [class_shares(one, 4) for one in (classes, classes.flip(-1))]
    _, mixed = dice_and_cross_entropy(logits, (half[0] + half[1]) / 2)
    alone = [dice_and_cross_entropy(logits, one)[1].item() for one in half]
    assert mixed.item() == pytest.approx(sum(alone) / 2)


def test_rare_classes_begin_at_their_prior():
    network = UNet(1, 3, ARCHITECTURE, prior=0.01)
    torch.nn.init.zeros_(network.decoder.seg_layers[-1].weight)
    probability = network.eval()(torch.randn(1, 1, 8, 16, 16))[0].softmax(dim=1).mean(dim=(0, 2, 3, 4))
    torch.testing.assert_close(probability, torch.tensor([0.98, 0.01, 0.01]))


def test_every_weight_of_the_network_is_used_in_training():
    network = UNet(2, 4, ARCHITECTURE)
    images = torch.randn(1, 2, 8, 12, 16)
    stages = network(images)
    assert [scores.shape for scores in stages] == [(1, 4, 8, 12, 16), (1, 4, 4, 6, 8)]
    sum(scores.square().sum() for scores in stages).backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []
    (alone,) = network.eval()(images)
    assert torch.equal(alone, stages[0])
