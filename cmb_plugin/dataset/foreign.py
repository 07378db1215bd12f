"""Predictions that other programs wrote: nnDetection's boxes, masks, probability maps, tables of points.

Everything comes back as ``Detections`` in the voxels of the scan (docs/evaluation.md says how each is read).
"""

from __future__ import annotations

import csv
import pickle
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.images import SUFFIXES, Grid, detections_of_instances, image_stem, label_components, read_scan
from cmb_plugin.tabular import delimiter_of

from .predictions import ENDING, boxes_file, predicted_cases

PICKLE_ENDING = "_boxes.pkl"
TABLE_SUFFIXES = (".csv", ".tsv")
POINT_MM = 4.0  # side of the box around a point of unknown size: IoU says nothing of points anyway
CASE_COLUMNS = ("case", "case_id", "subject", "scan", "id")
SCORE_COLUMNS = ("score", "probability", "confidence")
FRAMES = {  # columns -> what they mean
    ("x_ras_mm", "y_ras_mm", "z_ras_mm"): "ras",
    ("x_lps_mm", "y_lps_mm", "z_lps_mm"): "lps",
    ("i", "j", "k"): "voxel",
}
OWN_TABLES = tuple(
    f"{name}.tsv"
    for name in ("lesions", "summary", "detections", "scans", "inputs", "cohort", "regions", "followup", "visits")
)
"""Which our commands write beside predictions, and which hold none."""

