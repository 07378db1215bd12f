"""Suppression and clustering against plain Python, MONAI and the formula worked by hand."""

from __future__ import annotations

import pytest
import torch
from box_strategies import boxes, clustered_boxes, random_boxes
from hypothesis import given
from hypothesis import strategies as st
from monai.data import box_utils as monai_boxes
from torch import Tensor

from cmb_plugin.boxes import batched_nms, nms, weighted_box_clustering
from cmb_plugin.boxes import suppression as suppression_module

THRESHOLDS = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0])


def plain_iou(a: list[float], b: list[float]) -> float:
    shared, volume_a, volume_b = 1.0, 1.0, 1.0
    for axis in range(3):
        shared *= max(0.0, min(a[axis + 3], b[axis + 3]) - max(a[axis], b[axis]))
        volume_a *= a[axis + 3] - a[axis]
        volume_b *= b[axis + 3] - b[axis]
    return shared / (volume_a + volume_b - shared)


def plain_nms(some: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """The definition, in plain Python."""
    rows, values, kept = some.double().tolist(), scores.tolist(), []
    for index in sorted(range(len(rows)), key=lambda i: -values[i]):
        if all(plain_iou(rows[index], rows[other]) <= threshold + 1e-7 for other in kept):
            kept.append(index)
    return kept


def scores_for(some: Tensor, seed: int, steps: int = 5) -> Tensor:
    """Few different values, so that many are equal."""
    return torch.randint(1, steps + 1, (len(some),), generator=torch.Generator().manual_seed(seed)) / steps


@given(boxes(max_count=20, extent=6), st.integers(0, 10_000), THRESHOLDS)
def test_nms_equals_its_definition(some: Tensor, seed: int, threshold: float) -> None:
    scores = scores_for(some, seed)
    assert nms(some, scores, threshold).tolist() == plain_nms(some, scores, threshold)


@pytest.mark.parametrize("chunk", [1, 3, 64])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("kind", ["random", "clustered", "one place", "in a row"])
def test_nms_equals_monai_whatever_is_compared_at_a_time(
    monkeypatch: pytest.MonkeyPatch, chunk: int, threshold: float, kind: str
) -> None:
    monkeypatch.setattr(suppression_module, "CHUNK", chunk)
    monkeypatch.setattr(suppression_module, "LEAF", 4)
    monkeypatch.setattr(suppression_module, "PAIRS", 64)
    some = {
        "random": lambda: random_boxes(150, seed=1, volume=30.0),
        "clustered": lambda: clustered_boxes(150, centres=7, seed=2),
        "one place": lambda: random_boxes(150, seed=3, volume=0.5, smallest=6.0),
        "in a row": lambda: torch.arange(150.0)[:, None] + torch.tensor([[0.0, 0, 0, 6, 6, 6]]),
    }[kind]()
    scores = torch.rand(len(some), generator=torch.Generator().manual_seed(4))
    expected = monai_boxes.non_max_suppression(some, scores, threshold)
    assert nms(some, scores, threshold).tolist() == expected.tolist()


def test_nms_of_many_boxes_equals_monai() -> None:
    some = torch.cat([random_boxes(2000, seed=0, volume=80.0), clustered_boxes(2000, centres=40, seed=1)])
    scores = torch.rand(len(some), generator=torch.Generator().manual_seed(2))
    for threshold in (0.1, 0.5):
        expected = monai_boxes.non_max_suppression(some, scores, threshold)
        assert nms(some, scores, threshold).tolist() == expected.tolist()


def test_equal_scores_keep_their_order() -> None:
    same = torch.tensor([[0.0, 0, 0, 2, 2, 2]]).repeat(3, 1)
    apart = same + torch.arange(3.0)[:, None] * 10
    assert nms(same, torch.ones(3), 0.5).tolist() == [0]
    assert nms(apart, torch.ones(3), 0.5).tolist() == [0, 1, 2]
    assert batched_nms(apart, torch.ones(3), torch.tensor([1, 0, 1]), 0.5).tolist() == [0, 1, 2]


def test_touching_one_voxel_boxes_all_stay_even_at_threshold_zero() -> None:
    lines = torch.arange(6.0)
    low = torch.stack(torch.meshgrid(lines, lines, lines, indexing="ij"), dim=-1).reshape(-1, 3)
    voxels = torch.cat([low, low + 1], dim=1)
    assert len(nms(voxels, torch.rand(len(voxels)), 0.0)) == len(voxels)


@given(boxes(min_count=1, max_count=20, extent=6), st.integers(0, 10_000), THRESHOLDS)
def test_batched_nms_equals_monai(some: Tensor, seed: int, threshold: float) -> None:
    scores = torch.randperm(len(some), generator=torch.Generator().manual_seed(seed)).float()
    labels = scores_for(some, seed, steps=3).mul(3).long()
    # MONAI moves the classes apart, which costs digits of the coordinates: it is given float64.
    expected = monai_boxes.batched_nms(some.double(), scores.double(), labels, threshold)
    assert batched_nms(some, scores, labels, threshold).tolist() == expected.tolist()


def plain_clustering(
    some: Tensor, scores: Tensor, labels: Tensor, weights: Tensor, threshold: float, expected: Tensor
) -> list[tuple[float, int, list[float], list[int]]]:
    """The formula, in plain Python: (score, label, box, members) of every cluster, highest score first."""
    rows, s, w = some.double().tolist(), scores.double().tolist(), weights.double().tolist()
    free = sorted(range(len(rows)), key=lambda i: -s[i])
    clusters = []
    while free:
        seed = free[0]
        members = [
            i
            for i in free
            if i == seed or (labels[i] == labels[seed] and plain_iou(rows[i], rows[seed]) > threshold + 1e-7)
        ]
        free = [i for i in free if i not in members]
        v = {i: w[i] * plain_iou(rows[i], rows[seed]) for i in members}
        missing = max(0.0, sum(float(expected[i]) for i in members) / len(members) - len(members))
        score = sum(v[i] * s[i] for i in members) / (sum(v.values()) * (1 + missing / len(members)))
        total = sum(v[i] * s[i] for i in members)
        box = [sum(v[i] * s[i] * rows[i][k] for i in members) / total for k in range(6)]
        clusters.append((score, int(labels[seed]), box, sorted(members)))
    return sorted(clusters, key=lambda cluster: -cluster[0])


@given(boxes(max_count=14, extent=5), st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.5]))
def test_clustering_equals_its_formula(some: Tensor, seed: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores, weights = (0.05 + 0.95 * torch.rand(len(some), generator=generator) for _ in range(2))
    labels = torch.randint(0, 2, (len(some),), generator=generator)
    views = torch.randint(1, 6, (len(some),), generator=generator)
    found = weighted_box_clustering(some, scores, labels, weights, threshold, views)
    expected = plain_clustering(some, scores, labels, weights, threshold, views)
    assert len(found.boxes) == len(expected)
    for cluster, (score, label, box, members) in enumerate(expected):
        assert found.scores[cluster].item() == pytest.approx(score, rel=1e-4)
        assert found.labels[cluster].item() == label
        assert found.boxes[cluster].tolist() == pytest.approx(box, rel=1e-4, abs=1e-3)
        assert (found.index == cluster).nonzero().flatten().tolist() == members
        assert found.members[cluster].item() == len(members)


def test_clustering_worked_by_hand() -> None:
    # Two boxes of 2x2x2 and 2x2x4 that share 8 of 16 voxels: IoU 0.5 with the first, which scores higher.
    some = torch.tensor([[0.0, 0, 0, 2, 2, 2], [0, 0, 0, 2, 2, 4]])
    found = weighted_box_clustering(some, torch.tensor([0.8, 0.4]), torch.zeros(2).long(), None, 0.1, n_expected=4)
    # v = 1, 0.5; sum(v s) = 0.8 + 0.2 = 1; sum(v) = 1.5; 2 missing at mean(v) 0.75 = 1.5
    assert found.scores.tolist() == pytest.approx([1 / 3])
    assert found.boxes[0].tolist() == pytest.approx([0, 0, 0, 2, 2, 0.8 * 2 + 0.2 * 4])
    assert found.members.tolist() == [2]


def test_identical_views_give_their_own_box_and_score_back() -> None:
    some = torch.tensor([[1.0, 2, 3, 4, 5, 6]]).repeat(8, 1)
    found = weighted_box_clustering(some, torch.full((8,), 0.7), torch.ones(8).long(), None, 0.1, n_expected=8)
    torch.testing.assert_close(found.boxes, some[:1])
    assert found.scores.tolist() == pytest.approx([0.7])
    assert found.labels.tolist() == [1]


def test_a_lesion_seen_by_half_of_the_views_scores_half() -> None:
    some = torch.tensor([[1.0, 2, 3, 4, 5, 6]]).repeat(4, 1)
    found = weighted_box_clustering(some, torch.full((4,), 0.8), torch.zeros(4).long(), None, 0.1, n_expected=8.0)
    assert found.scores.tolist() == pytest.approx([0.4])


def test_degenerate_input_to_clustering_gives_finite_numbers() -> None:
    some = torch.tensor([[1.0, 1, 1, 1, 1, 1], [5.0, 5, 5, 6, 6, 6], [9.0, 9, 9, 10, 10, 10]])
    scores, weights = torch.tensor([0.6, 0.0, 0.5]), torch.tensor([1.0, 1.0, 0.0])  # no volume, no score, no weight
    found = weighted_box_clustering(some, scores, torch.zeros(3).long(), weights)
    torch.testing.assert_close(found.boxes, some[[0, 2, 1]])
    assert found.scores.tolist() == pytest.approx([0.6, 0.5, 0.0])


def test_no_boxes_give_empty_results() -> None:
    none, empty = torch.zeros(0, 6), torch.zeros(0)
    assert nms(none, empty, 0.5).tolist() == []
    assert batched_nms(none, empty, empty.long(), 0.5).dtype == torch.long
    found = weighted_box_clustering(none, empty, empty.long(), None, 0.1, n_expected=4)
    assert found.boxes.shape == (0, 6)
    assert found.scores.shape == found.labels.shape == found.members.shape == found.index.shape == (0,)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_what_the_cpu_gives() -> None:
    some = clustered_boxes(3000, centres=200, seed=0)
    scores = torch.rand(len(some), generator=torch.Generator().manual_seed(1))
    labels = torch.arange(len(some)) % 2
    assert (
        batched_nms(some.cuda(), scores.cuda(), labels.cuda(), 0.3).tolist()
        == batched_nms(some, scores, labels, 0.3).tolist()
    )
    on_cuda = weighted_box_clustering(some.cuda(), scores.cuda(), labels.cuda(), None, 0.1, 4)
    torch.testing.assert_close(on_cuda.boxes.cpu(), weighted_box_clustering(some, scores, labels, None, 0.1, 4).boxes)
