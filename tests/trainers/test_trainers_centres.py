"""Lesions as peaks of a dense map: boxes that are learned from any start, one detection per lesion, exact tiles."""

import dataclasses
import math
from functools import partial

import few_steps
import numpy as np
import pytest
import torch
from cmb_plugin.trainers.assignments.centres import FOCAL_SHARE, CentreAssignment
from cmb_plugin.trainers.retina_config import RetinaConfig
from small_plan import PLAN

from cmb_plugin.boxes import box_centres, locations_near, middles_of, paired_iou
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.inference import InferenceConfig, predict_array
from cmb_plugin.networks import CentreHead, RetinaOutput, regression_loss
from cmb_plugin.paths import FoldFolder
from cmb_plugin.planning import Anchors, Centres, Plan
from cmb_plugin.plugins import trainers
from cmb_plugin.settings import read_settings, write_settings
from cmb_plugin.training import Batch, TrainerConfig

ANCHORS = {"assignment": "atss", "widths": "plan", "norm": "instance"}
DENSE = dataclasses.replace(
    PLAN,
    centres=Centres(level=0, features=(8, 8), channels=8, sigma_mm=1.2, reach_mm=1.5, sides_mm=(3.0, 3.0, 3.0)),
)
CMBRetinaUNet = trainers.get("CMBRetinaUNet")
RetinaUNetV001 = trainers.get("RetinaUNetV001")


def module(plan: Plan = DENSE, trainer=CMBRetinaUNet, **model_cfg):
    torch.manual_seed(0)
    trainer_cfg = TrainerConfig(precision="32-true", optimizer="adamw", epochs=1, steps_per_epoch=0)
    return trainer(plan, trainer.model_config(**model_cfg), trainer_cfg)


def scene(plan: Plan, *places, seed: int = 0) -> Batch:
    """A patch of noise with dark cubes of 3 voxels around ``(class, z, y, x)``, and a patch without."""
    images = torch.randn(2, 1, *plan.patch_size, generator=torch.Generator().manual_seed(seed)) * 0.2
    foreground = torch.zeros(2, *plan.patch_size, dtype=torch.uint8)
    boxes = torch.zeros(len(places), 6)
    for row, (label, z, y, x) in zip(boxes, places, strict=True):
        at = (0, slice(z - 1, z + 2), slice(y - 1, y + 2), slice(x - 1, x + 2))
        images[:, 0][at] += 4 if label else -4  # classes differ in sign
        foreground[at] = 1
        row.copy_(torch.tensor([z - 1, y - 1, x - 1, z + 2, y + 2, x + 2]))
    labels = torch.tensor([place[0] for place in places], dtype=torch.long)
    return Batch(images, [boxes, boxes[:0]], [labels, labels[:0]], foreground)


train = partial(few_steps.train, lr=1e-2)


# Boxes are learned from any start ---------------------------------------------------------------------------------


def bad_starts(kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, CentreAssignment]:
    """Codes [P, 6] far from those of the boxes [P, 6] that points [P, 3] see, and the assignment."""
    assignment = CentreAssignment(DENSE, RetinaConfig(assignment="centre"))
    points = torch.tensor([[4.5, 4.5, 4.5], [8.5, 20.5, 12.5], [6.5, 6.5, 2.5], [7.5, 3.5, 9.5]])
    halves = torch.tensor([[1.5, 1.5, 1.5], [1, 2.5, 2.5], [0.5, 1, 1], [2, 1.5, 3]])
    centres = points + torch.tensor([[0, 0, 0], [0.4, -0.3, 0.2], [-0.5, 0.5, 0], [0.1, 1, -1]])
    codes = torch.zeros(4, 6)
    if kind == "boxes grown beyond everything":
        codes[:, 3:] = 20
    elif kind == "boxes shrunk to nothing":
        codes[:, 3:] = -20
    else:
        codes[:, :3] = torch.tensor([[50.0, -50, 50], [-50, 50, 50], [50, 50, -50], [-50, -50, -50]])
    return codes, torch.cat([centres - halves, centres + halves], dim=1), points, assignment


