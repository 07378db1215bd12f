"""The protocol ``random``: what is drawn, and what a drawn scanner does to the images."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from cmb_plugin.commands.example import main
from cmb_plugin.files import read_json
from cmb_plugin.phantom import PROTOCOLS, PhantomConfig, Protocol, make_case
from cmb_plugin.phantom import case as case_module
from cmb_plugin.phantom.finish import finished, zero_filled
from cmb_plugin.phantom.physics import crop_kspace
from cmb_plugin.phantom.protocols import Finish
from cmb_plugin.phantom.scanners import describe, draw_scanner

SCANNERS = [draw_scanner(np.random.default_rng(seed)) for seed in range(300)]


def image() -> tuple[np.ndarray, np.ndarray]:
    """A bright ball in a less bright box, and the mask of the ball."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (12, 40, 36)), indexing="ij")
    ball = z**2 + y**2 + x**2 < 0.5
    values = np.random.default_rng(0).uniform(20, 30, ball.shape) + 70 * ball
    return values.astype(np.float32), ball.astype(np.uint8)


def test_scanners_span_the_stated_ranges() -> None:
    in_plane = [s.spacing[1] for s in SCANNERS]
    slices = [s.spacing[0] for s in SCANNERS]
    assert 0.4 <= min(in_plane) < 0.45
    assert 1.1 < max(in_plane) <= 1.2
    assert 0.5 <= min(slices) < 0.7
    assert 4.5 < max(slices) <= 5
    assert {s.field_tesla for s in SCANNERS} == {1.5, 3.0, 7.0}
    assert {s.mask_power for s in SCANNERS} == {0, 2, 3, 4, 5}
    assert {s.phase_sign for s in SCANNERS} == {1, -1}
    for fault in ("bias", "ghost", "slice_jump", "stripped", "bits", "clipped"):
        share = np.mean([bool(getattr(s.finish, fault)) for s in SCANNERS])
        assert 0.05 < share < 0.8, fault
    for s in SCANNERS:
        assert all(n % 2 == 0 and f <= v + 1e-9 for n, f, v in zip(s.shape, s.fine, s.spacing, strict=True))
        assert 190 < s.shape[2] * s.spacing[2] < 240
        assert max(s.fine) <= 0.8
        assert json.loads(json.dumps(describe(s)))["echo_ms"] == s.echo_ms


def test_zero_filling_keeps_what_a_coarser_scan_measures() -> None:
    rng = np.random.default_rng(1)
    signal = (rng.normal(size=(3, 40, 40)) + 1j * rng.normal(size=(3, 40, 40))).astype(np.complex64)
    filled = zero_filled(signal.copy(), 0.62)
    coarse, expected = (crop_kspace(s, (3, 24, 24)) for s in (filled, signal))
    np.testing.assert_allclose(coarse, expected, atol=1e-5)
    spectrum = np.abs(np.fft.fftn(filled, axes=(1, 2)))
    assert (spectrum < 1e-3).mean() > 0.5
    assert zero_filled(signal, 1.0) is signal


def test_finish_without_faults_changes_nothing() -> None:
    values, ball = image()
    np.testing.assert_array_equal(finished(values, ball, Finish()), values)


def test_every_fault_does_what_it_is_named_for() -> None:
    values, ball = image()
    stripped = finished(values, ball, Finish(stripped=True))
    assert (stripped[ball > 0] == values[ball > 0]).all()
    assert (stripped[:, 0] == 0).all()
    assert len(np.unique(finished(values, ball, Finish(bits=8)))) <= 256
    clipped = finished(values, ball, Finish(clipped=0.1))
    assert (clipped[ball > 0] == clipped.max()).mean() == pytest.approx(0.1, abs=0.01)
    jumped = finished(values, ball, Finish(slice_jump=0.05)) / values
    assert np.ptp(jumped, axis=(1, 2)).max() < 1e-5
    assert 0.01 < np.log(jumped[:, 0, 0]).std() < 0.1
    ghost = finished(values, ball, Finish(ghost=0.1)) - values
    assert any(np.allclose(ghost, 0.1 * np.roll(values, shift, axis=1), atol=1e-4) for shift in (20, 13))
    bias = np.log(finished(values, ball, Finish(bias=0.4)) / values)
    assert bias.std() == pytest.approx(0.2, rel=0.05)
    assert np.abs(np.diff(bias, axis=2)).max() < 0.15  # smooth


def drawn(monkeypatch: pytest.MonkeyPatch, **changes: object) -> Protocol:
    """Lets every random scan have the small protocol with these changes."""
    protocol = dataclasses.replace(PROTOCOLS["tiny"], **changes)  # type: ignore[arg-type]
    monkeypatch.setattr(case_module, "protocol_named", lambda name, rng: protocol)
    return protocol


def test_mask_power_0_is_the_magnitude_and_the_phase_may_count_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    config = PhantomConfig(("random",), ("swi", "t2s", "phase"))
    drawn(monkeypatch, mask_power=0)
    plain = make_case(3, 1, config)
    np.testing.assert_array_equal(plain.images["swi"], plain.images["t2s"])
    drawn(monkeypatch, mask_power=4, phase_sign=-1)
    other = make_case(3, 1, config)
    np.testing.assert_array_equal(other.images["phase"], -plain.images["phase"])
    assert (other.images["swi"] < other.images["t2s"]).mean() > 0.2
    assert other.lesions
    assert other.scanner["phase_sign"] == -1


def test_task_of_random_scans_records_what_was_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("det_data", str(tmp_path))
    drawn(monkeypatch, finish=Finish(stripped=True, bits=8))
    assert main(["--task", "Task100_Phantom", "--protocol", "random", "--train", "1", "--test", "0", "-np", "0"]) == 0
    record = read_json(tmp_path / "Task100_Phantom" / "raw_splitted" / "lesionsTr" / "case_000.json")
    assert record["protocol"] == "random"
    assert record["scanner"]["finish"]["bits"] == 8
    assert record["scanner"]["spacing"] == list(PROTOCOLS["tiny"].spacing)
