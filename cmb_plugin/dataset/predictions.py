"""The predictions folder: ``{case}_boxes.json`` per case, ``lesions.tsv`` and ``summary.tsv`` (docs/predictions.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, overload

import numpy as np

from cmb_plugin.detections import RAW_SCORE, Detections
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import Grid
from cmb_plugin.tabular import write_table

SCHEMA = 1
ENDING = "_boxes.json"
REMOVED = "removed"
"""Column that says why a detection was removed, "" where it was not."""

_PLACE_KEYS = ("box", "centre", "centre_lps_mm", "box_lps_mm", "diameter_mm", "volume_mm3")
_OWN_KEYS = {"instance", "score", "label", "class", "reported", *_PLACE_KEYS}
LESION_COLUMNS = (
    *("case", "lesion", "class", "score", "diameter_mm"),
    *("x_ras_mm", "y_ras_mm", "z_ras_mm", "i", "j", "k", "volume_mm3"),
)
SUMMARY_COLUMNS = ("case", "status", "reported", "candidates", "error")


@dataclass
class CasePredictions:
    """What was predicted for one case.

    Attributes:
        case_id: name of the case.
        detections: boxes in voxels of the scan, highest score first, all above the low threshold of prediction.
        grid: place of the scan.
        classes: class names by index.
        operating_point: a detection is reported from this score on.
        model: name of the model folder.
        folds: which of its folds predicted together.
        volumes_mm3: for each detection the volume of its instance in the mask; None where it is not drawn.
        key: changes when scan, model or settings change, so that a later run knows whether the case is still good.
        regions: where the places of the detections come from, as plain data; None where nobody asked for them.
        modalities: names of those that the model saw; empty where nobody wrote them down.
        warnings: sentences on what is unlike every scan that the model has seen.
    """

    case_id: str
    detections: Detections
    grid: Grid
    classes: tuple[str, ...]
    operating_point: float
    model: str = ""
    folds: tuple[int, ...] = ()
    volumes_mm3: tuple[float | None, ...] | None = None
    key: str = ""
    regions: dict[str, Any] | None = None
    modalities: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def removed(self) -> np.ndarray:
        """[N] True where a rule about its place removed the detection: its column ``removed`` says why."""
        reasons = self.detections.columns.get(REMOVED)
        return np.zeros(len(self.detections), dtype=bool) if reasons is None else reasons.astype(bool)

    @property
    def kept(self) -> Detections:
        """What no rule removed: the detections that are measured and counted."""
        return self.detections[~self.removed]

    @property
    def reported(self) -> np.ndarray:
        """[N] True where the score reaches the operating point and no rule removed the detection."""
        return self.reached(self.operating_point) & ~self.removed

    @property
    def withheld(self) -> np.ndarray:
        """[N] True where the score reaches the operating point, but a rule removed the detection."""
        return self.reached(self.operating_point) & self.removed

    def reached(self, score: float) -> np.ndarray:
        """[N] True where the score is at least so high."""
        # The file holds decimals, scores are float32: 0.7 must count as reaching 0.7.
        reached: np.ndarray = np.round(self.detections.scores.astype(float), 6) >= score
        return reached

    @property
    def diameters_mm(self) -> np.ndarray:
        """[N] geometric mean of the box's sides: for a sphere in a tight box, the sphere's diameter."""
        sides = self.detections.sizes.astype(float) * np.asarray(self.grid.spacing)
        diameters: np.ndarray = np.cbrt(sides.prod(axis=1))
        return diameters


def microbleed_labels(classes: Sequence[str]) -> list[int]:
    """Indices of the classes that count as microbleeds: those named so, or all where none is."""
    names = [name.lower() for name in classes]
    return [i for i, name in enumerate(names) if "cmb" in name or "bleed" in name] or list(range(len(names)))


def boxes_file(folder: Path, case_id: str) -> Path:
    """``{folder}/{case}_boxes.json``."""
    return folder / f"{case_id}{ENDING}"


def instances_file(folder: Path, case_id: str) -> Path:
    """``{folder}/{case}_instances.nii.gz``: the voxels of the JSON's row n, counted from 1, hold n."""
    return folder / f"{case_id}_instances.nii.gz"


def predicted_cases(folder: Path) -> list[str]:
    """Names of the cases that a predictions folder holds, sorted."""
    return sorted(path.name.removesuffix(ENDING) for path in folder.glob(f"*{ENDING}") if not path.name.startswith("."))


