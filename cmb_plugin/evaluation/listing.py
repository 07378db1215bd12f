"""Every detection and every missed lesion, one by one: what the numbers are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmb_plugin.detections import DEFAULT_OPERATING_POINT
from cmb_plugin.images import Grid
from cmb_plugin.tabular import write_table

from .cases import CaseResult, EvaluationConfig
from .matching import pair_distance
from .strata import match_reported

FOUND, FALSE, POSSIBLE, BELOW = "found", "false", "possible", "below"
MISSED, MISSED_POSSIBLE = "missed", "missed_possible"

COLUMNS = (
    *("case", "status", "class", "score", "lesion", "distance_mm", "diameter_mm"),
    *("x_ras_mm", "y_ras_mm", "z_ras_mm", "i", "j", "k"),
)


@dataclass(frozen=True)
class Entry:
    """One detection or one missed lesion.

    Attributes:
        case_id: name of the case.
        status: ``found``, ``false``, ``possible`` (a detection of a possible lesion), ``below`` (score below the
            operating point), ``missed`` or ``missed_possible``.
        label: class index.
        box: [6] in the scan's voxels: the detection's, for a missed lesion the lesion's.
        diameter_mm: geometric mean of the box's sides.
        score: None for a missed lesion.
        lesion: number in the mask: the lesion that was found or missed, otherwise the nearest of the same class.
        lesion_box: [6] its box.
        distance_mm: between the centres of the two boxes; None for a missed lesion, or without a lesion of the class.
    """

    case_id: str
    status: str
    label: int
    box: np.ndarray
    diameter_mm: float
    score: float | None = None
    lesion: int | None = None
    lesion_box: np.ndarray | None = None
    distance_mm: float | None = None


def list_entries(cases: Sequence[CaseResult], config: EvaluationConfig) -> list[Entry]:
    """Matches by centre distance at the operating point and lists detections and missed lesions, case by case.

    Within a case detections come first, highest score first.
    """
    return [entry for case in cases for entry in _entries_of_case(case, config)]


def _entries_of_case(case: CaseResult, config: EvaluationConfig) -> list[Entry]:
    score = DEFAULT_OPERATING_POINT if config.operating_point is None else config.operating_point
    detections = case.detections.by_score()
    matched = match_reported(case, detections, config)
    distance = pair_distance(detections.boxes, case.truth_boxes, case.spacing)
    distance[detections.labels[:, None] != case.truth_labels[None]] = np.inf
    numbers = np.asarray(case.instances)
    entries = []
    for row in range(len(detections)):
        nearest = int(matched[row])
        if nearest >= 0:
            status = POSSIBLE if case.possible[nearest] else FOUND
        else:
            status = FALSE if detections.scores[row] >= np.float32(score) else BELOW
            if np.isfinite(distance[row]).any():
                nearest = int(distance[row].argmin())
        entries.append(
            Entry(
                case_id=case.case_id,
                status=status,
                label=int(detections.labels[row]),
                box=detections.boxes[row],
                diameter_mm=_diameter(detections.boxes[row], case.spacing),
                score=float(detections.scores[row]),
                lesion=int(numbers[nearest]) if nearest >= 0 else None,
                lesion_box=case.truth_boxes[nearest] if nearest >= 0 else None,
                distance_mm=float(distance[row, nearest]) if nearest >= 0 else None,
            )
        )
    for lesion in np.setdiff1d(np.arange(len(case.truth_boxes)), matched):
        box = case.truth_boxes[lesion]
        entries.append(
            Entry(
                case_id=case.case_id,
                status=MISSED_POSSIBLE if case.possible[lesion] else MISSED,
                label=int(case.truth_labels[lesion]),
                box=box,
                diameter_mm=_diameter(box, case.spacing),
                lesion=int(numbers[lesion]),
                lesion_box=box,
            )
        )
    return entries


def _diameter(box: np.ndarray, spacing: Sequence[float]) -> float:
    return float(np.cbrt(np.prod((box[3:] - box[:3]) * np.asarray(spacing))))


def write_entries(path: Path, entries: Sequence[Entry], classes: Sequence[str], grids: Mapping[str, Grid]) -> None:
    """Writes ``detections.tsv`` (columns: docs/evaluation.md); ``grids`` has the grid of every case."""
    rows = []
    for entry in entries:
        centre = (np.asarray(entry.box[:3], dtype=float) + entry.box[3:]) / 2
        x, y, z = grids[entry.case_id].to_world(centre[None])[0]
        k, j, i = np.floor(centre).astype(int)
        row = (
            *(entry.case_id, entry.status, classes[entry.label], entry.score, entry.lesion),
            *(_decimals(value, 2) for value in (entry.distance_mm, entry.diameter_mm, 0.0 - x, 0.0 - y, z)),
            *(i, j, k),
        )
        rows.append(row)
    write_table(path, COLUMNS, rows)


def _decimals(value: float | None, decimals: int) -> str | None:
    return None if value is None else f"{value:.{decimals}f}"