_SAFE = {  # all that plain data and numpy arrays need; each of these builds data and runs nothing
    *((module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    *((module, "scalar") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    *((module, "_frombuffer") for module in ("numpy.core.numeric", "numpy._core.numeric")),
    *(("numpy", name) for name in ("ndarray", "dtype")),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),  # protocol 2 writes the bytes of an array through it
}


@dataclass(frozen=True)
class Foreign:
    """One scan as another program saw it.

    Attributes:
        detections: boxes in the scan's voxels, highest score first.
        mask: [z, y, x] mask or probability, where that is what was given.
    """

    detections: Detections
    mask: np.ndarray | None = None


class _RestrictedUnpickler(pickle.Unpickler):
    """Reads numpy arrays and plain data; anything else is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        """The class, where it is one of those that arrays and plain data need.

        Raises:
            UnpicklingError: it is not.
        """
        if (module, name) in _SAFE or (module == "numpy.dtypes" and name.endswith("DType")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"holds {module}.{name}, which is neither an array nor plain data")


def load_plain_pickle(file: BinaryIO) -> Any:
    """Unpickles numpy arrays and plain data.

    Raises:
        pickle.UnpicklingError: the file holds anything else, or is damaged.
    """
    try:
        return _RestrictedUnpickler(file).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise pickle.UnpicklingError(f"damaged ({type(error).__name__})") from None


def foreign_cases(folder: Path, known: Collection[str] = ()) -> list[str]:
    """Names of the cases that a folder holds predictions of, in whatever format, sorted.

    Args:
        folder: of the predictions.
        known: cases that there are; a table with the name of one of them is its own.
    """
    if not folder.is_dir():
        return []
    names = set(predicted_cases(folder))
    for path in folder.iterdir():
        if path.name.startswith(".") or not path.is_file():
            continue
        stem = image_stem(path)
        if path.name.endswith(PICKLE_ENDING):
            names.add(path.name.removesuffix(PICKLE_ENDING))
        elif stem is not None:
            names.add(stem.removesuffix("_instances"))
    shared = _shared_tables(folder, known)
    for table in _tables(folder):
        names |= set(shared.get(table, (table.stem,)))
    return sorted(names)


def has_shared_table(folder: Path, known: Collection[str]) -> bool:
    """Whether a folder holds a table of several cases, in which a case with nothing found has no row."""
    return bool(_shared_tables(folder, known))


def find_prediction(folder: Path, case_id: str, known: Collection[str] = ()) -> Path | None:
    """The file that holds a case's predictions; of several boxes with scores come before masks and tables.

    Args:
        folder: of the predictions.
        case_id: the case.
        known: as for ``foreign_cases``.

    Raises:
        UserError: a table cannot be read, or several have rows of the case.
    """
    masks = (folder / f"{case_id}{ending}{suffix}" for ending in ("", "_instances") for suffix in SUFFIXES)
    own = (folder / f"{case_id}{suffix}" for suffix in TABLE_SUFFIXES)
    for path in (boxes_file(folder, case_id), folder / f"{case_id}{PICKLE_ENDING}", *masks, *own):
        if path.is_file():
            return path
    shared = _shared_tables(folder, known)
    naming = [table for table, cases in shared.items() if case_id in cases]
    if len(naming) > 1:
        raise UserError(f"{naming[1]}: has rows of {case_id}, as {naming[0].name} has", remedy="leave one of them")
    # A case without a row in the table of all cases had nothing found: the table is its file all the same.
    return next(iter(naming or shared), None)


def read_foreign(path: Path, case_id: str, grid: Grid, classes: Sequence[str]) -> Foreign:
    """Reads a file that ``find_prediction`` named and that is not our own.

    Args:
        path: the file.
        case_id: name of the case.
        grid: of the scan that was predicted.
        classes: class names by index.

    Raises:
        UserError: the file is damaged, lies on another grid, or does not say what its numbers mean.
    """
    if path.name.endswith(PICKLE_ENDING):
        prediction = Foreign(_read_nndetection(path, grid))
    elif image_stem(path) is not None:
        prediction = _read_mask(path, grid)
    else:
        prediction = Foreign(_read_points(path, case_id, grid, classes))
    wrong = prediction.detections.labels[
        (prediction.detections.labels < 0) | (prediction.detections.labels >= len(classes))
    ]
    if len(wrong):
        known = ", ".join(f"{i} {name}" for i, name in enumerate(classes))
        raise UserError(f"{path}: has class {wrong[0]}", remedy=f"the reference has {known}")
    if not np.isfinite(prediction.detections.boxes).all() or not np.isfinite(prediction.detections.scores).all():
        raise UserError(f"{path}: holds places or scores that are no numbers", remedy="repair the file")
    return Foreign(prediction.detections.by_score(), prediction.mask)


def boxes_from_nndetection(boxes: np.ndarray) -> np.ndarray:
    """nnDetection's boxes as ours.

    Args:
        boxes: [N, 6] ``(z_min, y_min, z_max, y_max, x_min, x_max)`` in voxel numbers, where min is one less than
            the first voxel of the lesion and max one more than its last.

    Returns:
        [N, 6] half-open voxel-edge boxes ``(z0, y0, x0, z1, y1, x1)``. The first voxel is min + 1 and begins at the
        edge of this number; the last is max - 1 and ends at max.
    """
    given = np.asarray(boxes, dtype=float).reshape(-1, 6)
    low, high = given[:, [0, 1, 4]] + 1, given[:, [2, 3, 5]]
    # A box that the network drew thinner than a voxel keeps its middle.
    middle = (low + high) / 2
    half = np.maximum(high - low, 0.5) / 2
    return np.concatenate([middle - half, middle + half], axis=1)


def _read_nndetection(path: Path, grid: Grid) -> Detections:
    remedy = "predict again with nnDetection, whose files hold pred_boxes, pred_scores and pred_labels"
    try:
        with path.open("rb") as file:
            content = load_plain_pickle(file)
        boxes, scores, labels = (np.asarray(content[f"pred_{name}"]) for name in ("boxes", "scores", "labels"))
        if not content.get("restore", True):
            raise UserError(f"{path}: boxes lie in preprocessed scans", remedy="predict with restore=True")
        shape = content.get("original_size_of_raw_data")
        if shape is not None and tuple(int(n) for n in shape) != grid.shape:
            raise UserError(
                f"{path}: was predicted on {tuple(shape)} voxels, the label has {grid.shape}", remedy=remedy
            )
        return Detections(boxes_from_nndetection(boxes), scores, labels)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {error}", remedy="only arrays and plain data are read from a pickle") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{path}: not nnDetection's boxes ({type(error).__name__}: {error})", remedy=remedy) from None


def _read_mask(path: Path, grid: Grid) -> Foreign:
    array, own = read_scan(path)
    if not own.same_as(grid):
        raise UserError(f"{path}: lies on another grid than the label", remedy="resample it to the scan's grid")
    values = np.nan_to_num(array)
    instances, probability = split_mask(values)
    detections = detections_of_instances(instances, values if probability else None)
    return Foreign(detections, values if probability else values > 0)


def split_mask(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Numbers the lesions of a mask.

    Args:
        values: [z, y, x] instance numbers, or a binary mask, or a probability.

    Returns:
        int32 [z, y, x] and whether it is a probability: then, and of a mask with a single number above 0, the lesions
        are its components (26 neighbours; of a probability those of what is at least 0.5).
    """
    whole = values.astype(np.int32)
    probability = bool((whole != values).any())
    numbers = np.unique(whole[whole > 0])
    if not probability and len(numbers) > 1:
        return whole, False
    inside = values >= 0.5 if probability else whole > 0
    return label_components(inside).astype(np.int32), probability


def _read_points(path: Path, case_id: str, grid: Grid, classes: Sequence[str]) -> Detections:
    table = _read_table(path)
    columns, rows = table.columns, table.rows
    names = next((names for names in FRAMES if set(names) <= set(columns)), None)
    if names is None:
        known = "; ".join(", ".join(names) for names in FRAMES)
        raise UserError(
            f"{path}: does not say where its points are", remedy=f"name the columns {known} (voxels from 0, x first)"
        )
    own = rows if table.of_cases is None else table.of_cases.get(case_id, [])
    if not own and path.stem == case_id:  # all of its own table, whose column says something else, an id of the lesion
        own = rows
    score, label = _first(columns, SCORE_COLUMNS), _first(columns, ("class", "label"))
    size = _first(columns, ("diameter_mm",))
    try:
        points = np.array([[float(row[name]) for name in names] for row in own]).reshape(-1, 3)
        scores = np.array([float(row[score]) if score else 1.0 for row in own])
        sides = np.array([float(row[size]) if size and row[size] else POINT_MM for row in own])
        labels = np.array([_class_index(row[label], classes) if label else 0 for row in own])
        if (sides < 0).any():
            raise ValueError("a diameter is negative")
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path}: {error}", remedy="give a number in every cell, and classes by name or index"
        ) from None
    if FRAMES[names] == "voxel":
        centres = points[:, ::-1] + 0.5
    else:
        centres = grid.from_world(points * ((-1, -1, 1) if FRAMES[names] == "ras" else (1, 1, 1)))
    half = sides[:, None] / 2 / np.asarray(grid.spacing)
    return Detections(np.concatenate([centres - half, centres + half], axis=1), scores, labels)


