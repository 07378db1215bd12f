"""Prototype learning and feature fusion, against closed formulas and plain loops."""

import math

import numpy as np
import pytest
import torch
from cmb_plugin.trainers.cmb.fusion import FeatureFusion
from cmb_plugin.trainers.cmb.prototypes import (
    PrototypeHead,
    PrototypeLogits,
    hard_mimics,
    peaks_near,
    windows,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from cmb_plugin.boxes import LESIONS_AT_ONCE
from cmb_plugin.errors import UserError


def head(prototypes=(2, 3), **changes) -> PrototypeHead:
    torch.manual_seed(0)
    return PrototypeHead(4, prototypes, **{"embedding": 5, "gamma": 0.7, **changes})


def closed_loss(embeddings, classes, prototypes, owner, gamma, weight) -> float:
    """Yang et al. 2018 written out for one embedding after another, in plain Python."""
    per_class: dict[int, list[float]] = {}
    for f, y in zip(embeddings.tolist(), classes.tolist(), strict=True):
        squared = [sum((a - b) ** 2 for a, b in zip(f, m, strict=True)) for m in prototypes.tolist()]
        each = [math.exp(-gamma * d) for d in squared]
        p = sum(e for e, k in zip(each, owner, strict=True) if k == y) / sum(each)
        nearest = min(d for d, k in zip(squared, owner, strict=True) if k == y)
        per_class.setdefault(y, []).append(-math.log(p) + weight * nearest)
    return float(np.mean([np.mean(values) for values in per_class.values()]))


def test_the_loss_is_the_papers_formula():
    model = head()
    embeddings, classes = torch.randn(7, 5), torch.tensor([0, 1, 1, 0, 1, 1, 1])
    expected = closed_loss(embeddings, classes, model.prototypes, [0, 0, 1, 1, 1], 0.7, 0.05)
    assert model.loss(embeddings, classes, 0.05).item() == pytest.approx(expected, rel=1e-5)


def test_gradients_of_the_loss_are_those_of_finite_differences():
    model = head().double()
    model.prototypes.data = model.prototypes.data.double()
    # ``loss`` works in float32, so the steps of the differences must be coarse.
    embeddings = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    classes = torch.tensor([0, 1, 1, 0])
    (gradient,) = torch.autograd.grad(model.loss(embeddings, classes, 0.1), embeddings)
    step = 1e-2
    for i in range(4):
        for j in range(5):
            moved = [embeddings.detach().clone() for _ in range(2)]
            moved[0][i, j] += step
            moved[1][i, j] -= step
            ahead, behind = (model.loss(m, classes, 0.1).item() for m in moved)
            assert gradient[i, j].item() == pytest.approx((ahead - behind) / (2 * step), abs=2e-3)


def test_one_prototype_per_class_and_no_concentration_is_a_softmax_of_distances():
    model = head(prototypes=(1, 1), gamma=1.0)
    embeddings = torch.randn(6, 5)
    logits = -torch.cdist(embeddings, model.prototypes.detach()).square()
    classes = torch.tensor([0, 1, 0, 1, 0, 1])
    expected = torch.nn.functional.cross_entropy(logits, classes)
    torch.testing.assert_close(model.loss(embeddings, classes, 0.0), expected)
    torch.testing.assert_close(model.log_probabilities(embeddings), logits.log_softmax(dim=1))


def test_probabilities_add_up_to_one_and_a_prototype_is_of_its_own_class():
    model = head(prototypes=(2, 2, 3), gamma=100.0)
    probabilities = model.log_probabilities(model.prototypes.detach()).exp()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(7))
    assert probabilities.argmax(dim=1).tolist() == [0, 0, 1, 1, 2, 2, 2]


def test_the_logit_is_the_log_odds_of_the_class_against_the_mimics_and_a_bias():
    torch.manual_seed(0)
    model = PrototypeLogits(4, (2, 1, 3), embedding=5, gamma=0.7)
    features = torch.randn(6, 4)
    log = model.log_probabilities(model.embedding(features))
    expected = log[:, :-1] - log[:, -1:] + model.bias
    torch.testing.assert_close(model(features), expected)
    likelihoods = model.log_likelihoods(model.embedding(features))
    of_each = [part.logsumexp(dim=1) for part in likelihoods.split([2, 1, 3], dim=1)]
    torch.testing.assert_close(torch.stack(of_each[:2], dim=1) - of_each[2][:, None], expected)
    as_a_map = model(features.reshape(2, 3, 4))
    torch.testing.assert_close(as_a_map, expected.reshape(2, 3, 2))


