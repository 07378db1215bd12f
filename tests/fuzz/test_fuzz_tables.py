"""Points, boxes, label tables and lists of scans that are damaged end in values or in a ``UserError``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cmb_plugin.tasks.table import Table
from damage import damaged_bytes, ends_well
from hypothesis import given, settings
from hypothesis import strategies as st

from cmb_plugin.anatomy import load_table
from cmb_plugin.conversion import boxes_of_rows, has_boxes, points_of_rows, read_table
from cmb_plugin.conversion.tables import read_cells
from cmb_plugin.dataset.foreign import foreign_cases, read_foreign
from cmb_plugin.images import Grid, write_image

GRID = Grid((6, 7, 8), (1.5, 1.0, 1.0))
CELLS = st.one_of(
    st.sampled_from(["", "nan", "inf", "-inf", "1e999", "-1", "0", "1,5", "1.5", "cmb", "n/a", '"', "\t", "é", "1e30"]),
    st.just("long" * 40_000),  # more than the csv module takes in a cell
    st.text(max_size=4),
    st.integers(-(10**6), 10**20).map(str),
)


@st.composite
def damaged_table(draw: Callable[..., Any], text: str) -> bytes:
    """A table with cells replaced, removed or added, rows doubled, another delimiter, or damaged bytes."""
    if draw(st.booleans()):
        return draw(damaged_bytes(text.encode()))
    mark = "\t" if "\t" in text else ","
    rows = [line.split(mark) for line in text.splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.sampled_from(rows))
        at = draw(st.integers(0, max(len(row) - 1, 0)))
        action = draw(st.sampled_from(["replace", "replace", "remove", "add", "double"]))
        if action == "replace" and row:
            row[at] = draw(CELLS)
        elif action == "remove" and row:
            del row[at]
        elif action == "add":
            row.insert(at, draw(CELLS))
        else:
            rows.append(list(row))
    mark = draw(st.sampled_from([mark, mark, mark, ";", ",", "\t"]))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return end.join(mark.join(row) for row in rows).encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])))


@dataclass(frozen=True)
class Reader:
    """A kind of table: its file, a good text, and what reads and uses it, given the file."""

    file: str
    text: str
    read: Callable[[Path], None]


def _points(path: Path) -> None:
    rows = read_table(path)
    if has_boxes(rows):
        label = boxes_of_rows(rows, path, ("cmb", "iron"), "voxel0")
        assert np.isfinite(np.array(label.boxes, dtype=float)).all()
    else:
        label = points_of_rows(rows, path, ("cmb", "iron"), "voxel0")
        assert np.isfinite(np.array(label.points, dtype=float)).all()
        assert np.isfinite(np.array(label.diameters, dtype=float)).all()
        assert min(label.diameters, default=0) >= 0


def _foreign(path: Path) -> None:
    for case_id in {*foreign_cases(path.parent), "sub-01"}:
        detections = read_foreign(path, case_id, GRID, ("cmb", "iron")).detections
        assert np.isfinite(detections.boxes).all()
        assert (detections.sizes >= 0).all()


def _labels(path: Path) -> None:
    table = load_table(str(path))
    assert table.places[0].group == "outside"


def _scans(path: Path) -> None:
    for case in Table().find(path):
        str(case)


READERS = {
    "points": Reader(
        "points.csv",
        "x_voxel,y_voxel,z_voxel,diameter_mm,class,certainty\n1,2,3,2.5,cmb,definite\n4,5,1,3,iron,possible\n",
        _points,
    ),
    "plain_points": Reader("points.tsv", "x\ty\tz\n1\t2\t3\n4\t5\t1\n", _points),
    "boxes": Reader(
        "boxes.csv", "x0_ras,y0_ras,z0_ras,x1_ras,y1_ras,z1_ras,class\n1,2,3,4,5,6,cmb\n-1,-2,-3,0,0,0,iron\n", _points
    ),
    "foreign": Reader(
        "found.csv", "case,i,j,k,score,class,diameter_mm\nsub-01,1,2,3,0.5,cmb,3\nsub-02,1,1,1,0.25,1,\n", _foreign
    ),
    "world": Reader("sub-01.tsv", "x_ras_mm\ty_ras_mm\tz_ras_mm\tscore\n1\t2\t3\t0.5\n", _foreign),
    "labels": Reader(
        "labels.tsv",
        "value\tname\tgroup\tregion\tside\n0\toutside\toutside\t\t\n1\ta\tlobar\tfrontal\tleft\n2\tb\tdeep\t\tright\n",
        _labels,
    ),
    "scans": Reader(
        "scans.csv",
        "subject,session,swi,points,split,field_strength_t\none,a,scan.nii.gz,p.csv,train,3\ntwo,,scan.nii.gz,healthy,,\n",
        _scans,
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder per reader with a good file, and what the file names."""
    made = {name: tmp_path_factory.mktemp(name) for name in READERS}
    for name, reader in READERS.items():
        (made[name] / reader.file).write_text(reader.text)
    write_image(made["scans"] / "scan.nii.gz", np.zeros(GRID.shape, np.uint8), GRID)
    (made["scans"] / "p.csv").write_text(READERS["points"].text)
    return made


@pytest.mark.parametrize("name", READERS)
def test_a_whole_table_is_read(name: str, folders: dict[str, Path]) -> None:
    path = folders[name] / READERS[name].file
    assert ends_well(path, lambda: READERS[name].read(path))


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=40)
@given(data=st.data())
def test_a_damaged_table_is_read_or_named(name: str, folders: dict[str, Path], data: st.DataObject) -> None:
    path = folders[name] / READERS[name].file
    path.write_bytes(data.draw(damaged_table(READERS[name].text)))
    ends_well(path, lambda: READERS[name].read(path))


@settings(max_examples=40)
@given(data=st.data())
def test_a_damaged_excel_file_is_read_or_named(data: st.DataObject, workbook: Path) -> None:
    path = workbook.with_name("damaged.xlsx")
    path.write_bytes(data.draw(damaged_bytes(workbook.read_bytes())))
    ends_well(path, lambda: read_cells(path))


@pytest.fixture(scope="module")
def workbook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Excel file with one point."""
    openpyxl = pytest.importorskip("openpyxl")
    path: Path = tmp_path_factory.mktemp("excel") / "points.xlsx"
    book = openpyxl.Workbook()
    book.active.append(["x_voxel", "y_voxel", "z_voxel"])
    book.active.append([1, 2, 3])
    book.save(path)
    return path
