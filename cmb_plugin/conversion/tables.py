"""Tables that people fill in: CSV, TSV and Excel files as rows of text by column name."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmb_plugin.errors import UserError
from cmb_plugin.tabular import delimiter_of

from .source import SPACES, BoxLabel, PointLabel

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx")

_SUFFIXES = {"voxel0": ("voxel", "voxel0", "vox", "index"), "voxel1": ("voxel1",), "ras": ("ras", "ras_mm"),
             "lps": ("lps", "lps_mm")}  # fmt: skip
_CORNERS = ("x0", "y0", "z0", "x1", "y1", "z1")
_CLASS = ("class", "label")
_MISSING = {"", "n/a", "na", "nan", "none", "null", "-"}

Row = dict[str, str]


def read_table(path: Path) -> list[Row]:
    """The rows of a table; column names in small letters without blanks around them, missing values as "".

    Raises:
        UserError: the file is missing or unreadable, is of another kind, or has no row.
    """
    cells = read_cells(path)
    header = [cell.strip().lower() for cell in cells[0]] if cells else []
    rows = [  # a row that ends early has empty cells
        dict(zip(header, [*line, *[""] * (len(header) - len(line))], strict=False))
        for line in cells[1:]
        if any(cell.strip() for cell in line)
    ]
    if len(set(header) - {""}) < len([name for name in header if name]):
        twice = next(name for name in header if name and header.count(name) > 1)
        raise UserError(f"{path}: has two columns '{twice}'", remedy="give each its own name")
    return [{k: "" if v.strip().lower() in _MISSING else v.strip() for k, v in row.items() if k} for row in rows]


def read_cells(path: Path) -> list[list[str]]:
    """The cells of a table as text, row by row; of an Excel file those of its first sheet.

    Raises:
        UserError: see ``read_table``.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file", remedy="check the path")
    if path.suffix.lower() == ".xlsx":
        return _excel(path)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise UserError(f"{path}: not a table", remedy=f"save it as one of {', '.join(TABLE_SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text", remedy="save it as CSV with UTF-8 encoding") from None
    lines = text.splitlines()
    try:
        return list(csv.reader(lines, delimiter=delimiter_of(lines[0] if lines else "")))
    except csv.Error as error:
        raise UserError(f"{path}: not a table ({error})", remedy="save it as CSV with a header line") from None


def _excel(path: Path) -> list[list[str]]:
    try:
        from openpyxl import load_workbook
    except ImportError:
        remedy = "pip install 'cmb_plugin[tables]' (or openpyxl), or save the table as CSV"
        raise UserError(f"{path}: reading Excel files needs openpyxl", remedy=remedy) from None
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        rows = [[_text(value) for value in row] for row in book.worksheets[0].iter_rows(values_only=True)]
        book.close()
    except Exception as error:  # openpyxl passes on errors of zip, XML and its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: cannot be read as an Excel file ({reason})", remedy="save it again as .xlsx"
        ) from None
    return rows


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def number(text: str, path: Path, what: str) -> float:
    """A number of a table; a decimal comma is understood.

    Raises:
        UserError: it is none.
    """
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{path}: {what} is {text!r}", remedy="give a number")
    return value


def points_of_rows(rows: Sequence[Row], path: Path, classes: Sequence[str], space: str = "") -> PointLabel:
    """Points from columns such as ``x_voxel``, ``y_voxel``, ``z_voxel`` (from 0), ``x_voxel1`` (from 1), ``x_ras`` or
    ``x_lps`` (mm), and optionally ``diameter_mm``, ``class`` and ``certainty``.

    Args:
        rows: of the table.
        path: of the table, for messages.
        classes: class names by index.
        space: what plain columns ``x, y, z`` mean.

    Raises:
        UserError: the columns do not say where the points are, or a value is no number.
    """
    columns, meant = _columns(rows, path, ("x", "y", "z"), space, "x_voxel, y_voxel, z_voxel")
    points = tuple(tuple(number(row.get(c, ""), path, f"{c} of row {i}") for c in columns) for i, row in _counted(rows))
    diameters = tuple(
        number(row["diameter_mm"], path, f"diameter_mm of row {i}") if row.get("diameter_mm") else 0.0
        for i, row in _counted(rows)
    )
    if negative := [i for (i, _), side in zip(_counted(rows), diameters, strict=True) if side < 0]:
        raise UserError(f"{path}: diameter_mm of row {negative[0]} is negative", remedy="give the diameter in mm")
    return PointLabel(
        path,
        points,
        meant,
        diameters if any(diameters) else (),
        _classes(rows, path, classes),
        _certainty(rows, path),
    )


