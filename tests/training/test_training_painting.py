"""Painted deposits and vessels: as large and dark as drawn, in tissue, labelled the one and not the other."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from short_training import PLAN

from cmb_plugin.errors import UserError
from cmb_plugin.paths import FoldFolder
from cmb_plugin.plugins import trainers
from cmb_plugin.training import Augmentation, AugmentConfig, PatchDataset, PreparedCases, TrainerConfig, fit
from cmb_plugin.training.painting import Ball, with_painted

SHAPE, SPACING = (20, 36, 36), (1.5, 0.8, 0.8)
NOTHING = torch.zeros(SHAPE, dtype=torch.int16)
QUIET = dict.fromkeys(("spatial", "mirror", "noise", "blur", "brightness", "contrast", "low_resolution", "gamma"), 0.0)


def tissue(channels=1, seed=0):
    """Tissue of 0 with a little noise, and air of -6 in the first slices."""
    image = torch.randn(channels, *SHAPE, generator=torch.Generator().manual_seed(seed)) / 10
    image[:, :5] -= 6
    return image


def painted(seed, image=None, instances=NOTHING, polarity=("dark",), last=0):
    image = tissue() if image is None else image
    return with_painted(image, instances, SPACING, polarity, seed, last)


def numbers(instances):
    return [int(n) for n in instances.unique() if n > 0]


@pytest.mark.parametrize("seed", range(6))
def test_a_deposit_has_the_volume_of_its_ellipsoid(seed):
    rng, mm = np.random.default_rng(seed), np.array([0.25, 0.2, 0.2])
    shape = (100, 125, 125)
    ball = Ball.drawn(mm * shape / 2, rng)
    distance = ball.distance(ball.window(mm, 0), shape, mm)
    volume = float((distance < 1).sum() * mm.prod())
    assert volume == pytest.approx(4 / 3 * math.pi * ball.semi_mm.prod(), rel=0.03)


def test_half_of_the_contrast_is_reached_at_the_rim_and_nothing_beyond_the_edge():
    ball = Ball(np.zeros(3), np.eye(3), np.full(3, 2.0), softness=0.4, contrast=0.9)
    assert ball.share(np.array([0.0, 0.79, 1.0, 1.21, 5.0])) == pytest.approx([0.9, 0.9, 0.45, 0.0, 0.0])


def test_the_window_leaves_nothing_of_a_deposit_out():
    rng, mm, shape = np.random.default_rng(3), np.array([1.5, 0.8, 0.8]), (30, 60, 60)
    for _ in range(30):
        ball = Ball.drawn(rng.uniform(0, mm * shape), rng)
        whole = ball.share(ball.distance((slice(0, None),) * 3, shape, mm))
        inside = np.zeros(shape)
        window = ball.window(mm, 0)
        inside[window] = ball.share(ball.distance(window, shape, mm))
        np.testing.assert_array_equal(inside, whole)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31 - 1), last=st.integers(0, 300))
def test_deposits_are_dark_labelled_and_in_tissue(seed, last):
    image = tissue()
    result, instances = painted(seed, image, last=last)
    found = numbers(instances)
    assert found == list(range(last + 1, last + 1 + len(found)))  # at most three, none of them empty
    assert len(found) <= 3
    assert (result <= image + 1e-5).all()  # no voxel is brighter than it was
    assert torch.equal(image, tissue())  # nor is the patch that was given changed
    for number in found:
        where = instances == number
        middle = where.nonzero().double().mean(0)
        assert middle[0] >= 3.5  # not in air, but for what a deposit at its edge reaches into it
        drawn = (image - result)[where & (image > -1)]
        assert not len(drawn) or drawn.max() > 0.25 * 6  # half the way to the darkest of the patch, in part a voxel's


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31 - 1))
def test_lesions_that_were_there_stay_and_keep_their_distance(seed):
    instances = NOTHING.clone()
    instances[10:13, 16:20, 16:20] = 7
    instances[6:7, 4:6, 4:6] = 3
    instances[:, 30:] = -1  # judged background
    _, after = painted(seed, instances=instances)
    for number in (3, 7):
        assert torch.equal(after == number, instances == number)
    others = [number for number in numbers(after) if number > 7]
    assert others == list(range(8, 8 + len(others)))
    old = (instances > 0).nonzero().double() * torch.tensor(SPACING)
    for number in others:
        new = (after == number).nonzero().double() * torch.tensor(SPACING)
        assert torch.cdist(old, new).min() > 1.0
    assert ((after == instances) | ((instances <= 0) & (after > 7))).all()


def test_vessels_are_dark_long_and_no_lesion():
    alone = 0
    for seed in range(40):
        image = tissue()
        result, instances = painted(seed, image)
        if numbers(instances):
            continue
        changed = ((image - result) > 0.3)[0]
        if changed.any():
            alone += 1
            ends = changed.nonzero().double() * torch.tensor(SPACING)
            assert (ends.max(0).values - ends.min(0).values).max() > 3.5
    assert alone >= 3


def test_where_microbleeds_are_bright_they_are_painted_bright_and_phase_stays():
    image = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1)) / 10
    runs = (painted(seed, image, polarity=("bright", "dark", "signed")) for seed in range(20))
    result, _ = next(run for run in runs if numbers(run[1]))
    assert (result[0] >= image[0] - 1e-5).all()
    assert (result[0] - image[0]).max() > 0.5
    assert (result[1] <= image[1] + 1e-5).all()
    assert (image[1] - result[1]).max() > 1
    assert torch.equal(result[2], image[2])


def test_nothing_is_painted_into_air():
    air = torch.randn(1, *SHAPE) / 10 - 6
    result, instances = painted(0, air)
    assert torch.equal(result, air)
    assert not instances.any()


def augmented(seed, **changes):
    config = AugmentConfig(**{**QUIET, **changes})
    return Augmentation(SHAPE, SPACING, config)(tissue(), NOTHING, seed)


def test_what_is_painted_depends_on_the_seed_alone():
    first, again, other = augmented(1, painted=1), augmented(1, painted=1), augmented(2, painted=1)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_as_many_patches_are_painted_as_the_configuration_has_it():
    changed = sum(not torch.equal(augmented(seed, painted=0.3)[0], tissue()) for seed in range(200))
    assert 0.3 * 200 * 0.6 <= changed <= 0.3 * 200 * 1.3  # one of 24 paintings is empty


def test_painted_lesions_have_the_class_that_the_settings_say(prepared):
    augmentation = Augmentation((16, 16, 16), (1.0, 1.0, 1.0), AugmentConfig(**QUIET, painted=1.0, painted_class=2))
    data = PatchDataset(
        PreparedCases(prepared, ("a", "healthy")),
        batch_size=2,
        foreground_fraction=0.5,
        augmentation=augmentation,
        patch_size=(16, 16, 16),
        seed=0,
    )
    labels = [data[index].labels.tolist() for index in range(60)]
    assert {label for of_patch in labels for label in of_patch} == {0, 2}
    assert all(of_patch.count(0) <= 1 for of_patch in labels)  # a scan has one lesion of its own
    for index in range(60):
        sample = data[index]
        for box, label in zip(sample.boxes.int().tolist(), sample.labels.tolist(), strict=True):
            inside = sample.class_map[box[0] : box[3], box[1] : box[4], box[2] : box[5]]
            assert (inside == 1 + label).any()


@pytest.mark.parametrize(
    ("plan", "config", "message"),
    [
        ({"modalities": ("phase",)}, {}, "microbleeds are dark or bright in none of phase"),
        ({}, {"painted_class": 1}, "the classes are cmb"),
        ({"target": "regions"}, {}, "the plan is for regions"),
    ],
)
def test_settings_that_do_not_suit_the_plan_are_one_line(prepared, tmp_path, plan, config, message):
    module = trainers.get("RetinaUNetV001")(PLAN, None, TrainerConfig(epochs=1, steps_per_epoch=1), 0)
    module.plan = dataclasses.replace(PLAN, **plan)
    with pytest.raises(UserError, match=message):
        fit(module, FoldFolder(tmp_path), prepared, ["a"], ["c"], AugmentConfig(painted=0.5, **config))
