"""Trainers whose networks know how far they look."""

import numpy as np
import torch
from small_plan import PLAN
from torch import nn

from cmb_plugin.inference import InferenceConfig, PatchDetections, predict_array
from cmb_plugin.training import DetectionModule


class Smoothing(DetectionModule):
    """Its answer is the mean of 3x3x3 voxels."""

    def build_network(self):
        return nn.AvgPool3d(3, 1, 1)

    def losses(self, batch):
        raise NotImplementedError

    def find(self, images):
        self.seen = [*getattr(self, "seen", []), tuple(images.shape[2:])]
        nothing = PatchDetections(torch.zeros(0, 6), torch.zeros(0), torch.zeros(0).long())
        return [nothing] * len(images), self.network(images)[:, 0]


class Knowing(Smoothing):
    halo = (1, 1, 1)


def test_a_trainer_that_says_nothing_is_given_overlapping_patches():
    module, data = Smoothing(PLAN).eval(), np.random.default_rng(0).normal(size=(1, 20, 50, 50)).astype(np.float32)
    predict_array(module, data)
    assert module.halo is None
    assert {*module.seen} == {PLAN.patch_size}


def test_a_trainer_with_a_halo_is_given_tiles_that_fit_the_plans_strides():
    module, data = Knowing(PLAN).eval(), np.random.default_rng(0).normal(size=(1, 20, 50, 50)).astype(np.float32)
    found = predict_array(module, data, InferenceConfig(tile_voxels=8000)).foreground
    assert module.divisor == PLAN.architecture.divisor
    assert len(module.seen) > 1
    assert not any(side % step for tile in module.seen for side, step in zip(tile, module.divisor, strict=True))
    expected = module.network(torch.from_numpy(data))[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)