BAD = ["boxes grown beyond everything", "boxes shrunk to nothing", "boxes far away"]


def descended(codes, loss, optimizer=torch.optim.Adam, lr=0.3, steps=500):
    """Codes after descent at a rate that falls linearly, as in training."""
    codes = codes.clone().requires_grad_()
    steering = optimizer([codes], lr=lr)
    rate = torch.optim.lr_scheduler.LinearLR(steering, 1.0, 0.01, steps)
    for _ in range(steps):
        steering.zero_grad()
        loss(codes).backward()
        steering.step()
        rate.step()
    return codes.detach()


@pytest.mark.parametrize("start", BAD)
@pytest.mark.parametrize(("optimizer", "lr"), [(torch.optim.Adam, 0.3), (torch.optim.SGD, 8.0)])
def test_the_box_loss_brings_any_start_to_the_boxes(start, optimizer, lr):
    codes, boxes, points, assignment = bad_starts(start)
    learned = descended(codes, lambda codes: assignment.box_loss(codes, boxes, points), optimizer, lr)
    assert (paired_iou(assignment.decode(learned, points), boxes) > 0.9).all()


@pytest.mark.parametrize("start", BAD[1:])
def test_giou_alone_does_not(start):
    codes, boxes, points, assignment = bad_starts(start)
    learned = descended(codes, lambda codes: regression_loss(assignment.decode(codes, points), boxes))
    assert (paired_iou(assignment.decode(learned, points), boxes) < 0.3).any()


@pytest.mark.parametrize("start", [20.0, -20.0])
@pytest.mark.parametrize(("optimizer", "lr"), [(torch.optim.Adam, 0.3), (torch.optim.SGD, 5.0)])
def test_a_head_that_starts_badly_learns_the_boxes(start, optimizer, lr):
    codes, boxes, points, assignment = bad_starts(BAD[0])
    torch.manual_seed(0)
    head = CentreHead(8, 1)
    torch.nn.init.constant_(head.codes.bias, start)
    features = torch.rand(1, 8, 1, 1, len(codes))
    steering = optimizer(head.codes.parameters(), lr=lr)
    rate = torch.optim.lr_scheduler.LinearLR(steering, 1.0, 0.01, 400)
    for _ in range(400):
        steering.zero_grad()
        assignment.box_loss(head([features])[1][0], boxes, points).backward()
        steering.step()
        rate.step()
    learned = head([features])[1][0].detach()
    assert (paired_iou(assignment.decode(learned, points), boxes) > 0.6).all()


def test_a_batch_without_lesions_gives_every_weight_a_gradient():
    model = module()
    losses = model.losses(scene(DENSE))
    assert losses["regression"].item() == 0
    sum(losses.values()).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []  # as DDP demands


# What is learned --------------------------------------------------------------------------------------------------


def test_forty_steps_find_every_lesion_of_both_classes_and_nothing_else():
    model, batch = module(), scene(DENSE, (0, 4, 5, 5), (1, 10, 11, 10))
    history = train(model, batch, 40)
    assert {*history[0]} == {"classification", "regression", "segmentation", "prototype"}
    (found, nothing), foreground = model.eval().detect(batch.images)
    assert foreground.shape == batch.foreground.shape
    sure = found.scores > 0.5
    assert int(sure.sum()) == 2
    order = found.labels[sure].argsort()
    assert found.labels[sure][order].tolist() == [0, 1]
    torch.testing.assert_close(found.boxes[sure][order], batch.boxes[0], atol=0.75, rtol=0)
    assert (nothing.scores < 0.5).all()


def test_the_score_learns_from_every_location_and_from_centres_and_the_hardest_once_more():
    model = module(hspl=False)
    output = model.network(scene(DENSE).images)
    gradients = []
    for negatives in (0, 5):
        model.assignment.config.hard_negatives = negatives
        loss = model.assignment.losses(output, scene(DENSE, (0, 8, 8, 8)), torch.Generator())["classification"]
        gradients += torch.autograd.grad(loss, output.logits, retain_graph=True)
    focal, both = gradients
    assert (focal != 0).all()
    beyond = both - FOCAL_SHARE * focal
    reached = beyond.abs() > 1e-3 * beyond.abs().max()
    assert reached.sum() == 1 + 2 * 5  # one centre, and five for it and for the image without one
    away = reached & (beyond > 0)
    assert output.logits[away].min() >= output.logits[0].quantile(0.9)


