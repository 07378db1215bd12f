"""Planner D3CMB: lesions decide the grid, modalities the intensities, memory the size."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import differential_evolution

from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.phantom.protocols import PROTOCOLS
from cmb_plugin.planning import Plan, anchor_quality, fit_anchors, fit_by_size, fit_free_anchors
from cmb_plugin.planning.anchors import _Lattice, rarity
from cmb_plugin.plugins import planners
from cmb_plugin.preparation import CaseFingerprint, Fingerprint

Triple = tuple[int, int, int]
Size = tuple[float, float, float]
MIXED = ("cuhk", "csiro", "ukb", "valdo1", "valdo2", "valdo3")
GRID = [(1, 1, 1)]


@pytest.fixture(autouse=True)
def _coarse_anchor_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmb_plugin.planning.anchors.PLACED_BOXES", 400)


def case(
    spacing: Size,
    shape: Triple = (100, 180, 150),
    sizes: Sequence[Size] = ((3.0, 2.5, 2.5),) * 3,
    brain: Triple | None = None,
    contrasts: Sequence[Sequence[float]] = (),
    percentiles: Sequence[Size] = ((0.0, 1.0, 2.0),) * 4,
) -> CaseFingerprint:
    return CaseFingerprint(
        "a",
        shape,
        spacing,
        shape,
        "SPL",
        tuple(sizes),
        (9,) * len(sizes),
        (0,) * len(sizes),
        tuple(percentiles),
        brain_shape=brain,
        contrasts=tuple(map(tuple, contrasts)),
    )


def data_set(*cases: CaseFingerprint, modalities: tuple[str, ...] = ("swi",)) -> Fingerprint:
    return Fingerprint("Task001_X", modalities, ("cmb",), cases)


def phantoms(*names: str, per_protocol: int = 3) -> Fingerprint:
    """Fingerprints with the protocols' grids, a brain of 140 x 185 x 150 mm, and lesions drawn from their diameters on
    whole voxels, twice as deep as wide, as blooming makes them."""
    rng = np.random.default_rng(0)
    cases = []
    for name in names:
        protocol = PROTOCOLS[name]
        voxel = np.array(protocol.spacing)
        for _ in range(per_protocol):
            widths = [0.75 * protocol.lesions.diameter(u) for u in rng.random(12)]
            sides = [np.maximum(np.round(np.array([2 * w, w, w]) / voxel), 1) * voxel for w in widths]
            brain = tuple(
                min(s, round(mm / v)) for s, mm, v in zip(protocol.shape, (140, 185, 150), voxel, strict=True)
            )
            cases.append(case(protocol.spacing, protocol.shape, [tuple(s) for s in sides], brain))  # type: ignore[arg-type, misc]
    return data_set(*cases, modalities=("SWI", "PHASE"))


def planned(fingerprint: Fingerprint, name: str = "D3CMB", **config: object) -> Plan:
    planner = planners.get(name)
    plan: Plan = planner(planner.config_class(**{"gpu_memory_gb": 8.0, **config})).plan(fingerprint)
    assert plan.problem() == ""
    return plan


def cells(plan: Plan) -> np.ndarray:
    """mm along each axis of the finest detection map."""
    return np.array(plan.preprocessing.spacing) * plan.architecture.stride_of(plan.architecture.detection_levels[0])


# Spacing and stride


@pytest.mark.parametrize("name", [*PROTOCOLS, "mixed"])
def test_lesions_span_three_voxels_of_the_map_or_the_map_is_as_fine_as_the_scans(name: str) -> None:
    fingerprint = phantoms(*(MIXED if name == "mixed" else (name,)))
    plan = planned(fingerprint)
    width = np.median([math.sqrt(s[1] * s[2]) for c in fingerprint.cases for s in c.sizes_mm])
    finest = min(c.spacing[2] for c in fingerprint.cases)
    assert max(cells(plan)[1:]) <= max(width / 3, finest) * 1.001
    stride = plan.architecture.stride_of(plan.architecture.detection_levels[0])
    assert max(stride[1:]) <= 2
    assert plan.architecture.detection_levels == (plan.architecture.detection_levels[0],)


@pytest.mark.parametrize("name", [*PROTOCOLS, "mixed"])
def test_anchors_fit_better_than_d3v001s_on_every_protocol_and_size(name: str) -> None:
    fingerprint = phantoms(*(MIXED if name == "mixed" else (name,)))
    fits = []
    for planner in ("D3V001", "D3CMB"):
        plan = planned(fingerprint, planner, gpu_memory_gb=24.0)
        strides = [plan.architecture.stride_of(level) for level in plan.architecture.detection_levels]
        sizes = fingerprint.sizes_mm / plan.preprocessing.spacing
        fits.append(fit_by_size(plan.anchors, sizes, strides, plan.preprocessing.spacing, seed=5))
        assert len(plan.anchors.sizes[0]) == (27 if planner == "D3V001" else 3)
    for baseline, ours in zip(*fits, strict=True):
        assert ours.lesions == baseline.lesions
        if ours.mean_best_iou is not None and baseline.mean_best_iou is not None:
            assert ours.mean_best_iou > baseline.mean_best_iou


def test_large_lesions_get_stride_two_and_slices_are_not_joined() -> None:
    plan = planned(data_set(case((0.8, 0.45, 0.45), (200, 400, 350), [(4.0, 3.0, 3.0)] * 4)))
    assert plan.architecture.stride_of(plan.architecture.detection_levels[0]) == (1, 2, 2)
    deep = planned(data_set(case((0.8, 0.45, 0.45), (200, 400, 350), [(6.0, 3.0, 3.0)] * 4)))
    assert deep.architecture.stride_of(deep.architecture.detection_levels[0]) == (2, 2, 2)
    thick = planned(data_set(case((3.0, 0.45, 0.45), (48, 400, 350), [(9.0, 3.0, 3.0)] * 4)))
    assert thick.architecture.stride_of(thick.architecture.detection_levels[0]) == (1, 2, 2)


def test_thin_slices_are_kept_where_lesions_need_them_and_some_scans_have_them() -> None:
    thin, thick = case((0.8, 0.5, 0.5), sizes=[(4.0, 2.0, 2.0)] * 3), case((4.0, 0.5, 0.5), sizes=[(8.0, 2.0, 2.0)] * 3)
    assert planned(data_set(thin, thick, thick)).preprocessing.spacing[0] == pytest.approx(4 / 3, abs=0.15)
    assert planned(data_set(*[thick] * 20, thin)).preprocessing.spacing[0] == 4.0


def test_sagittal_slices_come_first() -> None:
    plan = planned(data_set(case((0.5, 0.5, 2.0), (300, 300, 60), [(2.0, 2.0, 4.0)] * 3)))
    assert plan.preprocessing.transpose == (2, 0, 1)
    assert plan.preprocessing.spacing == (2.0, 0.5, 0.5)


def test_the_user_wins() -> None:
    fingerprint = phantoms("demo")
    plan = planned(
        fingerprint,
        spacing=[2.0, 1.0, 1.0],
        finest_level=1,
        patch_size=[32, 64, 64],
        batch_size=3,
        base_features=16,
        pyramid_channels=48,
        anchors=5,
        detection_levels=2,
        gpu_memory_gb=80.0,
    )
    assert plan.preprocessing.spacing == (2.0, 1.0, 1.0)
    assert plan.architecture.detection_levels == (1, 2)
    assert plan.patch_size == (32, 64, 64)
    assert plan.batch_size == 3
    assert (plan.architecture.features[0], plan.architecture.pyramid_channels) == (16, 48)
    assert [len(level) for level in plan.anchors.sizes] == [5, 5]
    assert any("as the settings have it" in note for note in plan.notes)


def test_healthy_data_is_planned_for_usual_microbleeds() -> None:
    plan = planned(data_set(case((1.0, 0.5, 0.5), sizes=())))
    assert plan.anchors.mean_best_iou is None
    assert len(plan.anchors.sizes[0]) == 3
    assert plan.anchors.sizes[0][0] == (3.0, 6.0, 6.0)
    assert any("No lesion" in note for note in plan.notes)


# Anchors


def test_free_anchors_are_as_good_as_differential_evolutions() -> None:
    rng = np.random.default_rng(3)
    boxes = np.maximum(rng.lognormal(1.2, 0.3, (60, 1)) * rng.lognormal(0, 0.2, (60, 3)), 1)
    lattice = _Lattice.at_random(boxes, [(1, 2, 2)], 8, np.random.default_rng(9))
    lattice.weights = np.repeat(rarity(boxes), 8)
    fitted = np.array(fit_free_anchors(boxes, [(1, 2, 2)]).sizes[0])
    limits = [(1.0, float(boxes.max()) + 2)] * 9
    theirs = differential_evolution(
        lambda p: -lattice.mean_best_iou_of(p.reshape(3, 3)), limits, seed=0, maxiter=60, popsize=8, polish=False
    )
    assert lattice.mean_best_iou_of(fitted) >= -theirs.fun - 0.01


def test_one_box_and_one_anchor_at_stride_one_is_found_again() -> None:
    """Offsets of up to half a voxel along each axis cost a box of 20 voxels little: its own shape fits best."""
    fitted = fit_free_anchors(np.array([[20.0, 10.0, 14.0]]), GRID, count=1)
    np.testing.assert_allclose(fitted.sizes[0][0], [20, 10, 14], rtol=0.06)


def test_two_kinds_of_lesion_get_an_anchor_each_and_more_anchors_do_no_harm() -> None:
    boxes = np.array([[3.0, 3.0, 3.0], [12.0, 6.0, 6.0]] * 20)
    fits = [fit_free_anchors(boxes, GRID, count) for count in (1, 2, 3)]
    volumes = [math.prod(size) for size in fits[1].sizes[0]]
    assert volumes[1] / volumes[0] > 6
    means = [fit.mean_best_iou or 0.0 for fit in fits]
    assert means[0] + 0.1 < means[1] <= means[2] + 0.01


def test_three_free_anchors_come_near_all_combinations() -> None:
    boxes = np.maximum(np.random.default_rng(0).lognormal(1.2, 0.25, (200, 3)), 1)
    free, grid = fit_free_anchors(boxes, GRID), fit_anchors(boxes, GRID)
    assert (free.mean_best_iou or 0) > (grid.mean_best_iou or 0) - 0.08
    assert fit_free_anchors(boxes, GRID) == free


def test_the_fit_by_size_is_the_quality_of_each_class() -> None:
    spacing = (3.0, 1.0, 1.0)
    boxes = np.array([[1.0, 1.5, 1.5], [2.0, 2.0, 2.0], [2.0, 2.9, 2.9], [2.0, 3.0, 4.0], [3.0, 9.0, 9.0]])
    anchors = fit_free_anchors(boxes, GRID)
    fits = fit_by_size(anchors, boxes, GRID, spacing, seed=4)
    assert [(fit.diameter, fit.lesions) for fit in fits] == [
        ("< 2 mm", 1),
        ("2-3 mm", 2),
        ("3-5 mm", 1),
        (">= 5 mm", 1),
    ]
    mean, worst = anchor_quality(boxes[1:3], anchors.sizes, GRID, seed=4)
    assert (fits[1].mean_best_iou, fits[1].min_best_iou) == (
        pytest.approx(mean, abs=1e-4),
        pytest.approx(worst, abs=1e-4),
    )
    assert fit_by_size(anchors, boxes[:1], GRID, spacing)[3].mean_best_iou is None


# Intensities, polarity, brain


def test_each_modality_is_normalised_as_what_it_is() -> None:
    recipe = planned(data_set(case((1.0, 0.5, 0.5)), modalities=("Phase", "SWI", "QSM", "T1w"))).preprocessing
    assert [step.scheme for step in recipe.normalisation] == ["phase", "robust", "qsm", "robust"]
    assert recipe.brain_channel == 1
    assert planned(data_set(case((1.0, 0.5, 0.5)), modalities=("QSM",))).preprocessing.brain_channel is None


def test_a_name_that_says_nothing_is_judged_by_its_values() -> None:
    turn = case((1.0, 0.5, 0.5), percentiles=[(-3.1, 0.0, 3.1), (0.0, 300.0, 900.0)])
    plan = planned(data_set(turn, modalities=("first", "second")))
    assert [step.scheme for step in plan.preprocessing.normalisation] == ["phase", "robust"]


def test_polarity_is_the_names_and_the_lesions_where_the_name_is_silent() -> None:
    contrasts = [(-3.0, 0.1, 2.5, 2.0)] * 6
    fingerprint = data_set(case((1.0, 0.5, 0.5), contrasts=contrasts), modalities=("SWI", "PHASE", "QSM", "other"))
    plan = planned(fingerprint)
    assert plan.polarity == ("dark", "signed", "bright", "bright")
    assert not any("named rightly" in note for note in plan.notes)
    wrong = data_set(case((1.0, 0.5, 0.5), contrasts=[(3.0,)] * 6), modalities=("SWI",))
    assert planned(wrong).polarity == ("dark",)
    assert any("bright" in note and "named rightly" in note for note in planned(wrong).notes)
    few = data_set(case((1.0, 0.5, 0.5), contrasts=[(3.0,)] * 2), modalities=("SWI",))
    assert not any("named rightly" in note for note in planned(few).notes)


def test_the_patch_is_cut_to_the_brain_not_to_the_scan() -> None:
    whole = planned(data_set(case((2.0, 2.0, 2.0), (100, 125, 125))), gpu_memory_gb=400.0)
    brain = planned(data_set(case((2.0, 2.0, 2.0), (100, 125, 125), brain=(8, 12, 8))), gpu_memory_gb=400.0)
    assert math.prod(brain.patch_size) < math.prod(whole.patch_size)
    assert all(side < limit + 8 for side, limit in zip(brain.patch_size, (20, 24, 20), strict=True))


# Memory


@pytest.mark.parametrize("names", [MIXED, ("demo",), ("valdo1",)])
def test_plans_grow_with_the_budget_and_stay_within_it(names: tuple[str, ...]) -> None:
    fingerprint = phantoms(*names)
    plans = [planned(fingerprint, gpu_memory_gb=gb) for gb in (2.0, 4.0, 8.0, 11.0, 16.0, 24.0, 40.0, 80.0, 140.0)]
    assert all(plan.memory_estimate_gb <= plan.memory_gb for plan in plans)
    for growing in (
        [plan.memory_estimate_gb for plan in plans],
        [math.prod(plan.patch_size) * plan.batch_size for plan in plans],
        [plan.architecture.features[0] for plan in plans],
        [plan.batch_size for plan in plans],
    ):
        assert growing == sorted(growing)
    assert all(plan.batch_size >= 2 for plan in plans)
    assert plans[-1].memory_estimate_gb > 2 * plans[0].memory_estimate_gb


def test_what_the_largest_patch_leaves_goes_to_batch_then_widths() -> None:
    small = data_set(case((2.0, 1.2, 1.2), (40, 80, 64)))
    plans = [planned(small, gpu_memory_gb=gb) for gb in (1.5, 3.0, 60.0)]
    assert [plan.batch_size for plan in plans] == sorted(plan.batch_size for plan in plans)
    assert plans[-1].batch_size == 8
    assert plans[-1].architecture.features[0] == 64
    assert plans[-1].architecture.pyramid_channels == 128
    assert plans[0].patch_size == plans[-1].patch_size
    assert plans[1].architecture.features[0] < 64


def test_a_budget_too_small_for_anything_is_said() -> None:
    plan = planned(phantoms("demo"), gpu_memory_gb=0.3)
    assert any("training may fail" in note for note in plan.notes)
    assert plan.batch_size == 1


# The file


def test_planning_is_deterministic_and_the_plan_is_read_as_written(tmp_path: Path) -> None:
    plan = planned(phantoms("csiro"))
    assert planned(phantoms("csiro")) == plan
    assert plan.name == "D3CMB_3d"
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    content = read_json(tmp_path / "plan.json")
    del content["polarity"], content["anchors"]["by_size"]
    del content["preprocessing"]["brain_channel"], content["preprocessing"]["brain_margin_mm"]
    write_json(tmp_path / "old.json", content)  # as files were before
    old = Plan.load(tmp_path / "old.json")
    assert (old.polarity, old.preprocessing.brain_channel) == ((), None)


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [("polarity", ["dark"], "polarity"), ("polarity", ["dim", "dark"], "dim"), ("brain", 5, "brain_channel")],
)
def test_an_edit_that_cannot_be_followed_is_named(tmp_path: Path, field: str, value: object, word: str) -> None:
    planned(phantoms("csiro")).save(tmp_path / "plan.json")
    content = read_json(tmp_path / "plan.json")
    if field == "brain":
        content["preprocessing"]["brain_channel"] = value
    else:
        content[field] = value
    write_json(tmp_path / "plan.json", content)
    with pytest.raises(UserError, match=word):
        Plan.load(tmp_path / "plan.json")


@pytest.mark.parametrize(
    "config",
    [
        {"anchors": 0},
        {"anchors_per_axis": 2},
        {"brain_margin_mm": -1.0},
        {"brain_margin_mm": float("nan")},
        {"brain_margin_mm": float("inf")},
        {"centre_features": 0},
        {"centre_channels": -3},
    ],
)
def test_settings_that_cannot_be_followed_are_refused(config: dict[str, object]) -> None:
    with pytest.raises(UserError, match="planner_cfg"):
        planned(phantoms("demo"), **config)


def test_centres_are_planned_on_the_first_detection_level_for_the_median_lesion() -> None:
    plan = planned(phantoms(*MIXED))
    assert plan.centres is not None
    assert plan.centres.level == plan.architecture.detection_levels[0]
    assert plan.centres.features[0] == plan.centres.channels == 16
    assert sum(fit.lesions for fit in plan.centres.by_size) == sum(fit.lesions for fit in plan.anchors.by_size)
    wider = planned(phantoms(*MIXED), centre_features=24, centre_channels=32)
    assert wider.centres is not None
    assert (wider.centres.features[:2], wider.centres.channels) == ((24, 48), 32)
    assert wider.architecture == plan.architecture
    assert planned(phantoms(*MIXED), "D3V001").centres is None


def test_the_median_lesion_of_the_centres_lies_along_the_networks_axes() -> None:
    """Deep lesions in axial slices: their depth is the network's first side, their width decides the target."""
    plan = planned(data_set(*[case((2.0, 0.5, 0.5), (60, 300, 260), [(6.0, 3.0, 3.0)] * 5)] * 4))
    assert plan.centres is not None
    assert plan.centres.sides_mm == (6.0, 3.0, 3.0)
    assert plan.centres.sigma_mm == pytest.approx(0.43 * 3)
