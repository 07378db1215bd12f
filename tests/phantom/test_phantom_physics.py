"""The formulas against closed forms and against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal

from cmb_plugin.phantom import physics
from cmb_plugin.phantom.anatomy import ellipsoid_distance

UP = (1.0, 0.0, 0.0)
OBLIQUE = (0.8, 0.0, 0.6)


def lattice(n: int, spacing: tuple[float, float, float]) -> np.ndarray:
    """[n, n, n, 3] places in mm from the middle."""
    axes = [(np.arange(n) - n // 2) * s for s in spacing]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


# The kernel of an oblique field jumps at the border of k-space, which sharp edges feel.
@pytest.mark.parametrize(("main_field", "tolerance"), [(UP, 0.015), (OBLIQUE, 0.08)])
def test_field_of_a_sphere_is_the_dipole_outside_and_nothing_inside(
    main_field: tuple[float, float, float], tolerance: float
) -> None:
    spacing, radius, chi = (0.6, 0.5, 0.5), 3.0, 2.0
    points = lattice(64, spacing)
    distance = np.linalg.norm(points, axis=-1)
    depth = radius - distance
    field = physics.dipole_field(chi * np.clip(depth / 0.5 + 0.5, 0, 1), spacing, main_field, padding_mm=40)
    cosine = points @ np.array(main_field) / np.maximum(distance, 1e-6)
    expected = chi / 3 * (radius / np.maximum(distance, 1e-6)) ** 3 * (3 * cosine**2 - 1)
    outside = (distance > radius + 1) & (distance < 10)
    error = (field - expected)[outside]
    assert np.sqrt((error**2).mean()) < tolerance * expected[outside].std()
    assert np.abs(error).max() < 0.04 * chi  # at single voxels next to the stepped surface
    assert np.abs(field[distance < radius - 1]).max() < 0.04 * chi


@pytest.mark.parametrize(("angle", "expected"), [(0, 1 / 3), (90, -1 / 6), (54.7356, 0.0)])
def test_field_inside_a_long_vein_depends_on_its_angle(angle: float, expected: float) -> None:
    # Infinite cylinder, in the Lorentz-sphere sense: chi / 2 * (cos^2 - 1/3). It fills the volume along z and is
    # periodic.
    n = 96
    y, x = np.meshgrid(np.arange(n) - n // 2, np.arange(n) - n // 2, indexing="ij")
    disc = np.clip(4.5 - np.hypot(y, x), 0, 1)
    chi = 0.4 * np.broadcast_to(disc, (8, n, n))
    tilt = np.deg2rad(angle)
    field = physics.dipole_field(chi, (1, 1, 1), (np.cos(tilt), np.sin(tilt), 0))
    assert field[4, n // 2, n // 2] == pytest.approx(0.4 * expected, abs=0.4 * 0.02)


def test_phase_of_one_ppm_at_three_tesla_after_twenty_milliseconds() -> None:
    # 42.577 MHz/T * 3 T * 1e-6 * 20 ms = 2.5546 turns
    assert physics.phase_of(np.float32(1.0), 3.0, 20.0) == pytest.approx(2.554649 * 2 * np.pi, rel=1e-5)


def test_spoiled_gradient_echo_is_brightest_at_the_ernst_angle() -> None:
    angles = np.arange(2, 60, 0.1)
    signals = [physics.spoiled_gradient_echo(1.0, 1000.0, 30.0, a) for a in angles]
    assert angles[int(np.argmax(signals))] == pytest.approx(np.rad2deg(np.arccos(np.exp(-0.03))), abs=0.11)


@pytest.mark.parametrize("shape", [(12, 15, 20), (13, 16, 9), (24, 30, 20)])
def test_cropped_kspace_equals_scipys_fourier_resampling(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    signal = (rng.normal(size=(24, 30, 20)) + 1j * rng.normal(size=(24, 30, 20))).astype(np.complex64)
    # Only what both have in common: SciPy shares out the highest frequency of even sizes, a scanner samples it once.
    signal = scipy.signal.resample(signal, 9, axis=0)
    signal = scipy.signal.resample(scipy.signal.resample(signal, 9, axis=1), 7, axis=2)
    for axis, n in enumerate((24, 30, 20)):
        signal = scipy.signal.resample(signal, n, axis=axis)
    expected = signal
    for axis, n in enumerate(shape):
        expected = scipy.signal.resample(expected, n, axis=axis)
    np.testing.assert_allclose(physics.crop_kspace(signal, shape), expected, atol=1e-5)


def test_cropping_a_real_image_equals_cropping_it_as_a_complex_one() -> None:
    image = np.random.default_rng(1).normal(size=(20, 18, 14)).astype(np.float32)
    result = physics.crop_kspace(image, (9, 12, 7))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, physics.crop_kspace(image.astype(np.complex64), (9, 12, 7)).real, atol=1e-5)


def test_dephasing_equals_the_sinc_of_a_linear_phase() -> None:
    slope = 0.9  # radians per voxel along y
    phase = np.broadcast_to(slope * np.arange(12, dtype=np.float32)[None, :, None], (6, 12, 6))
    assert physics.dephasing(phase)[3, 6, 3] == pytest.approx(np.sinc(slope / 2 / np.pi), rel=2e-3)


def test_high_pass_removes_what_is_smooth_and_keeps_what_is_small() -> None:
    n = 64
    y, x = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    smooth = 1.3 + 0.8 * np.cos(2 * np.pi * y / n)
    vein = np.where(np.hypot(y - 30, x - 30) < 1.5, 0.5, 0.0)
    phase = physics.high_passed_phase(np.exp(1j * (smooth + vein))[None].astype(np.complex64), (2, 1, 1))
    assert np.abs(phase[0, 10:20, 40:60]).max() < 0.05
    assert phase[0, 30, 30] > 0.35


def test_mask_darkens_a_paramagnetic_vein_along_the_field_and_not_its_opposite() -> None:
    magnitude, phase = np.ones(3, np.float32), np.array([0.6, 0.0, -0.6], np.float32)
    swi = physics.susceptibility_weighted(magnitude, phase)
    assert swi[0] == pytest.approx((1 - 0.6 / np.pi) ** 4, rel=1e-5)
    assert swi[1] == swi[2] == 1


def test_inversion_undoes_the_dipole_where_the_kernel_is_not_small() -> None:
    spacing = (1.5, 1.0, 1.0)
    chi = np.random.default_rng(2).normal(0, 0.1, (16, 20, 24)).astype(np.float32)
    field = physics.dipole_field(chi, spacing, OBLIQUE)
    back = physics.invert_phase_noise(field * 7.0, spacing, OBLIQUE, radians_per_ppm=7.0, threshold=0.15)
    frequencies = np.meshgrid(*(np.fft.fftfreq(n, s) for n, s in zip(chi.shape, spacing, strict=True)), indexing="ij")
    square = sum(k**2 for k in frequencies)
    along = sum(k * b for k, b in zip(frequencies, OBLIQUE, strict=True))
    kernel = 1 / 3 - along**2 / np.maximum(square, 1e-12)
    clear = (np.abs(kernel) > 0.2) & (square > 0)
    # Frequencies that are their own mirror image stand for two directions at once and are left out.
    for axis in range(3):
        index: list[slice | int] = [slice(None)] * 3
        index[axis] = chi.shape[axis] // 2
        clear[tuple(index)] = False
    np.testing.assert_allclose(np.fft.fftn(back)[clear], np.fft.fftn(chi)[clear], atol=2e-3)


def test_ellipsoid_distance_is_exact_for_a_sphere_and_zero_on_any_surface() -> None:
    points = np.random.default_rng(3).normal(0, 4, (200, 3))
    np.testing.assert_allclose(
        ellipsoid_distance(points, np.zeros(3), np.full(3, 2.5)), np.linalg.norm(points, axis=1) - 2.5, atol=1e-9
    )
    axes = np.array([1.0, 2.0, 3.0])
    surface = points / np.linalg.norm(points, axis=1, keepdims=True) * axes
    np.testing.assert_allclose(ellipsoid_distance(surface, np.zeros(3), axes), 0, atol=1e-9)
