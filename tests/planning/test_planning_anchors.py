"""Anchors: the fit, and the quality that shows what a stride costs."""

import itertools

import numpy as np
import pytest
from monai.data.box_utils import box_iou
from scipy.optimize import differential_evolution

from cmb_plugin.planning import anchor_quality, default_anchors, fit_anchors
from cmb_plugin.planning.anchors import _Lattice

COARSE = [(2, 4, 4), (4, 8, 8), (8, 16, 16), (16, 32, 32)]
FINE = [(1, 2, 2), (2, 4, 4), (4, 8, 8), (8, 16, 16)]


def lesions(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.maximum(rng.lognormal(1.2, 0.3, (count, 1)) * rng.lognormal(0, 0.2, (count, 3)), 1)


def test_published_quality_of_a_small_lesion_at_two_strides() -> None:
    """A 3x4x4 voxel lesion: mean best-anchor IoU about 0.36 at stride (2, 4, 4) and 0.54 at (1, 2, 2)."""
    lesion = np.array([[3.0, 4.0, 4.0]])
    near = [
        tuple(side * f for side, f in zip((3, 4, 4), fs, strict=True))
        for fs in itertools.product((0.7, 1, 1.5), repeat=3)
    ]
    for stride, expected in (((2, 4, 4), 0.36), ((1, 2, 2), 0.54)):
        mean, worst = anchor_quality(lesion, [near], [stride], places=4000)
        assert mean == pytest.approx(expected, abs=0.03)
        assert worst < mean


def test_quality_with_one_exact_anchor_equals_its_integral() -> None:
    """Offsets are uniform over a voxel of the lattice: the mean is an integral over the distance along each axis."""
    points = [(np.arange(60) + 0.5) / 60 * stride / 2 for stride in (2, 4, 4)]
    z, y, x = np.meshgrid(*points, indexing="ij")
    overlap = (3 - z) * (4 - y) * (4 - x)
    expected = (overlap / (96 - overlap)).mean()
    mean, worst = anchor_quality(np.array([[3.0, 4.0, 4.0]]), [[(3.0, 4.0, 4.0)]], [(2, 4, 4)], places=20000)
    assert mean == pytest.approx(expected, abs=0.005)
    assert worst == pytest.approx(2 * 2 * 2 / (96 - 8), abs=0.02)


def test_quality_equals_monais_iou_with_every_anchor_of_the_lattice() -> None:
    strides, sizes = [(1, 2, 2), (2, 4, 4)], [[(2.0, 3.0, 3.0), (3.0, 3.0, 4.0)], [(4.0, 6.0, 6.0), (6.0, 6.0, 8.0)]]
    box = np.array([[3.0, 3.5, 5.0]])
    anchors = []
    for stride, level in zip(strides, sizes, strict=True):
        for index, size in itertools.product(np.ndindex(16, 8, 8), level):
            centre = (np.array(index) + 0.5) * stride
            anchors.append([*(centre - np.array(size) / 2), *(centre + np.array(size) / 2)])
    rng = np.random.default_rng(3)
    best = []
    for place in rng.random((50, 3)) * strides[1]:
        centre = place + np.array([4, 8, 8])
        theirs = box_iou(np.array([[*(centre - box[0] / 2), *(centre + box[0] / 2)]]), np.array(anchors))
        best.append(theirs.max())
    ours = anchor_quality(box, sizes, strides, places=50, seed=3)
    assert ours == pytest.approx((np.mean(best), np.min(best)), abs=1e-6)


def test_fit_is_as_good_as_differential_evolution() -> None:
    boxes = lesions(60)
    strides = COARSE[:2]
    lattice = _Lattice.at_random(boxes, strides, 8, np.random.default_rng(9))
    fitted = fit_anchors(boxes, strides)
    lengths = np.array([sorted({size[axis] for size in fitted.sizes[0]}) for axis in range(3)]).T
    limits = [(1.0, boxes[:, axis].max() + strides[0][axis]) for _ in range(3) for axis in range(3)]
    theirs = differential_evolution(
        lambda p: -lattice.mean_best_iou(p.reshape(3, 3)), limits, seed=0, maxiter=25, popsize=6, polish=False
    )
    assert lattice.mean_best_iou(lengths) >= -theirs.fun - 0.01


def test_fit_is_deterministic() -> None:
    boxes = lesions(300)
    assert fit_anchors(boxes, COARSE) == fit_anchors(boxes, COARSE)


def test_a_finer_level_fits_small_lesions_better() -> None:
    boxes = lesions(40)
    coarse, fine = fit_anchors(boxes, COARSE), fit_anchors(boxes, FINE)
    assert coarse.mean_best_iou is not None
    assert fine.mean_best_iou is not None
    assert fine.mean_best_iou > coarse.mean_best_iou + 0.1


def test_twenty_seven_different_sizes_grow_with_the_stride() -> None:
    fitted = fit_anchors(np.array([[3.0, 4.0, 4.0]]), COARSE)
    assert [len(set(level)) for level in fitted.sizes] == [27] * 4
    ratios = np.array(fitted.sizes[2]) / np.array(fitted.sizes[0])
    np.testing.assert_allclose(ratios, 4, atol=0.01)


def test_a_data_set_without_lesions_gets_microbleed_sizes() -> None:
    anchors = default_anchors((1.5, 1.0, 1.0), [(1, 2, 2), (2, 4, 4)])
    assert anchors.mean_best_iou is None
    assert anchors.sizes[0][0] == (2.0, 3.0, 3.0)
    assert anchors.sizes[0][-1] == (6.667, 10.0, 10.0)
    assert anchors.sizes[1][0] == (4.0, 6.0, 6.0)
