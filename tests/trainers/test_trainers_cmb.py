"""The CMB trainer learns lesions and mimics, tells what a detection looks like, and keeps its prototypes."""

import dataclasses
from functools import partial

import few_steps
import numpy as np
import pytest
import torch
from cmb_plugin.trainers.cmb.replay import MimicPatches
from lightning.fabric.utilities import move_data_to_device
from small_plan import PLAN

from cmb_plugin.files import write_json
from cmb_plugin.inference import InferenceConfig, predict_array
from cmb_plugin.paths import FoldFolder
from cmb_plugin.planning import Anchors, Architecture, Plan
from cmb_plugin.plugins import trainers
from cmb_plugin.preparation import Preprocessing
from cmb_plugin.settings import write_settings
from cmb_plugin.training import Augmentation, AugmentConfig, Batch, PreparedCases, TrainerConfig

CMBRetinaUNet = trainers.get("CMBRetinaUNet")
ISOTROPIC = dataclasses.replace(
    PLAN,
    classes=("cmb",),
    architecture=dataclasses.replace(PLAN.architecture, detection_levels=(0,)),
    anchors=Anchors(sizes=PLAN.anchors.sizes[:1]),
)
THICK = dataclasses.replace(
    ISOTROPIC,
    preprocessing=Preprocessing(spacing=(4.0, 0.5, 0.5)),
    patch_size=(8, 32, 32),
    classes=("cmb", "iron"),
    architecture=Architecture(
        features=(8, 16, 16, 16),
        strides=((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2)),
        kernels=((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)),
        convs_per_stage=(1, 1, 1, 1),
        pyramid_channels=16,
        detection_levels=(1, 2),
    ),
    anchors=Anchors(sizes=(((1.0, 4.0, 4.0),), ((2.0, 8.0, 8.0),))),
)
ANCHORS = {"assignment": "atss", "widths": "plan", "norm": "instance"}
SWITCHES = [(False, False), (True, False), (False, True), (True, True)]


def module(plan: Plan = ISOTROPIC, steps: int = 0, **model_cfg):
    """A module for which every step lies after the start-up phase, unless ``steps`` says how long the schedule is."""
    torch.manual_seed(0)
    trainer_cfg = TrainerConfig(precision="32-true", optimizer="adamw", epochs=1, steps_per_epoch=steps)
    config = CMBRetinaUNet.model_config(**{"embedding": 8, "lesion_prototypes": 2, "mimic_prototypes": 3, **model_cfg})
    return CMBRetinaUNet(plan, config, trainer_cfg)


def scene(plan: Plan = ISOTROPIC, seed: int = 0) -> Batch:
    """Two patches of noise with a dark tube in each, the mimic; the first also holds a dark ball, the lesion."""
    z, y, x = plan.patch_size
    images = torch.randn(2, 1, z, y, x, generator=torch.Generator().manual_seed(seed)) * 0.2
    foreground = torch.zeros(2, z, y, x, dtype=torch.uint8)
    images[:, 0, z - 3 : z - 1, :, 3:6] -= 4
    images[0, 0, 2:5, 7:10, 9:12] -= 4
    foreground[0, 2:5, 7:10, 9:12] = 1
    boxes = [torch.tensor([[2.0, 7, 9, 5, 10, 12]]), torch.zeros(0, 6)]
    return Batch(images, boxes, [torch.tensor([0]), torch.zeros(0, dtype=torch.long)], foreground)


train = partial(few_steps.train, lr=3e-3)


@pytest.mark.parametrize(("ffm", "hspl"), SWITCHES)
@pytest.mark.parametrize("plan", [ISOTROPIC, THICK], ids=["isotropic", "thick slices"])
@pytest.mark.parametrize("assignment", [{}, ANCHORS], ids=["centres", "anchors"])
def test_every_combination_of_switches_learns(plan, ffm, hspl, assignment):
    model, batch = module(plan, ffm=ffm, hspl=hspl, **assignment), scene(plan)
    history = train(model, batch, 30)
    assert ("prototype" in history[0]) == hspl
    for name in history[0]:
        assert history[-1][name] < history[0][name], name
    found, foreground = model.eval().detect(batch.images)
    assert foreground.shape == batch.foreground.shape
    assert ("looks_like" in found[0].columns) == hspl
    assert ("score_prototype" in found[0].columns) == (hspl and assignment == ANCHORS)


