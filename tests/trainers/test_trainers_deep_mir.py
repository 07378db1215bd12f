"""DeepMIRUNet: its levels, its weights by lesion size, and modalities dropped in training and missing later."""

import dataclasses
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from cmb_plugin.trainers.deep_mir_unet import deepened, lesion_weights, random_subsets
from dies_at import DiesAt
from hypothesis import given
from hypothesis import strategies as st
from small_plan import PLAN
from tiny_task import tiny_case

from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid
from cmb_plugin.inference import predict_array
from cmb_plugin.paths import FoldFolder
from cmb_plugin.planning import Architecture
from cmb_plugin.planning.topology import build_architecture, plan_topology
from cmb_plugin.plugins import trainers
from cmb_plugin.preparation import Normalisation, Preprocessing, StoredCase, preprocess_case, save_case
from cmb_plugin.training import AugmentConfig, Batch, TrainerConfig, fit, loop, seed_all

DeepMIRUNet = trainers.get("DeepMIRUNet")
SPACING = (1.5, 1.2, 1.2)
TWO = dataclasses.replace(
    PLAN,
    modalities=("swi", "qsm"),
    preprocessing=Preprocessing(SPACING, normalisation=(Normalisation(), Normalisation())),
    architecture=Architecture(
        (8, 16), ((1, 1, 1), (2, 2, 2)), ((3, 3, 3),) * 2, (1, 1), pyramid_channels=8, detection_levels=(0,)
    ),
    anchors=dataclasses.replace(PLAN.anchors, sizes=PLAN.anchors.sizes[:1]),
)
CONFIG = TrainerConfig(
    epochs=3, swa_epochs=1, steps_per_epoch=20, optimizer="adamw", learning_rate=2e-2, warmup_steps=2,
    swa_learning_rate=4e-3, validate_every=4, precision="32-true",
)  # fmt: skip


# Modality dropout


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=8), st.integers(0, 2**31))
def test_never_all_modalities_are_dropped_and_none_is_made_up(present, seed):
    present = torch.tensor(present)
    kept = random_subsets(present, 1.0, torch.Generator().manual_seed(seed))
    assert not (kept & ~present).any()
    assert torch.equal(kept.any(dim=1), present.any(dim=1))
    assert torch.equal(random_subsets(present, 0.0, torch.Generator().manual_seed(seed)), present)


def test_subsets_are_drawn_uniformly():
    n = 14_000
    kept = random_subsets(torch.ones(n, 3, dtype=torch.bool), 1.0, torch.Generator().manual_seed(0))
    counts = Counter(map(tuple, kept.int().tolist()))
    assert set(counts) == set(product((0, 1), repeat=3)) - {(0, 0, 0)}
    chi_square = sum((count - n / 7) ** 2 / (n / 7) for count in counts.values())
    assert chi_square < 22.5  # 99.9 % of a chi-square distribution of 6 degrees of freedom


def test_the_network_is_shown_what_was_kept_and_the_same_after_a_resumption():
    module = DeepMIRUNet(TWO, trainer_cfg=CONFIG, seed=5)
    module.model_cfg = dataclasses.replace(module.model_cfg, modality_dropout=1.0)
    images = torch.randn(16, 2, 16, 16, 16)
    classes = torch.zeros(16, 16, 16, 16, dtype=torch.uint8)
    none = [torch.zeros(0, 6)] * 16, [torch.zeros(0, dtype=torch.long)] * 16
    shown = []
    module.network.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    for _ in range(2):
        module.losses(Batch(images, *none, classes, class_map=classes))
    assert torch.equal(*shown)
    present = (shown[0] != 0).flatten(2).any(dim=2)
    assert {tuple(row) for row in present.tolist()} == {(True, True), (True, False), (False, True)}
    assert torch.equal(shown[0], images * present[:, :, None, None, None])


# Levels