def _class_index(word: str, classes: Sequence[str]) -> int:
    if word in classes:
        return list(classes).index(word)
    if word.strip().isdecimal():
        return int(word)
    raise ValueError(f"unknown class '{word}'")


def _tables(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in TABLE_SUFFIXES and path.name not in OWN_TABLES and not path.name.startswith(".")
    )


def _shared_tables(folder: Path, known: Collection[str]) -> dict[Path, Collection[str]]:
    """Tables of several cases, and which cases each has rows of."""
    cases = {table: _read_table(table).of_cases for table in _tables(folder) if table.stem not in known}
    return {table: own for table, own in cases.items() if own is not None}


@dataclass(frozen=True)
class _Table:
    """A table of points: its columns, its rows, and the rows of each case; None where no column names cases."""

    columns: list[str]
    rows: list[dict[str, str]]
    of_cases: dict[str, list[dict[str, str]]] | None


@lru_cache(maxsize=64)
def _parse_table(path: Path, changed: int) -> _Table:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    reader = csv.DictReader(lines, delimiter=delimiter_of(lines[0] if lines else ""), restval="")
    columns = [name.strip().lower() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    rows, column = list(reader), _first(columns, CASE_COLUMNS)
    if column is None:
        return _Table(columns, rows, None)
    of_cases: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        of_cases.setdefault(_case_name(row[column]), []).append(row)
    return _Table(columns, rows, of_cases)


def _read_table(path: Path) -> _Table:
    try:
        return _parse_table(path, path.stat().st_mtime_ns)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a table ({error})", remedy="save it as UTF-8 text with a header line") from None


def _first(columns: Sequence[str], wanted: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in columns), None)


def _case_name(word: str) -> str:
    return image_stem(Path(word.strip())) or word.strip()


__all__ = ["ENDING", "Foreign", "boxes_from_nndetection", "find_prediction", "foreign_cases", "read_foreign"]
