"""AnatomyUNet learns the regions of a head, and a killed training goes on as if it had not been."""

import dataclasses

import monai
import numpy as np
import pytest
import torch
from dies_at import DiesAt
from region_task import SPACING, head

from cmb_plugin.images import Grid
from cmb_plugin.paths import FoldFolder
from cmb_plugin.planning import Anchors, Architecture, Plan
from cmb_plugin.plugins import trainers
from cmb_plugin.preparation import Normalisation, Preprocessing, preprocess_case, save_case
from cmb_plugin.training import AugmentConfig, Batch, TrainerConfig, fit, loop, seed_all

AnatomyUNet = trainers.get("AnatomyUNet")
PLAN = Plan(
    name="test_3d",
    planner="test",
    task="Task000_Test",
    modalities=("swi",),
    classes=("lobar", "deep", "infratentorial"),
    preprocessing=Preprocessing(SPACING, normalisation=(Normalisation("robust"),)),
    patch_size=(28, 36, 32),
    batch_size=1,
    architecture=Architecture((8, 16), ((1, 1, 1), (2, 2, 2)), ((3, 3, 3),) * 2, (1, 1), 0, ()),
    anchors=Anchors(()),
    memory_gb=1.0,
    memory_estimate_gb=0.1,
    target="regions",
)
CONFIG = TrainerConfig(
    epochs=3, swa_epochs=1, steps_per_epoch=20, optimizer="adamw", learning_rate=2e-2, warmup_steps=2,
    swa_learning_rate=4e-3, validate_every=2, precision="32-true",
)  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("prepared"), np.random.default_rng(0)
    for name in "abc":
        image, regions, _ = head(rng)
        case = preprocess_case(
            image[None], Grid(image.shape, SPACING), regions.astype(int), PLAN.preprocessing, regions=True
        )
        save_case(folder, name, case, {1: 0, 2: 1, 3: 2})
    return folder


def run(prepared, folder, resume=False):
    seed_all(0)
    module = AnatomyUNet(PLAN, trainer_cfg=CONFIG, seed=0)
    history = fit(module, FoldFolder(folder), prepared, ["a", "b"], ["c"], AugmentConfig(), resume)
    return history, torch.load(FoldFolder(folder).last, weights_only=True)


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    return run(prepared, tmp_path_factory.mktemp("whole"))


def test_the_regions_of_an_unseen_head_are_learned(whole):
    row = whole[0].rows[-1]
    assert row["val_dice"] > 0.8
    names = ("lobar", "deep", "infratentorial")
    assert row["val_dice"] == pytest.approx(np.mean([row[f"val_dice_{name}"] for name in names]))
    assert row["dice"] < 0.6 * whole[0].rows[0]["dice"]


def test_killed_and_resumed_equals_not_killed(prepared, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "TrainingProgress", lambda history: DiesAt(33))
    with pytest.raises(KeyError, match="killed"):
        run(prepared, tmp_path)
    monkeypatch.undo()
    history, checkpoint = run(prepared, tmp_path, resume=True)
    assert history.rows == whole[0].rows
    for name, value in whole[1]["averaged_weights"].items():
        assert torch.equal(checkpoint["averaged_weights"][name], value), name


def test_only_left_and_right_are_mirrored():
    assert AnatomyUNet(PLAN).mirror_axes == (2,)
    turned = dataclasses.replace(PLAN, preprocessing=Preprocessing(SPACING, transpose=(2, 0, 1)))
    assert AnatomyUNet(turned).mirror_axes == (0,)


def test_every_stage_of_the_decoder_learns_as_in_monai():
    """Classes in cubes of four voxels: what a coarser voxel shares out is then what MONAI's nearest voxel says."""
    images, cubes = torch.randn(1, 1, 16, 16, 16), torch.randint(0, 4, (1, 4, 4, 4))
    classes = cubes.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    shape = Architecture((4, 8, 8), ((1, 1, 1), (2, 2, 2), (2, 2, 2)), ((3, 3, 3),) * 3, (1,) * 3, 0, ())
    module = AnatomyUNet(dataclasses.replace(PLAN, architecture=shape))
    losses = module.losses(Batch(images, [torch.zeros(0, 6)], [torch.zeros(0)], classes > 0, class_map=classes))
    plain = monai.losses.DiceCELoss(
        softmax=True, to_onehot_y=True, include_background=False, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
    )
    monais = monai.losses.DeepSupervisionLoss(plain, weight_mode="exp")(
        module.network(images), classes[:, None].float()
    )
    assert sum(losses.values()).item() == pytest.approx(monais.item() / (1 + 0.5))


def test_losses_are_weighted_as_asked():
    images = torch.randn(1, 1, 8, 8, 8)
    classes = torch.randint(0, 4, (1, 8, 8, 8), dtype=torch.uint8)
    batch = Batch(images, [torch.zeros(0, 6)], [torch.zeros(0)], classes, class_map=classes)
    module = AnatomyUNet(PLAN)
    plain = module.losses(batch)
    module.model_cfg = dataclasses.replace(module.model_cfg, dice_weight=0.5)
    halved = module.losses(batch)
    assert halved["dice"].item() == pytest.approx(plain["dice"].item() / 2)
    assert halved["cross_entropy"].item() == pytest.approx(plain["cross_entropy"].item())
