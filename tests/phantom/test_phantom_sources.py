"""Compact sources and vessels: their amount, their sign, their blooming; in a uniform medium."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmb_plugin.phantom import PROTOCOLS, Protocol, physics
from cmb_plugin.phantom.background import Background
from cmb_plugin.phantom.insertion import Insertion, insert
from cmb_plugin.phantom.measure import Patch, appearance
from cmb_plugin.phantom.outline import outline
from cmb_plugin.phantom.sources import Blob, Vessel, add_vessel, blob_coverage
from cmb_plugin.phantom.subject import Lattice

UP = np.array([1.0, 0.0, 0.0])
PROTOCOL = dataclasses.replace(PROTOCOLS["demo"], shape=(24, 30, 30), spacing=(1.5, 1.2, 1.2))

FINE = dataclasses.replace(PROTOCOL, shape=(36, 72, 72), spacing=(1.0, 0.5, 0.5))


def blob(ppm: float, radius: float = 1.0, centre: tuple[float, ...] = (18.2, 17.9, 18.1), **changes: float) -> Blob:
    values = {"density": 0.8, "decay": 80 * abs(ppm), **changes}
    return Blob("cmb", np.array(centre), np.full(3, radius), np.eye(3), ppm, values["density"], values["decay"])


def uniform(protocol: Protocol, factor: int = 1) -> Background:
    """A medium of signal 1 everywhere."""
    shape = tuple(n * factor for n in protocol.shape)
    spacing = tuple(s / factor for s in protocol.spacing)
    mm = tuple(np.arange(2.0) for _ in range(3))
    box = tuple(slice(0, n) for n in shape)
    signal, mni = np.ones(shape, np.complex64), np.zeros((3, 2, 2, 2))
    return Background(spacing, shape, box, signal, None, None, Lattice(mm), mni, 1.0)  # type: ignore[arg-type]


def inserted(source: Blob, protocol: Protocol = PROTOCOL) -> Insertion:
    insertion = insert(source, uniform(protocol), protocol, UP)
    assert insertion is not None
    return insertion


def outlined(source: Blob, protocol: Protocol, modality: str = "swi") -> tuple[float, float]:
    """Volume in mm^3 and CNR of the outline, noise 1/30."""
    insertion = inserted(source, protocol)
    signal = 1 + insertion.change
    reference = np.zeros(signal.shape, np.float32)
    noise = np.random.default_rng(0).normal(0, 1 / 30, signal.shape)
    patch = Patch(insertion, signal, reference, None, appearance(modality, signal, reference) + noise)
    drawn = outline(patch, modality, protocol.spacing)
    return np.count_nonzero(drawn.voxels) * float(np.prod(protocol.spacing)), drawn.cnr


@given(
    st.floats(0.2, 3.0), st.tuples(*[st.floats(5.0, 7.0)] * 3), st.sampled_from([0.4, 0.8, 1.5]), st.floats(0.7, 1.4)
)
@settings(max_examples=40, deadline=None)
def test_a_source_keeps_its_volume_at_any_place_and_on_any_grid(
    radius: float, centre: tuple[float, float, float], step: float, stretch: float
) -> None:
    axes = np.array([radius * stretch, radius, radius / stretch])
    source = Blob("cmb", np.array(centre), axes, np.eye(3), 1.0, 1.0, 0.0)
    mm = [np.arange(0, 12.1, step * s) for s in (1.2, 1.0, 1.0)]
    total = float(blob_coverage(source, mm).sum()) * float(np.prod([m[1] - m[0] for m in mm]))
    assert total == pytest.approx(4 / 3 * np.pi * radius**3, rel=1e-3)


@pytest.mark.parametrize("radius", [0.2, 0.5, 1.5])
@pytest.mark.parametrize("step", [0.4, 1.0])
def test_a_vessel_keeps_its_amount_per_length(radius: float, step: float) -> None:
    target = np.zeros([int(30 / step)] * 3, np.float32)
    path = np.array([[-5.0, 14.3, 15.1], [35.0, 14.3, 15.1]])
    add_vessel(target, [step] * 3, Vessel("vein_straight", path, radius, 0.3), 0.3)
    per_length = target[4:-4].sum(axis=(1, 2)) * step**2
    np.testing.assert_allclose(per_length, 0.3 * np.pi * radius**2, rtol=0.06)


def test_a_patch_equals_the_simulation_of_the_whole_medium() -> None:
    source, protocol = blob(1.2), dataclasses.replace(PROTOCOL, spacing=(1.6, 1.2, 1.2), shape=(25, 31, 31))
    factor = np.array([4, 3, 3])
    step = np.array(protocol.spacing) / factor
    mm = [np.arange(n * f) * s for n, f, s in zip(protocol.shape, factor, step, strict=True)]
    coverage = blob_coverage(source, mm)
    phase = physics.phase_of(
        physics.dipole_field(coverage * np.float32(source.susceptibility), step, UP, padding_mm=20),
        3.0,
        protocol.echo_ms,
    )
    inside = np.clip(coverage, 0, 1) * (1 - source.density * np.exp(-protocol.echo_ms * 1e-3 * source.decay))
    whole = physics.crop_kspace(
        ((1 - inside) * physics.dephasing(phase) * np.exp(1j * phase)).astype(np.complex64), protocol.shape
    )
    insertion = inserted(source, protocol)
    assert np.abs(insertion.change - (whole[insertion.box] - 1)).max() < 0.03
    assert np.abs(insertion.change).max() > 0.5


def test_calcification_is_dark_like_a_microbleed_and_opposite_in_phase_and_susceptibility() -> None:
    bleed, calcium = inserted(blob(1.0, decay=0.0)), inserted(blob(-1.0, decay=0.0))
    phases = [np.angle(1 + i.change) for i in (bleed, calcium)]
    np.testing.assert_allclose(phases[0], -phases[1], atol=1e-5)
    assert np.abs(phases[0]).max() > 0.5
    np.testing.assert_allclose(bleed.susceptibility, -calcium.susceptibility, atol=1e-6)
    assert bleed.susceptibility.max() > 0.3
    for insertion in (bleed, calcium):
        assert np.abs(1 + insertion.change).min() < 0.6
    # Beside it in the slice, the field of a paramagnetic sphere is lower, so its phase is negative; above it is
    # positive.
    z, y, x = (round(c / s) - b.start for c, s, b in zip(bleed.blob.centre, PROTOCOL.spacing, bleed.box, strict=True))
    assert phases[0][z, y, x + 2] < -0.1
    assert phases[0][z + 2, y, x] > 0.1


def test_blooming_grows_with_the_echo_time() -> None:
    volumes = [outlined(blob(1.0), dataclasses.replace(FINE, echo_ms=te))[0] for te in (20, 40)]
    # REFERENCES: times 2.3 on SWI from 20 to 40 ms. The dipole's volume of a given phase grows with TE, so about
    # times 2.
    assert 1.4 < volumes[1] / volumes[0] < 3.2


def test_blooming_grows_with_the_main_field() -> None:
    low = outlined(blob(1.0), dataclasses.replace(FINE, field_tesla=1.5))[0]
    assert outlined(blob(1.0), FINE)[0] > 1.3 * low


def test_a_weak_source_has_a_low_contrast_to_noise_ratio() -> None:
    strong, weak = (outlined(blob(ppm, radius), PROTOCOL)[1] for ppm, radius in ((1.2, 1.0), (0.4, 0.35)))
    assert strong > 10
    assert weak < 5


def test_smallest_source_is_outlined_by_at_least_one_voxel_around_its_middle() -> None:
    thick = dataclasses.replace(PROTOCOL, spacing=(5.0, 0.9, 0.9), shape=(8, 40, 40))
    assert outlined(blob(0.4, radius=0.2), thick)[0] >= 5.0 * 0.9 * 0.9


def test_a_source_outside_the_scan_is_left_out() -> None:
    assert insert(blob(1.0, centre=(-90.0, 10.0, 10.0)), uniform(PROTOCOL), PROTOCOL, UP) is None


def test_a_source_at_the_border_keeps_inside_the_scan() -> None:
    insertion = inserted(blob(1.0, centre=(0.5, 35.0, 1.0)))
    for part, n in zip(insertion.box, PROTOCOL.shape, strict=True):
        assert 0 <= part.start < part.stop <= n
    assert insertion.change.shape == tuple(part.stop - part.start for part in insertion.box)
