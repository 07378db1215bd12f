"""``Table``: any data set that somebody can write down as a table of files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cmb_plugin.conversion import (
    TABLE_SUFFIXES,
    BoxLabel,
    ConvertConfig,
    Converter,
    Healthy,
    Label,
    MaskLabel,
    PointLabel,
    Problem,
    Row,
    SourceCase,
    boxes_of_rows,
    has_boxes,
    number,
    points_of_rows,
    read_table,
    safe_name,
)
from cmb_plugin.errors import UserError
from cmb_plugin.images import image_stem
from cmb_plugin.plugins import register_task

from .shared_tables import SharedRows, Visit, share, visit_text

LABELS = ("mask", "instances", "points", "boxes")
SPLITS = {"train": "Tr", "training": "Tr", "tr": "Tr", "test": "Ts", "testing": "Ts", "ts": "Ts", "": ""}
DOMAINS = ("domain", "site", "cohort", "protocol")
NUMBERS = ("field_strength_t", "echo_time_ms")
RESERVED = ("subject", "session", "split", *LABELS, *DOMAINS, *NUMBERS)


@dataclass
class TableConfig(ConvertConfig):
    """Settings of ``table`` (``-o convert_cfg.*``).

    Attributes:
        space: what plain columns x, y, z of points and boxes mean: ``voxel0`` (indices from 0), ``voxel1`` (from 1),
            ``ras`` or ``lps`` (world mm). Columns named x_voxel, x_voxel1, x_ras or x_lps say it themselves.
        classes: names of the classes; in a mask number 1 is the first, 2 the second, if there are several.
    """

    space: str = ""
    classes: list[str] = field(default_factory=lambda: ["cmb"])


@register_task
class Table(Converter):
    """Your own data: a CSV, TSV or Excel table of scans and labels"""

    needs = (
        "a table (.csv, .tsv, .xlsx) with a row per scan: columns subject, optionally session, one column per modality "
        "with the path of an image or a DICOM folder, and one of mask (pieces are lesions), instances (numbers are "
        "lesions), points or boxes with the path of a file, or the word healthy; optionally domain, split, "
        "field_strength_t, echo_time_ms"
    )
    example = "table --source scans.csv --task Task101_CMB"
    config_class = TableConfig
    config: TableConfig

    def find(self, source: Path) -> Iterator[SourceCase | Problem]:
        """A case for each row of the table ``source``."""
        if source.is_dir():
            tables = [p for p in sorted(source.iterdir()) if p.suffix.lower() in TABLE_SUFFIXES]
            remedy = "name the table itself" + (f": {tables[0]}" if tables else "")
            raise UserError(f"{source}: is a folder", remedy=remedy)
        rows = read_table(source)
        if not rows:
            raise UserError(f"{source}: has no row", remedy=f"it needs: {self.needs}")
        if "subject" not in rows[0]:
            raise UserError(f"{source}: has no column subject", remedy="add it: a name or number per person")
        self.classes = tuple(self.config.classes)
        columns = self._modality_columns(source, rows)
        self._tables = _LabelTables(source, rows)
        for i, row in enumerate(rows, start=2):
            name = safe_name(row["subject"], row.get("session", ""))
            try:
                yield self._case(source, row, i, name, columns)
            except UserError as error:
                yield Problem(name, source, f"row {i}: {error.message}", error.remedy)
        yield from self._tables.unclaimed()

    def _modality_columns(self, source: Path, rows: list[Row]) -> list[str]:
        if self.config.modalities:
            columns = [name.lower() for name in self.config.modalities]
            if missing := [column for column in columns if column not in rows[0]]:
                remedy = f"columns are {', '.join(rows[0])}"
                raise UserError(f"{source}: has no column {missing[0]}", remedy=remedy)
            return columns
        columns = [c for c in rows[0] if c not in RESERVED and any(_is_image(source, row[c]) for row in rows)]
        if not columns:
            raise UserError(
                f"{source}: has no column with image files", remedy="add one per modality, for instance swi"
            )
        self.modalities = tuple(columns)
        return columns

    def _case(self, source: Path, row: Row, i: int, name: str, columns: list[str]) -> SourceCase:
        if not name:
            raise UserError("has no subject", remedy="give each scan a subject")
        if empty := [column for column in columns if not row[column]]:
            raise UserError(f"{empty[0]} is empty", remedy="add the image, or leave the modality or the row out")
        split = row.get("split", "").lower()
        if split not in SPLITS:
            raise UserError(f"split is '{split}'", remedy="give train or test, or leave it empty")
        label = self._label(source, row)
        if label is None and SPLITS[split] != "Ts":
            raise UserError("has no label", remedy="name its mask, points or boxes, or write healthy")
        metadata = {key: number(row[key], source, f"{key} of row {i}") for key in NUMBERS if row.get(key)}
        return SourceCase(
            name,
            tuple(_path(source, row[column]) for column in columns),
            label,
            patient=safe_name(row["subject"]),
            session=row.get("session", ""),
            domain=next((row[key] for key in DOMAINS if row.get(key)), ""),
            split=SPLITS[split],
            metadata=metadata,
        )

    def _label(self, source: Path, row: Row) -> Label | None:
        given = [(kind, row[kind]) for kind in LABELS if row.get(kind)]
        if len(given) > 1:
            raise UserError(f"has {given[0][0]} and {given[1][0]}", remedy="give one kind of label per scan")
        if not given:
            return None
        kind, word = given[0]
        if word.lower() == "healthy":
            return Healthy()
        path = _path(source, word)
        if not path.is_file():
            raise UserError(f"{path}: no such file", remedy=f"correct the column {kind}, or write healthy there")
        if kind in ("mask", "instances"):
            several = len(self.classes) > 1 and kind == "mask"
            classes = {i: i - 1 for i in range(1, len(self.classes) + 1)} if several else {}
            return MaskLabel(path, kind == "instances", self.config.connectivity, classes)
        return self._coordinates(path, row)

    def _coordinates(self, path: Path, row: Row) -> PointLabel | BoxLabel:
        """The rows of a file of points or boxes; where it has a column subject, those of this scan."""
        rows = self._tables.rows(path, _visit(row))
        read = boxes_of_rows if has_boxes(rows) else points_of_rows
        return read(rows, path, self.classes, self.config.space)


class _LabelTables:
    """The tables of points and boxes that a table of scans names, each read once.

    Args:
        source: the table of scans.
        scans: its rows.
    """

    def __init__(self, source: Path, scans: list[Row]) -> None:
        self.source = source
        self.scans = scans
        self.read: dict[Path, list[Row]] = {}
        self.shared: dict[Path, SharedRows] = {}

    def rows(self, path: Path, scan: Visit) -> list[Row]:
        """The rows of a scan: all, or its own where the table has a column subject.

        Raises:
            UserError: the table is unreadable, or has rows that may be the scan's under another name.
        """
        if path not in self.read:
            self.read[path] = read_table(path)
            if self.read[path] and "subject" in self.read[path][0]:
                self.shared[path] = self._share(path)
        if path not in self.shared:
            return self.read[path]
        shared = self.shared[path]
        if doubted := shared.doubts.get(scan):
            names = ", ".join(map(visit_text, doubted[:5])) + (", ..." if len(doubted) > 5 else "")
            some = "not all rows" if shared.taken[scan] else "no row"
            remedy = "write subject and session alike in both tables, or healthy for this scan"
            raise UserError(f"{path}: has {some} of {visit_text(scan)}, but rows of {names} without a scan", remedy)
        return shared.taken[scan]

    def _share(self, path: Path) -> SharedRows:
        scans, labelled = [], []
        for row in self.scans:
            words = [row[kind] for kind in LABELS if row.get(kind, "").lower() not in ("", "healthy")]
            if path in [_path(self.source, word) for word in words]:
                scans.append(_visit(row))
            elif words:
                labelled.append(_visit(row))
        return share(self.read[path], scans, labelled)

    def unclaimed(self) -> Iterator[Problem]:
        """What stands in a table of points or boxes for a scan that nobody has named."""
        for path, shared in self.shared.items():
            for visit in shared.left:
                message = f"has rows of {visit_text(visit)}, which no scan of {self.source.name} takes"
                remedy = "correct subject and session, name the table in the scan's row, or remove the rows"
                yield Problem(safe_name(*visit), path, message, remedy)


def _visit(row: Row) -> Visit:
    return row["subject"], row.get("session", "")


def _path(source: Path, word: str) -> Path:
    """Relative to the folder of the table."""
    path = Path(word).expanduser()
    return path if path.is_absolute() else source.parent / path


def _is_image(source: Path, word: str) -> bool:
    return bool(word) and (image_stem(Path(word)) is not None or _path(source, word.partition("#")[0]).is_dir())
