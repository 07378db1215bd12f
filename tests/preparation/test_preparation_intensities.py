"""Intensities by modality: robust z-score, phase on its circle, susceptibility in units of a microbleed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import map_coordinates

from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid
from cmb_plugin.plugins import planners
from cmb_plugin.preparation import (
    Fingerprint,
    Normalisation,
    Preprocessing,
    fingerprint_case,
    modality_kind,
    modality_polarity,
    normalise,
    preprocess_case,
    resample_phase,
    to_radians,
    wrap,
)
from cmb_plugin.preparation.phase import common_unit
from cmb_plugin.preparation.schemes import QSM_CLIP, ROBUST_CLIP

ROBUST, QSM, PHASE = (Normalisation(scheme) for scheme in ("robust", "qsm", "phase"))
SHAPE = (6, 20, 20)


def head(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A magnitude image [1, z, y, x], normal in the brain, with dark air and bright fat around it; and the brain."""
    rng = np.random.default_rng(seed)
    brain = np.zeros(SHAPE, dtype=bool)
    brain[1:5, 5:15, 5:15] = True
    image = np.abs(rng.normal(0, 20, SHAPE))
    image[:, 2:4] = 3000
    image[brain] = rng.normal(1000, 100, np.count_nonzero(brain))
    return image[None].astype(np.float32), brain


