"""Scans that were judged in places only: no gradient where nobody has judged, and a training that learns."""

import dataclasses

import few_steps
import pytest
import torch
from cmb_plugin.trainers.cmb.prototypes import peaks_near
from small_plan import PLAN
from torch import Tensor

from cmb_plugin.boxes import at_middles, centre_map, flat_index
from cmb_plugin.networks import RetinaOutput, centre_loss, hard_centre_loss, sample_anchors, segmentation_loss
from cmb_plugin.planning import Centres
from cmb_plugin.plugins import trainers
from cmb_plugin.training import Batch, TrainerConfig
from cmb_plugin.training.patches import Sample, collate

DENSE = dataclasses.replace(
    PLAN,
    classes=("cmb",),
    centres=Centres(level=0, features=(8, 8), channels=8, sigma_mm=1.2, reach_mm=1.5, sides_mm=(3.0, 3.0, 3.0)),
)
KINDS = [
    ("CMBRetinaUNet", {}),
    ("CMBRetinaUNet", {"prototype_score": False}),
    ("CMBRetinaUNet", {"assignment": "atss", "widths": "plan", "norm": "instance"}),
    ("RetinaUNetV001", {}),
    ("RetinaUNetV001", {"assignment": "centre"}),
]
SIDE = 16


def module(name, **model_cfg):
    torch.manual_seed(0)
    trainer, config = trainers.get(name), TrainerConfig(precision="32-true", optimizer="adamw", steps_per_epoch=0)
    return trainer(DENSE, trainer.model_config(**model_cfg), config)


def cube(middle: tuple[int, int, int], grown: int = 0) -> tuple[slice, ...]:
    return tuple(slice(max(0, side - 1 - grown), side + 2 + grown) for side in middle)


def scene(labelled: list[list[tuple]], hidden: list[list[tuple]], judged: bool = True, seed: int = 0) -> Batch:
    """Patches of noise with dark cubes; the hidden ones are not labelled, and nobody has judged around them."""
    count = len(labelled)
    images = torch.randn(count, 1, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 0.2
    foreground = torch.zeros(count, SIDE, SIDE, SIDE, dtype=torch.uint8)
    seen = torch.ones_like(foreground)
    boxes = []
    for image, (own, unknown) in enumerate(zip(labelled, hidden, strict=True)):
        for middle in [*own, *unknown]:
            images[(image, 0, *cube(middle))] -= 4
        for middle in unknown:
            seen[(image, *cube(middle, grown=2))] = 0
        for middle in own:
            foreground[(image, *cube(middle))] = 1
        boxes.append(torch.tensor([[*(m - 1 for m in p), *(m + 2 for m in p)] for p in own]).float().reshape(-1, 6))
    labels = [torch.zeros(len(own), dtype=torch.long) for own in boxes]
    return Batch(images, boxes, labels, foreground, judged=seen if judged else None)


def output_with_leaves(model, batch: Batch) -> RetinaOutput:
    """What the network says, cut off from it, so that every part of it keeps the gradient that reaches it."""
    output = model.network(batch.images)
    leaf = lambda values: values.detach().clone().requires_grad_()  # noqa: E731
    features = [leaf(values) for values in output.features]
    return RetinaOutput(
        leaf(output.logits), leaf(output.deltas), output.map_shapes, leaf(output.segmentation), features
    )


@pytest.mark.parametrize(("name", "model_cfg"), KINDS)
def test_no_gradient_reaches_what_nobody_has_judged(name, model_cfg):
    model = module(name, **model_cfg)
    batch = scene([[(4, 4, 4)], []], [[(11, 11, 11)], [(6, 9, 9)]])
    output = output_with_leaves(model, batch)
    # What nobody has judged looks more like a lesion than anything else: it must not be mined.
    strides = model.assignment._strides if hasattr(model.assignment, "_strides") else [model.assignment.stride]
    seen = [at_middles(batch.judged, shape, s) for shape, s in zip(output.map_shapes, strides, strict=True)]
    per_location = output.logits.shape[1] // sum(part[0].numel() for part in seen)
    flat = torch.cat([part.flatten(1) for part in seen], dim=1).repeat_interleave(per_location, dim=1)
    with torch.no_grad():
        output.logits[~flat] += 8
    sum(model.output_losses(output, batch).values()).backward()
    assert output.logits.grad[~flat].abs().max() == 0
    assert output.deltas.grad[~flat].abs().max() == 0
    assert output.logits.grad[flat].abs().max() > 0
    unseen = (batch.judged == 0)[:, None].expand_as(output.segmentation)
    assert output.segmentation.grad[unseen].abs().max() == 0
    assert output.segmentation.grad[~unseen].abs().max() > 0
    if output.features[0].grad is not None:  # of prototypes
        outside = ~seen[0][:, None].expand_as(output.features[0])
        assert output.features[0].grad[outside].abs().max() == 0
        assert output.features[0].grad[~outside].abs().max() > 0


@pytest.mark.parametrize(("name", "model_cfg"), KINDS)
def test_where_everything_was_judged_the_losses_are_what_they_were(name, model_cfg):
    model = module(name, **model_cfg).eval()
    batch = scene([[(4, 4, 4)], []], [[], []])
    assert batch.judged.all()
    with torch.no_grad():
        one = model.losses(batch)
        other = model.losses(dataclasses.replace(batch, judged=None))
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], rtol=1e-6, atol=1e-7, msg=key)


@pytest.mark.parametrize(("name", "model_cfg"), KINDS)
def test_patches_in_which_nothing_was_judged_teach_nothing(name, model_cfg):
    model = module(name, **model_cfg)
    batch = scene([[], []], [[(6, 9, 9)], []])
    batch.judged.zero_()
    output = output_with_leaves(model, batch)
    losses = model.output_losses(output, batch)
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    parts = (output.logits, output.deltas, output.segmentation, *output.features)
    assert all(part.grad is None or part.grad.abs().max() == 0 for part in parts)


