"""How far two readers agree who judged the same candidates without seeing each other's decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.dataset import CasePredictions
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import EvaluationConfig, count_agreement, match_by_distance
from cmb_plugin.evaluation.bootstrap import draw_weights
from cmb_plugin.files import write_json
from cmb_plugin.tabular import as_markdown, show_interval, write_table

from .decisions import LOCATIONS, VERDICTS
from .session import ReviewSession

ABSENT = "absent"
"""The verdict of a reader who looked at the whole scan and did not add what the other added."""

COLUMNS = ("case", "lesion", "other_lesion", "verdict", "other_verdict", "location", "other_location")
KEPT = ("accept", "possible", "unsure")
RESAMPLES = 1000


@dataclass(frozen=True)
class ReaderAgreement:
    """What two readers decided, lesion by lesion.

    Attributes:
        readers: their names.
        cases: scans that both have done.
        rows: a candidate that both judged, or a lesion that at least one marked, with both verdicts and locations. Who
            looked at the whole scan and did not mark it has the verdict ``ABSENT``.
    """

    readers: tuple[str, str]
    cases: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]

    def table(self, key: str) -> tuple[tuple[str, ...], np.ndarray]:
        """Names, and counts [K, K] of the first reader's (rows) and the second's (columns) ``verdict`` or
        ``location``; locations are those of lesions that neither rejected."""
        names = (*VERDICTS, ABSENT) if key == "verdict" else LOCATIONS
        return names, self._tables(key, names).sum(axis=0)

    def _tables(self, key: str, names: tuple[str, ...]) -> np.ndarray:
        """[cases, K, K] counts."""
        counts = np.zeros((len(self.cases), len(names), len(names)))
        for row in self.rows:
            # What only one judged as a candidate was not before the other's eyes: no part of a kappa of verdicts.
            counts_here = (_both_judged(row) or ABSENT in names) if key == "verdict" else _both_kept(row)
            if counts_here and row[key] in names and row[f"other_{key}"] in names:
                place = self.cases.index(row["case"]), names.index(row[key]), names.index(row[f"other_{key}"])
                counts[place] += 1
        return counts

    def summary(self) -> dict[str, Any]:
        """Numbers of the agreement: value, and the 95 % interval of resampled scans.

        ``verdict_kappa`` counts the four verdicts of candidates that both saw (Cohen 1960); ``positive_agreement`` is
        ``2 a / (2 a + b + c)`` of lesions that both, or only one, called definite (Cicchetti & Feinstein 1990), those
        included that only one marked; ``location_kappa`` counts lesions that both kept and placed.
        """
        weights = draw_weights(len(self.cases), RESAMPLES, seed=0)
        verdicts, everything = self._tables("verdict", VERDICTS), self._tables("verdict", (*VERDICTS, ABSENT))
        places = self._tables("location", LOCATIONS[:3])
        definite = VERDICTS.index("accept")
        first, second = (everything.sum(axis=axis)[:, definite] for axis in (2, 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            statistics = {
                "verdict_agreement": (weights @ np.trace(verdicts, axis1=1, axis2=2))
                / (weights @ verdicts.sum((1, 2))),
                "verdict_kappa": _kappa(np.tensordot(weights, verdicts, 1)),
                "positive_agreement": 2 * (weights @ everything[:, definite, definite]) / (weights @ (first + second)),
                "location_kappa": _kappa(np.tensordot(weights, places, 1)),
            }
        return {
            "readers": list(self.readers),
            "n_scans": len(self.cases),
            "n_candidates": sum(map(_both_judged, self.rows)),
            "n_by_one": sum(ABSENT in (row["verdict"], row["other_verdict"]) for row in self.rows),
            **{name: _interval(values) for name, values in statistics.items()},
            "definite_per_scan": count_agreement(second.astype(int).tolist(), first.astype(int).tolist()),
        }


def compare_readers(first: ReviewSession, second: ReviewSession, match_mm: float | None = None) -> ReaderAgreement:
    """Puts the decisions of two readers about the same candidates side by side.

    Args:
        first, second: the same scans and predictions, judged by two readers.
        match_mm: lesions that both marked, but not as the same candidate, are one within this distance; as the
            evaluation matches by default.

    Raises:
        UserError: no scan was done by both.
    """
    distance = EvaluationConfig().match_mm if match_mm is None else match_mm
    cases, rows = [], []
    for case_id in first.cases:
        own, other = (session.review(case_id).state() for session in (first, second))
        if own["done"] and other["done"]:
            cases.append(case_id)
            predictions = first.cases[case_id].read()
            rows += _rows(case_id, own["lesions"], other["lesions"], predictions, distance)
    readers = (first.store.reader, second.store.reader)
    if not cases:
        raise UserError(
            f"{first.dataset.task.name}: no scan was done by both {readers[0]} and {readers[1]}",
            remedy="tick 'I looked at the whole scan' on the page for each",
        )
    return ReaderAgreement(readers, tuple(cases), tuple(rows))


def write_agreement(agreement: ReaderAgreement, folder: Path) -> Path:
    """Writes ``{first}_{second}.tsv`` (lesion by lesion), ``.json`` (numbers) and ``.png`` (tables as a figure).

    Args:
        agreement: what two readers decided.
        folder: where to.

    Returns:
        The figure.
    """
    from cmb_plugin.reporting.figures import save_figure

    stem = folder / "_".join(agreement.readers)
    write_table(stem.with_suffix(".tsv"), COLUMNS, agreement.rows)
    write_json(stem.with_suffix(".json"), agreement.summary())
    save_figure(_figure(agreement), stem.with_suffix(".png"))
    return stem.with_suffix(".png")


def agreement_text(agreement: ReaderAgreement) -> str:
    """The numbers as a Markdown table."""
    numbers = agreement.summary()
    rows: list[tuple[str, Any]] = [("scans that both have done", numbers["n_scans"])]
    rows += [
        ("candidates that both judged", numbers["n_candidates"]),
        ("lesions that only one marked", numbers["n_by_one"]),
    ]
    for name in ("verdict_agreement", "verdict_kappa", "positive_agreement", "location_kappa"):
        rows.append((name.replace("_", " "), show_interval(*numbers[name])))
    counts = numbers["definite_per_scan"]
    rows += [("ICC(2,1) of definite lesions per scan", counts["icc"])]
    return as_markdown((f"{agreement.readers[0]} and {agreement.readers[1]}", "value (95 %)"), rows)


def _rows(
    case_id: str, own: dict[str, Any], other: dict[str, Any], predictions: CasePredictions, distance: float
) -> list[dict[str, Any]]:
    """The candidates that both judged, then what both marked in their own way, then what one did."""
    judged = [{name for name, lesion in lesions.items() if "verdict" in lesion} for lesions in (own, other)]
    shared = [name for name in own if name in judged[0] & judged[1] and "point" not in own[name]]
    pairs = [(name, name) for name in shared]
    marked, others = (
        [name for name in lesions if name not in shared and lesions[name].get("verdict") in KEPT]
        for lesions in (own, other)
    )
    first, second = (_points(lesions, names, predictions) for lesions, names in ((own, marked), (other, others)))
    matched = match_by_distance(first, second, tuple(predictions.grid.spacing), distance).tolist()
    pairs += [(name, others[match] if match >= 0 else "") for name, match in zip(marked, matched, strict=True)]
    pairs += [("", name) for i, name in enumerate(others) if i not in matched]
    absent = {"verdict": ABSENT, "location": ABSENT}
    rows = []
    for name, other_name in pairs:
        one, two = own.get(name, absent), other.get(other_name, absent)
        row = {"case": case_id, "lesion": name, "other_lesion": other_name}
        row |= {"verdict": one["verdict"], "other_verdict": two["verdict"]}
        rows.append(
            {**row, "location": one.get("location", "unknown"), "other_location": two.get("location", "unknown")}
        )
    return rows


def _points(lesions: dict[str, Any], names: Sequence[str], predictions: CasePredictions) -> np.ndarray:
    """[N, 6] boxes without extent: the points that were added, and the middles of candidates."""
    centres = predictions.detections.centres
    places = [lesions[n]["point"] if "point" in lesions[n] else centres[int(n) - 1] for n in names]
    return np.array([[*place, *place] for place in places], dtype=float).reshape(-1, 6)


def _both_judged(row: dict[str, Any]) -> bool:
    return bool(row["lesion"].isdecimal() and row["lesion"] == row["other_lesion"])


def _both_kept(row: dict[str, Any]) -> bool:
    return row["verdict"] in KEPT and row["other_verdict"] in KEPT


def _kappa(tables: np.ndarray) -> np.ndarray:
    """Cohen's kappa (1960) of each of [R, K, K] tables of counts; NaN where chance alone agrees completely."""
    total = tables.sum(axis=(1, 2))
    seen = np.trace(tables, axis1=1, axis2=2) / total
    chance = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1) / total**2
    kappa: np.ndarray = np.where(chance < 1, (seen - chance) / (1 - chance), np.nan)
    return kappa


def _interval(values: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """The first value, and the middle 95 % of the others that are defined."""
    defined = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or not len(defined):
        return (float(values[0]) if np.isfinite(values[0]) else None), None, None
    low, high = np.percentile(defined, [2.5, 97.5]).tolist()
    return float(values[0]), low, high


def _figure(agreement: ReaderAgreement) -> Any:
    """Both tables of counts, as heat maps with their numbers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    numbers = agreement.summary()
    for axes, key in zip(figure.subplots(1, 2), ("verdict", "location"), strict=True):
        names, counts = agreement.table(key)
        axes.imshow(counts, cmap="Blues", vmin=0)
        for (row, column), count in np.ndenumerate(counts):
            dark = count > counts.max() / 2
            axes.text(column, row, f"{count:g}", ha="center", va="center", color="white" if dark else "black")
        axes.set_xticks(range(len(names)), names, rotation=20)
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel=agreement.readers[1], ylabel=agreement.readers[0])
        kappa, low, high = numbers[f"{key}_kappa"]
        axes.set_title(f"{key}, kappa {show_interval(kappa, low, high, decimals=2)}", fontsize="medium")
    return figure
