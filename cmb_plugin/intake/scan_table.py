"""A table of scans as ``--input``: a row per case, a column per modality of the model, or one path."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from cmb_plugin.errors import UserError
from cmb_plugin.images import SUFFIXES, image_stem
from cmb_plugin.images.contrast import MINIP, PROJECTION, QSM, UNKNOWN
from cmb_plugin.tabular import delimiter_of

from .selection import Channels, InputCase, Intake, select
from .table import UNUSABLE, InputRow
from .volumes import Volume, safe_case, volumes_of_file

TABLES = (".tsv", ".csv")
CASE, PATH = "case", "path"


def list_table(table: Path, channels: Channels, list_folder: Callable[[Path], Intake]) -> Intake:
    """The cases of a table: ``case``, and a column named after each modality, or ``path``.

    Paths are relative to the table. ``path`` may name a folder of DICOM files that hold one scan. A row that names no
    scan is a case with a problem, and so is the second row of a name.

    Args:
        table: TSV or CSV in UTF-8, also with semicolons; its first line names the columns, in capital or small letters.
        channels: what the model sees.
        list_folder: lists a folder that a row names.

    Raises:
        UserError: it cannot be read, has no row, or lacks a column.
    """
    rows = _read(table)
    columns = channels.numbers
    named = {name: columns[name] for name in rows[0] if name in columns}
    needed = {channel for channel in columns.values() if channel not in channels.without}
    if not named and PATH not in rows[0]:
        raise UserError(f"{table}: has no column of scans", remedy=_remedy(channels))
    if PATH not in rows[0] and not channels.tolerates_missing and needed - {*named.values()}:
        missing = next(name for name in channels.names if columns[name.lower()] in needed - {*named.values()})
        raise UserError(f"{table}: has no column {missing}", remedy=_remedy(channels))
    intake = Intake()
    lines: dict[str, int] = {}
    for line, row in enumerate(rows, start=2):
        if not any(row.values()):
            continue
        case_id = safe_case(row.get(CASE, "")) or _name_of_file(row, named)
        try:
            if not case_id:
                raise UserError("names no case and no scan", remedy="fill or remove the row")
            if case_id in lines:
                raise UserError(
                    f"case {case_id} stands in line {lines[case_id]} already", remedy="give it another name"
                )
            lines[case_id] = line
            case, listed = _listed(row, case_id, table.parent, named, channels, list_folder)
        except UserError as error:
            unique = case_id if lines.get(case_id) == line else safe_case(case_id, f"line{line}")
            case, listed = unusable(unique, f"{table.name}, line {line}", table, error.message, channels)
        intake.cases.append(case)
        intake.rows += listed
    intake.cases.sort(key=lambda case: case.case_id)
    return intake


def unusable(case_id: str, name: str, path: Path, why: str, channels: Channels) -> tuple[InputCase, list[InputRow]]:
    """A case that is reported as failed, and its row."""
    volume = Volume(name, case_id, case_id, path)
    row = InputRow(case_id, channels.names[0], name, "", UNUSABLE, why)
    return InputCase(case_id, {0: volume}, channels, why), [row]


def _read(table: Path) -> list[dict[str, str]]:
    """The rows by column in small letters, without blanks around the cells; at least one."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            heading = file.readline()
            file.seek(0)
            header, *lines = list(csv.reader(file, delimiter=delimiter_of(heading))) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: cannot be read ({error})", remedy="save it as a TSV file in UTF-8") from None
    names = [name.strip().lower() for name in header]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice:
        raise UserError(f"{table}: has two columns '{twice}'", remedy="give each its own name")
    rows = [dict.fromkeys(names, "") | dict(zip(names, map(str.strip, line), strict=False)) for line in lines]
    if not any(any(row.values()) for row in rows):
        raise UserError(f"{table}: has no row", remedy="write a line with the names of the columns, and one per case")
    return rows


def _remedy(channels: Channels) -> str:
    one = f"{CASE} and {PATH}" if len(channels.names) == 1 else f"{CASE}, {', '.join(channels.names)}"
    return f"its first line names {one}, separated by tabs"


def _name_of_file(row: Mapping[str, str], named: Mapping[str, int]) -> str:
    """Of a row that names no case, the name of its first file."""
    cells = [row[name] for name in (*sorted(named, key=lambda name: named[name]), PATH) if row.get(name)]
    return safe_case(image_stem(Path(cells[0])) or Path(cells[0]).name) if cells else ""


def _listed(
    row: Mapping[str, str],
    case_id: str,
    root: Path,
    named: Mapping[str, int],
    channels: Channels,
    list_folder: Callable[[Path], Intake],
) -> tuple[InputCase, list[InputRow]]:
    """The case of a row, and the rows of its files."""
    if row.get(PATH) and (root / row[PATH]).is_dir():
        return _of_folder(root / row[PATH], row[PATH], case_id, list_folder)
    intake = select(_of_files(row, case_id, root, named, channels), channels)
    if not intake.cases:
        raise UserError(f"{intake.rows[0].input}: {intake.rows[0].why}", remedy="name another file")
    return intake.cases[0], intake.rows


def _of_files(
    row: Mapping[str, str], case_id: str, root: Path, named: Mapping[str, int], channels: Channels
) -> list[Volume]:
    """The volumes of a row whose cells name image files."""
    volumes: list[Volume] = []
    cells = {name: row[name] for name in named if row[name]} or {PATH: row.get(PATH, "")}
    for column, cell in cells.items():
        if not cell:
            raise UserError("names no scan", remedy="fill or remove the row")
        file = root / cell
        if not file.is_file():
            raise UserError(f"{file}: no such file", remedy="paths are relative to the table")
        if image_stem(file) is None:
            raise UserError(f"{file}: is no image", remedy=f"name files that end in {', '.join(SUFFIXES)}")
        if column == PATH:
            volumes += _chosen(volumes_of_file(file, cell, case_id), channels)
        else:
            volumes += volumes_of_file(file, cell, case_id, channel=named[column])
    return volumes


def _of_folder(
    folder: Path, cell: str, case_id: str, list_folder: Callable[[Path], Intake]
) -> tuple[InputCase, list[InputRow]]:
    """The only case of a folder."""
    intake = list_folder(folder)
    if len(intake.cases) != 1:
        raise UserError(
            f"{folder}: holds {len(intake.cases)} scans that the model can read", remedy="name the folder of one series"
        )
    rows = [
        replace(row, case=row.case and case_id, input=f"{cell}/{row.input}" if row.input else cell)
        for row in intake.rows
    ]
    return replace(intake.cases[0], case_id=case_id), rows


def _chosen(volumes: list[Volume], channels: Channels) -> list[Volume]:
    """A file under ``path`` is taken whatever its name says, unless that is a projection, or a map whose sign must be
    turned."""
    told = (MINIP, PROJECTION, *((QSM,) if channels.turns_qsm else ()))
    return [
        volume
        if volume.contrast in told or any(channels.rank(c, volume) is not None for c in range(len(channels.names)))
        else replace(volume, contrast=UNKNOWN)
        for volume in volumes
    ]
