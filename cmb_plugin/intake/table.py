"""The table of an input: one row per file, echo or series, with what becomes of it and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmb_plugin.documents import counted
from cmb_plugin.tabular import write_table

TAKEN, PASSED_OVER, UNUSABLE = "taken", "passed over", "unusable"
COLUMNS = ("case", "channel", "input", "shows", "status", "why")
FILE = "inputs.tsv"


@dataclass(frozen=True)
class InputRow:
    """One file, echo or series.

    Attributes:
        case: the case that it belongs to, "" where it belongs to none.
        channel: modality of the model that it stands for, "" where it stands for none.
        input: where it lies, relative to the input.
        shows: its contrast, as far as it is known.
        status: ``TAKEN``, ``PASSED_OVER``, or ``UNUSABLE``: it would be taken, and cannot be read.
        why: the reason, as text.
    """

    case: str
    channel: str
    input: str
    shows: str
    status: str
    why: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """In the order of ``COLUMNS``."""
        return (self.case, self.channel, self.input, self.shows, self.status, self.why)


def write_inputs(folder: Path, rows: Sequence[InputRow]) -> Path:
    """Writes ``inputs.tsv`` into a predictions folder."""
    write_table(folder / FILE, COLUMNS, [row.cells for row in rows])
    return folder / FILE


def table_text(rows: Sequence[InputRow]) -> str:
    """The table in aligned columns, for a terminal; the last column runs on."""
    lines = [COLUMNS, *(row.cells for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS) - 1)]
    shown = ["  ".join([*(c.ljust(w) for c, w in zip(line[:-1], widths, strict=True)), line[-1]]) for line in lines]
    return "\n".join(line.rstrip() for line in shown)


def count_text(rows: Sequence[InputRow]) -> str:
    """``12 taken for 6 cases, 3 passed over, 1 unusable``."""
    numbers = {status: sum(row.status == status for row in rows) for status in (TAKEN, PASSED_OVER, UNUSABLE)}
    cases = len({row.case for row in rows if row.status == TAKEN})
    parts = [f"{numbers[TAKEN]} taken for {counted(cases, 'case')}"]
    parts += [f"{numbers[status]} {status}" for status in (PASSED_OVER, UNUSABLE) if numbers[status]]
    return ", ".join(parts)
