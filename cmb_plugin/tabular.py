"""Tables as text: TSV and CSV files, Markdown, and numbers as people read them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import write_text

Row = Mapping[str, Any] | Sequence[Any]
"""Values by column, or in the order of the columns."""


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Writes a table, atomically; None and what a row lacks are empty cells.

    Args:
        path: ends in ``.tsv`` (for people: floats have 4 decimals) or ``.csv`` (for programs: all digits).
        columns: the heading, in this order; what else a row holds is left out.
        rows: by column, or in the order of the columns.

    Raises:
        ValueError: another ending.
    """
    writers = {".tsv": as_tsv, ".csv": as_csv}
    if path.suffix not in writers:
        raise ValueError(f"{path.name}: a table ends in .tsv or .csv")
    write_text(path, writers[path.suffix](columns, rows))


def as_tsv(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Tab-separated text; floats have 4 decimals, tabs and line breaks in a cell become spaces."""

    def cell(value: Any) -> str:
        """A value on one line, without tabs."""
        text = "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
        return " ".join(text.split())  # a tab or a line break inside would break the table

    lines = ["\t".join(columns), *("\t".join(map(cell, _values(columns, row))) for row in rows)]
    return "\n".join(lines) + "\n"


def as_csv(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Comma-separated text with all digits; cells with commas or line breaks are quoted."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *(_values(columns, row) for row in rows)])
    return text.getvalue()


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