def test_prototypes_tell_the_lesion_from_its_mimic():
    model, batch = module(), scene()
    train(model, batch, 80)
    (with_lesion, without), _ = model.eval().detect(batch.images)
    best = with_lesion.scores.argmax()
    torch.testing.assert_close(with_lesion.boxes[best], batch.boxes[0][0], atol=1.0, rtol=0)
    words = with_lesion.categories["looks_like"]
    assert words[with_lesion.columns["looks_like"][best]].startswith("cmb")
    assert (without.scores < 0.5).all()


@pytest.mark.parametrize("kept", [slice(0, 1), slice(1, 2)], ids=["lesions only", "healthy only"])
def test_batches_of_one_kind_train(kept):
    batch = scene()
    part = Batch(batch.images[kept], batch.boxes[kept], batch.labels[kept], batch.foreground[kept])
    losses = module().losses(part)
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()


def test_mining_waits_for_the_start_up_phase_and_every_weight_has_a_gradient():
    waiting = module(steps=100)
    losses = waiting.losses(scene())
    assert losses["prototype"].item() == 0
    sum(losses.values()).backward()
    assert [name for name, p in waiting.named_parameters() if p.grad is None] == []  # as DDP demands
    assert module().losses(scene())["prototype"].item() > 0


def test_baseline_weights_are_the_baselines():
    """Without its two additions, and with the family's defaults, the trainer is the baseline, weight for weight and
    loss for loss."""
    plain = module(ffm=False, hspl=False, **ANCHORS)
    torch.manual_seed(0)
    baseline = trainers.get("RetinaUNetV001")(plain.plan, None, plain.trainer_cfg)
    baseline.model_cfg.segmentation_foreground_weight = plain.model_cfg.segmentation_foreground_weight
    torch.testing.assert_close(dict(plain.state_dict()), dict(baseline.state_dict()))
    torch.testing.assert_close(plain.losses(scene()), baseline.losses(scene()))


def test_half_of_a_batch_holds_no_lesion_only_with_prototypes(tmp_path):
    augmentation = Augmentation(ISOTROPIC.patch_size, (1.0, 1.0, 1.0), AugmentConfig())
    drawn = [module(hspl=hspl).patches(PreparedCases(tmp_path, ()), augmentation, 0) for hspl in (True, False)]
    assert isinstance(drawn[0], MimicPatches)
    assert not isinstance(drawn[1], MimicPatches)


def test_names_of_prototypes_reach_the_detections_of_a_scan(tmp_path):
    model, fold = module(**ANCHORS), FoldFolder(tmp_path / "fold0")
    train(model, scene(), 20)
    fold.root.mkdir()
    model.plan.save(fold.plan)
    write_settings(fold.settings, {"trainer_cfg": TrainerConfig(precision="32-true"), "model_cfg": model.model_cfg})
    torch.save({"state_dict": model.state_dict()}, fold.last)
    names = ["cmb 1", "cmb 2", "mimic 1 (vein)", "mimic 2 (iron)", "mimic 3"]
    write_json(fold.root / "prototypes.json", {"names": names})
    loaded = CMBRetinaUNet.load(fold)
    torch.testing.assert_close(dict(loaded.state_dict()), dict(model.state_dict()))
    scan = scene().images[0].numpy()
    found = predict_array([loaded, model.eval()], scan, InferenceConfig(min_score=0.0)).detections
    own = {name for name in found.columns if not name.startswith("folds_")}
    assert own == {"looks_like", "prototype_distance", "score_rpn", "score_prototype", "score_fused"}
    assert set(found.columns["looks_like"]) <= {*names, "mimic 1", "mimic 2"}
    expected = np.sort(found.columns["score_prototype"])[::-1]
    # Merged columns are float64, scores float32: whether the two are equal is up to the processor.
    np.testing.assert_array_equal(found.ranked_by("score_prototype").scores, expected.astype(np.float32))


def test_under_bfloat16_losses_are_close_to_float32():
    model, batch = module(), scene()
    exact = model.losses(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model.losses(batch)
    for name, value in exact.items():
        assert mixed[name].dtype == torch.float32, name
        torch.testing.assert_close(mixed[name], value, rtol=0.1, atol=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_losses_on_a_gpu_equal_those_on_the_cpu():
    batch = scene()
    on_cpu = module().losses(batch)
    moved = move_data_to_device(batch, torch.device("cuda"))
    for name, value in module().cuda().losses(moved).items():
        torch.testing.assert_close(value.cpu(), on_cpu[name], rtol=1e-3, atol=1e-3)
