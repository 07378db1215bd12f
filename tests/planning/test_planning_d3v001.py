"""Planner D3V001: nnDetection's rules for spacing, axes, normalisation, patch, network, anchors and memory."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from cmb_plugin.errors import UserError
from cmb_plugin.planning import Plan
from cmb_plugin.plugins import planners
from cmb_plugin.preparation import CaseFingerprint, Fingerprint

Triple = tuple[int, int, int]


@pytest.fixture(autouse=True)
def _coarse_anchor_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmb_plugin.planning.anchors.PLACED_BOXES", 100)


def case(
    spacing: tuple[float, float, float],
    shape: Triple = (100, 150, 130),
    cropped: Triple | None = None,
    sizes: Sequence[tuple[float, float, float]] = ((3.0, 3.0, 3.0), (2.5, 2.4, 3.6)),
    name: str = "a",
) -> CaseFingerprint:
    labels, voxels = (0,) * len(sizes), (9,) * len(sizes)
    return CaseFingerprint(
        name, shape, spacing, cropped or shape, "SPL", tuple(sizes), voxels, labels, ((0.0, 1.0, 2.0),)
    )


def data_set(*cases: CaseFingerprint, modalities: tuple[str, ...] = ("swi",)) -> Fingerprint:
    return Fingerprint("Task001_X", modalities, ("cmb",), cases)


def planned(fingerprint: Fingerprint, **config: object) -> Plan:
    planner = planners.get("D3V001")
    plan: Plan = planner(planner.config_class(**{"gpu_memory_gb": 4.0, **config})).plan(fingerprint)
    assert plan.problem() == ""
    return plan


DEMO = data_set(*[case((1.5, 1.2, 1.2))] * 4)


def test_spacing_is_the_median() -> None:
    cases = [case((1.0, s, s)) for s in (0.5, 0.6, 0.7, 0.8, 2.0)]
    assert planned(data_set(*cases)).preprocessing.spacing == (1.0, 0.7, 0.7)


def test_thick_slices_take_a_low_percentile_as_nnunet_does() -> None:
    """Oracle: nnU-Net's own rule, run on the same numbers."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    spacings = [(z, 0.5, 0.5) for z in (2.0, 3.0, 4.0, 4.0, 5.0, 5.0, 6.0)]
    shape = (30, 400, 400)
    theirs = ExperimentPlanner.__new__(ExperimentPlanner)
    theirs.overwrite_target_spacing = None
    theirs.anisotropy_threshold = 3
    theirs.dataset_fingerprint = {"spacings": spacings, "shapes_after_crop": [shape] * 7}
    plan = planned(data_set(*[case(s, shape) for s in spacings]))
    assert plan.preprocessing.spacing == pytest.approx(theirs.determine_fullres_target_spacing())
    assert plan.preprocessing.spacing[0] == pytest.approx(2.6)


def test_sagittal_scans_are_transposed_coarse_axis_first() -> None:
    plan = planned(data_set(*[case((0.5, 0.5, 2.0), (300, 300, 60))] * 3))
    assert plan.preprocessing.transpose == (2, 0, 1)
    assert plan.preprocessing.spacing == (2.0, 0.5, 0.5)
    assert plan.patch_size[0] == min(plan.patch_size)


def test_anchors_follow_the_transposed_axes() -> None:
    flat = [(2.0, 8.0, 8.0)] * 20  # flat along the body's z, which becomes the network's second axis
    plan = planned(data_set(case((0.5, 0.5, 2.0), (300, 300, 60), sizes=flat)))
    mean = np.mean(plan.anchors.sizes[0], axis=0) * plan.preprocessing.spacing
    assert mean[1] < mean[2]


@pytest.mark.parametrize(("kept", "masked"), [(0.7, True), (0.9, False)])
def test_normalisation_is_masked_where_cropping_removed_a_quarter(kept: float, masked: bool) -> None:
    fingerprint = data_set(case((1.0, 1.0, 1.0), (100, 100, 100), (int(100 * kept), 100, 100)), modalities=("a", "b"))
    normalisation = planned(fingerprint).preprocessing.normalisation
    assert [(step.scheme, step.masked) for step in normalisation] == [("zscore", masked)] * 2


