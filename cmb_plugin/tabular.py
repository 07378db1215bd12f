"""Tables as text: TSV and CSV files, Markdown, and numbers as people read them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import atomic

Row = Mapping[str, Any] | Sequence[Any]
"""Values by column, or in the order of the columns."""


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Writes a table, atomically and row by row; None and what a row lacks are empty cells.

    Args:
        path: ends in ``.tsv`` (for people: floats have 4 decimals) or ``.csv`` (for programs: all digits).
        columns: the heading, in this order; what else a row holds is left out.
        rows: by column, or in the order of the columns.

    Raises:
        ValueError: another ending.
    """
    writers = {".tsv": _tsv_lines, ".csv": _csv_lines}
    if path.suffix not in writers:
        raise ValueError(f"{path.name}: a table ends in .tsv or .csv")
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(writers[path.suffix](columns, rows))


def delimiter_of(heading: str) -> str:
    """What separates the columns of a table whose first line this is: tabs, semicolons or commas.

    Where the decimal mark is a comma, spreadsheets write semicolons into a .csv, so the ending says too little.
    """
    return max("\t;,", key=heading.count)


def read_numbered_rows(
    path: Path, columns: Sequence[str], needed: Sequence[str], name: str, remedy: str
) -> list[tuple[int, dict[str, str | None]]]:
    """The rows of a tab-separated file, each with the number of its line; empty ones are left out.

    Args:
        path: of the file.
        columns: that a table may have, for the message.
        needed: those that it must have.
        name: of such a table, for the message.
        remedy: when there is none that can be read.

    Raises:
        UserError: it cannot be read, or a column is missing.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            rows = [(number, row) for number, row in enumerate(reader, start=2) if any(row.values())]
            heading = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: {name} cannot be read ({error})", remedy=remedy) from None
    for column in needed:
        if column not in heading:
            raise UserError(f"{path}: no column {column}", remedy=f"columns: {', '.join(columns)}; tabs between")
    return rows


BREAKS = re.compile(r" *[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")
"""What would break a tab-separated table inside of a cell, and blanks around it."""


def as_tsv(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Tab-separated text; floats have 4 decimals, tabs and line breaks in a cell become spaces."""
    return "".join(_tsv_lines(columns, rows))


def as_csv(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Comma-separated text with all digits; cells with commas or line breaks are quoted."""
    return "".join(_csv_lines(columns, rows))


def _tsv_lines(columns: Sequence[str], rows: Iterable[Row]) -> Iterator[str]:
    def cell(value: Any) -> str:
        """A value on one line, without tabs."""
        text = "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
        return BREAKS.sub(" ", text).strip()

    yield "\t".join(columns) + "\n"
    for row in rows:
        yield "\t".join(map(cell, _values(columns, row))) + "\n"


def _csv_lines(columns: Sequence[str], rows: Iterable[Row]) -> Iterator[str]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        yield text.getvalue()
        text.seek(0)
        text.truncate()
        writer.writerow(_values(columns, row))
    yield text.getvalue()


def _values(columns: Sequence[str], row: Row) -> Sequence[Any]:
    return [row.get(column) for column in columns] if isinstance(row, Mapping) else row


def as_markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; cells as ``show_cell`` has them, a ``|`` in a cell is escaped."""

    def line(cells: Iterable[Any]) -> str:
        """One row."""
        return "| " + " | ".join(show_cell(cell).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(columns), "|---" * len(columns) + "|", *(line(row) for row in rows)]) + "\n"


def columns_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns of all rows, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def show_cell(value: Any) -> str:
    """A value of a table for people: None is a dash, a float has 3 decimals."""
    return show_number(value) if value is None or isinstance(value, float) else str(value)


def show_number(value: float | None, decimals: int = 3) -> str:
    """A number with so many decimals; a dash where it is undefined."""
    return "-" if value is None else f"{value:.{decimals}f}"


def show_interval(
    value: float | None, low: float | None, high: float | None, decimals: int = 3, signed: bool = False
) -> str:
    """A number with its interval.

    Args:
        value: a dash where it is None.
        low, high: ends of the interval; without ``low`` it is left out, without ``high`` it is open (``∞``).
        decimals: of all three.
        signed: for differences: ``+0.04 (-0.01 to +0.09)`` instead of ``0.86 (0.52-1.31)``.
    """
    if value is None:
        return "-"
    form = f"{'+' if signed else ''}.{decimals}f"
    if low is None:
        return f"{value:{form}}"
    return f"{value:{form}} ({low:{form}}{' to ' if signed else '-'}{'∞' if high is None else f'{high:{form}}'})"
