"""DICOM folders: series told apart, the right one taken, every other one with a reason; the same voxels as dcm2niix."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from series import write_enhanced, write_series

from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid, find_series, read_scan, read_series
from cmb_plugin.images.contrast import contrast_of_header
from cmb_plugin.intake import PASSED_OVER, TAKEN, UNUSABLE, Channels, count_text, list_input
from cmb_plugin.intake.naming import own_names

SWI = Channels(("swi",))


def turned_grid(shape: tuple[int, int, int] = (9, 12, 10), flip: float = 1.0) -> Grid:
    a, b = np.deg2rad([11.0, 17.0])
    tilt = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    direction = tilt @ turn @ np.diag([1.0, 1.0, flip])
    return Grid(shape, (2.0, 0.9, 0.7), (-31.5, 12.25, 40.0), tuple(direction.ravel().tolist()))


GRID = turned_grid()


def voxels(seed: int = 0, grid: Grid = GRID) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4000, grid.shape).astype(np.uint16)


def statuses(intake) -> dict[str, tuple[str, str]]:
    return {row.input: (row.status, row.why) for row in intake.rows}


def dcm2niix() -> str:
    found = shutil.which("dcm2niix", path=str(Path(sys.executable).parent)) or shutil.which("dcm2niix")
    try:
        import dcm2niix as wheel
    except ImportError:
        wheel = None
    program = found or getattr(wheel, "bin", None)
    if not program:
        pytest.skip("dcm2niix is not installed")
    return str(program)


def by_dcm2niix(folder: Path, out: Path) -> list[Path]:
    out.mkdir()
    subprocess.run(
        [dcm2niix(), "-f", "%s_%e", "-z", "n", "-b", "n", "-o", out, folder], check=True, capture_output=True
    )
    return sorted(out.glob("*.nii"))


def same_in_the_world(ours: tuple[np.ndarray, Grid], theirs: tuple[np.ndarray, Grid]) -> None:
    """Every voxel of one has the value that the other has at the same place; axes may run the other way."""
    array, grid = ours
    other, other_grid = theirs
    indices = np.indices(array.shape).reshape(3, -1).T
    places = other_grid.from_world(grid.to_world(indices + 0.5))
    nearest = np.floor(places).astype(int)
    assert np.abs(places - nearest - 0.5).max() < 0.01  # in voxels
    np.testing.assert_array_equal(array.ravel(), other[tuple(nearest.T)])


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_a_series_is_read_as_dcm2niix_and_itk_read_it(tmp_path: Path, flip: float) -> None:
    import SimpleITK as sitk

    grid = turned_grid(flip=flip)
    files = write_series(tmp_path / "in", voxels(), grid)
    (series,) = find_series(tmp_path / "in")
    array, found = read_series(series)
    if flip > 0:
        assert found.matches(grid)
        np.testing.assert_array_equal(array, voxels())
    same_in_the_world((voxels(), grid), (array, found))
    by_itk = sitk.ReadImage([str(file) for file in files])
    (z, y, x) = (3, 5, 2)
    place = by_itk.TransformIndexToPhysicalPoint((x, y, z))
    if flip > 0:
        np.testing.assert_allclose(found.to_world(np.array([[z + 0.5, y + 0.5, x + 0.5]]))[0], place, atol=1e-3)
    (converted,) = by_dcm2niix(tmp_path / "in", tmp_path / "nii")
    same_in_the_world((array, found), read_scan(converted))


@pytest.mark.parametrize("numbers", [(2.05e-10, -2.05e-10), (0.00049999, 0.00050001)])
def test_slices_whose_direction_differs_by_rounding_are_one_volume(
    tmp_path: Path, numbers: tuple[float, float]
) -> None:
    grid = Grid((10, 12, 10), (2.0, 0.9, 0.7), (-31.5, 12.25, 40.0))
    for file in write_series(tmp_path, voxels(grid=grid), grid):
        dataset = pydicom.dcmread(file)
        odd = round(dataset.ImagePositionPatient[2] / 2) % 2
        dataset.ImageOrientationPatient = [1, f"{numbers[odd]:.8g}", 0, 0, 1, 0]
        dataset.save_as(file)
    (series,) = find_series(tmp_path)
    array, found = read_series(series)
    assert (series.defect, found.spacing) == ("", grid.spacing)
    np.testing.assert_array_equal(array, voxels(grid=grid))


def test_an_enhanced_file_with_two_echoes_is_two_volumes_as_for_dcm2niix(tmp_path: Path) -> None:
    arrays = [voxels(1), voxels(2)]
    write_enhanced(tmp_path / "in" / "one.dcm", arrays, GRID, [7.5, 22.5])
    found = find_series(tmp_path / "in")
    assert [series.facts.echo_ms for series in found] == [7.5, 22.5]
    for series, array in zip(found, arrays, strict=True):
        read, grid = read_series(series)
        np.testing.assert_array_equal(read, array)
        assert grid.matches(GRID)
    converted = by_dcm2niix(tmp_path / "in", tmp_path / "nii")
    if len(converted) == 2:  # it names them by echo
        for file, array in zip(converted, arrays, strict=True):
            same_in_the_world((array, GRID), read_scan(file))
    intake = list_input(tmp_path / "in", SWI)
    assert [(row.status, row.case) for row in intake.rows] == [
        (PASSED_OVER, ""),
        (TAKEN, "P_7_20240131_s005"),
    ]
    assert "another echo is nearer to 20 ms" in intake.rows[0].why
    chosen = list_input(tmp_path / "in", Channels(("swi",), echo=1))
    assert [row.status for row in chosen.rows] == [TAKEN, PASSED_OVER]


def test_a_study_gives_its_swi_and_a_reason_for_all_else(tmp_path: Path) -> None:
    series = (("a", "Mag_Images", "M"), ("b", "Pha_Images", "P"), ("c", "mIP_Images(SW)", "MNIP"))
    for number, (folder, description, kind) in enumerate(series, start=3):
        image_type = ["ORIGINAL", "PRIMARY", kind, "ND"]
        write_series(tmp_path / folder, voxels(), GRID, number=number, description=description, image_type=image_type)
    write_series(tmp_path / "d", voxels(), GRID, number=6, description="SWI_Images")
    write_series(
        tmp_path / "e",
        voxels(),
        GRID,
        number=7,
        description="t1_mprage_sag",
        image_type=["ORIGINAL", "PRIMARY", "M", "ND"],
    )
    thin = turned_grid((3, 12, 10))
    write_series(tmp_path / "f", voxels(grid=thin), thin, number=1, description="localizer")
    (tmp_path / "notes.txt").write_text("not a DICOM file, but longer than a preamble of one: " + "x" * 200)
    intake = list_input(tmp_path, SWI)
    found = {name.split("/")[1].split(",")[0]: value for name, value in statuses(intake).items()}
    assert found["series 6 (SWI_Images)"] == (TAKEN, "")
    assert found["series 3 (Mag_Images)"] == (PASSED_OVER, "swi is there, which suits better")
    assert found["series 4 (Pha_Images)"] == (PASSED_OVER, "a phase image")
    status, why = found["series 5 (mIP_Images(SW))"]
    assert status == PASSED_OVER
    assert "minimum intensity projection" in why
    assert "rows of microbleeds" in why
    assert found["series 7 (t1_mprage_sag)"] == (PASSED_OVER, "no T2*-weighted image")
    assert found["series 1 (localizer)"][1].startswith("has 3 slices")
    assert [case.case_id for case in intake.cases] == ["P_7_20240131_s003"]
    both = list_input(tmp_path, Channels(("swi", "phase")))
    assert [case.volumes[c].name.split(",")[0] for case in both.cases for c in (0, 1)] == [
        "series 6 (SWI_Images)",
        "series 4 (Pha_Images)",
    ]


def test_dicom_files_without_a_place_are_counted_and_other_scanners_show_no_contrast(tmp_path: Path) -> None:
    first, *_ = write_series(tmp_path, voxels(), GRID, number=1)
    write_series(tmp_path / "ct", voxels(), GRID, number=2, description="Head", Modality="CT")
    (tmp_path / "cut").write_bytes(first.read_bytes()[:300])
    report = pydicom.dcmread(first)
    del report.Rows, report.Columns, report.PixelData
    report.save_as(tmp_path / "report")
    (tmp_path / "notes.txt").write_text("no DICOM")
    rows = list_input(tmp_path, SWI).rows
    assert [(row.input, row.shows, row.status) for row in rows if row.status != TAKEN] == [
        ("cut (2 files)", "", PASSED_OVER),
        ("ct/series 2 (Head), 20 ms, 9 slices", "", PASSED_OVER),
    ]


@pytest.mark.parametrize("studies", [("1.2.8", "1.2.9"), ("1.2.9", "1.2.8")])
def test_patients_of_one_id_are_told_apart_by_their_folders(tmp_path: Path, studies: tuple[str, str]) -> None:
    for folder, study in zip(("p0", "p1"), studies, strict=True):
        write_series(tmp_path / folder / "DICOM", voxels(), GRID, number=5, StudyInstanceUID=study, StudyDate="")
    intake = list_input(tmp_path, SWI)
    assert {case.case_id: case.volumes[0].path.parts[-3] for case in intake.cases} == {
        "p0_P_7_s005": "p0",
        "p1_P_7_s005": "p1",
    }
    assert [(row.case, row.input) for row in intake.rows] == [
        ("p0_P_7_s005", "p0/DICOM/series 5 (SWI_Images), 20 ms, 9 slices"),
        ("p1_P_7_s005", "p1/DICOM/series 5 (SWI_Images), 20 ms, 9 slices"),
    ]
    assert count_text(intake.rows) == "2 taken for 2 cases"


@pytest.mark.parametrize("studies", [("1.2.8", "1.2.9"), ("1.2.9", "1.2.8")])
def test_patients_of_one_id_in_one_folder_are_told_apart_by_their_files(
    tmp_path: Path, studies: tuple[str, str]
) -> None:
    for patient, study in zip("ab", studies, strict=True):
        files = write_series(tmp_path, voxels(), GRID, number=5, series=f"{study}.1", StudyInstanceUID=study)
        for file in files:
            file.rename(tmp_path / f"{patient}{file.name}")
    rows = list_input(tmp_path, SWI).rows
    assert [(row.case, row.input.split(", ")[-1]) for row in rows] == [
        ("P_7_20240131_s005", "from a05_20_000_0.dcm"),
        ("P_7_20240131_s005_2", "from b05_20_000_0.dcm"),
    ]


def test_a_made_name_is_no_other_cases_name() -> None:
    assert own_names([("a", ""), ("a", ""), ("a_2", "")]) == ["a", "a_3", "a_2"]
    assert own_names([("a", "x"), ("a", "y"), ("x_a", "")]) == ["x_a_2", "y_a", "x_a"]
    assert own_names([("a", ""), ("a", "x/x"), ("a", "x")]) == ["a", "x_x_a", "x_a"]
    assert own_names([("a", "in/p1/s5"), ("a", "in/p2/s5"), ("b", "in/p2/s5")]) == ["p1_a", "p2_a", "b"]


def test_a_mip_alone_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, voxels(), GRID, description="mIP_Images(SW)", image_type=["DERIVED", "PRIMARY", "MNIP"])
    intake = list_input(tmp_path, SWI)
    assert intake.cases == []
    assert "minimum intensity projection" in intake.rows[0].why


def test_a_missing_slice_makes_the_scan_unusable_and_nothing_else(tmp_path: Path) -> None:
    files = write_series(tmp_path / "a", voxels(), GRID, number=3)
    files[4].unlink()
    write_series(tmp_path / "b", voxels(), turned_grid((8, 12, 10)), number=4, StudyInstanceUID="1.2.9", PatientID="Q")
    intake = list_input(tmp_path, SWI)
    assert [(row.status, "is one missing?" in row.why) for row in intake.rows] == [(UNUSABLE, True), (TAKEN, False)]
    first, second = intake.sources(tmp_path / "scans")
    with pytest.raises(UserError, match="is one missing"):
        first.fetch()
    second.fetch()
    array, grid = read_scan(second.case.images[0])
    np.testing.assert_array_equal(array, voxels()[:8])
    assert grid.matches(turned_grid((8, 12, 10)))


def test_phase_is_rescaled_as_the_header_says(tmp_path: Path) -> None:
    stored = voxels()
    write_series(tmp_path, stored, GRID, image_type=["ORIGINAL", "PRIMARY", "P"], slope=2.0, intercept=-4096.0)
    (series,) = find_series(tmp_path)
    assert series.facts.contrast == "phase"
    np.testing.assert_array_equal(read_series(series)[0], stored * 2.0 - 4096.0)


def test_points_in_time_are_volumes_and_the_last_is_taken(tmp_path: Path) -> None:
    for time in (1, 2):
        write_series(tmp_path / str(time), voxels(time), GRID, series="1.2.3.4", AcquisitionNumber=time)
    found = find_series(tmp_path)
    assert [(series.volume, series.defect) for series in found] == [(1, ""), (2, "")]
    intake = list_input(tmp_path, SWI)
    assert [row.status for row in intake.rows] == [PASSED_OVER, TAKEN]
    assert "acquired again later" in intake.rows[0].why


MAGNITUDE = ["ORIGINAL", "PRIMARY", "M", "ND"]


@pytest.mark.parametrize(("field_t", "taken"), [(3.0, 20), (1.5, 45)])
def test_echoes_that_are_series_of_their_own_are_one_acquisition(tmp_path: Path, field_t: float, taken: int) -> None:
    for number, time in enumerate((5, 10, 20, 30, 45), start=5):
        write_series(tmp_path / str(number), voxels(), GRID, number=number, description="gre", image_type=MAGNITUDE,
                     echo_ms=time, MagneticFieldStrength=field_t)  # fmt: skip
    rows = list_input(tmp_path, SWI).rows
    assert [row.status for row in rows] == [TAKEN if t == taken else PASSED_OVER for t in (5, 10, 20, 30, 45)]
    assert {row.why for row in rows if row.status == PASSED_OVER} == {
        f"another echo is nearer to {60 / field_t:g} ms; --echo chooses"
    }
    second = list_input(tmp_path, Channels(("swi",), echo=2)).rows
    assert [(row.status, row.why) for row in second if row.status == TAKEN] == [(TAKEN, "echo 2 of 5 (10 ms)")]
    # Acquired again, and stopped after three echoes: each is replaced by its own repetition.
    for number, time in enumerate((5, 10, 20), start=15):
        write_series(tmp_path / str(number), voxels(), GRID, number=number, description="gre", image_type=MAGNITUDE,
                     echo_ms=time, MagneticFieldStrength=field_t)  # fmt: skip
    again = {row.input.split("/")[0]: row for row in list_input(tmp_path, SWI).rows}
    assert again["17" if taken == 20 else "9"].status == TAKEN
    assert again["6"].why == "acquired again later: series 16 (gre), 10 ms, 9 slices"
    assert again["8"].why.startswith("another echo is nearer")


def test_short_echoes_that_are_series_of_their_own_stay_refused(tmp_path: Path) -> None:
    for number, time in ((5, 2.4), (6, 4.8)):  # water and fat
        write_series(tmp_path, voxels(), GRID, number=number, description="gre", image_type=MAGNITUDE, echo_ms=time)
    intake = list_input(tmp_path, SWI)
    assert intake.cases == []
    assert all("too short to show iron" in row.why for row in intake.rows)


def test_a_map_of_unsigned_integers_is_turned_in_order(tmp_path: Path) -> None:
    stored = voxels()
    stored[0, 0, :2] = (0, 2**16 - 1)
    write_series(tmp_path / "in", stored, GRID, description="QSM", image_type=["DERIVED", "PRIMARY", "QSM"])
    (source,) = list_input(tmp_path / "in", Channels(("swi",), turns_qsm=True)).sources(tmp_path / "scans")
    source.fetch()
    array, _ = read_scan(source.case.images[0])
    np.testing.assert_array_equal(array, -stored.astype(float))


def test_real_headers_of_pydicom_are_understood() -> None:
    root = Path(str(get_testdata_file("DICOMDIR", download=False))).parent / "98892003"
    intake = list_input(root, SWI)
    assert intake.cases == []
    assert {row.status for row in intake.rows} == {PASSED_OVER}
    assert {"projection"} == {row.shows for row in intake.rows if "ANGIO Projected" in row.input}


@pytest.mark.parametrize(
    "name",
    [
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_implicit.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
    ],
)
def test_real_files_of_every_compression_hold_the_same_pixels(name: str, tmp_path: Path) -> None:
    import SimpleITK as sitk

    file = Path(str(get_testdata_file(name, download=False)))
    shutil.copy(file, tmp_path)
    (series,) = find_series(tmp_path)
    array, grid = read_series(series)
    image = sitk.ReadImage(str(get_testdata_file("MR_small.dcm", download=False)))
    np.testing.assert_array_equal(array, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(grid.origin, image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(grid.spacing[1:], image.GetSpacing()[1::-1], atol=1e-6)


@pytest.mark.parametrize(
    ("types", "description", "more", "expected"),
    [
        (["ORIGINAL", "PRIMARY", "M", "SWI", "ND", "NORM"], "SWI_Images", {}, "swi"),
        (["ORIGINAL", "PRIMARY", "M", "ND", "NORM"], "Mag_Images", {}, "magnitude"),
        (["ORIGINAL", "PRIMARY", "OTHER"], "SWAN", {"ge_type": "0"}, "swi"),
        (["DERIVED", "SECONDARY", "OTHER"], "FILT_PHA: SWAN", {}, "phase"),
        (["ORIGINAL", "PRIMARY", "OTHER"], "ax swan", {"ge_type": "1"}, "phase"),
        (["DERIVED", "SECONDARY", "REFORMATTED"], "MIN IP SWAN", {}, "minip"),
        (["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"], "SWIp", {}, "swi"),
        (["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"], "SWIp", {}, "phase"),
        (["ORIGINAL", "PRIMARY", "SWI", "NONE"], "VenBOLD", {"component": "MAGNITUDE"}, "swi"),
        (["DERIVED", "PRIMARY", "QSM", "NONE"], "QSM", {}, "qsm"),
        (["DERIVED", "PRIMARY", "T2_STAR MAP", "ND"], "T2Star_Images", {}, "map"),
        (["ORIGINAL", "PRIMARY", "M", "ND"], "t2_fl2d_tra_hemo", {}, "magnitude"),
        (["ORIGINAL", "PRIMARY", "M", "ND"], "t2_tse_tra", {"sequence": ["SE"]}, "anatomy"),
        (["ORIGINAL", "PRIMARY", "M", "ND"], "t1_mprage", {"sequence": ["GR", "IR"]}, "anatomy"),
        (["DERIVED", "SECONDARY", "PROJECTION IMAGE"], "ANGIO", {}, "projection"),
        (["ORIGINAL", "PRIMARY", "R", "ND"], "gre", {}, "real"),
    ],
)  # fmt: skip
def test_scanners_headers_say_what_a_series_shows(types, description, more, expected) -> None:
    assert contrast_of_header(types, description, **more) == expected