@pytest.mark.parametrize("budget", [2.0, 4.0, 8.0, 11.0])
def test_the_estimate_fits_the_budget_and_the_patch_uses_it(budget: float) -> None:
    plan = planned(DEMO, gpu_memory_gb=budget)
    assert budget * 0.75 < plan.memory_estimate_gb <= budget
    assert plan.batch_size == 4
    assert plan.architecture.features[:2] == (32, 64)


def test_patch_gives_way_first_then_batch_then_widths() -> None:
    plans = [planned(DEMO, gpu_memory_gb=gb) for gb in (8.0, 1.9, 1.2, 0.75)]
    volumes = [math.prod(plan.patch_size) for plan in plans]
    assert volumes[0] > volumes[1] >= volumes[2] >= 48**3 * 0.9
    assert [plan.batch_size for plan in plans[:2]] == [4, 4]
    assert plans[2].batch_size < 4
    assert plans[2].architecture.features[0] == 32
    assert plans[3].batch_size == 1
    assert plans[3].architecture.features[0] < 32
    assert any("Batch" in note for note in plans[2].notes)
    assert any("Widths" in note for note in plans[3].notes)


def test_patch_is_no_larger_than_the_median_scan_but_for_padding() -> None:
    plan = planned(DEMO, gpu_memory_gb=200)
    assert all(
        side < median + step
        for side, median, step in zip(plan.patch_size, (100, 150, 130), plan.architecture.divisor, strict=True)
    )


def test_detection_begins_at_p2_and_has_four_levels() -> None:
    architecture = planned(DEMO, gpu_memory_gb=24).architecture
    assert architecture.detection_levels == (2, 3, 4, 5)
    assert architecture.stride_of(2) == (4, 4, 4)
    assert planned(DEMO, finest_level=1, gpu_memory_gb=24).architecture.detection_levels == (1, 2, 3, 4)


def test_a_users_patch_is_kept_and_rounded_up() -> None:
    plan = planned(DEMO, patch_size=[40, 50, 64])
    assert plan.patch_size == (40, 56, 64)
    assert any("40x50x64" in note for note in plan.notes)
    assert planned(DEMO, patch_size=[48, 64, 64]).patch_size == (48, 64, 64)


def test_a_users_spacing_is_taken_in_the_bodys_axes() -> None:
    plan = planned(DEMO, spacing=[1.0, 1.0, 2.0])
    assert plan.preprocessing.spacing == (2.0, 1.0, 1.0)
    assert plan.preprocessing.transpose == (2, 0, 1)


def test_planning_is_deterministic() -> None:
    assert planned(DEMO) == planned(DEMO)


def test_small_lesions_at_a_coarse_stride_are_noted_with_the_remedy() -> None:
    plan = planned(DEMO)
    assert plan.anchors.mean_best_iou is not None
    assert plan.anchors.mean_best_iou < 0.3
    assert any("finest_level=1" in note for note in plan.notes)
    big = data_set(case((1.0, 1.0, 1.0), sizes=[(12.0, 12.0, 12.0)]))
    assert not any("finest_level" in note for note in planned(big).notes)


def test_healthy_data_gets_default_anchors() -> None:
    plan = planned(data_set(case((1.0, 1.0, 1.0), sizes=())))
    assert plan.anchors.mean_best_iou is None
    assert (3.0, 3.0, 3.0) in plan.anchors.sizes[0]
    assert any("No lesion" in note for note in plan.notes)


@pytest.mark.parametrize(
    "config",
    [
        {"batch_size": 0},
        {"patch_size": [1, 2]},
        {"spacing": [1.0, 0.0, 1.0]},
        {"spacing": [float("nan"), 1.0, 1.0]},
        {"spacing": [float("inf"), 1.0, 1.0]},
        {"gpu_memory_gb": 0.0},
        {"finest_level": -1},
    ],
)
def test_settings_that_cannot_be_followed_are_refused(config: dict[str, object]) -> None:
    with pytest.raises(UserError, match="planner_cfg"):
        planned(DEMO, **config)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(UserError, match="no usable training case"):
        planned(data_set())
