"""Dense maps of centres: what is planned, what a lesion of each size gets, and what a plan's file says of it."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from small_plan import PLAN

from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.planning import TYPICAL_MM, WIDEST_REACH, Centres, Plan, centre_fit, default_centres, plan_centres
from cmb_plugin.planning.centres import COARSEST_MM, REACH_OF_SIGMA, SIGMA_OF_WIDTH

CENTRES = Centres(
    level=1, features=(8, 16), channels=8, sigma_mm=1.2, reach_mm=1.5, sides_mm=(3.0, 2.8, 2.8),
    by_size=centre_fit(np.array([[2.0, 3, 3], [3, 6, 6]]), (1, 2, 2), (1.5, 1.0, 1.0), 1.5, 2.8),
)  # fmt: skip


def test_the_locations_that_a_lesion_gets_are_those_of_a_monte_carlo():
    """Lesions at random places between the locations: middles inside the box, and within reach of the centre."""
    rng = np.random.default_rng(0)
    stride, spacing, reach = (1, 2, 2), np.array([1.5, 0.5, 0.6]), 1.7
    sizes = np.array([[2.0, 5, 4], [3, 4, 5], [2, 9, 8]])
    (under2, to3, to5, over5) = centre_fit(sizes, stride, spacing, reach, 2.4)
    assert [fit.lesions for fit in (under2, to3, to5, over5)] == [0, 2, 1, 0]
    grid = np.stack(np.meshgrid(*[np.arange(-4, 6)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) * np.array(stride)
    covered, learned = [], []
    for size in sizes:
        away = np.abs(grid[None] - rng.random((4000, 1, 3)) * stride)
        covered.append((away <= size / 2).all(axis=2).sum(axis=1).mean())
        wider = min(max((size * spacing).min() / 2.4, 1), WIDEST_REACH)
        learned.append((np.linalg.norm(away * spacing, axis=2) <= reach * wider).sum(axis=1).mean())
    assert to3.cells == pytest.approx(np.mean(covered[:2]), rel=0.05)
    assert to5.cells == pytest.approx(covered[2], rel=0.05)
    assert to3.learned == pytest.approx(np.mean(learned[:2]), rel=0.05)
    assert to5.learned == pytest.approx(learned[2], rel=0.05)
    assert learned[2] > 1.5 * learned[0]


def test_a_lesion_between_coarse_locations_is_learned_by_one():
    (*_, fit) = centre_fit(np.array([[1.0, 9, 9]]), (4, 4, 4), (1.0, 1.0, 1.0), 0.5, 2.8)
    assert fit.learned == 1
    assert centre_fit(np.zeros((0, 3)), (1, 1, 1), (1.0, 1.0, 1.0), 1.0, 2.8) == ()


def test_the_target_follows_the_width_of_the_median_lesion():
    centres = plan_centres(PLAN.architecture, (1.5, 1.0, 1.0), 1, (6.0, 4.0, 4.0), np.array([[4.0, 4, 4]]))
    assert centres.sigma_mm == pytest.approx(SIGMA_OF_WIDTH * 4)
    assert centres.reach_mm == pytest.approx(REACH_OF_SIGMA * SIGMA_OF_WIDTH * 4)
    assert centres.features == (16, 32, 64)
    assert sum(fit.lesions for fit in centres.by_size) == 1
    typical = default_centres(PLAN.architecture, (1.5, 1.0, 1.0))
    assert (typical.level, typical.sides_mm) == (1, (TYPICAL_MM,) * 3)
    assert typical.sigma_mm == pytest.approx(1.2, abs=0.01)


@pytest.mark.parametrize(("voxel", "stages"), [(0.2, 3), (2.0, 2), (COARSEST_MM / 2, 2), (5.0, 1)])
def test_the_light_network_leaves_out_stages_of_locations_longer_than_the_coarsest(voxel, stages):
    centres = default_centres(dataclasses.replace(PLAN.architecture, detection_levels=(0,)), (voxel,) * 3)
    # Strides of the three stages: 1, then 2 within the slice, then 2 x 4 x 4; the finest axis counts.
    strides = [PLAN.architecture.stride_of(stage) for stage in range(3)]
    assert len(centres.features) == sum(min(stride) * voxel <= COARSEST_MM or not n for n, stride in enumerate(strides))
    light = centres.architecture(PLAN.architecture)
    assert len(light.features) == len(light.strides) == len(light.kernels) == len(light.convs_per_stage)
    assert light.convs_per_stage[0] == 1


def test_a_plan_comes_back_from_its_file_with_its_centres(tmp_path):
    plan = dataclasses.replace(PLAN, centres=CENTRES)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


def test_a_plan_of_before_there_were_centres_is_read(tmp_path):
    PLAN.save(tmp_path / "plan.json")
    content = read_json(tmp_path / "plan.json")
    del content["centres"]
    write_json(tmp_path / "plan.json", content)
    assert Plan.load(tmp_path / "plan.json") == PLAN


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"features": ()}, "do not fit 3 stages"),
        ({"features": (8, 8, 8, 8)}, "do not fit 3 stages"),
        ({"features": (8, 0)}, "do not fit 3 stages"),
        ({"channels": 0}, "channels 0 do not fit 3 stages"),
        ({"level": 2}, "level 2 is no stage from 0 to 1"),
        ({"level": -1}, "level -1 is no stage from 0 to 1"),
        ({"sigma_mm": 0.0}, "must be above 0"),
        ({"sides_mm": (3.0, 0.0, 3.0)}, "must be above 0"),
    ],
)
def test_centres_that_cannot_be_followed_are_named_with_the_file(tmp_path, changes, said):
    dataclasses.replace(PLAN, centres=dataclasses.replace(CENTRES, **changes)).save(tmp_path / "plan.json")
    with pytest.raises(UserError, match=rf"plan\.json: centres: .*{said}"):
        Plan.load(tmp_path / "plan.json")


def test_the_volume_of_a_ball_is_that_of_torchs_locations():
    """The formula behind ``learned`` against ``locations_near``, which training asks."""
    from cmb_plugin.boxes import locations_near

    rng = np.random.default_rng(1)
    centres = rng.uniform(9, 11, (300, 3))
    counts = [
        len(locations_near(torch.tensor([[*c, *c]]), (20, 10, 10), (1, 2, 2), (1.0, 0.5, 0.5), 1.7)[0]) for c in centres
    ]
    assert np.mean(counts) == pytest.approx(4 / 3 * math.pi * 1.7**3, rel=0.05)
