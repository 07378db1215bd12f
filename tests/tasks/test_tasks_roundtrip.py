"""Phantoms written out in every format come back with the same lesions, in the same place of the world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import miniatures
import numpy as np
import pytest
from miniatures import Scan
from task_rules import assert_task_folder

from cmb_plugin.commands.names import new_task
from cmb_plugin.conversion.workflow import ConversionReport, ConvertOptions, convert
from cmb_plugin.dataset import Dataset, check_dataset, read_truth
from cmb_plugin.files import read_json
from cmb_plugin.images import boxes_of_instances, read_grid, read_scan
from cmb_plugin.paths import TaskFolder
from cmb_plugin.settings import Overrides

Convert = Callable[..., ConversionReport]


@pytest.fixture(scope="module")
def phantoms() -> list[Scan]:
    return miniatures.phantom_scans(3)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Convert:
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    return lambda name, source, *words, **options: convert(
        name, source, new_task("Task902_Back"), Overrides.parse(words), ConvertOptions(**options)
    )


def converted(task: TaskFolder) -> dict[str, np.ndarray]:
    """Case -> boxes [N, 6], in the scan's voxels."""
    dataset = Dataset.load(task)
    return {case.case_id: read_truth(case).boxes for split in ("Tr", "Ts") for case in dataset.cases(split)}


def true_boxes(scan: Scan) -> np.ndarray:
    return np.array(list(boxes_of_instances(scan.mask).values())).reshape(-1, 6)


def in_order(boxes: np.ndarray) -> np.ndarray:
    return boxes[np.lexsort(boxes.T)]


def assert_same_boxes(found: np.ndarray, scan: Scan) -> None:
    np.testing.assert_array_equal(in_order(found), in_order(true_boxes(scan)))


def assert_same_centres(found: np.ndarray, centres: np.ndarray) -> None:
    assert len(found) == len(centres)
    middles = (found[:, :3] + found[:, 3:]) / 2
    nearest = np.abs(middles[:, None] - centres[None]).max(axis=2).min(axis=1)
    assert (nearest <= 0.5 + 1e-3).all(), nearest


def test_masks_of_valdo_come_back_exactly(run: Convert, phantoms: list[Scan], tmp_path: Path) -> None:
    report = run("valdo", miniatures.write_valdo(tmp_path / "in", phantoms))
    assert_task_folder(report.task.root)
    found = converted(report.task)
    for name, scan in zip(("sub-101", "sub-202", "sub-303"), phantoms, strict=True):
        assert_same_boxes(found[name], scan)
    data = read_json(report.task.root / "dataset.json")
    assert data["domain"] == {"sub-101": "valdo1", "sub-202": "valdo2", "sub-303": "valdo3"}
    assert "annotation_style" not in data
    assert any("became 0" in note for note in report.records[0].warnings)
    assert any("mm off" in note for note in report.records[0].warnings)


def test_numbered_masks_come_back_exactly(run: Convert, phantoms: list[Scan], tmp_path: Path) -> None:
    report = run("rodeja", miniatures.write_rodeja(tmp_path / "in", phantoms))
    assert_task_folder(report.task.root)
    for (name, boxes), scan in zip(sorted(converted(report.task).items()), phantoms, strict=True):
        assert name.startswith("H")
        assert_same_boxes(boxes, scan)


@pytest.mark.parametrize("whole", [True, False])
def test_points_of_cuhk_come_back_in_place(run: Convert, phantoms: list[Scan], tmp_path: Path, whole: bool) -> None:
    report = run("cuhk", miniatures.write_cuhk(tmp_path / "in", phantoms, whole))
    assert_task_folder(report.task.root)
    assert Dataset.load(report.task).annotation_style == "weak"
    for boxes, scan in zip((b for _, b in sorted(converted(report.task).items())), phantoms, strict=True):
        assert_same_centres(boxes, miniatures.one_based(scan, whole)[:, ::-1] - 0.5)


def test_points_of_csiro_come_back_in_place_and_copies_stay_together(
    run: Convert, phantoms: list[Scan], tmp_path: Path
) -> None:
    empty = Scan(phantoms[0].images, np.zeros_like(phantoms[0].mask), phantoms[0].grid)
    report = run("csiro", miniatures.write_csiro(tmp_path / "in", [*phantoms, empty]), test_fraction=0.5)
    assert_task_folder(report.task.root)
    found = converted(report.task)
    original, copy = "242_T0_MRI_SWI_BFC_50mm_HM", "242_T0_MRI_SWI_BFC_50mm_HM_rsCMB_V1"
    for name, scan in ((original, phantoms[0]), ("242_T1_MRI_SWI_BFC_50mm_HM", phantoms[1]), (copy, phantoms[0])):
        assert_same_centres(found[name], miniatures.one_based(scan)[:, ::-1] - 0.5)
    assert len(found["900_T0_MRI_SWI_BFC_50mm_HM"]) == 0
    patients = Dataset.load(report.task).session_id
    assert patients[original] == patients[copy] == patients["242_T1_MRI_SWI_BFC_50mm_HM"] == "csiro-242"
    assert len({report.splits[name] for name in patients if patients[name] == "csiro-242"}) == 1
    doubled = next(record for record in report.records if record.case_id == original)
    assert any("stand there twice" in note for note in doubled.warnings)