def logit_at(model, batch: Batch, image: int, middle: tuple[int, int, int]) -> float:
    """Highest score logit of the map's locations around a voxel."""
    with torch.no_grad():
        output = model.eval().network(batch.images)
    shape, stride = output.map_shapes[0], model.assignment.stride
    place = torch.tensor([[m // s for m, s in zip(middle, stride, strict=True)]])
    return float(output.logits[image, flat_index(place, shape), 0])


def test_a_training_on_weak_answers_finds_what_nobody_has_labelled():
    """Each patch has two lesions, of which one was shown and accepted. If the other one counts as background, as it
    does without the mask of what was judged, the network learns to be of two minds; with it, it finds both."""
    pairs = [((4, 4, 4), (11, 11, 11)), ((4, 11, 5), (11, 4, 10)), ((5, 5, 11), (11, 11, 4)), ((10, 4, 4), (4, 11, 11))]
    scores = {}
    for judged in (True, False):
        model = module("CMBRetinaUNet", hspl=False, ffm=False)
        batch = scene([[one] for one, _ in pairs], [[other] for _, other in pairs], judged)
        history = few_steps.train(model, batch, 80, lr=1e-2)
        assert sum(history[-1].values()) < 0.5 * sum(history[0].values())
        new = scene([[], []], [[(8, 8, 8)], []], seed=7)
        lesion = logit_at(model, new, 0, (8, 8, 8))
        scores[judged] = lesion, lesion - logit_at(model, new, 1, (8, 8, 8))
    assert scores[True][0] > 0  # reported
    assert scores[True][1] > 3  # and background is not
    assert scores[False][0] < scores[True][0] - 1


# The parts ----------------------------------------------------------------------------------------------------------


def test_locations_are_judged_by_their_middles():
    mask = torch.zeros(1, 4, 6, 6)
    mask[0, 1, 3, 3] = mask[0, 3, 0, 0] = 1
    seen = at_middles(mask, (2, 2, 2), (2, 3, 3))
    assert seen.nonzero().tolist() == []  # middles: z 1 and 3, y and x 1 and 4
    mask[0, 1, 4, 1] = 1
    assert at_middles(mask, (2, 2, 2), (2, 3, 3)).nonzero().tolist() == [[0, 0, 1, 0]]
    torch.testing.assert_close(at_middles(mask, (4, 6, 6), (1, 1, 1)), mask != 0)


def test_the_peak_near_a_lesion_is_found_beside_what_nobody_has_judged():
    scores = torch.full((1, 5, 5, 5), -3.0)
    scores[0, 2, 2, 3], scores[0, 2, 3, 2] = -1.0, -1.1
    scores[0, 2, 1, 1] = scores[0, 4, 4, 4] = -torch.inf
    assert peaks_near(scores, torch.tensor([[0, 2, 2, 2]])).tolist() == [[0, 2, 2, 3]]
    assert peaks_near(scores.fill_(-torch.inf), torch.tensor([[0, 2, 2, 2]])).shape == (1, 4)


def test_what_is_neither_lesion_nor_background_is_not_drawn():
    matches = torch.tensor([[-1, -2, 0, -2, -1, -2]])
    positives, negatives = sample_anchors(matches, torch.tensor([[0.1, 9, 1, 9, 0.2, 9]]), per_image=6)
    assert positives.tolist() == [2]
    assert set(negatives.tolist()) <= {0, 4}


def test_losses_of_judged_places_are_those_of_the_places_alone():
    """Against the same loss of what is left when the rest is cut away."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 40, 1, generator=generator)
    box = torch.tensor([[1.0, 1, 1, 3, 3, 3]])
    target = centre_map(box, torch.zeros(1, dtype=torch.long), 1, (4, 4, 4), (1, 1, 1), (1.0, 1, 1), 1.0)
    target = target.flatten()[:40].reshape(1, 40, 1)
    judged = torch.arange(40) < 30
    whole = centre_loss(logits, target, judged=judged[None, :, None])
    torch.testing.assert_close(whole, centre_loss(logits[:, judged], target[:, judged]))
    whole = hard_centre_loss(logits, target, 1, 4, judged=judged[None, :, None])
    torch.testing.assert_close(whole, hard_centre_loss(logits[:, judged], target[:, judged], 1, 4))
    segmentation = torch.randn(1, 2, 4, 4, 4, generator=generator)
    foreground = (torch.rand(1, 4, 4, 4, generator=generator) < 0.3).to(torch.uint8)
    mask = torch.zeros_like(foreground)
    mask[:, :2] = 1
    part = segmentation_loss(segmentation[:, :, :2], foreground[:, :2], 5.0)
    torch.testing.assert_close(segmentation_loss(segmentation, foreground, 5.0, judged=mask), part)
    assert segmentation_loss(segmentation, foreground, judged=torch.zeros_like(mask)) == 0


def test_batches_of_whole_and_of_judged_cases():
    def sample(judged: Tensor | None) -> Sample:
        nothing = torch.zeros(0, 6)
        return Sample(torch.zeros(1, 2, 2, 2), nothing, torch.zeros(0, dtype=torch.long),
                      torch.zeros(2, 2, 2, dtype=torch.uint8), judged=judged)  # fmt: skip

    assert collate([sample(None), sample(None)]).judged is None
    part = torch.zeros(2, 2, 2, dtype=torch.uint8)
    batch = collate([sample(None), sample(part)])
    assert batch.judged.flatten(1).sum(dim=1).tolist() == [8, 0]