@pytest.mark.parametrize("negatives", [0, 16])
def test_what_looks_like_the_middle_of_a_wide_lesion_hardly_counts_as_a_negative(negatives):
    """All of a dark ball of 8 voxels looks alike: a network that is told otherwise learns to pass over wide lesions."""
    assignment = CentreAssignment(DENSE, RetinaConfig(assignment="centre", hard_negatives=negatives))
    shape, centre = DENSE.patch_size, torch.tensor([8.0, 8, 8])
    pull = {}
    for side, place in ((3.0, (8, 8, 10)), (8.0, (8, 8, 10)), (6.0, (8, 8, 11)), (10.0, (8, 8, 11))):
        batch = scene(DENSE)
        batch.boxes[0] = torch.cat([centre - side / 2, centre + side / 2])[None]
        batch.labels[0] = torch.zeros(1, dtype=torch.long)
        logits = torch.full((2, math.prod(shape), 2), -6.0)
        beside = int(np.ravel_multi_index(place, shape))  # 2.5 or 3.5 mm from the centre
        logits[0, beside, 0] = 1.0
        logits.requires_grad_()
        output = RetinaOutput(logits, torch.zeros(2, len(logits[0]), 6), [shape], torch.zeros(2, 2, *shape), [])
        assignment.losses(output, batch, torch.Generator())["classification"].backward()
        pull[side] = float(logits.grad[0, beside, 0])
    assert pull[3.0] > 3 * pull[8.0] > 0
    assert pull[6.0] > 3 * pull[10.0] > 0  # as wide as a microbleed can be


def test_losses_are_the_same_in_any_order_of_the_lesions():
    places = [(0, 4, 5, 5), (1, 10, 11, 10), (0, 9, 4, 12)]
    both = [module(hspl=False).losses(scene(DENSE, *order)) for order in (places, places[::-1])]
    torch.testing.assert_close(both[0], both[1])


def said(assignment: CentreAssignment, shape, lesions, least: float = 0.9) -> RetinaOutput:
    """The answer of a perfect network: every location within reach of a lesion says its box, all score by distance."""
    boxes = torch.tensor([[z - 1.5, y - 1.5, x - 1.5, z + 1.5, y + 1.5, x + 1.5] for _, z, y, x in lesions])
    spacing = assignment.plan.preprocessing.spacing
    points = middles_of(torch.tensor(list(np.ndindex(*shape))), assignment.stride)
    scale = torch.tensor(spacing)
    distance = torch.cdist(points * scale, box_centres(boxes) * scale)
    scores = torch.full((len(points), 2), 0.001)
    codes = torch.zeros(1, len(points), 6)
    location, lesion = locations_near(boxes, shape, assignment.stride, spacing, 3.0)
    codes[0, location] = assignment.encode(boxes[lesion], points[location])
    for index, (label, *_) in enumerate(lesions):
        scores[:, label] = torch.maximum(scores[:, label], least * torch.exp(-0.3 * distance[:, index].square()))
    sides = [side * step for side, step in zip(shape, assignment.stride, strict=True)]
    return RetinaOutput(scores.logit()[None], codes, [tuple(shape)], torch.zeros(1, 2, *sides), [])


def test_two_lesions_four_millimetres_apart_are_two_detections_and_one_is_one():
    assignment = CentreAssignment(DENSE, RetinaConfig(assignment="centre"))
    apart = [(0, 8.5, 8.5, 6.5), (0, 8.5, 8.5, 10.5)]  # 1 mm a voxel
    found, points = assignment.select(said(assignment, (16, 16, 16), apart), 0)
    assert len(found.scores) == 2
    torch.testing.assert_close(points[points[:, 2].argsort()], torch.tensor(apart)[:, 1:])
    one, _ = assignment.select(said(assignment, (16, 16, 16), apart[:1]), 0)
    assert len(one.scores) == 1
    torch.testing.assert_close(one.boxes[0], torch.tensor([7.0, 7, 5, 10, 10, 8]), atol=1e-4, rtol=0)
    # Between two locations both score the same: still one lesion.
    between, _ = assignment.select(said(assignment, (16, 16, 16), [(0, 8.5, 8.0, 8.0)]), 0)
    assert len(between.scores) == 1


