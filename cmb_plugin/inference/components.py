"""Lesions of a segmentation: connected components of what is probably lesion, each with scores that rank it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from cmb_plugin.detections import Detections
from cmb_plugin.images import label_components

CORE = 0.5  # of a piece's highest probability: what reaches it is the lesion, the rest its blurred edge
NEARLY_ONE = 0.99  # from here on the other classes say more exactly what is left for one
_LEAST = 2.0**-24  # above 0 that float16 knows
COMPONENT_SCORES = {
    "score_mean": "mean probability over the core of the component",
    "score_peak": "highest probability",
    "score_piece": "mean probability over the whole component",
    "score_sum": "s / (1 + s) of the sum s of the probabilities",
    "score_odds": "highest probability with the fourth root of its odds, which tells apart what is nearly sure",
}


def component_detections(probabilities: np.ndarray, threshold: float, least_voxels: int = 1) -> Detections:
    """Connected components (26 neighbours) of the voxels that are lesion of a class with at least ``threshold``.

    Each class has pieces of its own: a microbleed at the edge of a large deposit of iron is found beside it, as if it
    lay alone. What may be of two classes is found as both, with the score of each, as a detector has it.

    A low threshold finds faint lesions, but would make clear ones too large; so the box of each piece is that of its
    core, the voxels with at least half of its highest probability.

    Args:
        probabilities: [K, Z, Y, X] of the classes, background first.
        threshold: probability of a candidate.
        least_voxels: smaller pieces are left out.

    Returns:
        detections, highest score first, in voxels of the array. The score is ``score_mean``, the mean probability of
        the class over the core. Other columns, among which ``nndet_sweep`` chooses: ``score_peak``, the highest
        probability; ``score_piece``, the mean over the whole piece; ``score_sum``, s / (1 + s) of the sum s over it;
        ``score_odds``, the highest probability with the fourth root of its odds: the same order, but files have six
        decimals, and of what a network trained by Dice is sure of the probability has 1 in all of them.
    """
    boxes, labels, scores = [], [], []
    for label in range(len(probabilities) - 1):
        for box, values in _pieces(_of_class(probabilities, 1 + label), threshold, least_voxels):
            boxes.append(box)
            labels.append(label)
            scores.append(values)
    table = np.array(scores, dtype=np.float32).reshape(-1, len(COMPONENT_SCORES))
    detections = Detections(
        np.array(boxes, dtype=np.float32).reshape(-1, 6),
        table[:, 0],
        np.array(labels, dtype=np.int64),
        dict(zip(COMPONENT_SCORES, table.T, strict=True)) if boxes else {},
    )
    return detections.by_score()


def _of_class(probabilities: np.ndarray, number: int) -> np.ndarray:
    """float32 [Z, Y, X] of one class.

    float16 knows nothing between 0.9995 and 1, but what is next to 0 to seven decimals: without this, most of what a
    network trained by Dice is sure of would have one score, lesions and mimics alike.
    """
    own = probabilities[number].astype(np.float32)
    sure = own > NEARLY_ONE
    others = np.delete(np.arange(len(probabilities)), number)
    own[sure] = 1 - probabilities[others][:, sure].sum(axis=0, dtype=np.float32)
    return own


def _pieces(lesion: np.ndarray, threshold: float, least_voxels: int) -> Iterator[tuple[list[int], tuple[float, ...]]]:
    """The box of each piece's core and the piece's ``COMPONENT_SCORES``, by the probability [Z, Y, X] of a class."""
    pieces = label_components(lesion >= threshold)
    for number, place in enumerate(ndimage.find_objects(pieces), start=1):
        inside = pieces[place] == number
        values = lesion[place][inside]
        if len(values) < least_voxels:
            continue
        peak, total = float(values.max()), float(values.sum())
        core = inside & (lesion[place] >= CORE * peak)
        corners = np.argwhere(core) + [s.start for s in place]
        box = [*corners.min(axis=0), *(corners.max(axis=0) + 1)]
        odds = peak / max(1 - peak, _LEAST)
        softened = odds**0.25 / (1 + odds**0.25)
        yield box, (float(lesion[place][core].mean()), peak, total / len(values), total / (1 + total), softened)