def write_case_predictions(folder: Path, predictions: CasePredictions) -> Path:
    """Writes ``{case}_boxes.json`` and returns its path.

    Rows are sorted by score: the reported ones come first, and a row's number, from 1, is its instance in the mask.
    Coordinates have 4 decimals of a voxel, world coordinates 3 of a mm, scores 6.
    """
    detections, grid = predictions.detections, predictions.grid
    if (np.diff(detections.scores) > 0).any():
        raise ValueError(f"{predictions.case_id}: detections must be sorted by score")
    clashes = _OWN_KEYS & set(detections.columns)
    if clashes:
        raise ValueError(f"{predictions.case_id}: columns {sorted(clashes)} have names that the file uses itself")
    corners = np.round(detections.boxes.astype(float), 4)
    centres = detections.centres.astype(float)
    world, low, high = (grid.to_world(points) for points in (centres, corners[:, :3], corners[:, 3:]))
    volumes = predictions.volumes_mm3 or (None,) * len(detections)
    all_reported, diameters = predictions.reported, predictions.diameters_mm
    rows = []
    for row in range(len(detections)):
        label, reported = int(detections.labels[row]), bool(all_reported[row])
        rows.append(
            {
                "instance": row + 1 if reported else None,
                "box": corners[row],
                "centre": np.round(centres[row], 4),
                "centre_lps_mm": np.round(world[row], 3),
                "box_lps_mm": [np.round(low[row], 3), np.round(high[row], 3)],
                "diameter_mm": round(float(diameters[row]), 3),
                "volume_mm3": _rounded(volumes[row], 3),
                "score": round(float(detections.scores[row]), 6),
                "label": label,
                "class": predictions.classes[label],
                "reported": reported,
                **{name: _plain(values[row]) for name, values in detections.columns.items()},
            }
        )
    path = boxes_file(folder, predictions.case_id)
    write_json(
        path,
        {
            "schema": SCHEMA,
            "case": predictions.case_id,
            "model": predictions.model,
            "folds": list(predictions.folds),
            "key": predictions.key,
            "grid": grid.to_json(),
            "classes": list(predictions.classes),
            **({"modalities": list(predictions.modalities)} if predictions.modalities else {}),
            **({"warnings": list(predictions.warnings)} if predictions.warnings else {}),
            "operating_point": {"score": predictions.operating_point},
            **({} if predictions.regions is None else {"regions": predictions.regions}),
            "detections": rows,
        },
    )
    return path


def read_case_predictions(path: Path) -> CasePredictions:
    """Reads a ``{case}_boxes.json``. Keys of a detection that the format does not know become columns.

    Raises:
        UserError: the file is missing, is not JSON, or lacks something.
    """
    content = read_json(path)
    try:
        if content["schema"] != SCHEMA:
            raise UserError(
                f"{path}: has schema {content['schema']}, this version reads {SCHEMA}", remedy="predict the case again"
            )
        rows = content["detections"]
        names = {name: None for row in rows for name in row if name not in _OWN_KEYS}
        detections = Detections(
            np.array([row["box"] for row in rows]).reshape(-1, 6),
            np.array([row["score"] for row in rows]),
            np.array([row["label"] for row in rows]),
            {name: _column([row.get(name) for row in rows]) for name in names},
        )
        predictions = CasePredictions(
            case_id=str(content["case"]),
            detections=detections,
            grid=Grid.from_json(content["grid"]),
            classes=tuple(str(name) for name in content["classes"]),
            operating_point=float(content["operating_point"]["score"]),
            model=content.get("model", ""),
            folds=tuple(content.get("folds", ())),
            volumes_mm3=tuple(_optional_float(row.get("volume_mm3")) for row in rows),
            key=content.get("key", ""),
            regions=content.get("regions"),
            modalities=tuple(content.get("modalities", ())),
            warnings=tuple(str(sentence) for sentence in content.get("warnings", ())),
        )
        _refuse_impossible(predictions)
        return predictions
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path}: not a predictions file ({type(error).__name__}: {error})", remedy="predict the case again"
        ) from None