def test_lesions_of_two_classes_at_one_place_are_two_detections():
    assignment = CentreAssignment(DENSE, RetinaConfig(assignment="centre"))
    found, _ = assignment.select(said(assignment, (16, 16, 16), [(0, 8.5, 8.5, 8.5), (1, 8.5, 8.5, 8.5)]), 0)
    assert sorted(found.labels.tolist()) == [0, 1]


# Tiles ------------------------------------------------------------------------------------------------------------


def clear(detections: Detections) -> tuple[np.ndarray, np.ndarray]:
    """Scores and boxes of detections above what is left of the noise, in the order of their places."""
    kept = detections.scores > 0.05
    order = np.lexsort(detections.boxes[kept].T.round(1))
    return detections.scores[kept][order], detections.boxes[kept][order]


@pytest.mark.parametrize("ffm", [True, False])
@pytest.mark.parametrize("plan", ["plan's stages", "stride 2"])
def test_the_answer_of_one_large_tile_is_that_of_many_small_ones(ffm, plan):
    centres = DENSE.centres if plan == "plan's stages" else dataclasses.replace(DENSE.centres, level=1)
    used = dataclasses.replace(DENSE, centres=centres)
    model = module(used, ffm=ffm)
    train(model, scene(used, (0, 4, 5, 5), (1, 10, 11, 10)), 30)
    rng = np.random.default_rng(0)
    scan = rng.normal(0, 0.2, (1, 12, 24, 240)).astype(np.float32)
    for x in range(6, 236, 13):
        z, y = rng.integers(3, (9, 21))
        scan[0, z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] -= 4
    calls = []
    model.eval().network.register_forward_hook(lambda *arguments: calls.append(tuple(arguments[1][0].shape[2:])))
    few, many = (
        predict_array([model], scan, InferenceConfig(min_score=0.0, tta=1, tile_voxels=voxels))
        for voxels in (10**6, 12 * 24 * 80)
    )
    assert calls[0] == scan.shape[1:]
    assert len(calls) > 4
    scores, boxes = clear(few.detections)
    other_scores, other_boxes = clear(many.detections)
    assert len(scores) >= 8
    np.testing.assert_allclose(other_scores, scores, atol=1e-3)
    np.testing.assert_allclose(other_boxes, boxes, atol=1e-2)
    np.testing.assert_allclose(many.foreground.astype(float), few.foreground.astype(float), atol=1e-3)


def test_a_tile_of_many_patches_keeps_as_many_detections_as_these_would():
    assignment = CentreAssignment(DENSE, RetinaConfig(assignment="centre", topk=2, detections_per_patch=2))
    lesions = [(0, 8.5, 8.5, x) for x in (4.5 + 6 * n for n in range(10))]
    found, _ = assignment.select(said(assignment, (16, 16, 64), lesions), 0)
    assert len(found.scores) == 8  # of ten; four patches would keep two each


@pytest.mark.parametrize(
    "model_cfg", [{"norm": "instance"}, {"norm": "group"}, ANCHORS], ids=["instance norm", "group norm", "anchors"]
)
def test_what_looks_at_all_of_a_patch_has_no_halo(model_cfg):
    assert module(**model_cfg).halo is None
    assert module().halo is not None


def test_the_halo_holds_the_boxes_of_two_peaks_that_are_compared():
    plain = module(ffm=False, hspl=False).halo
    fused = module(ffm=True, hspl=False, fused_levels=2).halo
    assert all(side >= 10 / mm for side, mm in zip(plain, DENSE.preprocessing.spacing, strict=True))
    assert all(a <= b for a, b in zip(plain, fused, strict=True))


# Plans and settings -----------------------------------------------------------------------------------------------


