"""Agreement by scan and patient: who has lesions (AUC), how many (ICC, Bland-Altman), which burden (kappa)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BURDEN = ("0", "1", "2-4", ">=5")
ICC_DEFINITION = "ICC(2,1): two-way random effects, absolute agreement, single measurement (Shrout & Fleiss 1979)"


def auc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """Probability that a positive scores higher than a negative, ties counting half (Mann & Whitney 1947).

    None when there is no positive or no negative.
    """
    if not len(positive) or not len(negative):
        return None
    from sklearn.metrics import roc_auc_score  # takes two seconds to import

    scores = np.concatenate([np.asarray(positive, dtype=float), np.asarray(negative, dtype=float)])
    return float(roc_auc_score(np.arange(len(scores)) < len(positive), scores))


def icc(ratings: np.ndarray) -> dict[str, float | None]:
    """Intraclass correlations of single measurements (Shrout & Fleiss 1979).

    Args:
        ratings: [subjects, raters].

    Returns:
        ``icc_1_1`` (one-way random), ``icc_2_1`` (two-way random, absolute agreement) and ``icc_3_1`` (two-way mixed,
        consistency); None with fewer than two subjects or raters, or where nothing varies.
    """
    values = np.asarray(ratings, dtype=float)
    n, k = values.shape
    names = ("icc_1_1", "icc_2_1", "icc_3_1")
    if n < 2 or k < 2:
        return dict.fromkeys(names)
    mean = values.mean()
    between = k * ((values.mean(axis=1) - mean) ** 2).sum()
    raters = n * ((values.mean(axis=0) - mean) ** 2).sum()
    total = ((values - mean) ** 2).sum()
    bms, jms = between / (n - 1), raters / (k - 1)
    wms = (total - between) / (n * (k - 1))
    ems = max(total - between - raters, 0.0) / ((n - 1) * (k - 1))
    ratios = (
        (bms - wms, bms + (k - 1) * wms),
        (bms - ems, bms + (k - 1) * ems + k * (jms - ems) / n),
        (bms - ems, bms + (k - 1) * ems),
    )
    return {name: float(a / b) if b > 0 else None for name, (a, b) in zip(names, ratios, strict=True)}


def bland_altman(
    measured: Sequence[float] | np.ndarray, reference: Sequence[float] | np.ndarray
) -> dict[str, float | None]:
    """Mean difference, its standard deviation and the 95 % limits of agreement (Bland & Altman 1986)."""
    difference = np.asarray(measured, dtype=float) - np.asarray(reference, dtype=float)
    if not len(difference):
        return dict.fromkeys(("bias", "sd", "low", "high"))
    bias = float(difference.mean())
    if len(difference) < 2:
        return {"bias": bias, "sd": None, "low": None, "high": None}
    sd = float(difference.std(ddof=1))
    return {"bias": bias, "sd": sd, "low": bias - 1.96 * sd, "high": bias + 1.96 * sd}


def kappa(table: np.ndarray, weights: str | None = None) -> float | None:
    """Cohen's kappa of a square table of counts (Cohen 1960; weighted: 1968).

    Args:
        table: [C, C] counts, rows the reference, columns the prediction.
        weights: None counts any disagreement alike, ``quadratic`` by the squared distance of the categories.

    Returns:
        None without counts, or where chance alone agrees completely (a single category).
    """
    counts = np.asarray(table, dtype=float)
    used = (counts.sum(axis=0) > 0) | (counts.sum(axis=1) > 0)
    if used.sum() < 2:
        return None
    from sklearn.metrics import cohen_kappa_score

    reference, predicted = np.indices(counts.shape).reshape(2, -1)
    labels = np.arange(len(counts))
    return float(cohen_kappa_score(reference, predicted, labels=labels, weights=weights, sample_weight=counts.ravel()))


def burden(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Index into ``BURDEN`` of each number of lesions."""
    return np.digitize(np.asarray(counts, dtype=int), [1, 2, 5])


def count_agreement(predicted: Sequence[int], reference: Sequence[int]) -> dict[str, Any]:
    """The numbers of reported and of reference lesions, scan by scan."""
    pairs = np.array(sorted(zip(predicted, reference, strict=True)), dtype=int).reshape(-1, 2)
    ours, theirs = pairs.T  # sorted: the order of the scans must not change the last digit
    table = np.zeros((len(BURDEN), len(BURDEN)), dtype=int)
    np.add.at(table, (burden(theirs), burden(ours)), 1)
    return {
        "n_scans": len(ours),
        "icc": icc(np.stack([theirs, ours], axis=1))["icc_2_1"] if len(ours) else None,
        "icc_definition": ICC_DEFINITION,
        "bland_altman": bland_altman(ours, theirs),
        "burden": {
            "categories": list(BURDEN),
            "table": table.tolist(),
            "kappa": kappa(table),
            "kappa_quadratic": kappa(table, "quadratic"),
        },
    }