def boxes_of_rows(rows: Sequence[Row], path: Path, classes: Sequence[str], space: str = "") -> BoxLabel:
    """Boxes from columns ``x0_voxel, y0_voxel, z0_voxel, x1_voxel, ...`` or in ``_voxel1``, ``_ras``, ``_lps``; see
    ``points_of_rows``."""
    columns, meant = _columns(rows, path, _CORNERS, space, "x0_voxel, y0_voxel, z0_voxel, x1_voxel, y1_voxel, z1_voxel")
    boxes = tuple(tuple(number(row.get(c, ""), path, f"{c} of row {i}") for c in columns) for i, row in _counted(rows))
    return BoxLabel(path, boxes, meant, _classes(rows, path, classes), _certainty(rows, path))


def has_boxes(rows: Sequence[Row]) -> bool:
    """Whether the columns are those of boxes."""
    return any(re.fullmatch(r"x0(_.*)?", column) for row in rows[:1] for column in row)


def safe_name(*words: str) -> str:
    """A case's name from words of the source: letters, digits, dots and hyphens, joined by underscores."""
    cleaned = [re.sub(r"[^A-Za-z0-9.-]+", "-", word.strip()).strip("-.") for word in words]
    return "_".join(word for word in cleaned if word)


def _counted(rows: Sequence[Row]) -> list[tuple[int, Row]]:
    return list(enumerate(rows, start=2))  # as a spreadsheet counts, the header being row 1


def _columns(rows: Sequence[Row], path: Path, names: Sequence[str], space: str, example: str) -> tuple[list[str], str]:
    """The columns that hold the coordinates, and in which space they are."""
    present = {column for row in rows for column in row}
    for meant in SPACES:
        for suffix in _SUFFIXES[meant]:
            columns = [f"{name}_{suffix}" for name in names]
            if present >= set(columns):
                return columns, meant
    if space and space not in SPACES:
        raise UserError(f"convert_cfg.space={space}: unknown", remedy=f"give one of {', '.join(SPACES)}")
    if space and (present >= set(names) or not rows):
        return list(names), space
    if not rows:
        return list(names), SPACES[0]
    if present >= set(names):
        remedy = "name them x_voxel (from 0), x_voxel1 (from 1), x_ras or x_lps (mm), or -o convert_cfg.space=voxel0"
        raise UserError(f"{path}: does not say what its columns {', '.join(names)} mean", remedy=remedy)
    remedy = f"name them for instance {example}; there are {', '.join(sorted(present)) or 'none'}"
    raise UserError(f"{path}: has no columns of coordinates", remedy=remedy)


def _classes(rows: Sequence[Row], path: Path, classes: Sequence[str]) -> tuple[int, ...]:
    indices = []
    for i, row in _counted(rows):
        name = next((row[key] for key in _CLASS if row.get(key)), "")
        if name and name not in classes:
            remedy = f"classes are {', '.join(classes)}; name them with -o convert_cfg.classes=[...]"
            raise UserError(f"{path}: the class of row {i} is '{name}'", remedy=remedy)
        indices.append(classes.index(name) if name else 0)
    return tuple(indices)


def _certainty(rows: Sequence[Row], path: Path) -> tuple[str, ...]:
    words = tuple(row.get("certainty", "").lower() for row in rows)
    for (i, _), word in zip(_counted(rows), words, strict=True):
        if word not in ("", "definite", "possible"):
            raise UserError(
                f"{path}: the certainty of row {i} is '{word}'", remedy="give definite or possible, or leave it empty"
            )
    return words if any(words) else ()