@pytest.mark.parametrize(
    ("spacing", "patch"),
    [((2.5, 0.9, 0.9), (16, 48, 48)), ((1.0, 1.0, 1.0), (64, 64, 64)), ((4.0, 0.5, 0.5), (8, 96, 96))],
)
def test_levels_go_on_below_those_of_the_patch_rule_and_begin_at_full_resolution(spacing, patch):
    strides, kernels, padded = plan_topology(spacing, patch)
    plain = build_architecture(
        strides, kernels, base_features=16, max_features=320, pyramid_channels=32, finest_level=0, levels=1
    )
    deep = deepened(plain, padded, 2, 1.5)
    assert deep.strides[: len(strides)] == tuple(strides)
    assert deep.stride_of(0) == (1, 1, 1)
    assert len(deep.strides) > len(strides)
    assert deep.features[0] == 24
    assert all(side % step == 0 and side // step >= 2 for side, step in zip(padded, deep.divisor, strict=True))
    lengths = {len(deep.features), len(deep.strides), len(deep.kernels), len(deep.convs_per_stage)}
    assert lengths == {len(deep.strides)}


def test_a_network_that_cannot_go_deeper_stays_as_it_is():
    odd = dataclasses.replace(PLAN.architecture, features=(8, 8, 8))
    assert len(deepened(odd, (2, 12, 12), 5, 1.0).strides) == 3  # the coarsest map has 1 x 3 x 3 voxels
    assert deepened(odd, (2, 12, 12), 5, 1.0) == odd


def test_a_network_of_one_stage_is_the_users_error():
    """As scans of fewer than 8 voxels a side give one: there would be nothing to decode, and nothing to learn."""
    strides, kernels, patch = plan_topology((1.0, 1.0, 1.0), (7, 7, 7))
    architecture = build_architecture(
        strides, kernels, base_features=8, max_features=32, pyramid_channels=8, finest_level=0, levels=1
    )
    with pytest.raises(UserError, match="single stage"):
        DeepMIRUNet(dataclasses.replace(TWO, architecture=architecture, patch_size=patch))


@pytest.mark.parametrize("width", [0.0, 0.01])
def test_no_factor_leaves_a_stage_without_channels(width):
    assert min(deepened(TWO.architecture, TWO.patch_size, 0, width).features) == 1


def test_scores_cover_every_class_of_every_voxel():
    module = DeepMIRUNet(TWO)
    probabilities = module.segment(torch.randn(2, 2, 16, 16, 16))
    assert probabilities.shape == (2, 3, 16, 16, 16)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 16, 16, 16))


# Weights


def test_lesions_count_alike_whatever_their_size():
    classes = torch.zeros(2, 20, 20, 20, dtype=torch.uint8)
    classes[0, 1, 1, 1:3] = 1  # 2 voxels
    classes[0, 5:8, 5:8, 5:8] = 1  # 27 voxels
    classes[0, 8:12, 5:15, 5:10] = 2  # 200 voxels of another class, touching
    classes[1, :10] = 2  # 4000 voxels
    boxes = [
        torch.tensor([[1.0, 1, 1, 2, 2, 3], [5, 5, 5, 8, 8, 8], [8, 5, 5, 12, 15, 10]]),
        torch.tensor([[0.0, 0, 0, 10, 20, 20]]),
    ]
    weights = lesion_weights(classes, boxes, [torch.tensor([0, 0, 1]), torch.tensor([1])], most=100.0, small=8)
    assert weights[classes == 0].unique().tolist() == [1.0]
    assert weights[0, 1, 1, 1:3].tolist() == [100.0, 100.0]
    for lesion in (weights[0, 5:8, 5:8, 5:8], weights[0, 8:12, 5:15, 5:10]):
        assert lesion.sum().item() == pytest.approx(800, rel=1e-5)
    assert weights[1, :10].unique().tolist() == [1.0]


# Training


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Blobs that both modalities show, and a case that lacks the second."""
    folder, rng = tmp_path_factory.mktemp("prepared"), np.random.default_rng(0)
    for name in "abcv":
        images, mask = tiny_case(rng, (24, 32, 32), 2, 4)
        if name == "c":
            images[1] = 0
        case = preprocess_case(images, Grid(mask.shape, SPACING), mask, TWO.preprocessing)
        save_case(folder, name, case, {n: n % 2 for n in range(1, 5)})
    return folder


def run(prepared, folder, resume=False):
    seed_all(0)
    module = DeepMIRUNet(TWO, trainer_cfg=CONFIG, seed=0)
    history = fit(module, FoldFolder(folder), prepared, ["a", "b", "c"], ["v"], AugmentConfig(), resume)
    return module, history, torch.load(FoldFolder(folder).last, weights_only=True)


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    return run(prepared, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("missing", [None, 0, 1])
def test_lesions_are_found_with_any_modality(prepared, whole, missing):
    module, _, checkpoint = whole
    module.load_state_dict(checkpoint["averaged_weights"])
    case = StoredCase.open(prepared, "v")
    data = case.data[:]
    if missing is not None:
        data[missing] = 0
    found = predict_array(module.eval(), data).detections
    middles = (case.boxes[:, :3] + case.boxes[:, 3:]) / 2
    near = np.linalg.norm((middles[:, None] - found.centres[:8]) * SPACING, axis=2).min(axis=1) < 3
    assert near.sum() >= 3  # of 4, among the 8 highest scores


def test_killed_and_resumed_equals_not_killed(prepared, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "TrainingProgress", lambda history: DiesAt(33))
    with pytest.raises(KeyError, match="killed"):
        run(prepared, tmp_path)
    monkeypatch.undo()
    _, history, checkpoint = run(prepared, tmp_path, resume=True)
    assert history.rows == whole[1].rows
    for name, value in whole[2]["averaged_weights"].items():
        assert torch.equal(checkpoint["averaged_weights"][name], value), name