def test_masks_and_points_of_bids_come_back(run: Convert, phantoms: list[Scan], tmp_path: Path) -> None:
    report = run("bids", miniatures.write_bids(tmp_path / "in", phantoms))
    assert_task_folder(report.task.root)
    found = converted(report.task)
    assert_same_boxes(found["sub-00_ses-1"], phantoms[0])
    assert_same_centres(found["sub-00_ses-2"], phantoms[1].centres)
    data = read_json(report.task.root / "dataset.json")
    assert data["session_id"]["sub-00_ses-1"] == data["session_id"]["sub-00_ses-2"] == "sub-00"
    assert data["metadata"]["sub-00_ses-1"] == {"session": "ses-1", "field_strength_t": 3, "echo_time_ms": 20.0}
    assert data["domain"]["sub-01_ses-1"] == "site1"
    assert data["weak_cases"] == ["sub-00_ses-2"]
    dataset = Dataset.load(report.task)
    assert dataset.is_weak("sub-00_ses-2")
    assert not dataset.is_weak("sub-00_ses-1")


@pytest.mark.parametrize("kind", ["mask", "instances", "points", "boxes"])
def test_every_kind_of_a_table_comes_back(run: Convert, phantoms: list[Scan], tmp_path: Path, kind: str) -> None:
    report = run("table", miniatures.write_table(tmp_path / "in", phantoms, [kind]))
    assert_task_folder(report.task.root)
    assert not check_dataset(Dataset.load(report.task)).errors
    for index, scan in enumerate(phantoms):
        boxes = converted(report.task)[f"p{index}"]
        assert_same_centres(boxes, scan.centres) if kind == "points" else assert_same_boxes(boxes, scan)


def test_world_coordinates_of_oblique_flipped_scans_survive(run: Convert, tmp_path: Path) -> None:
    scans = miniatures.tiny_scans(3)
    a = np.deg2rad(25)
    turned = np.array([[0, np.sin(a), np.cos(a)], [-1, 0, 0], [0, np.cos(a), -np.sin(a)]])
    for scan, direction in zip(scans, (np.diag([1, -1, -1.0]), turned, -turned), strict=True):
        scan.grid = type(scan.grid)(scan.grid.shape, (3.3, 0.45, 0.9), (-81.123, 7.25, 33.7), tuple(direction.ravel()))
    source = miniatures.write_table(tmp_path / "in", scans, ["mask"])
    report = run("table", source, test_fraction=0.0)
    for index, scan in enumerate(scans):
        file = report.task.images("Tr") / f"p{index}_0000.nii.gz"
        assert read_grid(file).matches(scan.grid, 1e-4)
        original = source.parent / "scans" / f"{index}.nii.gz"
        np.testing.assert_allclose(miniatures.affine(file), miniatures.affine(original), atol=1e-5)
        np.testing.assert_array_equal(read_scan(file)[0], read_scan(original)[0])
        label = report.task.labels("Tr") / f"p{index}.nii.gz"
        np.testing.assert_allclose(miniatures.affine(label), miniatures.affine(original), atol=1e-5)


def test_points_in_millimetres_mean_the_same_place_as_in_voxels(run: Convert, tmp_path: Path) -> None:
    scan = miniatures.tiny_scans(2)[0]
    root = tmp_path / "in"
    miniatures.save(root / "a.nii.gz", scan.images["swi"], scan.grid)
    world = scan.grid.to_world(scan.centres)
    rows = {
        "voxel": (scan.centres - 0.5)[:, ::-1],
        "voxel1": (scan.centres + 0.5)[:, ::-1],
        "lps": world,
        "ras": world * (-1, -1, 1),
    }
    lines = [["subject", "swi", "points"]]
    for space, points in rows.items():
        miniatures._table(root / f"{space}.csv", [[f"{c}_{space}" for c in "xyz"], *points.tolist()])
        lines.append([space, "a.nii.gz", f"{space}.csv"])
    report = run("table", miniatures._table(root / "t.csv", lines), test_fraction=0.0)
    boxes = list(converted(report.task).values())
    assert len(boxes) == 4
    for other in boxes[1:]:
        np.testing.assert_array_equal(boxes[0], other)


def test_a_known_diameter_is_drawn_as_a_ball_of_that_size(run: Convert, tmp_path: Path) -> None:
    scan = miniatures.tiny_scans(2)[0]
    miniatures.save(tmp_path / "a.nii.gz", scan.images["swi"], scan.grid)
    point = (scan.centres - 0.5)[0, ::-1].tolist()
    header = ["x_voxel", "y_voxel", "z_voxel", "diameter_mm", "certainty"]
    miniatures._table(tmp_path / "p.csv", [header, [*point, 6.0, "possible"]])
    source = miniatures._table(tmp_path / "t.csv", [["subject", "swi", "points"], ["a", "a.nii.gz", "p.csv"]])
    lesion = run("table", source, test_fraction=0.0).records[0].lesions[0]
    assert lesion["outlined_diameter_mm"] == pytest.approx(6.0, rel=0.06)
    assert (lesion["drawn"], lesion["certainty"]) == ("diameter", "possible")
