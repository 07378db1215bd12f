"""Label tables: what the values of a parcellation or an atlas stand for, one row per label in a TSV file.

Columns are ``value``, ``name``, ``group``, ``region`` and ``side`` (see ``Place``); the first and the third must be
there. The group ``white matter`` is cerebral white matter that the source does not divide: the program divides it into
deep and lobar by its distance to the ventricles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmb_plugin.documents import some_of
from cmb_plugin.errors import UserError
from cmb_plugin.tabular import read_numbered_rows

from .regions import GROUPS, NOT_TISSUE, UNKNOWN, Place

WHITE_MATTER = "white matter"
DATA = Path(__file__).parent / "data"
BUILT_IN = ("coarse", "freesurfer", "mars")
"""Tables that come with the program and can be named instead of a file (docs/anatomy.md)."""

_GROUPS = (*GROUPS, *NOT_TISSUE, UNKNOWN, WHITE_MATTER)
_SIDES = ("", "left", "right")
ROUNDING = 0.01  # the MARS atlas in circulation has noise of about 0.001
FIRST_FREE = 60000  # labels from here on are the program's own: white matter that it has divided


@dataclass(frozen=True)
class LabelTable:
    """The rows of a table by label value.

    Attributes:
        title: its file name.
        names: published name of each label.
        places: what each label stands for; undivided white matter is lobar here.
        white_matter: labels of undivided cerebral white matter.
    """

    title: str
    names: Mapping[int, str]
    places: Mapping[int, Place]
    white_matter: frozenset[int]


def load_table(name_or_path: str | Path) -> LabelTable:
    """A built-in table by its name, or one from a file.

    Raises:
        UserError: no such file, a column is missing, or a row is wrong; its line is named.
    """
    path = DATA / f"{name_or_path}.tsv" if str(name_or_path) in BUILT_IN else Path(name_or_path)
    columns = ("value", "name", "group", "region", "side")
    remedy = f"name a tab-separated file, or one of {', '.join(BUILT_IN)}"
    rows = read_numbered_rows(path, columns, ("value", "group"), "the label table", remedy)
    names: dict[int, str] = {}
    places: dict[int, Place] = {}
    white_matter = set()
    for line, row in rows:
        value, group, side = (_cell(row, key) for key in ("value", "group", "side"))
        for key, known in (("group", _GROUPS), ("side", _SIDES)):
            if _cell(row, key) not in known:
                raise UserError(
                    f"{path}, line {line}: unknown {key} {_cell(row, key)!r}", remedy=f"known: {', '.join(known)}"
                )
        if not value.isdecimal() or int(value) >= FIRST_FREE or int(value) in places:
            raise UserError(
                f"{path}, line {line}: {value!r} is no label value, or stands twice",
                remedy=f"give every value from 0 to {FIRST_FREE - 1} at most once",
            )
        names[int(value)] = _cell(row, "name")
        if group == WHITE_MATTER:
            white_matter.add(int(value))
        places[int(value)] = Place("lobar" if group == WHITE_MATTER else group, _cell(row, "region"), side)
    if places.setdefault(0, Place("outside")).group != "outside":
        raise UserError(
            f"{path}: label 0 is {places[0].group}", remedy="0 is the background: give it the group outside"
        )
    return LabelTable(path.name, names, places, frozenset(white_matter))


def _cell(row: Mapping[str, str | None], key: str) -> str:
    return (row.get(key) or "").strip()


def as_labels(values: np.ndarray, table: LabelTable, title: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Voxel values of a label file -> uint16 labels, and findings.

    Values may be stored as squares of the labels, as in the MARS atlas in circulation, and with rounding noise: where
    not all values stand in the table but all their square roots do, the roots are the labels.

    Args:
        values: [z, y, x], integers or floating point.
        title: what messages call the file.

    Raises:
        UserError: values that are no whole numbers from 0 to ``FIRST_FREE``.
    """
    wrong = f"{title}: holds values that are no labels"
    if not np.isfinite(values).all() or values.min(initial=0) < -ROUNDING or values.max(initial=0) >= FIRST_FREE:
        raise UserError(wrong, remedy=f"give a file of whole numbers from 0 to {FIRST_FREE - 1}")
    labels = np.rint(values).astype(np.uint16)
    if values.dtype.kind == "f" and float(np.abs(values - labels).max(initial=0)) > ROUNDING:
        raise UserError(wrong, remedy="give a file of whole numbers: was it resampled with interpolation?")
    distinct = np.flatnonzero(np.bincount(labels.ravel()))
    roots = np.rint(np.sqrt(distinct)).astype(int)
    known = set(table.places)
    if not known.issuperset(distinct.tolist()) and known.issuperset(roots.tolist()) and (roots**2 == distinct).all():
        table_of_roots = np.zeros(int(distinct.max()) + 1, np.uint16)
        table_of_roots[distinct] = roots
        return table_of_roots[labels], (
            f"the values of {title} are squares; their roots are the labels of {table.title}",
        )
    return labels, ()


def unknown_labels(labels: np.ndarray, table: LabelTable, title: str) -> tuple[str, ...]:
    """A finding that names the labels without a row in the table and how many voxels they have; none without any."""
    counts = np.bincount(labels.ravel())
    missing = {int(value): int(counts[value]) for value in np.flatnonzero(counts) if int(value) not in table.places}
    if not missing:
        return ()
    listed = some_of([f"{value} ({count} voxels)" for value, count in missing.items()], most=10)
    return (f"{title}: labels without a row in {table.title}, their region is unknown: {listed}",)
