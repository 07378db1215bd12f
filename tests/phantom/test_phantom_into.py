"""Lesions put into measured scans: what is known of the scan, where they go, and what they change."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_plugin.images import Grid
from cmb_plugin.phantom import MeasuredScan, place_lesions
from cmb_plugin.phantom.finish import zero_filled
from cmb_plugin.phantom.insertion import insert
from cmb_plugin.phantom.into import _background, _protocol, _put_in
from cmb_plugin.phantom.measured import is_filtered, measured_extent, noise_level, phase_sign
from cmb_plugin.phantom.physics import high_passed_phase
from cmb_plugin.phantom.protocols import CUHK
from cmb_plugin.phantom.sites import draw_sites
from cmb_plugin.phantom.sources import Blob

SHAPE = (20, 64, 60)
GRID = Grid(SHAPE, (1.5, 1.0, 1.0))
WHOLE = tuple(slice(2, n - 2) for n in SHAPE)


def noisy(sigma: float = 5.0, seed: int = 0, kept: float = 1.0) -> np.ndarray:
    """Complex: tissue of 100 with some texture, complex noise, both measured to ``kept`` of k-space."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE)
    signal = (100 + sigma * noise).astype(np.complex64)
    return zero_filled(signal, kept)


def measured(image: np.ndarray, **more: np.ndarray) -> MeasuredScan:
    return MeasuredScan(GRID, {"t2s": image.astype(np.float32), **more}, np.ones(SHAPE, bool))


def deposit(centre: tuple[float, float, float] = (15.0, 30.0, 30.0), ppm: float = 1.5) -> Blob:
    return Blob("cmb", np.array(centre), np.full(3, 1.2), np.eye(3), ppm, 0.8, 80 * ppm)


@pytest.mark.parametrize("kept", [1.0, 0.85, 0.6])
def test_zero_filling_and_noise_of_a_scan_are_recovered(kept: float) -> None:
    image = np.abs(noisy(sigma=5.0, kept=kept))
    extent = measured_extent(image, WHOLE)  # type: ignore[arg-type]
    assert extent[0] == 1.0
    np.testing.assert_allclose(extent[1:], kept, atol=0.06)
    assert noise_level(image, WHOLE, extent) == pytest.approx(5.0 * kept, rel=0.12)  # type: ignore[arg-type]


def test_a_deposit_changes_a_scan_without_noise_as_the_simulator_does() -> None:
    scan = measured(np.full(SHAPE, 100.0))
    images = {"t2s": scan.images["t2s"].copy()}
    patches = _put_in(np.random.default_rng(0), scan, [deposit()], _protocol(scan, CUHK), images, "t2s")
    expected = insert(deposit(), _background(scan, scan.magnitude), _protocol(scan, CUHK), scan.main_field)
    assert expected is not None
    np.testing.assert_allclose(images["t2s"][expected.box], np.abs(100 + expected.change), atol=0.05)
    assert images["t2s"][expected.box].min() < 40
    outside = np.ones(SHAPE, bool)
    outside[expected.box] = False
    assert (images["t2s"][outside] == 100).all()
    assert len(patches) == 1


def test_the_core_of_a_lesion_holds_the_scans_noise() -> None:
    scan = measured(np.abs(noisy(sigma=6.0)))
    dark = []
    for seed in range(30):
        images = {"t2s": scan.images["t2s"].copy()}
        _put_in(np.random.default_rng(seed), scan, [deposit(ppm=3.0)], _protocol(scan, CUHK), images, "t2s")
        dark.append(images["t2s"][10, 30, 30])
    # The noise of a magnitude without signal is Rayleigh's: mean 1.25, standard deviation 0.66 of either channel's.
    assert np.std(dark) == pytest.approx(0.66 * 6.0, rel=0.4)


def test_a_lesion_in_a_zero_filled_scan_has_the_scans_point_spread() -> None:
    scan = measured(np.abs(noisy(sigma=1.0, kept=0.6)))
    images = {"t2s": scan.images["t2s"].copy()}
    _put_in(np.random.default_rng(0), scan, [deposit()], _protocol(scan, CUHK), images, "t2s")
    change = (images["t2s"] - scan.images["t2s"])[10]
    assert np.abs(change).max() > 40
    spectrum = np.abs(np.fft.fft2(change))
    beyond = np.abs(np.fft.fftfreq(SHAPE[1])) > 0.34
    assert spectrum[beyond].max() < 0.1 * spectrum.max()  # the magnitude is not quite linear


