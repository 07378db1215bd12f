"""The metrics of the VALDO challenge (Sudre et al. 2024, task 2), in its definition: per subject, by centroids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmb_plugin.images import label_components

from .components import centroids_mm

MAX_MM = 5.0
CONNECTIVITY = 6
RULE = (
    "centroids strictly less than {mm:g} mm apart; each prediction goes to its nearest reference, the closest of a "
    "reference is its true positive, further ones are false positives; F1 per subject, undefined without "
    "reference lesions; median and quartiles over subjects; taken from {source}"
)


@dataclass(frozen=True)
class ValdoCounts:
    """One subject.

    Attributes:
        true, false, missed: true positives, false positives and false negatives.
        dice: mean Dice of the true positives; None without one, or where no masks were compared.
    """

    true: int
    false: int
    missed: int
    dice: float | None = None

    @property
    def f1(self) -> float | None:
        """None without reference lesions, 0 without predictions."""
        return 2 * self.true / (2 * self.true + self.false + self.missed) if self.true + self.missed else None

    @property
    def count_difference(self) -> int:
        """How far the number of predicted lesions is off."""
        return abs(self.false - self.missed)


def valdo_pairs(predicted: np.ndarray, reference: np.ndarray, max_mm: float = MAX_MM) -> dict[int, int]:
    """The true positives of a subject.

    Args:
        predicted: [N, 3] centroids in mm.
        reference: [M, 3] centroids in mm, in the same space.
        max_mm: a pair must be closer than this.

    Returns:
        reference -> prediction. Of equally near references the first is taken, of equally near predictions too.
    """
    predicted, reference = (np.asarray(points, dtype=float).reshape(-1, 3) for points in (predicted, reference))
    if not len(predicted) or not len(reference):
        return {}
    distance = np.linalg.norm(predicted[:, None] - reference[None], axis=-1)
    nearest = distance.argmin(axis=1)
    own = distance[np.arange(len(predicted)), nearest]
    best: dict[int, int] = {}
    for row in np.argsort(own, kind="stable"):
        if own[row] < max_mm:
            best.setdefault(int(nearest[row]), int(row))
    return best


def valdo_points(predicted: np.ndarray, reference: np.ndarray, max_mm: float = MAX_MM) -> ValdoCounts:
    """Counts of a subject by centroids alone; see ``valdo_pairs``."""
    true = len(valdo_pairs(predicted, reference, max_mm))
    return ValdoCounts(true, len(predicted) - true, len(reference) - true)


def valdo_masks(
    predicted: np.ndarray, reference: np.ndarray, spacing: Sequence[float], connectivity: int = CONNECTIVITY
) -> ValdoCounts:
    """Counts of a subject by masks: both are binarised at 0.5 and cut into components.

    Args:
        predicted: [z, y, x] mask or probability.
        reference: [z, y, x] mask.
        spacing: mm along z, y, x.
        connectivity: 6, 18 or 26 neighbours.
    """
    ours, theirs = (label_components(np.asarray(array) >= 0.5, connectivity) for array in (predicted, reference))
    points, centres = (centroids_mm(labels, spacing) for labels in (ours, theirs))
    pairs = valdo_pairs(points, centres)
    dice = []
    for lesion, detection in pairs.items():
        a, b = ours == detection + 1, theirs == lesion + 1
        dice.append(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))
    return ValdoCounts(
        len(pairs), len(points) - len(pairs), len(centres) - len(pairs), float(np.mean(dice)) if dice else None
    )


def summarise_valdo(subjects: Sequence[ValdoCounts], source: str) -> dict[str, Any]:
    """Median and quartiles over subjects, as metrics.json has them; ``source`` says what the centroids are of."""
    true, false, missed = (sum(getattr(s, name) for s in subjects) for name in ("true", "false", "missed"))
    return {
        "rule": RULE.format(mm=MAX_MM, source=source),
        "n_subjects": len(subjects),
        "true_positives": true,
        "false_positives": false,
        "false_negatives": missed,
        "f1": quartiles([s.f1 for s in subjects]),
        "count_difference": quartiles([s.count_difference for s in subjects]),
        "dice": quartiles([s.dice for s in subjects]),
    }


def quartiles(values: Sequence[float | None]) -> dict[str, Any]:
    """Median and quartiles of those that are defined (linear between two, as numpy and pandas)."""
    defined = [value for value in values if value is not None]
    low, median, high = np.percentile(defined, [25, 50, 75]).tolist() if defined else (None, None, None)
    return {"n": len(defined), "median": median, "q1": low, "q3": high}
