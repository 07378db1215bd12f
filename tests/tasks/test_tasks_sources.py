"""Bad sources are listed by file with a remedy, good cases go on; DICOM, grids, registration, a second run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import miniatures
import nibabel
import numpy as np
import pytest
from scipy.io import savemat
from scipy.ndimage import gaussian_filter, shift

from cmb_plugin.commands import convert as command
from cmb_plugin.commands.names import new_task
from cmb_plugin.conversion import read_source
from cmb_plugin.conversion.grids import bring
from cmb_plugin.conversion.reading import SourceImage
from cmb_plugin.conversion.workflow import ConversionReport, ConvertOptions, convert
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import Grid, read_scan, write_image
from cmb_plugin.paths import TaskFolder
from cmb_plugin.settings import Overrides

Convert = Callable[..., ConversionReport]
GRID = Grid((12, 20, 24), (2.0, 1.0, 1.1), (5.0, -7.0, 9.0), (0.96, 0.28, 0.0, -0.28, 0.96, 0.0, 0.0, 0.0, 1.0))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Convert:
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    return lambda name, source, *words, **options: convert(
        name, source, new_task("Task903_Odd"), Overrides.parse(words), ConvertOptions(**options)
    )


def reasons(report: ConversionReport) -> str:
    assert report.exit_code == 2
    assert all(not failure.is_bug for failure in report.failures)
    return "\n".join(failure.reason for failure in report.failures)


def test_a_missing_ground_truth_is_named_and_the_others_go_on(run: Convert, tmp_path: Path) -> None:
    source = miniatures.write_cuhk(tmp_path / "in", miniatures.tiny_scans(3))
    (source / "ground_truth" / "02.mat").unlink()
    report = run("cuhk", source)
    assert "02.mat: no such file - add the ground truth" in reasons(report)
    assert [record.case_id for record in report.records] == ["cuhk-01", "cuhk-03"]


def test_a_number_of_a_mask_that_is_no_class_is_named(run: Convert, tmp_path: Path) -> None:
    """It would be a lesion of the first class."""
    mask = np.zeros(GRID.shape, dtype=np.uint8)
    mask[2, 3, 3], mask[5, 9, 9] = 1, 2
    write_image(tmp_path / "scan.nii.gz", smooth(GRID.shape), GRID)
    write_image(tmp_path / "right.nii.gz", mask, GRID)
    mask[9, 15, 15] = 3
    write_image(tmp_path / "wrong.nii.gz", mask, GRID)
    table = tmp_path / "scans.csv"
    table.write_text("subject,swi,mask\na,scan.nii.gz,right.nii.gz\nb,scan.nii.gz,wrong.nii.gz\n")
    report = run("table", table, "convert_cfg.classes=[cmb,iron]", test_fraction=0.0)
    assert "wrong.nii.gz: holds 3, which is no class - 1 is cmb, 2 is iron: correct the mask" in reasons(report)
    assert [lesion["class"] for lesion in report.records[0].lesions] == ["cmb", "iron"]


def test_points_outside_and_points_from_zero_are_told_apart(run: Convert, tmp_path: Path) -> None:
    source = miniatures.write_cuhk(tmp_path / "in", miniatures.tiny_scans(4))
    savemat(source / "ground_truth" / "01.mat", {"cen": np.array([[5, 5, 5], [0, 8, 9]])})
    savemat(source / "ground_truth" / "02.mat", {"cen": np.array([[5, 5, 500]])})
    savemat(source / "ground_truth" / "03.mat", {"cen": np.array([[20, 9, 30], [22, 9, 28]])})  # z, y, x
    found = reasons(run("cuhk", source)).splitlines()
    assert "01.mat: point 2 (0, 8, 9) has a 0, but voxels count from 1 - if the file counts from 0" in found[0]
    assert "02.mat: point 1 (5, 5, 500) lies outside the image of 32 x 32 x 24 voxels - they were read as" in found[1]
    assert "03.mat: point 1 (20, 9, 30) lies outside" in found[2]
    assert "the axes look swapped" in found[2]


def test_points_from_zero_are_taken_when_one_says_so(run: Convert, tmp_path: Path) -> None:
    source = miniatures.write_cuhk(tmp_path / "in", miniatures.tiny_scans(2))
    savemat(source / "ground_truth" / "01.mat", {"cen": np.array([[0, 8, 9]])})
    assert run("cuhk", source, "convert_cfg.space=voxel0").exit_code == 0


def test_points_that_all_lie_a_voxel_off_are_suspected(run: Convert, tmp_path: Path) -> None:
    scans = miniatures.tiny_scans(6)
    source = miniatures.write_cuhk(tmp_path / "in", scans)
    for index, scan in enumerate(scans, start=1):
        savemat(source / "ground_truth" / f"{index:02d}.mat", {"cen": miniatures.one_based(scan) - 1})
    found = reasons(run("cuhk", source))
    assert "points would hit darker places if they count from 0 - look at conversion.html" in found
    assert run("cuhk", source, "convert_cfg.space=voxel0", overwrite=True).exit_code == 0


def test_an_unreadable_scan_and_a_missing_mask_are_named(run: Convert, tmp_path: Path) -> None:
    source = miniatures.write_rodeja(tmp_path / "in", miniatures.tiny_scans(4))
    cut = source / "H001.nii.gz"
    cut.write_bytes(cut.read_bytes()[:3000])
    (source / "H002mask.nii").unlink()
    (source / "H003.nii.gz").unlink()
    found = reasons(run("rodeja", source))
    assert "H001.nii.gz: cannot be read as an image" in found
    assert "H002mask.nii: no such file - add the mask" in found
    assert "H003mask.nii: has no scan beside it" in found


def test_a_mask_with_swapped_axes_is_refused(run: Convert, tmp_path: Path) -> None:
    scans = miniatures.tiny_scans(3)
    source = miniatures.write_rodeja(tmp_path / "in", scans)
    grid = Grid((32, 32, 24), scans[0].grid.spacing, scans[0].grid.origin, scans[0].grid.direction)
    mask = np.zeros(grid.shape, np.int16)
    mask[28:30, 28:30, 20:22] = 1
    miniatures.save(source / "H001mask.nii", mask, grid)
    report = run("rodeja", source)
    assert "H001mask.nii: lesion 1 lies outside H001.nii.gz" in reasons(report)
    assert "axes look swapped" in reasons(report)
    assert len(report.records) == 2


def test_two_scans_of_one_name_are_both_left_out(run: Convert, tmp_path: Path) -> None:
    source = miniatures.write_table(tmp_path / "in", miniatures.tiny_scans(3), ["mask"])
    lines = source.read_text(encoding="utf-8").splitlines()
    source.write_text("\n".join([*lines, lines[1]]))
    report = run("table", source)
    assert "2 scans are called p0 - rename or remove one" in reasons(report)
    assert [record.case_id for record in report.records] == ["p1", "p2"]


@pytest.mark.parametrize(
    ("columns", "cells", "message"),
    [
        ("subject,swi,mask", "a,scans/0.nii.gz,", "has no label - name its mask, points or boxes, or write healthy"),
        ("subject,swi,mask", "a,scans/0.nii.gz,gone.nii.gz", "gone.nii.gz: no such file"),
        ("subject,swi,mask", "a,scans/gone.nii.gz,healthy", "gone.nii.gz: no such file"),
        ("subject,swi,points", "a,scans/0.nii.gz,plain.csv", "does not say what its columns x, y, z mean"),
        ("subject,swi,points", "a,scans/0.nii.gz,words.csv", "x_voxel of row 2 is 'far' - give a number"),
        ("subject,swi,mask,split", "a,scans/0.nii.gz,healthy,maybe", "split is 'maybe' - give train or test"),
    ],
)
def test_a_bad_row_is_one_line(run: Convert, tmp_path: Path, columns: str, cells: str, message: str) -> None:
    miniatures.write_table(tmp_path / "in", miniatures.tiny_scans(2), ["mask"])
    (tmp_path / "in" / "plain.csv").write_text("x,y,z\n3,4,5\n")
    (tmp_path / "in" / "words.csv").write_text("x_voxel,y_voxel,z_voxel\nfar,4,5\n")
    table = tmp_path / "in" / "bad.csv"
    good = columns.split(",").index("swi")
    row = ["b", "scans/1.nii.gz", "healthy"][: good + 2]
    table.write_text(f"{columns}\n{cells}\n{','.join(row)}{',' * (columns.count(',') - 2)}\n")
    report = run("table", table)
    assert message in reasons(report)
    assert len(report.failures[0].reason.splitlines()) == 1
    assert [record.case_id for record in report.records] == ["b"]


def write_shared(root: Path, scans: str, points: str) -> Path:
    """A table of scans, one image for all of them, and the table of points that they share; cells apart by blanks."""
    if not (root / "scans" / "0.nii.gz").is_file():
        miniatures.write_table(root, miniatures.tiny_scans(1), ["mask"])
    for name, text in (("scans.csv", scans), ("points.csv", points)):
        lines = [",".join(line.split()) for line in text.splitlines()]
        cells = (
            "\n".join(lines).replace("POINTS", "scans/0.nii.gz,points.csv").replace("WELL", "scans/0.nii.gz,healthy")
        )
        (root / name).write_text(cells + "\n", encoding="utf-8")
    return root / "scans.csv"


XYZ = "x_voxel y_voxel z_voxel"
TWO_VISITS = "a 1 9 9 9\na 1 20 20 9\na 2 15 9 9"


@pytest.mark.parametrize(
    ("scans", "points", "lesions"),
    [
        ("subject swi points\na POINTS\nb POINTS", f"subject session {XYZ}\na 1 9 9 9\nb 2 9 9 9", {"a": 1, "b": 1}),
        ("subject session swi points\na 1 POINTS\nb 1 POINTS", f"subject {XYZ}\na 9 9 9", {"a_1": 1, "b_1": 0}),
        ("subject session swi points\na 1 POINTS\na 2 POINTS\na 3 POINTS", f"subject session {XYZ}\n{TWO_VISITS}",
         {"a_1": 2, "a_2": 1, "a_3": 0}),
        ("subject session swi points mask\na 1 POINTS\na 2 scans/0.nii.gz,,0_mask.nii.gz",
         f"subject session {XYZ}\n{TWO_VISITS}", {"a_1": 2, "a_2": 0}),
    ],
)  # fmt: skip
def test_a_shared_table_gives_each_scan_its_points(
    run: Convert, tmp_path: Path, scans: str, points: str, lesions: dict[str, int]
) -> None:
    source = write_shared(tmp_path / "in", scans, points)
    scan, grid = read_scan(tmp_path / "in" / "scans" / "0.nii.gz")
    miniatures.save(tmp_path / "in" / "0_mask.nii.gz", np.zeros(scan.shape, np.uint8), grid)
    report = run("table", source)
    assert report.exit_code == 0
    assert {record.case_id: len(record.lesions) for record in report.records} == lesions


@pytest.mark.parametrize(
    ("scans", "points", "said", "converted"),
    [  # leading zeros that a spreadsheet took away; d is alike in both
        ("subject swi points\n01 POINTS\nsub-2 POINTS\nd POINTS", f"subject {XYZ}\n1 9 9 9\n002 9 9 9\nd 9 9 9",
         ["row 2: {p}: has no row of 01, but rows of 1 without", "row 3: {p}: has no row of sub-2, but rows of 002"],
         ["d"]),
        # one subject in two spellings: what is alike is not all
        ("subject swi points\n01 POINTS\nd POINTS", f"subject {XYZ}\n01 9 9 9\n1 20 9 9",
         ["row 2: {p}: has not all rows of 01, but rows of 1 without a scan"], ["d"]),
        ("subject swi points\na POINTS\nd POINTS", f"subject session {XYZ}\n{TWO_VISITS}\nd 1 9 9 9",
         ["row 2: {p}: has no row of a, but rows of a session 1, a session 2 without a scan"], ["d"]),
        ("subject session swi points\na 1 POINTS\na 2 POINTS\nd 1 POINTS",
         f"subject session {XYZ}\na 1 9 9 9\na M24 9 9 9",
         ["row 3: {p}: has no row of a session 2, but rows of a session M24 without a scan"], ["a_1", "d_1"]),
        ("subject session swi points\na 1 POINTS\na 2 POINTS\nd 1 POINTS", f"subject {XYZ}\na 9 9 9\nd 9 9 9",
         ["row 2: {p}: has no row of a session 1, but rows of a without", "row 3: {p}: has no row of a session 2"],
         ["d_1"]),
        ("subject swi points\na POINTS\nd WELL", f"subject {XYZ}\nx 9 9 9\ny 9 9 9",
         ["row 2: {p}: has no row of a, but rows of x, y without a scan - write subject and session alike"], ["d"]),
        ("subject swi points mask\na POINTS\nd WELL", f"subject {XYZ}\na 9 9 9\nd 9 9 9\ne 9 9 9",
         ["{p}: has rows of d, which no scan of scans.csv takes - correct", "{p}: has rows of e, which no scan"],
         ["a", "d"]),
        ("subject session swi points\na 1 POINTS\n- 1 POINTS", f"subject {XYZ}\na 9 9 9\n- 20 9 9\nx 9 9 9",
         ["{p}: has rows of x, which no scan"], ["1", "a_1"]),
    ],
)  # fmt: skip
def test_points_that_no_scan_takes_are_named_and_make_no_scan_healthy(
    run: Convert, tmp_path: Path, scans: str, points: str, said: list[str], converted: list[str]
) -> None:
    report = run("table", write_shared(tmp_path / "in", scans, points))
    found = reasons(report)
    assert len(report.failures) == len(said)
    assert not [text for text in said if text.format(p=tmp_path / "in" / "points.csv") not in found]
    assert [record.case_id for record in report.records] == converted


@pytest.mark.parametrize("name", ["valdo", "cuhk", "csiro", "rodeja", "bids", "table"])
def test_an_empty_source_says_what_is_needed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    (tmp_path / "in").mkdir()
    assert command.main([name, "--source", str(tmp_path / "in"), "-np", "0"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert " - " in error
    assert not (tmp_path / "data").exists()


def test_a_second_run_adds_what_was_repaired_and_keeps_the_split(run: Convert, tmp_path: Path) -> None:
    source = miniatures.write_cuhk(tmp_path / "in", miniatures.tiny_scans(6))
    truth = source / "ground_truth" / "03.mat"
    shutil.move(truth, tmp_path / "03.mat")
    first = run("cuhk", source, test_fraction=0.4)
    kept = first.task.raw / "lesionsTr"
    before = {path: path.stat().st_mtime_ns for path in first.task.raw.rglob("*.*")}
    assert kept.is_dir()
    shutil.move(tmp_path / "03.mat", truth)
    second = run("cuhk", source, test_fraction=0.4)
    assert (second.exit_code, second.converted, len(second.records)) == (0, 1, 6)
    assert first.splits.items() <= second.splits.items()
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("content", [{"lesions": [{"instance": 1, "region": "lobar"}]}, []])
def test_a_case_that_somebody_added_is_left_alone(run: Convert, tmp_path: Path, content: object) -> None:
    source = miniatures.write_cuhk(tmp_path / "in", miniatures.tiny_scans(3))
    truth = source / "ground_truth" / "03.mat"
    shutil.move(truth, tmp_path / "03.mat")
    folder = run("cuhk", source, test_fraction=0.0).task
    for name in ("mine", "cuhk-03"):
        write_json(folder.extra("lesions", "Tr") / f"{name}.json", content)
    report = run("cuhk", source, test_fraction=0.0)
    assert [record.case_id for record in report.records] == ["cuhk-01", "cuhk-02"]
    assert "add the ground truth" in reasons(report)
    shutil.move(tmp_path / "03.mat", truth)
    report = run("cuhk", source, test_fraction=0.0)
    assert "cuhk-03.json: stands in the place of a case of the source - rename one" in reasons(report)
    assert read_json(folder.extra("lesions", "Tr") / "cuhk-03.json") == content
    assert not (folder.labels("Tr") / "cuhk-03.json").exists()


def test_another_source_is_refused_unless_overwritten(run: Convert, tmp_path: Path) -> None:
    run("cuhk", miniatures.write_cuhk(tmp_path / "a", miniatures.tiny_scans(2)))
    other = miniatures.write_cuhk(tmp_path / "b", miniatures.tiny_scans(3))
    with pytest.raises(UserError, match="was converted otherwise"):
        run("cuhk", other)
    assert len(run("cuhk", other, overwrite=True).records) == 3


def test_a_data_set_of_other_origin_is_never_replaced(run: Convert, tmp_path: Path) -> None:
    mine = tmp_path / "data" / "Task903_Odd" / "dataset.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")
    with pytest.raises(UserError, match="was not converted"):
        run("cuhk", miniatures.write_cuhk(tmp_path / "a", miniatures.tiny_scans(2)), overwrite=True)
    assert mine.read_text(encoding="utf-8") == "{}"


def test_dicom_series_of_a_table_lie_where_their_headers_say(run: Convert, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    magnitude, phase = rng.integers(0, 900, GRID.shape), rng.integers(-4096, 4096, GRID.shape)
    folder = tmp_path / "in" / "dicom"
    miniatures.write_dicom(folder, magnitude, GRID, "M")
    miniatures.write_dicom(folder, phase, GRID, "P")
    table = tmp_path / "in" / "t.csv"
    table.write_text("subject,swi,phase,mask\na,dicom,dicom,healthy\n")
    report = run("table", table, test_fraction=0.0)
    for number, array in enumerate((magnitude, phase)):
        found, grid = read_scan(report.task.images("Tr") / f"a_{number:04d}.nii.gz")
        np.testing.assert_array_equal(found, array)
        assert grid.matches(GRID, 1e-3)
    assert report.records[0].metadata == {"field_strength_t": 3.0, "echo_time_ms": 20.0}


def test_of_several_echoes_one_must_be_chosen(tmp_path: Path) -> None:
    arrays = {echo: np.random.default_rng(echo).integers(0, 900, GRID.shape) for echo in (7, 21)}
    for echo, array in arrays.items():
        miniatures.write_dicom(tmp_path / "d", array, GRID, "M", echo)
    with pytest.raises(UserError, match=r"2 series fit of 2.*echo 7.0 ms.*DIR#echo=1"):
        read_source(tmp_path / "d", "swi")
    np.testing.assert_array_equal(read_source(tmp_path / "d#echo=2", "swi").array, arrays[21])


def test_a_missing_slice_is_noticed(tmp_path: Path) -> None:
    folder = miniatures.write_dicom(tmp_path / "d", np.random.default_rng(0).integers(0, 9, GRID.shape), GRID)
    next(folder.glob("*_5.dcm")).unlink()
    with pytest.raises(UserError, match=r"slices are 2\.00 to 4\.00 mm apart: is one missing"):
        read_source(folder, "swi")


def smooth(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2).astype(np.float32) * 100


def test_another_grid_is_resampled_by_its_header() -> None:
    """A linear image is the same on every grid, wherever both lie."""
    fine = Grid((24, 44, 50), (1.0, 0.5, 0.55), GRID.origin, GRID.direction)
    weights = np.array([1.0, -2.0, 0.5])
    worlds = [
        g.to_world(np.indices(g.shape).reshape(3, -1).T + 0.5).reshape(*g.shape, 3) @ weights for g in (GRID, fine)
    ]
    coarse, exact = (SourceImage(Path(n), w.astype(np.float32), g) for n, w, g in zip("ab", worlds, (GRID, fine)))  # noqa: B905
    found, notes = bring(coarse, exact, "t1")
    inside = (slice(1, -3), slice(1, -5), slice(1, -3))
    np.testing.assert_allclose(found[inside], exact.array[inside], atol=1e-3)
    assert "was resampled to the grid of b" in notes[0]


def test_a_mask_that_its_header_places_twice_is_told(run: Convert, tmp_path: Path) -> None:
    write_image(tmp_path / "scan.nii.gz", smooth(GRID.shape), GRID)
    mask = np.zeros(GRID.shape, np.uint8)
    mask[3:5, 9:11, 9:11] = 1
    write_image(tmp_path / "mask.nii.gz", mask, GRID)
    image = nibabel.load(tmp_path / "mask.nii.gz", mmap=False)
    image.set_sform(image.affine @ nibabel.affines.from_matvec(np.eye(3), (2, 0, 0)), 2)
    image = nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header)
    image.to_filename(tmp_path / "mask.nii.gz")
    (tmp_path / "scans.csv").write_text("subject,swi,mask\n1,scan.nii.gz,mask.nii.gz\n")
    (record,) = run("table", tmp_path / "scans.csv").records
    assert record.warnings[0].startswith("mask.nii.gz: qform and sform of its header place it differently")


def test_phase_is_resampled_on_its_circle() -> None:
    ramp = np.broadcast_to(np.linspace(0, 12, GRID.shape[2]), GRID.shape)
    wrapped = np.angle(np.exp(1j * ramp)).astype(np.float32)
    fine = Grid((12, 20, 44), (2.0, 1.0, 0.55), GRID.origin, GRID.direction)
    found, _ = bring(SourceImage(Path("p"), wrapped, GRID), SourceImage(Path("r"), np.zeros(fine.shape), fine), "phase")
    expected = np.interp(np.arange(44) * 0.55, np.arange(24) * 1.1, np.linspace(0, 12, 24))
    middle = found[6, 10]
    np.testing.assert_allclose(np.angle(np.exp(1j * (middle - expected)))[:43], 0, atol=0.05)


def test_another_scan_is_refused() -> None:
    far = Grid(GRID.shape, GRID.spacing, (500.0, 0.0, 0.0), GRID.direction)
    with pytest.raises(UserError, match="covers 0 % of b - are both of one session"):
        bring(SourceImage(Path("a"), smooth(GRID.shape), far), SourceImage(Path("b"), smooth(GRID.shape), GRID), "t1")


def test_registration_finds_a_known_shift() -> None:
    grid = Grid((32, 48, 48), (1.5, 1.0, 1.0))
    reference = smooth(grid.shape)
    moving = (200 - shift(reference, (2, -3, 1.5), order=3, mode="nearest")).astype(np.float32)  # other contrast too
    found, notes = bring(
        SourceImage(Path("a"), moving, grid), SourceImage(Path("b"), reference, grid), "t1", register=True
    )
    inside = (slice(6, -6),) * 3
    assert np.corrcoef(found[inside].ravel(), reference[inside].ravel())[0, 1] < -0.97
    assert "corners moved by up to" in notes[0]


def test_the_list_names_every_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name}: " in shown for name in ("bids", "csiro", "cuhk", "rodeja", "table", "valdo"))
    assert "phantom" not in shown


def test_the_report_shows_every_case(run: Convert, tmp_path: Path) -> None:
    report = run("cuhk", miniatures.write_cuhk(tmp_path / "in", miniatures.tiny_scans(3)))
    page = report.html.read_text(encoding="utf-8")
    assert all(record.case_id in page for record in report.records)
    assert "conversion/cuhk-01.png" in page
    assert (report.task.root / "conversion" / "cuhk-01.png").is_file()
    settings = read_json(TaskFolder(report.task.root).conversion)
    assert settings["converter"] == "cuhk"
    assert settings["split"] == report.splits