def test_swi_darkens_where_the_phase_of_the_deposit_is_positive() -> None:
    clean = np.full(SHAPE, 100.0, np.float32)
    swi = MeasuredScan(GRID, {"swi": clean}, np.ones(SHAPE, bool))
    images = {"swi": clean.copy()}
    _put_in(np.random.default_rng(0), swi, [deposit()], _protocol(swi, CUHK), images, "swi")
    magnitude = {"t2s": clean.copy()}
    plain = measured(clean)
    _put_in(np.random.default_rng(0), plain, [deposit()], _protocol(plain, CUHK), magnitude, "t2s")
    assert (images["swi"] <= magnitude["t2s"] + 1e-3).all()
    # Above and below a paramagnetic source, along the field, its phase is positive; beside it negative.
    above, beside = (12, 30, 30), (10, 30, 33)
    assert images["swi"][above] < 0.7 * magnitude["t2s"][above]
    assert images["swi"][beside] == pytest.approx(float(magnitude["t2s"][beside]), rel=0.05)


@pytest.mark.parametrize("sign", [1, -1])
def test_phase_turns_the_way_that_the_scanner_counts(sign: int) -> None:
    signal = noisy(sigma=2.0)
    vein = np.zeros(SHAPE, bool)
    vein[4:16, 20:22, 8:52] = True
    signal[vein] *= 0.5 * np.exp(1.0j)
    phase = sign * high_passed_phase(signal, GRID.spacing)
    scan = measured(np.abs(signal), phase=phase.astype(np.float32))
    assert is_filtered(phase, GRID.spacing, WHOLE)  # type: ignore[arg-type]
    assert phase_sign(scan.magnitude, phase, scan.brain) == sign
    images = {name: image.copy() for name, image in scan.images.items()}
    _put_in(np.random.default_rng(0), scan, [deposit((15.0, 44.0, 30.0))], _protocol(scan, CUHK), images, "t2s")
    assert sign * images["phase"][12, 44, 30] > 0.5


def test_raw_phase_keeps_its_course_away_from_the_deposit() -> None:
    ramp = np.broadcast_to(np.linspace(-3, 3, SHAPE[2]) * 2, SHAPE)
    phase = np.angle(np.exp(1j * ramp)).astype(np.float32)
    assert not is_filtered(phase, GRID.spacing, WHOLE)  # type: ignore[arg-type]
    scan = measured(np.full(SHAPE, 100.0), phase=phase)
    images = {name: image.copy() for name, image in scan.images.items()}
    _put_in(np.random.default_rng(0), scan, [deposit()], _protocol(scan, CUHK), images, "t2s")
    change = np.abs(np.angle(np.exp(1j * (images["phase"] - phase))))
    assert change[10, 30, 30] > 0.3 or change[12, 30, 30] > 0.3
    assert change[:, :10].max() < 0.05


def test_places_lie_in_even_tissue_and_apart() -> None:
    image = np.full(SHAPE, 100.0)
    image[:, 30:34] = 30  # a vessel across the scan
    image[:, :, 40:] = 2  # air
    scan = MeasuredScan(GRID, {"t2s": image.astype(np.float32)}, image > 10)
    sites = draw_sites(np.random.default_rng(3), scan, 12)
    assert len(sites) > 4
    for z, y, x in sites:
        assert x < 38
        assert abs(y - 31.5) > 2.5
        assert 2 < z < 27
    for i, one in enumerate(sites):
        assert all(np.linalg.norm(one - other) >= 7 for other in sites[:i])


def test_a_healthy_case_is_the_scan_itself() -> None:
    scan = measured(np.abs(noisy()))
    case = place_lesions(np.random.default_rng(0), scan, "t2s", healthy=True)
    np.testing.assert_array_equal(case.images["t2s"], scan.images["t2s"])
    assert not case.mask.any()
    assert case.lesions == []


def test_as_many_lesions_as_are_asked_for_where_there_is_room() -> None:
    scan = measured(np.abs(noisy()))
    cohorts, asked = (
        np.mean([len(place_lesions(np.random.default_rng(seed), scan, "t2s", mean=mean).lesions) for seed in range(4)])
        for mean in (0, 100)
    )
    assert asked > 2 * cohorts


def test_masks_cover_what_became_darker_and_mimics_have_no_mask() -> None:
    scan = measured(np.abs(noisy(sigma=3.0)))
    case = place_lesions(np.random.default_rng(5), scan, "t2s", mimics=3.0)
    assert case.lesions
    assert {m["kind"] for m in case.mimics} <= {"calcification", "vein_straight"}
    assert case.mimics
    change = case.images["t2s"] - scan.images["t2s"]
    for lesion in case.lesions:
        inside = case.mask == lesion["instance"]
        assert inside.any()
        assert change[inside].mean() < -5
        assert "region" not in lesion
