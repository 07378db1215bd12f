"""Lesions of a segmentation: connected pieces of what is probably lesion, each with scores that rank it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cmb_plugin.detections import Detections

CORE = 0.5  # of a piece's highest probability: what reaches it is the lesion, the rest its blurred edge


def component_detections(probabilities: np.ndarray, threshold: float, least_voxels: int = 1) -> Detections:
    """Connected pieces (26 neighbours) of the voxels that are lesion of any class with at least ``threshold``.

    A low threshold finds faint lesions, but would make clear ones too large; so the box of each piece is that of its
    core, the voxels with at least half of its highest probability. Its class is the one with most probability there.

    Args:
        probabilities: [K, Z, Y, X] of the classes, background first.
        threshold: probability of a candidate.
        least_voxels: smaller pieces are left out.

    Returns:
        detections, highest score first, in voxels of the array. The score is the mean probability of lesion over the
        core, also in the column ``score_mean``; ``score_peak`` is the highest. ``nndet_sweep`` chooses between them.
    """
    lesion = probabilities[1:].sum(axis=0, dtype=np.float32)  # not 1 - background: both are 0 where nothing was seen
    pieces, _ = ndimage.label(lesion >= threshold, structure=np.ones((3, 3, 3)))
    boxes, labels, means, peaks = [], [], [], []
    for number, place in enumerate(ndimage.find_objects(pieces), start=1):
        inside = pieces[place] == number
        if np.count_nonzero(inside) < least_voxels:
            continue
        values = np.where(inside, lesion[place], 0)
        core = values >= CORE * values.max()
        corners = np.argwhere(core)
        start = [s.start for s in place]
        boxes.append([*(corners.min(axis=0) + start), *(corners.max(axis=0) + 1 + start)])
        labels.append(int(probabilities[(slice(1, None), *place)][:, core].astype(np.float32).sum(axis=1).argmax()))
        means.append(float(values[core].mean()))
        peaks.append(float(values.max()))
    scores = np.array(means, dtype=np.float32)
    columns = {"score_mean": scores, "score_peak": np.array(peaks, dtype=np.float32)} if boxes else {}
    found = Detections(
        np.array(boxes, dtype=np.float32).reshape(-1, 6), scores, np.array(labels, dtype=np.int64), columns
    )
    return found.by_score()