def _refuse_impossible(predictions: CasePredictions) -> None:
    """Raises ``ValueError`` for numbers that no detector writes: files are edited, and made by other programs."""
    detections = predictions.detections
    scores = [detections.scores, *(detections.columns[name] for name in (*detections.rankings, RAW_SCORE)
                                   if name in detections.columns)]  # fmt: skip
    if not all(np.isfinite(np.asarray(values, dtype=float)).all() for values in (detections.boxes, *scores)):
        raise ValueError("a box or a score is no finite number")
    if (detections.sizes < 0).any():
        raise ValueError("a box ends before it begins")
    if ((detections.labels < 0) | (detections.labels >= len(predictions.classes))).any():
        raise ValueError(f"a label is none of the {len(predictions.classes)} classes")
    if not np.isfinite(predictions.operating_point):
        raise ValueError("the operating point is no finite number")


class StoredPredictions(Sequence[CasePredictions]):
    """The cases of a predictions folder, each read when it is looked at: a thousand of them need no more memory than
    one.

    Args:
        folder: predictions folder.
        case_ids: names of the cases, in this order.

    Raises:
        UserError: as ``read_case_predictions``, when a case is looked at.
    """

    def __init__(self, folder: Path, case_ids: Sequence[str]) -> None:
        self._folder = folder
        self._case_ids = case_ids

    def __len__(self) -> int:
        return len(self._case_ids)

    @overload
    def __getitem__(self, index: int) -> CasePredictions: ...

    @overload
    def __getitem__(self, index: slice) -> StoredPredictions: ...

    def __getitem__(self, index: int | slice) -> CasePredictions | StoredPredictions:
        if isinstance(index, slice):
            return StoredPredictions(self._folder, self._case_ids[index])
        return read_case_predictions(boxes_file(self._folder, self._case_ids[index]))


def write_lesions(path: Path, cases: Iterable[CasePredictions]) -> None:
    """Writes ``lesions.tsv``: one row per reported lesion; further columns of the detections come last.

    Args:
        path: of the table.
        cases: looked at once and one after another; the rows wait in a temporary file until all columns are known.
    """
    extra: set[str] = set()
    with TemporaryFile("w+", encoding="utf-8") as waiting:
        for case in cases:
            extra |= {name for name, values in case.detections.columns.items() if values.ndim == 1} - {REMOVED}
            waiting.writelines(json.dumps(row, default=_plain) + "\n" for row in _lesion_rows(case))
        waiting.seek(0)
        write_table(path, [*LESION_COLUMNS, *sorted(extra)], map(json.loads, waiting))


def _lesion_rows(case: CasePredictions) -> list[dict[str, Any]]:
    """The reported lesions of a case by the columns of ``lesions.tsv``."""
    detections = case.detections
    world = case.grid.to_world(detections.centres)
    voxels = np.clip(np.floor(detections.centres), 0, np.asarray(case.grid.shape) - 1).astype(int)
    diameters = case.diameters_mm
    rows = []
    for row in np.flatnonzero(case.reported):
        volume = case.volumes_mm3[row] if case.volumes_mm3 else None
        rows.append(
            {
                "case": case.case_id,
                "lesion": row + 1,
                "class": case.classes[detections.labels[row]],
                "score": f"{detections.scores[row]:.4f}",
                "diameter_mm": f"{diameters[row]:.2f}",
                "x_ras_mm": f"{0.0 - world[row, 0]:.2f}",
                "y_ras_mm": f"{0.0 - world[row, 1]:.2f}",
                "z_ras_mm": f"{world[row, 2]:.2f}",
                **dict(zip("kji", voxels[row], strict=True)),
                "volume_mm3": None if volume is None else f"{volume:.2f}",
                **{name: _plain(v[row]) for name, v in detections.columns.items() if v.ndim == 1},
            }
        )
    return rows


def write_summary(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``summary.tsv``: one row per case with the keys ``SUMMARY_COLUMNS``."""
    write_table(path, SUMMARY_COLUMNS, rows)


def _rounded(value: float | None, decimals: int) -> float | None:
    return None if value is None else round(float(value), decimals)


def _optional_float(value: Any) -> float | None:
    return None if value is None else float(value)


def _plain(value: Any) -> Any:
    """A value of a column as JSON has it; floats have 6 digits, undefined ones are None."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value


def _column(values: list[Any]) -> np.ndarray:
    if any(value is None for value in values):
        column = np.empty(len(values), dtype=object)
        column[:] = values
        return column
    return np.array(values)