def test_a_plan_without_centres_takes_those_of_typical_microbleeds():
    model, batch = module(PLAN), scene(PLAN, (0, 4, 5, 5))
    history = train(model, batch, 10)
    assert history[-1]["classification"] < history[0]["classification"]
    assert model.stride == PLAN.architecture.stride_of(1)


def test_a_plan_without_anchors_is_learned_by_centres():
    bare = dataclasses.replace(
        DENSE, architecture=dataclasses.replace(DENSE.architecture, detection_levels=()), anchors=Anchors(())
    )
    assert np.isfinite(train(module(bare), scene(bare, (0, 4, 5, 5)), 1)[0]["classification"])
    with pytest.raises(UserError, match="assignment=atss needs anchors, plan test_3d has none"):
        module(bare, **ANCHORS)


@pytest.mark.parametrize(("widths", "level"), [("plan", 0), ("light", 0), ("plan", 1)])
def test_the_baseline_takes_centres_too(widths, level):
    plan = dataclasses.replace(DENSE, centres=dataclasses.replace(DENSE.centres, level=level))
    model = module(plan, RetinaUNetV001, assignment="centre", widths=widths)
    history = train(model, scene(plan, (0, 4, 5, 5)), 10)
    assert history[-1]["classification"] < history[0]["classification"]
    assert model.divisor == (PLAN.architecture.divisor if widths == "plan" else (1, 2, 2))


@pytest.mark.parametrize("name", ["assignment", "widths", "norm"])
def test_an_unknown_setting_is_one_line_that_names_it(name):
    with pytest.raises(UserError, match=rf"unknown model_cfg\.{name} 'batsh'"):
        module(**{name: "batsh"})


def test_a_fold_of_before_there_were_centres_is_loaded_as_what_it_was(tmp_path):
    """Its settings know none of the new names, its plan no centres."""
    model, fold = module(PLAN, **ANCHORS), FoldFolder(tmp_path / "fold0")
    fold.root.mkdir()
    PLAN.save(fold.plan)
    plan = read_json(fold.plan)
    del plan["centres"]
    write_json(fold.plan, plan)
    write_settings(fold.settings, {"trainer_cfg": TrainerConfig(), "model_cfg": model.model_cfg})
    settings = read_settings(fold.settings)
    for name in ANCHORS:
        del settings["model_cfg"][name]
    write_settings(fold.settings, settings)
    torch.save({"state_dict": model.state_dict()}, fold.last)
    loaded = CMBRetinaUNet.load(fold)
    assert {name: getattr(loaded.model_cfg, name) for name in ANCHORS} == ANCHORS
    torch.testing.assert_close(dict(loaded.state_dict()), dict(model.state_dict()))
    assert loaded.halo is None


def test_a_dense_fold_of_before_there_were_hard_negatives_goes_on_by_the_focal_loss():
    assert CMBRetinaUNet.migrated({"assignment": "centre"})["hard_negatives"] == 0
    assert CMBRetinaUNet.migrated({"assignment": "centre", "hard_negatives": 16})["hard_negatives"] == 16


def test_negatives_without_a_pool_are_drawn_from_all_anchors():
    """The random negatives of a plain region proposal network: most are easy, where mined ones are the hardest."""
    batch = scene(PLAN, (0, 4, 5, 5))
    losses = {}
    for pool in (1.0, None):
        model = module(PLAN, RetinaUNetV001, negative_pool=pool)
        torch.nn.init.normal_(model.network.head.logits.weight)  # so that anchors differ in score
        losses[pool] = model.losses(batch)["classification"].item()
    assert losses[None] < losses[1.0]


# Precision --------------------------------------------------------------------------------------------------------


def test_under_bfloat16_losses_are_close_to_float32():
    batch = scene(DENSE, (0, 4, 5, 5), (1, 10, 11, 10))
    exact = module().losses(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = module().losses(batch)
    for name, value in exact.items():
        assert mixed[name].dtype == torch.float32, name
        torch.testing.assert_close(mixed[name], value, rtol=0.1, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = module(score_threshold=0.0).eval().detect(batch.images)
    assert found[0].boxes.dtype == found[0].scores.dtype == torch.float32
