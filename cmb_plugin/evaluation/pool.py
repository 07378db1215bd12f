"""``Pool``: the detections and lesions of all scans in flat arrays, so that thousands of scans are counted at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .cases import CaseResult, EvaluationConfig
from .matching import Pairs, pair_distance, pair_inside, pair_iou


@dataclass(frozen=True)
class Pool:
    """All detections, highest score first over all scans (equal scores in the order given), and all lesions.

    Attributes:
        scores, labels, case: [D] score, class and number of the scan of each detection.
        rank: [D] place of the detection among those of its scan and class, from 0.
        lesion_labels, lesion_case: [L] class and number of the scan of each lesion.
        possible: [L] True for lesions that are only possible.
        n_cases: number of scans.
        near: candidate pairs by centre distance, in mm.
        inside: candidate pairs in which the detection's centre lies in the lesion's box, with the distance in mm.
        overlapping: candidate pairs by IoU, in the order of ``Pairs.by_preference``.
    """

    scores: np.ndarray
    labels: np.ndarray
    case: np.ndarray
    rank: np.ndarray
    lesion_labels: np.ndarray
    lesion_case: np.ndarray
    possible: np.ndarray
    n_cases: int
    near: Pairs
    inside: Pairs
    overlapping: Pairs

    @property
    def healthy(self) -> np.ndarray:
        """[n_cases] True for scans without any lesion, definite or possible."""
        return np.bincount(self.lesion_case, minlength=self.n_cases) == 0


def pool_cases(cases: Sequence[CaseResult], config: EvaluationConfig) -> Pool:
    """Flattens ``cases`` and finds the candidate pairs under the matching rules."""
    counts = np.array([len(case.detections) for case in cases], dtype=np.int64)
    lesion_counts = np.array([len(case.truth_boxes) for case in cases], dtype=np.int64)
    offsets, lesion_offsets = np.cumsum(counts) - counts, np.cumsum(lesion_counts) - lesion_counts
    scores = _joined([case.detections.scores for case in cases], np.float32)
    labels = _joined([case.detections.labels for case in cases], np.int64)
    case_of = np.repeat(np.arange(len(cases)), counts)
    order = np.argsort(-scores, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))

    near: list[Pairs] = []
    inside: list[Pairs] = []
    overlapping: list[Pairs] = []
    for case, first, first_lesion in zip(cases, offsets, lesion_offsets, strict=True):
        if not len(case.detections) or not len(case.truth_boxes):
            continue
        same_class = case.detections.labels[:, None] == case.truth_labels[None]
        distance = pair_distance(case.detections.boxes, case.truth_boxes, case.spacing)
        near.append(
            _shifted(Pairs.of(distance, same_class & (distance <= config.match_mm)), place[first:], first_lesion)
        )
        within = pair_inside(case.detections.boxes, case.truth_boxes)
        inside.append(_shifted(Pairs.of(distance, same_class & within), place[first:], first_lesion))
        iou = pair_iou(case.detections.boxes, case.truth_boxes)
        overlapping.append(_shifted(Pairs.of(iou, same_class & (iou >= config.iou)), place[first:], first_lesion))

    possible = _joined([case.possible for case in cases], bool)
    return Pool(
        scores=scores[order],
        labels=labels[order],
        case=case_of[order],
        rank=_rank(case_of[order], labels[order]),
        lesion_labels=_joined([case.truth_labels for case in cases], np.int64),
        lesion_case=np.repeat(np.arange(len(cases)), lesion_counts),
        possible=possible,
        n_cases=len(cases),
        near=_concatenated(near).by_detection(),
        inside=_concatenated(inside).by_detection(),
        overlapping=_concatenated(overlapping).by_preference(possible),
    )


def _joined(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)


def _shifted(pairs: Pairs, place: np.ndarray, first_lesion: int) -> Pairs:
    return Pairs(place[pairs.detection], pairs.lesion + first_lesion, pairs.value)


def _concatenated(parts: Sequence[Pairs]) -> Pairs:
    return Pairs(
        _joined([part.detection for part in parts], np.int64),
        _joined([part.lesion for part in parts], np.int64),
        _joined([part.value for part in parts], np.float64),
    )


def _rank(case: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Place of each entry among those of the same case and label that stand before it."""
    order = np.lexsort((labels, case))  # stable: within a group the order by score stays
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(case[order]) != 0) | (np.diff(labels[order]) != 0)
    starts = np.flatnonzero(new)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return rank
