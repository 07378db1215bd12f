"""The estimated brain, and what preparation does with a brain: crop and statistics."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from skimage.filters import threshold_otsu
from tiny_task import make_tiny_task, tiny_grid

from cmb_plugin.anatomy import registration
from cmb_plugin.dataset import Dataset
from cmb_plugin.images import Grid, read_mask, write_image
from cmb_plugin.paths import TaskFolder
from cmb_plugin.phantom import PhantomCase, PhantomConfig, make_case
from cmb_plugin.planning import Plan
from cmb_plugin.preparation import (
    Normalisation,
    Preprocessing,
    ScanSource,
    StoredCase,
    brain_extent,
    estimate_brain,
    fingerprint_case,
    input_cases,
    preprocess_case,
    source_files,
)
from cmb_plugin.preparation.brain import otsu
from cmb_plugin.preparation.case import showing_brain
from cmb_plugin.regions.sources import BUILT_IN, Surroundings, atlas_source
from cmb_plugin.settings import Overrides
from cmb_plugin.workflows.prep import prepare

RECIPE = Preprocessing((2.5, 2.0, 2.0), normalisation=(Normalisation("robust"),), brain_channel=0)


@pytest.fixture(scope="module")
def phantom() -> PhantomCase:
    return make_case(1, 5, PhantomConfig(("tiny",), ("swi", "t2"), ("cmb",)))


def dice(mask: np.ndarray | None, truth: np.ndarray) -> float:
    assert mask is not None
    return float(2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth)))


def ball(shape: tuple[int, int, int] = (60, 80, 80), radius_mm: float = 65.0, side: float = 2.5) -> np.ndarray:
    """bool: a ball of 1.15 litres in the middle of a scan of cubic voxels."""
    places = np.indices(shape) + 0.5 - np.reshape(shape, (3, 1, 1, 1)) / 2
    inside: np.ndarray = np.sqrt((places**2).sum(axis=0)) * side <= radius_mm
    return inside


# The estimate: bounds are those of measured phantoms (docs/planning.md) with a little room


@pytest.mark.parametrize(("modality", "least"), [("swi", 0.95), ("t2", 0.92)])
def test_the_estimate_is_the_phantoms_brain(phantom: PhantomCase, modality: str, least: float) -> None:
    found = estimate_brain(phantom.images[modality], phantom.grid.spacing)
    assert dice(found, phantom.brain > 0) > least


def test_a_skull_stripped_scan_is_its_own_brain(phantom: PhantomCase) -> None:
    brain = phantom.brain > 0
    assert dice(estimate_brain(phantom.images["swi"] * brain, phantom.grid.spacing), brain) > 0.95


def test_an_uneven_coil_noise_and_bright_fat_do_no_harm(phantom: PhantomCase) -> None:
    brain, image = phantom.brain > 0, phantom.images["swi"].astype(np.float32)
    along = np.linspace(0.5, 1.5, image.shape[1])[:, None]
    noise = np.random.default_rng(0).normal(0, 0.1 * np.median(image[brain]), (2, *image.shape))
    fat = np.where(~brain & (image > np.median(image[brain]) / 2), 4 * image, image)
    for changed in (image * along, np.hypot(image + noise[0], noise[1]), fat, image * 1e-3):
        assert dice(estimate_brain(changed, phantom.grid.spacing), brain) > 0.93


def test_what_cannot_be_a_brain_is_none() -> None:
    spacing = (2.5, 2.5, 2.5)
    noise = np.abs(np.random.default_rng(0).normal(0, 1, (60, 80, 80)))
    assert estimate_brain(np.zeros((8, 8, 8)), spacing) is None
    assert estimate_brain(np.full((8, 8, 8), 3.0), spacing) is None
    assert estimate_brain(noise + 100 * ball(radius_mm=30), spacing) is None  # 0.1 litres
    assert estimate_brain(noise[:4] + 100 * ball()[28:32], spacing) is None  # a slab of 1 cm
    assert estimate_brain(noise + 100 * ball(), spacing) is not None


def test_the_estimate_has_the_scans_shape_whatever_the_voxel(phantom: PhantomCase) -> None:
    for shape, side in (((61, 83, 79), 2.5), ((37, 45, 44), 4.1), ((121, 131, 123), 1.4)):
        brain = ball(shape, side=side)
        found = estimate_brain(1000.0 * brain, (side,) * 3)
        assert found is not None
        assert found.shape == shape
        assert dice(found, brain) > 0.96


def test_the_rounding_of_a_header_does_not_change_the_estimate(phantom: PhantomCase) -> None:
    image = phantom.images["swi"]
    found = [estimate_brain(image, [side * (1 + noise) for side in (3.0, 1.2, 2.0)]) for noise in (-1e-7, 0.0, 1e-7)]
    assert found[1] is not None
    for other in found:
        np.testing.assert_array_equal(other, found[1])


def test_otsus_threshold_is_the_upper_edge_of_scikit_images_bin() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(10, 3, 3000), rng.normal(60, 8, 1000)])
    half_a_bin = (values.max() - values.min()) / 512
    assert otsu(values) == pytest.approx(threshold_otsu(values, nbins=256) + half_a_bin, rel=1e-9)
    assert otsu(np.full(8, 3.0)) is None


# What is done with it


def test_the_crop_is_the_brain_and_its_margin(phantom: PhantomCase) -> None:
    brain, grid = phantom.brain, phantom.grid
    image = phantom.images["swi"][None].astype(np.float32)
    recipe = dataclasses.replace(RECIPE, brain_margin_mm=4.0)
    case = preprocess_case(image, grid, None, recipe, brain)
    assert math.prod(case.data.shape) < 0.8 * image.size
    for axis in range(3):
        along = np.flatnonzero((case.mapping.orient(brain) > 0).any(axis=tuple(a for a in range(3) if a != axis)))
        margin = (int(along[0]) - case.mapping.crop_start[axis]) * case.mapping.oriented_spacing[axis]
        assert 4 <= margin < 4 + max(grid.spacing) or case.mapping.crop_start[axis] == 0


def test_labels_do_not_move_the_crop_and_a_lesion_outside_it_is_counted(phantom: PhantomCase) -> None:
    image, grid = phantom.images["swi"][None].astype(np.float32), phantom.grid
    recipe = dataclasses.replace(RECIPE, brain_margin_mm=4.0)
    bare = preprocess_case(image, grid, None, recipe)
    lesions = phantom.mask.astype(np.int16)
    own = set(np.unique(lesions[lesions > 0]).tolist())
    number = max(own) + 1
    lesions[1, 1, 1] = number
    labelled = preprocess_case(image, grid, lesions, recipe)
    np.testing.assert_array_equal(labelled.data, bare.data)
    assert labelled.mapping == bare.mapping
    assert set(labelled.outside) == {number}
    np.testing.assert_array_equal(labelled.outside[number], [1, 1, 1, 2, 2, 2])
    assert set(labelled.truth) == own
    assert labelled.instances is not None
    assert set(np.unique(labelled.instances)) == {0, *own}


def test_a_lesion_across_the_edge_of_the_crop_keeps_what_lies_inside() -> None:
    image = np.zeros((1, 10, 20, 20), dtype=np.float32)
    image[:, 2:] = np.random.default_rng(0).gamma(4.0, 25.0, size=(1, 8, 20, 20))
    lesion = np.zeros((10, 20, 20), dtype=np.int16)
    lesion[1:3, 5:7, 5:7] = 1
    case = preprocess_case(image, Grid((10, 20, 20), (1.0, 1.0, 1.0)), lesion, Preprocessing((1.0, 1.0, 1.0)))
    assert case.instances is not None
    assert np.count_nonzero(case.instances) == 4
    assert not case.outside
    np.testing.assert_array_equal(case.mapping.boxes_to_network([case.truth[1]]), [[-1, 5, 5, 1, 7, 7]])


def test_a_new_scan_is_estimated_and_gets_nearly_the_same_numbers(phantom: PhantomCase) -> None:
    """Training scans of a Task may have a mask, a scan to predict has none."""
    image = phantom.images["swi"][None].astype(np.float32)
    given, found = (preprocess_case(image, phantom.grid, None, RECIPE, brain) for brain in (phantom.brain, None))
    values = [case.mapping.uncrop(case.data[0], np.nan) for case in (given, found)]
    both = ~np.isnan(values[0]) & ~np.isnan(values[1])
    np.testing.assert_allclose(values[0][both], values[1][both], rtol=0.08, atol=0.15)
    inside = given.mapping.orient(phantom.brain) > 0
    assert np.median(values[1][inside & both]) == pytest.approx(0, abs=0.1)
    assert both[inside].mean() > 0.999


def test_an_empty_mask_or_no_brain_keeps_the_whole_scan() -> None:
    image = np.random.default_rng(0).gamma(4.0, 25.0, size=(1, 12, 20, 24)).astype(np.float32)
    grid = Grid((12, 20, 24), (2.5, 2.0, 2.0))
    for brain in (None, np.zeros((12, 20, 24))):
        assert preprocess_case(image, grid, None, RECIPE, brain).data.shape == image.shape


def test_margin_is_in_millimetres_and_stays_within_what_is_not_empty() -> None:
    brain = np.zeros((20, 40, 40), dtype=bool)
    brain[8:12, 10:30, 15:25] = True
    assert brain_extent(brain, (3.0, 1.0, 1.0), 6.0) == ((6, 4, 9), (14, 36, 31))
    assert brain_extent(brain, (3.0, 1.0, 1.0), 6.0, within=((7, 0, 0), (20, 33, 40))) == ((7, 4, 9), (14, 33, 31))


def test_contrast_of_lesions_tells_dark_from_bright() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(100, 5, (2, 20, 20, 20)).astype(np.float32)
    mask = np.zeros((20, 20, 20), dtype=np.int16)
    mask[9:11, 9:11, 9:11] = 1
    images[0][mask > 0] -= 50
    images[1][mask > 0] += 50
    case = fingerprint_case("a", images, Grid((20, 20, 20), (1.0, 1.0, 1.0)), mask, {1: 0}, ("swi", "qsm"))
    assert case.contrasts[0] == (pytest.approx(-10, abs=2), pytest.approx(10, abs=2))
    assert case.brain_shape is None  # 8 ml


# Files


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskFolder:
    monkeypatch.setattr("cmb_plugin.planning.anchors.PLACED_BOXES", 100)
    monkeypatch.setenv("det_data", str(tmp_path))
    made = make_tiny_task(tmp_path, n_train=3, n_test=1, shape=(24, 32, 32))
    for case in Dataset.load(made).cases("Tr")[:2]:
        brain = np.zeros((24, 32, 32), dtype=np.uint8)
        brain[6:20, 14:18, 14:18] = 1
        write_image(
            made.extra("brain", "Tr") / f"{case.case_id}.nii.gz", brain, tiny_grid((24, 32, 32), (1.5, 1.2, 1.2))
        )
    return made


def prep(task: TaskFolder) -> Plan:
    words = ["planner=D3CMB", "planner_cfg.gpu_memory_gb=2", "planner_cfg.brain_margin_mm=1.5"]
    report = prepare(task, Overrides.parse(words), workers=0)
    assert report.exit_code == 0
    for case in report.cases:
        assert (case.lesions_after or 0) + len(case.outside) == case.lesions_before
    return report.plan


def test_masks_of_the_task_are_used_and_a_changed_one_is_noticed(task: TaskFolder) -> None:
    plan = prep(task)
    assert any("mask given for 2 of 3" in note for note in plan.notes)
    folder = task.prepared("D3CMB_3d", "Tr")
    shapes = {name: math.prod(StoredCase.open(folder, name).shape) for name in ("sub-01", "sub-03")}
    assert shapes["sub-01"] < shapes["sub-03"]  # without a mask, and too small for an estimate, it is kept whole
    assert len(Plan.load(task.plan("D3CMB_3d")).polarity) == 2
    assert not any(
        case.fresh for case in prepare(task, Overrides.parse([f"plan={task.plan(plan.name)}"]), workers=0).cases
    )
    (task.extra("brain", "Tr") / "sub-01.nii.gz").unlink()
    again = prepare(task, Overrides.parse([f"plan={task.plan(plan.name)}"]), workers=0)
    assert [case.case_id for case in again.cases if case.fresh] == ["sub-01"]


def test_prediction_takes_the_prepared_scan_of_the_task_and_no_mask_beside_a_folder(task: TaskFolder) -> None:
    plan = prep(task)
    case = Dataset.load(task).cases("Tr")[0]
    folder = task.prepared(plan.name, "Tr")
    assert ScanSource.of(case, folder, plan.preprocessing).prepared == folder
    assert case.extra("brain") in source_files(case, plan.preprocessing)
    assert case.extra("brain") not in source_files(case, Preprocessing((1.0, 1.0, 1.0)))
    new = input_cases(task.images("Tr"), 2)[0]
    assert source_files(new, plan.preprocessing) == list(new.images)


def test_what_is_kept_of_an_unprepared_scan_knows_its_brain_mask(task: TaskFolder) -> None:
    """The array depends on the mask, so a prediction kept for it must not outlive the mask; labels do not matter."""
    case = Dataset.load(task).cases("Tr")[0]
    source = ScanSource(case)
    with_it, without = RECIPE, dataclasses.replace(RECIPE, brain_channel=None)
    before = source.key(with_it), source.key(without)
    assert case.label is not None
    case.label.touch()
    assert (source.key(with_it), source.key(without)) == before
    path = case.extra("brain")
    assert path is not None
    brain, grid = read_mask(path)
    brain[3:6, 14:18, 14:18] = 1
    write_image(path, brain.astype(np.uint8), grid)
    assert source.key(with_it) != before[0]
    assert source.key(without) == before[1]


def test_kept_region_maps_know_the_version_of_the_registration(
    task: TaskFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = atlas_source(Surroundings(task.images("Tr")), BUILT_IN)
    case = Dataset.load(task).cases("Tr")[0]
    before = source.key(case)
    assert source.key(case) == before
    monkeypatch.setattr(registration, "VERSION", registration.VERSION + 1)
    assert source.key(case) != before


# A modality that is missing


def test_without_the_modality_of_the_brain_another_magnitude_shows_it(phantom: PhantomCase) -> None:
    swi, t2 = phantom.images["swi"], phantom.images["t2"]
    recipe = dataclasses.replace(RECIPE, normalisation=(Normalisation("robust"), Normalisation("robust")))
    alone = preprocess_case(t2[None], phantom.grid, None, RECIPE)
    case = preprocess_case(np.stack([0 * swi, t2]), phantom.grid, None, recipe)
    assert not case.data[0].any()
    np.testing.assert_array_equal(case.data[1:], alone.data)
    phase_alone = dataclasses.replace(recipe, normalisation=(Normalisation("robust"), Normalisation("phase")))
    assert showing_brain(np.stack([0 * swi, t2]), phase_alone) is None
    assert showing_brain(np.stack([swi, t2]), recipe) == 0
    shape = fingerprint_case("a", np.stack([0 * swi, t2]), phantom.grid, None, {}, ("SWI", "T2")).brain_shape
    assert shape == fingerprint_case("a", t2[None], phantom.grid, None, {}, ("T2",)).brain_shape
