"""The baseline learns, finds what it learned, and comes back from its files."""

import dataclasses

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from small_plan import PLAN

from cmb_plugin.errors import UserError
from cmb_plugin.paths import FoldFolder
from cmb_plugin.planning import Anchors
from cmb_plugin.plugins import trainers
from cmb_plugin.settings import write_settings
from cmb_plugin.training import Batch, TrainerConfig

CPU32 = TrainerConfig(precision="32-true", learning_rate=3e-3, optimizer="adamw", warmup_steps=1)
RetinaUNetV001 = trainers.get("RetinaUNetV001")


@pytest.fixture
def batch():
    """Two patches: one with a dark lesion of class 1, one without any."""
    images = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.2
    foreground = torch.zeros(2, 16, 16, 16, dtype=torch.uint8)
    images[0, 0, 6:9, 7:10, 4:7] -= 4
    foreground[0, 6:9, 7:10, 4:7] = 1
    boxes = [torch.tensor([[6.0, 7, 4, 9, 10, 7]]), torch.zeros(0, 6)]
    return Batch(images, boxes, [torch.tensor([1]), torch.zeros(0, dtype=torch.long)], foreground)


def module(**changes):
    torch.manual_seed(0)
    return RetinaUNetV001(PLAN, trainer_cfg=dataclasses.replace(CPU32, **changes))


def step(model, optimizer, batch):
    optimizer.zero_grad()
    losses = model.losses(batch)
    sum(losses.values()).backward()
    optimizer.step()
    return {name: value.item() for name, value in losses.items()}


def test_sixty_steps_lower_every_loss_and_find_the_lesion(batch):
    model = module()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = [step(model, optimizer, batch) for _ in range(60)]
    for name in ("classification", "regression", "segmentation"):
        assert history[-1][name] < 0.6 * history[0][name], name
    found, foreground = model.eval().detect(batch.images)
    best = found[0].scores.argmax()
    assert found[0].labels[best] == 1
    torch.testing.assert_close(found[0].boxes[best], batch.boxes[0][0], atol=1.0, rtol=0)
    assert (found[1].scores < 0.5).all()
    assert foreground.shape == (2, 16, 16, 16)
    assert foreground[0, 7, 8, 5] > foreground[1].mean()


def test_healthy_only_batches_train_without_regression(batch):
    healthy = Batch(batch.images[1:], batch.boxes[1:], batch.labels[1:], batch.foreground[1:])
    losses = module().losses(healthy)
    assert losses["regression"].item() == 0
    sum(losses.values()).backward()


def test_outlines_that_were_drawn_from_points_are_not_learned_unless_asked_for(batch):
    def loss(outlined, **settings):
        model = module()
        model.model_cfg = dataclasses.replace(model.model_cfg, **settings)
        batch.outlined = None if outlined is None else torch.tensor(outlined)
        return model.losses(batch)

    everything = loss(None)
    assert loss([True, True])["segmentation"] == everything["segmentation"]
    assert loss([False, True], segment_weak=True)["segmentation"] == everything["segmentation"]
    half, none = loss([False, True]), loss([False, False])
    assert 0 < half["segmentation"] < everything["segmentation"]  # the patch without lesions still teaches background
    assert none["segmentation"] == 0
    assert none["classification"] == everything["classification"]
    sum(none.values()).backward()


def test_detections_stay_inside_the_patch_and_are_sorted(batch):
    model = module().eval()
    model.model_cfg.score_threshold = 0.0
    found, _ = model.detect(batch.images)
    assert len(found[0].scores) == model.model_cfg.detections_per_patch
    assert (found[0].scores.diff() <= 0).all()
    assert found[0].boxes.min() >= 0
    assert found[0].boxes.max() <= 16


def save(model, fold: FoldFolder, **extra):
    fold.root.mkdir(parents=True)
    model.plan.save(fold.plan)
    write_settings(fold.settings, {"trainer_cfg": model.trainer_cfg, "model_cfg": model.model_cfg})
    torch.save({"state_dict": model.state_dict(), **extra}, fold.last)


def test_a_trained_fold_is_loaded_with_its_averaged_weights(batch, tmp_path):
    model = module()
    averaged = {name: value + 0.01 for name, value in model.state_dict().items()}
    save(model, FoldFolder(tmp_path / "fold0"), averaged_weights=averaged)
    loaded = RetinaUNetV001.load(FoldFolder(tmp_path / "fold0"))
    assert not loaded.training
    torch.testing.assert_close(dict(loaded.state_dict()), averaged)


def test_a_plan_edited_after_training_is_one_line(tmp_path):
    model, fold = module(), FoldFolder(tmp_path / "fold0")
    save(model, fold)
    wider = dataclasses.replace(PLAN.architecture, pyramid_channels=32)
    dataclasses.replace(PLAN, architecture=wider).save(fold.plan)
    with pytest.raises(UserError, match=r"model_last\.ckpt: does not fit RetinaUNetV001"):
        RetinaUNetV001.load(fold)


@pytest.mark.parametrize("content", [None, b"no checkpoint"])
def test_a_damaged_or_missing_checkpoint_is_named(tmp_path, content):
    model, fold = module(), FoldFolder(tmp_path / "fold0")
    save(model, fold)
    fold.last.unlink()
    if content:
        fold.last.write_bytes(content)
    with pytest.raises(UserError, match=r"model_last\.ckpt"):
        RetinaUNetV001.load(fold)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_losses_on_a_gpu_equal_those_on_the_cpu(batch):
    on_cpu = module().losses(batch)
    moved = move_data_to_device(batch, torch.device("cuda"))
    on_gpu = module().cuda().losses(moved)
    for name, value in on_cpu.items():
        torch.testing.assert_close(on_gpu[name].cpu(), value, rtol=1e-3, atol=1e-3)


def test_a_plan_without_anchors_is_refused_in_one_sentence():
    plan = dataclasses.replace(
        PLAN, architecture=dataclasses.replace(PLAN.architecture, detection_levels=()), anchors=Anchors(())
    )
    assert not plan.problem()  # other trainers need none
    with pytest.raises(UserError, match=r"model_cfg\.assignment=atss needs anchors, plan test_3d has none"):
        RetinaUNetV001(plan)
