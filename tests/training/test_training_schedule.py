"""The learning rate at the points that define it."""

import pytest
from small_plan import PLAN

from cmb_plugin.plugins import trainers
from cmb_plugin.training import TrainerConfig
from cmb_plugin.training.schedule import learning_rate

CONFIG = TrainerConfig(
    epochs=10,
    steps_per_epoch=100,
    swa_epochs=2,
    learning_rate=0.01,
    warmup_steps=50,
    swa_learning_rate=1e-3,
    swa_final_learning_rate=1e-4,
)


def test_warm_up_is_linear_and_reaches_the_peak():
    assert learning_rate(0, CONFIG) == pytest.approx(0.01 / 50)
    assert learning_rate(49, CONFIG) == pytest.approx(0.01 * (1 - 49 / 1000) ** 0.9)


def test_decay_is_polynomial():
    assert learning_rate(500, CONFIG) == pytest.approx(0.01 * 0.5**0.9)


def test_averaging_epochs_run_downwards_and_start_again():
    first, last, again = (learning_rate(step, CONFIG) for step in (1000, 1099, 1100))
    assert (first, last, again) == (pytest.approx(1e-3), pytest.approx(1e-4), pytest.approx(1e-3))
    inside = [learning_rate(step, CONFIG) for step in range(1000, 1100)]
    assert inside == sorted(inside, reverse=True)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_goes_with_and_without_momentum(momentum):
    config = TrainerConfig(optimizer="sgd", momentum=momentum)
    optimizer = trainers.get("RetinaUNetV001")(PLAN, trainer_cfg=config).configure_optimizers()["optimizer"]
    assert {group["momentum"] for group in optimizer.param_groups} == {momentum}
