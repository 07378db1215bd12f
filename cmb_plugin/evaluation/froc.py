"""FROC: sensitivity against false positives per scan while the score threshold falls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .matching import FALSE, TRUE


@dataclass(frozen=True)
class Curve:
    """What is right and wrong at every score threshold.

    Thresholds are the distinct scores: detections of equal score are always reported together, so that neither their
    order nor that of the scans matters.

    Attributes:
        thresholds: [T] distinct scores, descending.
        true: [T] true positives with score >= threshold.
        false: [T] false positives with score >= threshold.
        n_lesions: number of lesions that count.
        n_cases: number of scans.
    """

    thresholds: np.ndarray
    true: np.ndarray
    false: np.ndarray
    n_lesions: int
    n_cases: int

    def counts_at(self, score: float) -> tuple[int, int]:
        """True and false positives among detections with at least this score."""
        # The threshold is brought to the type of the scores: 0.7 in a file means the float32 score that prints as 0.7.
        reported = int(np.count_nonzero(self.thresholds >= self.thresholds.dtype.type(score)))
        return (int(self.true[reported - 1]), int(self.false[reported - 1])) if reported else (0, 0)


def froc_curve(scores: np.ndarray, status: np.ndarray, n_lesions: int, n_cases: int) -> Curve:
    """Counts over all thresholds.

    Args:
        scores: [D], descending.
        status: [D] ``TRUE``, ``FALSE`` or ``IGNORED`` (``matching``).
        n_lesions: lesions that count.
        n_cases: scans, those without lesions and without detections included.
    """
    ends = np.flatnonzero(np.diff(scores) != 0) if len(scores) else np.zeros(0, dtype=np.int64)
    ends = np.append(ends, len(scores) - 1) if len(scores) else ends
    true, false = np.cumsum(status == TRUE), np.cumsum(status == FALSE)
    return Curve(scores[ends], true[ends], false[ends], n_lesions, n_cases)


def sensitivity_at(curve: Curve, rates: Sequence[float]) -> list[float | None]:
    """Sensitivity at given numbers of false positives per scan.

    Between two thresholds the curve is linear, beyond the last one it stays level, as in CAMELYON16, LUNA16, MONAI and
    nnDetection. None where there is no lesion or no scan.
    """
    if not curve.n_lesions or not curve.n_cases:
        return [None] * len(rates)
    fp_per_scan = np.concatenate([[0.0], curve.false / curve.n_cases])
    sensitivity = np.concatenate([[0.0], curve.true / curve.n_lesions])
    return [float(value) for value in np.interp(rates, fp_per_scan, sensitivity)]


def fp_at_sensitivity(curve: Curve, sensitivity: float) -> float | None:
    """The lowest number of false positives per scan at which at least this share of the lesions is found.

    A threshold that was really there is taken, nothing between two; with tied scores all of them are reported. None
    when so many are never found, or when there is no lesion or no scan.
    """
    if not curve.n_lesions or not curve.n_cases:
        return None
    if sensitivity <= 0:
        return 0.0
    enough = np.flatnonzero(curve.true >= sensitivity * curve.n_lesions - 1e-9)
    return float(curve.false[enough[0]] / curve.n_cases) if len(enough) else None


def thin(curve: Curve, most: int = 400) -> Curve:
    """The same curve with fewer points, for files and figures: the interior of level stretches is left out, then, if
    more than ``most`` points remain, evenly chosen ones."""
    if len(curve.thresholds) > 2:
        rises = np.flatnonzero(np.diff(curve.true) != 0)
        index = np.unique(np.concatenate([[0], rises, rises + 1, [len(curve.thresholds) - 1]]))
    else:
        index = np.arange(len(curve.thresholds))
    if len(index) > most:
        index = index[np.linspace(0, len(index) - 1, most).round().astype(int)]
    return Curve(curve.thresholds[index], curve.true[index], curve.false[index], curve.n_lesions, curve.n_cases)
