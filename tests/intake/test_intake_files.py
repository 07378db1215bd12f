"""Image files, echoes in one file, patterns and BIDS data sets: what is taken, what is not, and why."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from series import write_series

from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid, read_scan, write_image
from cmb_plugin.intake import PASSED_OVER, TAKEN, UNUSABLE, Channels, InputOptions, list_input, table_text, write_inputs
from cmb_plugin.preparation import to_radians

GRID = Grid((6, 7, 8), (2.0, 1.0, 1.0), (3.0, -4.0, 5.0))
DICOM_GRID = Grid((9, 7, 8), (2.0, 1.0, 1.0), (3.0, -4.0, 5.0))
SWI = Channels(("swi",))
BLOCK = next((p for p in (p / "shared/data/gre_block" for p in Path(__file__).parents) if p.is_dir()), None)


def save(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.random.default_rng(seed).normal(100, 5, GRID.shape).astype(np.float32), GRID)
    return path


def save_echoes(path: Path, count: int, times_ms: list[float] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(1).normal(100, 5, (8, 7, 6, count)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    if times_ms:
        sidecar = path.with_name(path.name.removesuffix(".nii.gz") + ".json")
        sidecar.write_text(json.dumps({"EchoTime": [t / 1000 for t in times_ms], "MagneticFieldStrength": 3}))
    return path


def rows(intake) -> list[tuple[str, str, str]]:
    return [(row.input, row.status, row.case) for row in intake.rows]


def test_a_file_and_a_folder_of_any_format_are_one_scan_each(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.mha", "c.nrrd", "d.nii"):
        save(tmp_path / "in" / name)
    intake = list_input(tmp_path / "in", SWI)
    assert [case.case_id for case in intake.cases] == ["a", "b", "c", "d"]
    assert [source.case.images[0].name for source in intake.sources(tmp_path)] == [
        "a.nii.gz",
        "b.mha",
        "c.nrrd",
        "d.nii",
    ]
    alone = list_input(tmp_path / "in" / "b.mha", SWI)
    assert [case.case_id for case in alone.cases] == ["b"]


@pytest.mark.parametrize("name", ["head 1", "患者"])
def test_a_file_named_alone_has_the_name_that_it_has_in_its_folder(tmp_path: Path, name: str) -> None:
    if not name.isascii() and sys.getfilesystemencoding() == "ascii":
        pytest.skip("this system's file names are ASCII")
    path = save(tmp_path / name / f"{name}.nii.gz")
    assert [case.case_id for case in list_input(path, SWI).cases] == [name]
    assert [case.case_id for case in list_input(path.parent, SWI).cases] == [name]


def test_names_and_sidecars_say_what_is_no_swi(tmp_path: Path) -> None:
    for name in ("p1_swi", "p1_phase", "p1_mip", "p1_mask", "x7"):
        save(tmp_path / f"{name}.nii.gz")
    (tmp_path / "x7.json").write_text(json.dumps({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}))
    intake = list_input(tmp_path, SWI)
    assert [row.status for row in intake.rows] == [PASSED_OVER, PASSED_OVER, PASSED_OVER, TAKEN, PASSED_OVER]
    shows = {row.input: (row.shows, row.why) for row in intake.rows}
    assert shows["x7.nii.gz"] == ("phase", "a phase image")
    assert "projection" in shows["p1_mip.nii.gz"][1]
    assert shows["p1_mask.nii.gz"][0] == "mask"
    text = table_text(intake.rows)
    assert text.splitlines()[0].split() == ["case", "channel", "input", "shows", "status", "why"]
    lines = write_inputs(tmp_path, intake.rows).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 6


def test_a_file_named_alone_is_what_its_name_says_as_in_its_folder(tmp_path: Path) -> None:
    for name in ("p1_swi", "p1_phase", "x7"):
        save(tmp_path / f"{name}.nii.gz")
    (tmp_path / "x7.json").write_text(json.dumps({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}))
    folder = {row.input: (row.shows, row.status, row.why) for row in list_input(tmp_path, SWI).rows}
    alone = [list_input(tmp_path / name, SWI).rows for name in folder]
    assert {row.input: (row.shows, row.status, row.why) for (row,) in alone} == folder
    assert folder["p1_phase.nii.gz"] == ("phase", PASSED_OVER, "a phase image")


def test_patterns_name_channels_and_cases(tmp_path: Path) -> None:
    for name in ("a_swi", "a_phase", "b_swi"):
        save(tmp_path / f"{name}.nii.gz")
    both = Channels(("swi", "phase"))
    patterns = InputOptions({"swi": "*_swi.nii.gz", "phase": "*_phase.nii.gz"})
    intake = list_input(tmp_path, both, patterns)
    assert {(row.case, row.channel, row.status) for row in intake.rows} == {
        ("a", "swi", TAKEN),
        ("a", "phase", TAKEN),
        ("b", "swi", UNUSABLE),
    }
    first, second = intake.sources(tmp_path / "scans")
    assert [path.name for path in first.case.images] == ["a_swi.nii.gz", "a_phase.nii.gz"]
    with pytest.raises(UserError, match=r"b_swi\.nii\.gz: has no phase, which the model needs"):
        second.fetch()
    tolerant = list_input(tmp_path, Channels(("swi", "phase"), tolerates_missing=True), patterns)
    assert [source.case.missing for source in tolerant.sources(tmp_path)] == [(), (1,)]
    capital = list_input(tmp_path, Channels(("SWI", "Phase")), patterns)
    assert [row.channel for row in capital.rows if row.case == "a"] == ["SWI", "Phase"]
    with pytest.raises(UserError, match="no image fits swi="):
        list_input(tmp_path, SWI, InputOptions({"swi": "*_gre.nii.gz"}))
    with pytest.raises(UserError, match="knows no modality 'qsm'"):
        list_input(tmp_path, SWI, InputOptions({"qsm": "*.nii.gz"}))


def test_folders_in_a_pattern_name_the_case(tmp_path: Path) -> None:
    for subject in ("s1", "s2"):
        save(tmp_path / subject / "v1" / "mag.nii.gz")
    intake = list_input(tmp_path, SWI, InputOptions({"swi": "*/*/mag.nii.gz"}))
    assert [case.case_id for case in intake.cases] == ["s1_v1", "s2_v1"]
    deep = list_input(tmp_path, SWI, InputOptions({"swi": "**/mag.nii.gz"}))
    assert [case.case_id for case in deep.cases] == ["s1_v1", "s2_v1"]


@pytest.mark.parametrize("pattern", ["*_swi*", "*_swi.*", "*_swi.nii*"])
def test_an_ending_in_a_pattern_names_no_case(tmp_path: Path, pattern: str) -> None:
    save(tmp_path / "a_swi.nii.gz")
    assert [case.case_id for case in list_input(tmp_path, SWI, InputOptions({"swi": pattern})).cases] == ["a"]
    whole = list_input(tmp_path, SWI, InputOptions({"swi": "a_swi*"}))
    assert [case.case_id for case in whole.cases] == ["a_swi"]


@pytest.mark.parametrize(("times", "taken"), [([5.0, 18.0, 31.0], 2), (None, 3)])
def test_of_echoes_in_one_file_one_is_taken(tmp_path: Path, times: list[float] | None, taken: int) -> None:
    path = save_echoes(tmp_path / "in" / "a.nii.gz", 3, times)
    intake = list_input(tmp_path / "in", SWI)
    assert [row.status == TAKEN for row in intake.rows] == [number == taken for number in (1, 2, 3)]
    (source,) = intake.sources(tmp_path / "scans")
    assert not source.case.images[0].exists()
    source.fetch()
    array, grid = read_scan(source.case.images[0])
    np.testing.assert_array_equal(array.T, nibabel.load(path).get_fdata(dtype=np.float32)[..., taken - 1])
    assert grid.spacing == (2.0, 1.0, 1.0)


def test_a_damaged_file_of_echoes_is_never_read_as_something_else(tmp_path: Path) -> None:
    path = save_echoes(tmp_path / "a.nii.gz", 3)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for number in range(12):
        damaged = bytearray(good)
        start = int(rng.integers(len(good) // 4, len(good) - 20))
        damaged[start : start + 8] = bytes(byte ^ 0x55 for byte in damaged[start : start + 8])
        path.write_bytes(damaged if number else good[:-200])
        for echo in (1, 3):
            (source,) = list_input(path, Channels(("swi",), echo=echo)).sources(tmp_path / "scans")
            with pytest.raises(UserError, match=r"a\.nii\.gz: (volume \d )?cannot be read"):
                source.fetch()


def test_a_time_series_is_unusable(tmp_path: Path) -> None:
    save_echoes(tmp_path / "scan.nii.gz", 20)
    (row,) = list_input(tmp_path / "scan.nii.gz", SWI).rows
    assert (row.status, row.why) == (UNUSABLE, "it holds 20 volumes: points in time, not echoes")


def test_what_its_header_shows_to_be_no_scan_is_unusable_before_the_work_starts(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    save(folder / "good.nii.gz")
    (folder / "empty.nii.gz").write_bytes(b"")
    (folder / "text.mha").write_text("404: not found")
    (folder / "gone.nii.gz").symlink_to(tmp_path / "annex" / "key")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5), np.float32), np.eye(4)), folder / "flat.nii.gz")
    intake = list_input(folder, SWI)
    why = {row.input: row.why for row in intake.rows if row.status == UNUSABLE}
    assert list(why) == ["empty.nii.gz", "flat.nii.gz", "gone.nii.gz", "text.mha"]
    assert why["empty.nii.gz"].startswith("cannot be read as an image")
    assert why["flat.nii.gz"].startswith("is 2D")
    assert why["gone.nii.gz"].startswith("is a link to a file that is not here")
    assert [case.case_id for case in intake.cases if not case.problem] == ["good"]


def test_a_damaged_scan_does_not_hide_another_of_its_session(tmp_path: Path) -> None:
    swi = tmp_path / "sub-01" / "swi"
    save(tmp_path / "sub-01" / "anat" / "sub-01_T2starw.nii.gz")
    swi.mkdir()
    (swi / "sub-01_swi.nii.gz").write_bytes(b"")
    save(tmp_path / "sub-02" / "swi" / "sub-02_swi.nii.gz")
    (tmp_path / "sub-02" / "anat").mkdir()
    (tmp_path / "sub-02" / "anat" / "sub-02_T2starw.nii.gz").write_bytes(b"")
    intake = list_input(tmp_path, SWI)
    assert rows(intake) == [
        ("sub-01/anat/sub-01_T2starw.nii.gz", TAKEN, "sub-01"),
        ("sub-01/swi/sub-01_swi.nii.gz", UNUSABLE, ""),
        ("sub-02/anat/sub-02_T2starw.nii.gz", PASSED_OVER, ""),  # would not have been taken
        ("sub-02/swi/sub-02_swi.nii.gz", TAKEN, "sub-02"),
    ]
    assert all("cannot be read" in row.why for row in intake.rows if row.status != TAKEN)
    assert [case.problem for case in intake.cases] == ["", ""]


def test_a_damaged_echo_does_not_give_its_number_to_another(tmp_path: Path) -> None:
    for echo in (1, 2, 3):
        save(tmp_path / "sub-01" / "anat" / f"sub-01_echo-{echo}_part-mag_GRE.nii.gz", echo)
    (tmp_path / "sub-01" / "anat" / "sub-01_echo-2_part-mag_GRE.nii.gz").write_bytes(b"")
    for echo, status in ((1, TAKEN), (2, UNUSABLE), (3, TAKEN)):
        intake = list_input(tmp_path, Channels(("swi",), echo=echo))
        (row,) = (row for row in intake.rows if f"echo-{echo}" in row.input)
        assert row.status == status


def test_what_lies_beside_the_images_of_a_folder_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz")
    save(tmp_path / "deeper" / "b.nii.gz")
    (tmp_path / "figures").mkdir()
    (tmp_path / "brain.mgz").write_bytes(b"FreeSurfer")
    (tmp_path / "SCAN.NII.GZ").write_bytes(b"image")
    (tmp_path / "notes.txt").write_text("no image")
    for name in ("IM1", "IM2"):
        (tmp_path / name).write_bytes(b"\0" * 128 + b"DICM")
    others = {row.input: row.why for row in list_input(tmp_path, SWI).rows if row.status == PASSED_OVER}
    assert list(others) == ["SCAN.NII.GZ", "brain.mgz", "deeper", "IM1 (2 files)"]
    for name, words in zip(others, ("rename it", "convert it", "a further input", "a folder of its own"), strict=True):
        assert words in others[name]


def test_links_to_folders_are_followed_and_what_is_hidden_is_no_scan(tmp_path: Path) -> None:
    """datalad keeps every scan a second time, in .git; of those that were not fetched there is a link to nowhere."""
    stored = save(tmp_path / "set" / ".git" / "annex" / "objects" / "a" / "KEY.nii.gz")
    for name, target in (("p1", stored), ("p2", stored.with_name("OTHER.nii.gz"))):
        (tmp_path / "set" / name).mkdir()
        (tmp_path / "set" / name / "swi.nii.gz").symlink_to(target)
    (tmp_path / "set" / "p1" / "._swi.nii.gz").write_bytes(b"of a Mac")
    (tmp_path / "set" / "again").symlink_to(tmp_path / "set", target_is_directory=True)  # a loop
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "person").symlink_to(tmp_path / "set" / "p1", target_is_directory=True)
    assert rows(list_input(tmp_path / "set", SWI)) == [
        ("p1/swi.nii.gz", TAKEN, "p1_swi"),
        ("p2/swi.nii.gz", UNUSABLE, "p2_swi"),
    ]
    assert rows(list_input(tmp_path / "linked", SWI)) == [("person/swi.nii.gz", TAKEN, "person_swi")]
    grid = DICOM_GRID
    write_series(tmp_path / "study" / ".git" / "store", np.ones(grid.shape), grid, PatientID="p1")
    (tmp_path / "study" / "p1").mkdir()
    for file in (tmp_path / "study" / ".git" / "store").iterdir():
        (tmp_path / "study" / "p1" / file.name).symlink_to(file)
    assert [row.status for row in list_input(tmp_path / "study", SWI).rows] == [TAKEN]


def test_images_beside_dicom_and_subjects_of_bids_without_a_scan_are_named(tmp_path: Path) -> None:
    write_series(tmp_path / "both" / "p1", np.ones(DICOM_GRID.shape), DICOM_GRID, PatientID="p1")
    save(tmp_path / "both" / "p2" / "swi.nii.gz")
    taken, beside = list_input(tmp_path / "both", SWI).rows
    assert (taken.status, beside.status, beside.input) == (TAKEN, PASSED_OVER, "p2 (1 image file)")
    save(tmp_path / "bids" / "sub-01" / "anat" / "sub-01_swi.nii.gz")
    save(tmp_path / "bids" / "sub-02" / "sub-02_swi.nii.gz")
    taken, without = list_input(tmp_path / "bids", SWI).rows
    assert (taken.status, without.status, without.input) == (TAKEN, PASSED_OVER, "sub-02")
    assert "no image in anat or swi" in without.why


def test_a_bids_data_set_gives_a_case_per_session_and_run(tmp_path: Path) -> None:
    root = tmp_path / "bids"
    for name in (
        "sub-01/ses-1/swi/sub-01_ses-1_swi",
        "sub-01/ses-1/swi/sub-01_ses-1_minIP",
        "sub-01/ses-1/swi/sub-01_ses-1_part-phase_GRE",
        "sub-01/ses-1/swi/sub-01_ses-1_part-mag_GRE",
        "sub-01/ses-1/anat/sub-01_ses-1_T1w",
        "sub-01/ses-2/anat/sub-01_ses-2_run-1_T2starw",
        "sub-01/ses-2/anat/sub-01_ses-2_run-2_T2starw",
        "sub-02/anat/sub-02_echo-1_part-mag_MEGRE",
        "sub-02/anat/sub-02_echo-2_part-mag_MEGRE",
        "sub-03/anat/sub-03_T1w",
    ):
        save(root / f"{name}.nii.gz")
    for echo, time in ((1, 0.006), (2, 0.021)):
        (root / f"sub-02/anat/sub-02_echo-{echo}_part-mag_MEGRE.json").write_text(json.dumps({"EchoTime": time}))
    intake = list_input(root, SWI)
    taken = {row.case: row.input.rpartition("/")[2] for row in intake.rows if row.status == TAKEN}
    assert taken == {
        "sub-01_ses-1": "sub-01_ses-1_swi.nii.gz",
        "sub-01_ses-2_run-1": "sub-01_ses-2_run-1_T2starw.nii.gz",
        "sub-01_ses-2_run-2": "sub-01_ses-2_run-2_T2starw.nii.gz",
        "sub-02": "sub-02_echo-2_part-mag_MEGRE.nii.gz",
    }
    why = {row.input.rpartition("/")[2]: row.why for row in intake.rows if row.status == PASSED_OVER}
    assert "projection" in why["sub-01_ses-1_minIP.nii.gz"]
    assert why["sub-01_ses-1_part-phase_GRE.nii.gz"] == "a phase image"
    assert why["sub-03_T1w.nii.gz"] == "no T2*-weighted image"
    assert "nearer to 20 ms" in why["sub-02_echo-1_part-mag_MEGRE.nii.gz"]
    both = list_input(root, Channels(("swi", "phase")), InputOptions(participants=("01",)))
    pairs = {case.case_id: sorted(case.volumes) for case in both.cases if not case.problem}
    assert pairs == {"sub-01_ses-1": [0, 1]}
    with pytest.raises(UserError, match="has no sub-09"):
        list_input(root, SWI, InputOptions(participants=("09",)))


def test_a_scan_in_two_formats_is_taken_once_and_is_no_echo(tmp_path: Path) -> None:
    for ending in ("nii", "nii.gz"):
        save(tmp_path / f"x.{ending}")
    intake = list_input(tmp_path, Channels(("SWI",)))
    (taken,) = (case.volumes[0].name for case in intake.cases)
    (other,) = (row for row in intake.rows if row.status == PASSED_OVER)
    assert other.why.startswith(f"{taken} has the same name")


def test_a_suffix_that_bids_does_not_know_is_understood_by_its_words(tmp_path: Path) -> None:
    for name in ("sub-01/anat/sub-01_T1", "sub-01/anat/sub-01_CMB", "sub-02/anat/sub-02_T1", "sub-02/anat/sub-02_T2S"):
        save(tmp_path / f"{name}.nii.gz")
    intake = list_input(tmp_path, Channels(("SWI",)))
    assert [(case.case_id, case.volumes[0].path.name) for case in intake.cases] == [("sub-02", "sub-02_T2S.nii.gz")]


def test_files_of_subjects_that_do_not_name_them_are_cases_of_their_own(tmp_path: Path) -> None:
    for name in ("sub-01/anat", "sub-02/anat", "sub-03/ses-1/anat", "sub-03/ses-2/swi"):
        save(tmp_path / name / "swi.nii.gz")
        save(tmp_path / name / "T1.nii.gz")
    save(tmp_path / "sub-03" / "ses-2" / "swi" / "ses-2_run-2_swi.nii.gz")
    intake = list_input(tmp_path, Channels(("SWI",)))
    expected = ["sub-01", "sub-02", "sub-03_ses-1", "sub-03_ses-2", "sub-03_ses-2_run-2"]
    assert [case.case_id for case in intake.cases] == expected


def test_folders_that_are_named_as_in_bids_and_hold_something_else_are_read(tmp_path: Path) -> None:
    for name in ("sub-101", "sub-102"):
        for shown in ("CMB", "desc-masked_T1", "desc-masked_T2", "desc-masked_T2S"):  # as VALDO has them
            save(tmp_path / "nifti" / name / f"{name}_space-T2S_{shown}.nii.gz")
        write_series(tmp_path / "dicom" / name, np.ones(DICOM_GRID.shape), DICOM_GRID, PatientID=name,
                     StudyInstanceUID=f"1.2.{name[-3:]}")  # fmt: skip
    nifti = list_input(tmp_path / "nifti", SWI)
    assert [row.input for row in nifti.rows if row.status == TAKEN] == [
        f"{name}/{name}_space-T2S_desc-masked_T2S.nii.gz" for name in ("sub-101", "sub-102")
    ]
    assert [row.shows for row in nifti.rows[:4]] == ["mask", "anatomy", "anatomy", "magnitude"]
    assert [case.case_id for case in list_input(tmp_path / "dicom", SWI).cases] == [
        "sub-101_20240131_s001",
        "sub-102_20240131_s001",
    ]
    (tmp_path / "nifti" / "dataset_description.json").write_text("{}")
    with pytest.raises(UserError, match="holds no scan"):  # of the kinds that a BIDS data set has in anat and swi
        list_input(tmp_path / "nifti", SWI)
    with pytest.raises(UserError, match="holds no scan"):
        list_input(tmp_path / "dicom", SWI, InputOptions(participants=("101",)))


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no scan"):
        list_input(tmp_path, SWI)
    with pytest.raises(UserError, match="no such file or folder"):
        list_input(tmp_path / "nowhere", SWI)


def test_small_phase_is_understood_by_its_wraps_or_refused() -> None:
    ramp = np.linspace(-20.0, 20.0, 400).reshape(1, 20, 20)
    wrapped = np.angle(np.exp(1j * ramp))
    scaled = wrapped * (0.0037 / np.abs(wrapped).max())
    found = to_radians(scaled.astype(np.float32)).astype(float)
    difference = np.angle(np.exp(1j * (found - wrapped * np.pi / np.abs(wrapped).max())))
    assert np.abs(difference).max() < 1e-4
    with pytest.raises(UserError, match="in no known unit"):
        to_radians(np.linspace(-0.003, 0.003, 400).reshape(1, 20, 20).astype(np.float32))
    assert not to_radians(np.zeros((2, 3, 4), np.float32)).any()


@pytest.mark.skipif(BLOCK is None, reason="the real gradient echo block is not here")
def test_the_real_block_is_read_and_its_phase_understood(tmp_path: Path) -> None:
    patterns = InputOptions({"swi": "Mag.nii", "phase": "Phase.nii"})
    with pytest.raises(UserError, match="--channels"):
        list_input(BLOCK, SWI, patterns)
    (magnitude,) = list_input(BLOCK / "Mag.nii", SWI).cases
    assert magnitude.volumes[0].echo == 3
    (phase,) = list_input(BLOCK / "Phase.nii", Channels(("phase",))).cases
    source = phase.source(tmp_path)
    source.fetch()
    array, grid = read_scan(source.case.images[0])
    assert grid.shape == (41, 51, 51)
    radians = to_radians(array)
    assert np.isclose(radians.max(), np.pi, atol=1e-2)
    assert np.isclose(radians.min(), -np.pi, atol=1e-2)
    # In the right unit neighbours differ by little on the circle; in any smaller one wraps stay as jumps.
    steps = np.abs(np.angle(np.exp(1j * np.diff(radians.astype(float), axis=2))))
    assert np.median(steps) < 0.6
    assert (np.abs(np.diff(radians, axis=2)) > 1.5 * np.pi).mean() > 10 * (steps > 0.9 * np.pi).mean()
