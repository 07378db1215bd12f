"""Several scans of a subject from one simulated head, and the scanners of the protocol ``wide``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from cmb_plugin.commands.example import main
from cmb_plugin.dataset import Dataset, check_dataset
from cmb_plugin.paths import TaskFolder
from cmb_plugin.phantom import PROTOCOLS, PhantomConfig, Protocol, make_case, make_scans, several
from cmb_plugin.phantom import case as case_module
from cmb_plugin.phantom.anatomy import load_atlas
from cmb_plugin.phantom.findings import KINDS, draw_findings
from cmb_plugin.phantom.finish import zero_filled
from cmb_plugin.phantom.physics import averaged_slices, masked_side
from cmb_plugin.phantom.protocols import Finish
from cmb_plugin.phantom.scanners import describe, draw_scanner, draw_wide_scanner

CONFIG = PhantomConfig(("wide",), ("swi", "qsm"))
TINY = PROTOCOLS["tiny"]
WIDE = [draw_wide_scanner(np.random.default_rng(seed)) for seed in range(300)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scanners of a few voxels: the tiny protocol, then one of thick slices with a gap."""
    thick = dataclasses.replace(
        TINY, spacing=(5.0, 2.6, 2.6), profile=(3, 3), echo_ms=30.0, inversion=0.15, mask_side=0, findings=3.0
    )
    monkeypatch.setattr(case_module, "protocol_named", lambda name, rng: dataclasses.replace(TINY, findings=3.0))
    monkeypatch.setattr(several, "protocol_named", lambda name, rng: thick)
    monkeypatch.setattr(several, "FINE_MM", (1.5, 1.6))
    monkeypatch.setattr(several, "FINE_SLICE_MM", 1.7)


def test_scans_of_a_subject_show_the_same_lesions_at_the_same_places_of_the_world(small: None) -> None:
    first, second = make_scans(5, 1, CONFIG, 2)
    assert first.grid.shape != second.grid.shape
    assert second.grid.spacing[0] > 4
    assert first.grid.origin == second.grid.origin
    places = [np.array([lesion["centre_lps_mm"] for lesion in case.lesions]) for case in (first, second)]
    assert len(places[0])
    for place in places[1]:
        assert np.linalg.norm(places[0] - place, axis=1).min() < 0.1
    assert first.lesions[0]["susceptibility_ppm"] == second.lesions[0]["susceptibility_ppm"]
    inside = [case.brain.sum() * np.prod(case.grid.spacing) for case in (first, second)]
    assert inside[0] == pytest.approx(inside[1], rel=0.05)
    brightness = second.images["swi"][second.brain > 0]
    assert brightness.min() >= 0
    assert np.isfinite(second.images["qsm"]).all()


def test_subjects_are_not_split(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("det_data", str(tmp_path))
    options = ["--protocol", "wide", "--train", "1", "--test", "0", "--scans-per-subject", "2", "-np", "0"]
    assert main([*options, "--modalities", "swi"]) == 0
    dataset = Dataset.load(TaskFolder(tmp_path / "Task100_Phantom"))
    cases = [c.case_id for c in dataset.cases("Tr")]
    assert cases == ["case_000", "case_000_scan1"]
    assert dataset.patients(cases) == dict.fromkeys(cases, "case_000")
    assert not check_dataset(dataset, workers=0).findings


@pytest.mark.parametrize("more", [["--protocol", "demo"], ["--protocol", "wide", "--followup", "1"]])
def test_several_scans_need_a_drawn_protocol_and_one_visit(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*more, "--scans-per-subject", "2"]) == 2
    assert "--scans-per-subject 2" in capsys.readouterr().err


def test_wide_scanners_span_the_stated_ranges() -> None:
    assert {s.mask_side for s in WIDE} == {1, -1, 0}
    assert 0.03 < np.mean([bool(s.profile[1]) for s in WIDE]) < 0.4
    assert all(s.profile[0] % 2 == 1 and 0.59 <= s.profile[0] / s.profile[1] <= 1 for s in WIDE if s.profile[1])
    assert 0.15 < np.mean([s.finish.kept_slices < 1 for s in WIDE]) < 0.45
    assert all(0.08 <= s.inversion <= 0.25 for s in WIDE)
    magnitudes, others = ([s.vessels for s in WIDE if (s.mask_power == 0) is m] for m in (True, False))
    assert np.median(magnitudes) > 1.5 * np.median(others)
    assert "profile" in describe(next(s for s in WIDE if s.profile[1]))
    assert {(s.lesions.large, s.lesions.diffuse) for s in WIDE} == {(0.2, 0.3)}


def test_random_scanners_are_described_as_they_were_before_wide_ones_were_there() -> None:
    told = describe(draw_scanner(np.random.default_rng(3)))
    assert not {"profile", "mask_side", "inversion", "vessels", "venous_decay", "inflow", "findings"} & set(told)
    assert "kept_slices" not in told["finish"]


def test_slices_with_gaps_average_the_planes_between_them() -> None:
    planes = np.arange(20.0)[:, None, None] * np.ones((1, 2, 2))
    np.testing.assert_allclose(averaged_slices(planes, 4, (3, 5))[1:, 0, 0], [5, 10, 15])
    bump = np.zeros((20, 1, 1))
    bump[8] = 1  # in the gap between slices 1 (planes 4-6) and 2 (9-11)
    assert not averaged_slices(bump, 4, (3, 5)).any()
    assert averaged_slices(bump, 4, (5, 5)).sum() == pytest.approx(0.2)


def test_zero_filling_across_slices_leaves_nothing_beyond() -> None:
    signal = np.random.default_rng(0).normal(size=(20, 18, 6)).astype(np.complex64)
    spectrum = np.abs(np.fft.fft(zero_filled(signal, 1.0, 0.6), axis=0))
    assert spectrum[np.abs(np.fft.fftfreq(20)) > 0.3].max() < 1e-4


def test_masks_darken_the_side_that_they_are_made_for() -> None:
    phase = np.array([-1.0, 2.0])
    assert masked_side(phase, 1).tolist() == [-1, 2]
    assert masked_side(phase, -1).tolist() == [1, -2]
    assert masked_side(phase, 0).tolist() == [1, 2]


def test_other_findings_are_mimics_of_every_kind() -> None:
    rng = np.random.default_rng(1)
    drawn = [draw_findings(rng, load_atlas(), 6.0) for _ in range(20)]
    kinds = {d.kind for deposits, _ in drawn for d in deposits} | {p.kind for _, paths in drawn for p in paths}
    assert kinds == set(KINDS)


def test_findings_are_recorded_and_get_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol: Protocol = dataclasses.replace(TINY, findings=8.0, finish=Finish())
    monkeypatch.setattr(case_module, "protocol_named", lambda name, rng: protocol)
    case = make_case(4, 0, PhantomConfig(("wide",), ("t2s",)), healthy=True)
    assert not case.mask.any()
    assert {m["kind"] for m in case.mimics} & set(KINDS)
