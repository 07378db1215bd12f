"""Weight averaging: the mean of the parameters and of batch norm's statistics, the last of the other buffers."""

from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cmb_plugin.training.averaging import WeightAveraging


class Network(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.tied = self.layer
        self.register_buffer("threshold", torch.tensor(0.0))
        self.register_buffer("steps", torch.tensor(0))


@pytest.fixture
def averaged():
    """A network after five epochs, its averaging from the second epoch on, and torch's mean of the same epochs."""
    torch.manual_seed(0)
    network, averaging, oracle = Network(), WeightAveraging(first_epoch=1), AveragedModel(Network(), use_buffers=False)
    for epoch in range(5):
        with torch.no_grad():
            network.layer.weight.normal_()
            network.layer.bias.normal_()
        network.threshold.fill_(epoch)
        network.steps.fill_(10 * epoch)
        averaging.on_train_epoch_end(SimpleNamespace(current_epoch=epoch, world_size=1), network)
        if epoch >= 1:
            oracle.update_parameters(network)
    return network, averaging, oracle.module.state_dict()


def checkpoint_of(network, averaging):
    checkpoint = {"state_dict": network.state_dict()}
    averaging.on_save_checkpoint(None, network, checkpoint)
    return checkpoint


def test_the_mean_is_torchs_and_buffers_are_the_last(averaged):
    network, averaging, expected = averaged
    checkpoint = checkpoint_of(network, averaging)
    assert checkpoint["averaged_epochs"] == 4
    torch.testing.assert_close(checkpoint["averaged_weights"], dict(expected))
    assert checkpoint["averaged_weights"]["threshold"] == 4
    assert checkpoint["averaged_weights"]["steps"] == 40


def test_the_mean_is_in_place_for_a_block_and_the_raw_weights_after_it(averaged):
    network, averaging, expected = averaged
    raw = {name: value.clone() for name, value in network.state_dict().items()}
    with averaging.applied(network):
        torch.testing.assert_close(dict(network.state_dict()), dict(expected))
        network.threshold.fill_(7)  # what is chosen with the mean in place stays chosen
    torch.testing.assert_close(dict(network.state_dict()), {**raw, "threshold": torch.tensor(7.0)})


def test_what_was_chosen_after_averaging_is_saved_with_the_mean(averaged):
    network, averaging, _ = averaged
    network.threshold.fill_(0.25)
    assert checkpoint_of(network, averaging)["averaged_weights"]["threshold"] == 0.25


def test_a_checkpoint_that_averaged_buffers_too_is_taken_up(averaged):
    network, averaging, _ = averaged
    before = {**averaging.mean, "threshold": torch.tensor(2.5), "steps": torch.tensor(25.0)}
    resumed = WeightAveraging(first_epoch=1)
    resumed.on_load_checkpoint(None, network, {"averaged_weights": before, "averaged_epochs": 4})
    torch.testing.assert_close(checkpoint_of(network, resumed), checkpoint_of(network, averaging))


@pytest.fixture
def with_batch_norm():
    """A network with batch norm after four epochs, the averaging of the last three, and its state after each."""
    torch.manual_seed(0)
    network, averaging, states = Network(), WeightAveraging(first_epoch=1), []
    network.norm = nn.BatchNorm1d(2)
    for epoch in range(4):
        network.train()
        network.norm(torch.randn(8, 2) * (epoch + 1) + epoch)
        averaging.on_train_epoch_end(SimpleNamespace(current_epoch=epoch, world_size=1), network)
        states.append({name: value.clone() for name, value in network.state_dict().items()})
    return network, averaging, states


def test_the_statistics_of_batch_norm_are_averaged_and_its_count_is_not(with_batch_norm):
    network, averaging, states = with_batch_norm
    saved = checkpoint_of(network, averaging)["averaged_weights"]
    for name in ("norm.running_mean", "norm.running_var"):
        torch.testing.assert_close(saved[name], torch.stack([state[name] for state in states[1:]]).mean(dim=0))
        assert not torch.allclose(saved[name], states[-1][name])
    assert saved["norm.num_batches_tracked"] == 4
    assert saved["threshold"] == states[-1]["threshold"]


def test_batch_statistics_are_taken_up_exactly_where_a_checkpoint_left_them(with_batch_norm):
    network, averaging, _ = with_batch_norm
    resumed = WeightAveraging(first_epoch=1)
    resumed.on_load_checkpoint(None, network, checkpoint_of(network, averaging))
    for each in (averaging, resumed):
        each.on_train_epoch_end(SimpleNamespace(current_epoch=4, world_size=1), network)
    assert resumed.count == averaging.count == 4
    torch.testing.assert_close(resumed.mean, averaging.mean, rtol=0, atol=0)
    raw = network.norm.running_mean.clone()
    with resumed.applied(network):
        torch.testing.assert_close(network.norm.running_mean, averaging.mean["norm.running_mean"])
    torch.testing.assert_close(network.norm.running_mean, raw, rtol=0, atol=0)