def test_the_score_before_training_is_the_prior_at_the_middle_of_all_prototypes():
    model = PrototypeLogits(4, (2, 8), embedding=5, prior=0.02)
    with torch.no_grad():
        model.prototypes.zero_()
    torch.testing.assert_close(model(torch.randn(3, 4)).sigmoid(), torch.full((3, 1), 0.02))


def test_pulling_embeddings_to_their_prototypes_moves_the_score_itself():
    torch.manual_seed(0)
    model = PrototypeLogits(4, (2, 3), embedding=5)
    features, classes = torch.randn(8, 4), torch.tensor([0, 1] * 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        places = torch.stack([torch.arange(8), *[torch.zeros(8, dtype=torch.long)] * 3], dim=1)
        model.loss(model.embed(features[:, :, None, None, None], places), classes, 0.05).backward()
        optimizer.step()
    logits = model(features).squeeze(1)
    assert logits[classes == 0].min() > logits[classes == 1].max()


def test_without_embeddings_the_loss_is_zero_and_has_gradients_for_every_weight():
    model = head()
    embeddings = model.embed(torch.randn(1, 4, 3, 3, 3), torch.zeros(0, 4, dtype=torch.long))
    model.loss(embeddings, torch.zeros(0, dtype=torch.long)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_distances_are_float32_under_mixed_precision(dtype):
    model = head()
    features = torch.randn(1, 4, 5, 5, 5)
    with torch.autocast("cpu", dtype=dtype):
        embeddings = model.embed(features, torch.tensor([[0, 2, 2, 2]]))
        loss = model.loss(embeddings, torch.tensor([0]))
    assert embeddings.dtype == loss.dtype == torch.float32


def test_an_even_window_is_refused():
    with pytest.raises(UserError, match="is even - give 1, 3 or 5"):
        head(window=2)


def test_windows_equal_those_of_a_padded_map():
    features = torch.randn(2, 3, 4, 5, 6)
    padded = torch.nn.functional.pad(features, (1,) * 6)
    places = torch.tensor([[0, 0, 0, 0], [1, 3, 4, 5], [1, 2, 1, 3], [0, 99, -7, 2]])
    found = windows(features, places, 3).reshape(4, 27, 3)
    for row, (image, z, y, x) in enumerate([(0, 0, 0, 0), (1, 3, 4, 5), (1, 2, 1, 3), (0, 3, 0, 2)]):
        expected = padded[image, :, z : z + 3, y : y + 3, x : x + 3].flatten(1).T
        torch.testing.assert_close(found[row], expected)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([0, 1, 4, LESIONS_AT_ONCE + 3]),
    st.sampled_from([(1, 1, 1), (1, 2, 2), (2, 2, 2)]),
    st.sampled_from([(1.0, 1.0, 1.0), (3.0, 0.8, 0.8)]),
    st.floats(0, 8),
)
def test_mining_never_picks_a_place_near_a_lesion(seed, n_lesions, stride, spacing, apart):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(2, 6, 7, 8, generator=generator)
    corners = torch.rand(n_lesions, 3, generator=generator) * torch.tensor([5.0, 10, 12])
    boxes = [
        torch.cat([corners, corners + 1 + 3 * torch.rand(n_lesions, 3, generator=generator)], 1),
        torch.zeros(0, 6),
    ]
    places = hard_mimics(scores, boxes, stride, spacing, 5, apart)
    for image, *place in places.tolist():
        middle = (np.array(place) + 0.5) * stride
        for box in boxes[image].numpy():
            outside = np.maximum(np.maximum(box[:3] - middle, middle - box[3:]), 0) * spacing
            assert np.linalg.norm(outside) >= apart - 1e-4
            assert outside.any()  # not even in the lesion when no distance is asked for


def test_the_first_mimic_of_a_crop_without_lesions_is_the_argmax():
    scores = torch.randn(3, 5, 6, 7)
    places = hard_mimics(scores, [torch.zeros(0, 6)] * 3, (1, 1, 1), (1, 1, 1), 1, 5.0)
    assert places[:, 0].tolist() == [0, 1, 2]
    for image, z, y, x in places.tolist():
        assert scores[image, z, y, x] == scores[image].max()


def test_further_mimics_are_other_peaks_and_there_are_none_where_lesions_fill_the_crop():
    scores = torch.zeros(1, 5, 9, 9)
    scores[0, 2, 2, 2], scores[0, 2, 2, 3], scores[0, 2, 7, 7] = 3, 2, 1
    places = hard_mimics(scores, [torch.zeros(0, 6)], (1, 1, 1), (1, 1, 1), 2, 5.0)
    assert places.tolist() == [[0, 2, 2, 2], [0, 2, 7, 7]]  # not the flank of the first peak
    full = [torch.tensor([[0.0, 0, 0, 5, 9, 9]])]
    assert hard_mimics(scores, full, (1, 1, 1), (1, 1, 1), 2, 5.0).shape == (0, 4)


def test_peaks_near_are_the_highest_of_the_27_nearest():
    scores = torch.randn(2, 5, 5, 5)
    places = torch.tensor([[0, 0, 0, 0], [1, 2, 3, 4]])
    for (image, z, y, x), place in zip(peaks_near(scores, places).tolist(), places.tolist(), strict=True):
        low, high = [max(p - 1, 0) for p in place[1:]], [p + 2 for p in place[1:]]
        around = scores[place[0]][tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        assert image == place[0]
        assert scores[image, z, y, x] == around.max()
    assert peaks_near(scores, torch.zeros(0, 4, dtype=torch.long)).shape == (0, 4)


@pytest.mark.parametrize(
    "shapes", [[(8, 16, 16), (8, 8, 8), (4, 4, 4)], [(5, 32, 32), (5, 16, 16)], [(6, 6, 6)]], ids=str
)
def test_fusion_keeps_the_shape_of_the_detection_level(shapes):
    maps = [torch.randn(2, 16, *shape, requires_grad=True) for shape in shapes]
    fused = FeatureFusion([16] * len(maps))(maps)
    assert fused.shape == maps[0].shape
    fused.sum().backward()
    for level, features in enumerate(maps):
        assert features.grad is not None, level
        assert features.grad.any(), level


def test_fusion_brings_coarse_maps_to_their_place():
    """A spot on the coarse map stands on the fused one where its voxels lie."""
    fusion = FeatureFusion([8, 8])
    for layer in (*fusion.reduce, *fusion.mix):
        torch.nn.init.ones_(layer.weight)
    fine, coarse = torch.zeros(1, 8, 4, 8, 8), torch.zeros(1, 8, 4, 4, 4)
    coarse[..., 1, 2, 3] = 1
    z, y, x = (index.item() for index in torch.unravel_index(fusion([fine, coarse])[0, 0].argmax(), (4, 8, 8)))
    assert z == 1
    assert y in (4, 5)
    assert x in (6, 7)


def test_prototypes_begin_on_embeddings_of_their_class_that_lie_apart():
    model = head(prototypes=(2, 3))
    corners = torch.tensor([[9.0, 0, 0, 0, 0], [0, 9, 0, 0, 0], [0, 0, 9, 0, 0]])
    mimics = corners.repeat(5, 1) + 0.01 * torch.randn(15, 5)
    lesions = torch.full((4, 5), -3.0)
    embeddings, classes = torch.cat([lesions, mimics]), torch.tensor([0] * 4 + [1] * 15)
    model.begin_at(embeddings, classes, torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.prototypes[:2].detach(), lesions[:2])
    nearest = torch.cdist(model.prototypes[2:].detach(), corners).argmin(dim=1)
    assert sorted(nearest.tolist()) == [0, 1, 2]  # one on each kind of mimic


def test_prototypes_of_a_class_without_embeddings_stay_where_they_are():
    model = head()
    before = model.prototypes.detach().clone()
    model.begin_at(torch.randn(6, 5), torch.ones(6, dtype=torch.long), torch.Generator())
    torch.testing.assert_close(model.prototypes[:2].detach(), before[:2])
    assert (model.prototypes[2:] != before[2:]).all()