def apart(angles: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How far angles lie apart on the circle, in radians."""
    return np.abs(np.angle(np.exp(1j * (np.asarray(angles, float) - np.asarray(others, float)))))


# Robust z-score ---------------------------------------------------------------------------------------------------


def test_robust_score_has_median_zero_and_interquartile_range_of_a_normal_distribution() -> None:
    """MAD is half the interquartile range of a symmetric distribution: quartiles lie at +-0.6745."""
    image, brain = head()
    values = normalise(image, (ROBUST,), brain)[0][brain]
    assert np.median(values) == pytest.approx(0, abs=1e-5)
    assert np.percentile(values, 75) - np.percentile(values, 25) == pytest.approx(2 * 0.6745, abs=0.1)


def test_robust_score_equals_scipys_deviation() -> None:
    from scipy.stats import median_abs_deviation

    image, brain = head()
    inside = image[0][brain].astype(float)
    expected = (image[0] - np.median(inside)) / median_abs_deviation(inside, scale="normal")
    got = normalise(image, (ROBUST,), brain)[0]
    np.testing.assert_allclose(got, np.clip(expected, -ROBUST_CLIP, ROBUST_CLIP), atol=1e-3)


@given(st.floats(1e-3, 1e3), st.floats(-500, 500))
def test_robust_score_does_not_know_the_scanners_scale(scale: float, offset: float) -> None:
    image, brain = head()
    theirs = normalise((image * scale + offset * scale).astype(np.float32), (ROBUST,), brain)
    np.testing.assert_allclose(theirs, normalise(image, (ROBUST,), brain), atol=2e-2)


def test_robust_score_hardly_moves_for_what_the_brain_does_not_hold() -> None:
    image, brain = head()
    dirty = image.copy()
    dirty[0][brain] = np.where(np.random.default_rng(1).random(np.count_nonzero(brain)) < 0.05, 0, image[0][brain])
    ours, theirs = normalise(dirty, (ROBUST,), brain)[0], normalise(image, (ROBUST,), brain)[0]
    same = brain & (dirty[0] == image[0])
    assert np.abs(ours - theirs)[same].max() < 0.35


def test_without_a_brain_air_is_not_taken_for_it() -> None:
    image, brain = head()
    image[:, :, 2:4] = 1200
    values = normalise(image, (ROBUST,))[0][brain]
    assert abs(np.median(values)) < 2


def test_a_constant_or_two_valued_scan_stays_finite() -> None:
    for image in (np.full((1, *SHAPE), 7.0), np.where(np.arange(2400).reshape(1, *SHAPE) % 9, 5.0, 1.0)):
        for step in (ROBUST, QSM, PHASE):
            assert np.isfinite(normalise(image.astype(np.float32), (step,))).all()
    assert not normalise(np.full((1, *SHAPE), 7.0, dtype=np.float32), (ROBUST,)).any()


# Susceptibility ---------------------------------------------------------------------------------------------------


def test_qsm_in_ppb_equals_qsm_in_ppm_and_a_microbleed_is_about_one() -> None:
    rng = np.random.default_rng(0)
    ppm = rng.normal(0.02, 0.03, SHAPE).astype(np.float32)
    ppm[2, 9:11, 9:11] = 0.55
    brain = np.ones(SHAPE, dtype=bool)
    got = normalise(ppm[None], (QSM,), brain)[0]
    np.testing.assert_allclose(normalise(1000 * ppm[None], (QSM,), brain)[0], got, atol=1e-4)
    assert 0.8 < got[2, 9, 9] < 1.3
    assert np.median(got) == pytest.approx(0, abs=1e-6)


def test_qsm_does_not_know_its_reference_and_is_clipped() -> None:
    ppm = np.random.default_rng(0).normal(0, 0.03, (1, *SHAPE)).astype(np.float32)
    ppm[0, 0, 0] = 40
    brain = np.ones(SHAPE, dtype=bool)
    moved = normalise(ppm + np.float32(0.2), (QSM,), brain)
    np.testing.assert_allclose(moved, normalise(ppm, (QSM,), brain), atol=1e-4)
    assert moved.max() == QSM_CLIP


# Phase ------------------------------------------------------------------------------------------------------------


@given(arrays(np.float64, 8, elements=st.floats(-np.pi, np.pi)), arrays(np.int64, 8, elements=st.integers(-5, 5)))
def test_whole_turns_change_nothing(angles: np.ndarray, turns: np.ndarray) -> None:
    angles[0] = 1  # of a scan with small phases alone nobody knows the unit
    got = to_radians(angles + 2 * np.pi * turns)
    assert (got > -np.pi).all()
    assert (got <= np.float32(np.pi)).all()
    assert apart(got, angles).max() < 1e-5


@pytest.mark.parametrize(
    ("stored", "tolerance"),
    [
        (lambda a: a % (2 * np.pi), 1e-5),  # 0 to 2 pi
        (lambda a: np.degrees(a), 1e-5),
        (lambda a: np.round(a / np.pi * 4096).clip(-4096, 4095), 1e-3),  # 13 bits, signed
        (lambda a: np.round((a + np.pi) / (2 * np.pi) * 4096).clip(0, 4095), 2e-3),  # 12 bits from -pi
        (lambda a: np.round(a * 1000), 1e-3),  # milliradians
        (lambda a: np.round(a / np.pi * 2048).clip(-2048, 2047), 2e-3),
    ],
)
def test_every_scanners_unit_gives_the_same_radians(stored, tolerance) -> None:  # type: ignore[no-untyped-def]
    angles = np.random.default_rng(0).uniform(-np.pi, np.pi, (10, 20, 20))
    angles[0, 0, :2] = np.nextafter(np.pi, 0), -3.1415
    assert apart(to_radians(stored(angles).astype(np.float32)), angles).max() < tolerance


def test_a_masked_background_of_unsigned_phase_is_no_phase() -> None:
    stored = np.random.default_rng(0).integers(1, 4096, SHAPE).astype(np.float32)
    stored[:, :8] = 0
    assert not to_radians(stored)[:, :8].any()


def test_wrap_stays_within_the_circle() -> None:
    got = wrap(np.array([np.pi, -np.pi, 3 * np.pi, 0.0, np.nextafter(-np.pi, 0), 100.0]))
    np.testing.assert_allclose(got[:4], [np.pi, np.pi, np.pi, 0], atol=1e-6)
    assert (got > -np.pi).all()
    assert got[5] == pytest.approx(100 - 32 * np.pi, abs=1e-5)


def test_a_ramp_that_wraps_is_resampled_as_complex_numbers_are() -> None:
    """Oracle: SciPy's interpolation of the complex numbers; and the ramp itself, known between the voxels too."""
    shape, new = (8, 24, 24), (8, 30, 36)
    z, y, x = np.indices(shape) + 0.5
    ramp = 0.55 * x + 0.21 * y + 0.1 * z
    got = resample_phase(wrap(ramp)[None], new, (1.0, 1.0, 1.0), (1.0, 0.8, 2 / 3))[0]
    places = (np.indices(new) + 0.5) * np.reshape(np.array(shape) / new, (3, 1, 1, 1))
    number = [map_coordinates(part, places - 0.5, order=3, mode="nearest") for part in (np.cos(ramp), np.sin(ramp))]
    inner = (slice(1, -1), slice(4, -4), slice(4, -4))
    assert apart(got, np.arctan2(number[1], number[0]))[inner].max() < 0.02
    assert apart(got, 0.55 * places[2] + 0.21 * places[1] + 0.1 * places[0])[inner].max() < 0.05
    assert np.abs(wrap(ramp)).max() > 3  # it does wrap


def test_preprocessing_keeps_phase_in_radians_and_the_magnitude_beside_it() -> None:
    rng = np.random.default_rng(0)
    phase = rng.uniform(-np.pi, np.pi, (10, 16, 16)).astype(np.float32)
    magnitude = rng.normal(1000, 50, (10, 16, 16)).astype(np.float32)
    recipe = Preprocessing((1.0, 0.7, 0.7), normalisation=(ROBUST, PHASE))
    case = preprocess_case(
        np.stack([magnitude, phase * 4096 / np.float32(np.pi)]), Grid((10, 16, 16), (1.0,) * 3), None, recipe
    )
    alone = preprocess_case(np.stack([magnitude, phase]), Grid((10, 16, 16), (1.0,) * 3), None, recipe)
    assert np.abs(case.data[1]).max() <= np.float32(np.pi)
    assert np.percentile(apart(case.data[1], alone.data[1]), 99) < 0.01
    np.testing.assert_array_equal(case.data[0], alone.data[0])


# One unit for a data set -------------------------------------------------------------------------------------------


def test_a_filtered_scan_takes_the_unit_of_its_data_set() -> None:
    """Of two scans of 13 bits one is filtered to 2000 at most: alone it is taken for 12 bits, twice the angle."""
    angles = np.random.default_rng(0).uniform(-1.5, 1.5, SHAPE)
    filtered = np.round(angles / np.pi * 4096).astype(np.float32)
    assert apart(to_radians(filtered), 2 * angles).max() < 2e-3
    unit, note = common_unit([(-4096.0, 4095.0), (float(filtered.min()), float(filtered.max())), (0.0, 0.0)])
    assert unit == "-4096..4096"
    assert "all 2 scans; 1 of them" in note
    assert apart(to_radians(filtered, unit), angles).max() < 1e-3
    assert apart(normalise(filtered[None], (Normalisation("phase", unit=unit),))[0], angles).max() < 1e-3


@pytest.mark.parametrize(
    ("extremes", "unit"),
    [
        ([(-3.1, 3.1), (-1.0, 1.2)], "radians"),
        ([(0.0, 4095.0), (0.0, 4000.0)], "0..4096"),
        ([(-3141.0, 3141.0), (-900.0, 3000.0)], f"-{1000 * np.pi}..{1000 * np.pi}"),
        ([(-4096.0, 4095.0), (-3.1, 3.1)], None),  # bits and radians
        ([(-4096.0, 4095.0), (0.0, 4095.0)], None),  # signed and not
        ([(-180.0, 180.0), (-32768.0, 32767.0)], None),  # degrees and bits
        ([(0.0, 0.0)], None),
    ],
)
def test_the_unit_of_a_data_set(extremes: list[tuple[float, float]], unit: str | None) -> None:
    assert common_unit(extremes)[0] == unit


def test_a_scan_of_another_unit_than_the_data_sets_is_told_by_itself() -> None:
    """The training scans have 13 bits; a scan from elsewhere comes in radians, in 0 to 4095, or in 16 bits."""
    angles = np.random.default_rng(0).uniform(-np.pi, np.pi, SHAPE)
    for stored in (angles, (angles + np.pi) / (2 * np.pi) * 4095, angles / np.pi * 32767):
        scan = stored.astype(np.float32)
        np.testing.assert_array_equal(to_radians(scan, "-4096..4096"), to_radians(scan))


def test_a_person_can_name_any_unit_in_the_plan() -> None:
    angles = np.random.default_rng(0).uniform(-np.pi, np.pi, SHAPE)
    assert (
        apart(to_radians((angles * 1e-3).astype(np.float32), f"-{np.pi * 1e-3}..{np.pi * 1e-3}"), angles).max() < 1e-4
    )
    for wrong in ("degrees", "5..3", "-10..3"):
        with pytest.raises(UserError, match="unit of phase"):
            to_radians(angles.astype(np.float32), wrong)
    with pytest.raises(UserError, match="unit of QSM"):
        normalise(angles[None].astype(np.float32), (Normalisation("qsm", unit="ppt"),))


def test_a_qsm_with_artefacts_keeps_the_unit_of_its_data_set() -> None:
    """In ppm, but a fiftieth of the brain is artefact of 6 to 8 ppm: alone it is taken for ppb, and all of it is 0."""
    rng = np.random.default_rng(0)
    ppm = rng.normal(0.02, 0.03, SHAPE).astype(np.float32)
    ppm.flat[::50] = rng.uniform(6, 8, len(ppm.flat[::50]))
    brain = np.ones(SHAPE, dtype=bool)
    sound = (np.abs(ppm) < 1) & brain
    told = normalise(ppm[None], (Normalisation("qsm", unit="ppm"),), brain)[0]
    assert np.abs(normalise(ppm[None], (QSM,), brain)[0][sound]).max() < 1e-3
    np.testing.assert_allclose(told[sound], ((ppm - np.median(ppm)) / 0.5)[sound], atol=1e-5)
    in_ppb = normalise(
        1000 * rng.normal(0.02, 0.03, (1, *SHAPE)).astype(np.float32), (Normalisation("qsm", unit="ppm"),)
    )
    assert 0.03 < in_ppb.std() < 0.1  # a scan in ppb is known all the same


def test_units_are_measured_over_the_training_scans_and_come_into_the_recipe() -> None:
    rng = np.random.default_rng(0)
    cases = []
    for share in (1.0, 0.4):
        phase = np.round(rng.uniform(-4096, 4095, SHAPE) * share)
        images = np.stack([rng.normal(100, 5, SHAPE), phase, rng.normal(20, 30, SHAPE)]).astype(np.float32)
        grid = Grid(SHAPE, (1.0, 1.0, 1.0))
        cases.append(fingerprint_case("a", images, grid, None, {}, ("SWI", "PHASE", "QSM")))
    assert cases[0].extremes[1][0] == pytest.approx(-4096, abs=10)
    assert cases[1].bulks[2] == pytest.approx(90, rel=0.2)
    fingerprint = Fingerprint("Task", ("SWI", "PHASE", "QSM"), ("cmb",), tuple(cases))
    planner = planners.get("D3CMB")
    plan = planner(planner.config_class(gpu_memory_gb=2.0)).plan(fingerprint)
    assert [step.unit for step in plan.preprocessing.normalisation] == [None, "-4096..4096", "ppb"]
    assert [note for note in plan.notes if note.startswith("PHASE: -4096 to 4096")]
    assert fingerprint.of_channels((2, 1)).cases[0].extremes == (cases[0].extremes[2], cases[0].extremes[1])


# Names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "polarity"),
    [
        ("SWI", "magnitude", "dark"),
        ("PHASE", "phase", "signed"),
        ("swi_phase", "phase", "signed"),
        ("Pha", "phase", "signed"),
        ("T2*", "magnitude", "dark"),
        ("desc-masked_T2S", "magnitude", "dark"),
        ("GRE mag", "magnitude", "dark"),
        ("QSM", "susceptibility", "bright"),
        ("Chi", "susceptibility", "bright"),
        ("R2s", "magnitude", "bright"),
        ("T2", "anatomy", "dark"),
        ("T1w", "anatomy", "unknown"),
        ("FLAIR", "anatomy", "unknown"),
        ("modality 3", "unknown", "unknown"),
    ],
)
def test_names_tell_kind_and_polarity(name: str, kind: str, polarity: str) -> None:
    assert (modality_kind(name), modality_polarity(name)) == (kind, polarity)
