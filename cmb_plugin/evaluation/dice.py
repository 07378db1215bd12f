"""How well region maps agree: Dice of each region, scan by scan, and how sure the mean is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .bootstrap import draw_weights


def dice_scores(predicted: np.ndarray, truth: np.ndarray, n_regions: int) -> np.ndarray:
    """Dice coefficient ``2 |A n B| / (|A| + |B|)`` of each region (Dice 1945).

    Args:
        predicted, truth: integers 0 .. ``n_regions`` of one shape, 0 outside of all.
        n_regions: number of regions.

    Returns:
        [n_regions] of the regions 1, 2, ...; NaN where a region is in neither.
    """
    side = n_regions + 1
    pairs = np.bincount(predicted.ravel().astype(np.intp) * side + truth.ravel(), minlength=side * side)
    table = pairs.reshape(side, side).astype(float)
    sizes = table.sum(axis=0) + table.sum(axis=1)
    with np.errstate(invalid="ignore"):
        scores: np.ndarray = (2 * table.diagonal() / sizes)[1:]
    return scores


def mean_dice(scores: np.ndarray) -> list[float | None]:
    """Mean over scans of [N, K] scores; None where a region is in no scan."""
    known = np.isfinite(scores)
    return [float(column[has].mean()) if has.any() else None for column, has in zip(scores.T, known.T, strict=True)]


def dice_intervals(
    scores: np.ndarray, patients: Sequence[str], resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> list[tuple[float, float] | None]:
    """Percentile intervals of ``mean_dice`` over a bootstrap of patients, all of whose scans come along.

    Args:
        scores: [N, K], NaN for none.
        patients: [N] of which patient each scan is.
        resamples: number of resamples.
        level: share of the resampled means inside.
        seed: of the resamples.
    """
    unique, index = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    weights = draw_weights(len(unique), resamples, seed)[1:, index]  # without the first row, the sample itself
    ends = [50 * (1 - level), 50 * (1 + level)]
    intervals: list[tuple[float, float] | None] = []
    for column in scores.T:
        known = np.isfinite(column)
        total = weights[:, known].sum(axis=1)
        means = (weights[:, known] @ column[known])[total > 0] / total[total > 0]
        low, high = np.percentile(means, ends) if len(means) else (np.nan, np.nan)
        intervals.append((float(low), float(high)) if len(means) else None)
    return intervals
