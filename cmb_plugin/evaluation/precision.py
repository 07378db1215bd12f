"""Average precision in COCO's definition."""

from __future__ import annotations

import numpy as np

from .froc import Curve

RECALL_POINTS = 101  # recall 0, 0.01, ..., 1


def average_precision(curve: Curve) -> float | None:
    """Mean, over 101 recall levels, of the best precision at that recall or a higher one (Lin et al. 2014, COCO).

    A level that is not reached counts 0. Differs from COCO's code in two details: detections of equal score are taken
    together, so that their order does not matter, and a level is compared in whole numbers, not with rounding errors.

    Returns:
        None when there is no lesion.
    """
    if not curve.n_lesions:
        return None
    reported = curve.true + curve.false
    precision = np.divide(curve.true, reported, out=np.zeros(len(reported)), where=reported > 0)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    # recall true / n_lesions >= level / 100, without fractions
    levels = np.arange(RECALL_POINTS) * curve.n_lesions
    index = np.searchsorted(curve.true * (RECALL_POINTS - 1), levels, side="left")
    return float(np.append(best, 0.0)[np.minimum(index, len(best))].mean())
