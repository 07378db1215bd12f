"""``scans.tsv`` of a predictions folder: which files the cases in it were predicted from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from cmb_plugin.errors import UserError
from cmb_plugin.tabular import read_numbered_rows, write_table

from .dataset import Case

FILE = "scans.tsv"
COLUMNS = ("case", "channel", "modality", "file")


def write_scans(folder: Path, cases: Iterable[Case], modalities: Sequence[str]) -> Path:
    """Writes ``scans.tsv``; rows of other cases, which an earlier run wrote into the same folder, stay.

    Args:
        folder: of predictions.
        cases: their files in the order of ``modalities``; those of missing modalities are left out.
        modalities: of the model.
    """
    new = {case.case_id: _rows(case, modalities) for case in cases}
    path = folder / FILE
    before: dict[str, list[tuple[str, ...]]] = {}
    with suppress(UserError):  # there is none yet, or it is damaged, which this run mends for its own cases
        for _, row in _read(path):
            before.setdefault(row["case"] or "", []).append(tuple(row[column] or "" for column in COLUMNS))
    together = {**before, **new}
    write_table(path, COLUMNS, (row for name in sorted(together) for row in together[name]))
    return path


def read_scans(folder: Path) -> tuple[tuple[str, ...], dict[str, dict[int, Path]]]:
    """Names of the modalities, and for each case channel -> file.

    Raises:
        UserError: there is no ``scans.tsv``, or it is damaged.
    """
    path = folder / FILE
    names: dict[int, str] = {}
    scans: dict[str, dict[int, Path]] = {}
    for number, row in _read(path):
        try:
            channel = int(row["channel"] or "")
        except ValueError:
            raise UserError(
                f"{path}, line {number}: channel is {row['channel']!r}", remedy="predict into the folder again"
            ) from None
        names[channel] = row["modality"] or ""
        scans.setdefault(row["case"] or "", {})[channel] = Path(row["file"] or "")
    modalities = tuple(names.get(channel, f"channel {channel}") for channel in range(max(names, default=-1) + 1))
    return modalities, scans


def _rows(case: Case, modalities: Sequence[str]) -> list[tuple[str, ...]]:
    present = [channel for channel in range(len(modalities)) if channel not in case.missing]
    return [(case.case_id, str(c), modalities[c], str(case.images[c].absolute())) for c in present]


def _read(path: Path) -> list[tuple[int, dict[str, str | None]]]:
    remedy = "run nndet_predict into the folder again; what is finished is kept"
    return read_numbered_rows(path, COLUMNS, COLUMNS, "the table of scans", remedy)
