"""Which detection finds which lesion: three rules, each for one threshold and for all score thresholds at once.

**Centre distance** (the headline): a detection can find a lesion when their box centres lie at most ``d`` mm apart,
and each finds at most one of the other. Among all such matchings the one with most pairs counts, and of those the one
with the smallest sum of distances ("optimal"; greedy matching can lose a pair where lesions stand close together).

**IoU**: as COCO and nnDetection: detections choose in descending score, each takes the free lesion of highest IoU
if that is at least ``t``.

**Centre inside**: the centre of the detection's box lies in the lesion's box; one-to-one, most pairs, as by distance.

All match within one class. A "possible" lesion (``possible``) is matched only by what no definite lesion needs, and
what matches it is ``IGNORED``: neither right nor wrong. A second detection of any lesion is ``FALSE``.

For curves every detection needs one status that holds at every threshold below its score. Greedy matching has it by
construction. Optimal matching has it too: sets of detections that can be matched at once form a matroid (a transversal
matroid; Edmonds & Fulkerson 1965), so adding detections in descending score and keeping each one that still can be
matched, rearranging earlier pairs where needed, gives the largest matching at *every* threshold in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

FALSE, TRUE, IGNORED = 0, 1, 2  # status of a detection


def pair_iou(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of boxes ``(z0, y0, x0, z1, y1, x1)``: [N, 6], [M, 6] -> [N, M]."""
    a, b = np.asarray(boxes1, dtype=float)[:, None], np.asarray(boxes2, dtype=float)[None]
    sides = np.minimum(a[..., 3:], b[..., 3:]) - np.maximum(a[..., :3], b[..., :3])
    overlap = np.prod(np.maximum(sides, 0.0), axis=-1)
    union = np.prod(a[..., 3:] - a[..., :3], axis=-1) + np.prod(b[..., 3:] - b[..., :3], axis=-1) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def pair_distance(boxes1: np.ndarray, boxes2: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance in mm between the centres of every pair of boxes, [N, 6], [M, 6] -> [N, M]; ``spacing`` is z, y, x."""
    scale = np.asarray(spacing, dtype=float)
    centres1, centres2 = (
        (b[:, :3] + b[:, 3:]) / 2 * scale for b in (np.asarray(boxes1, float), np.asarray(boxes2, float))
    )
    return np.sqrt(((centres1[:, None] - centres2[None]) ** 2).sum(axis=-1))


def pair_inside(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    """Whether the first box's centre lies in the second box, lower faces included: [N, 6], [M, 6] -> bool [N, M]."""
    a, b = np.asarray(boxes1, dtype=float)[:, None], np.asarray(boxes2, dtype=float)[None]
    centre = (a[..., :3] + a[..., 3:]) / 2
    inside: np.ndarray = ((centre >= b[..., :3]) & (centre < b[..., 3:])).all(axis=-1)
    return inside


def match_by_distance(
    boxes: np.ndarray, truth: np.ndarray, spacing: Sequence[float], max_mm: float, possible: np.ndarray | None = None
) -> np.ndarray:
    """The optimal one-to-one matching of one scan and class by centre distance.

    Args:
        boxes: [N, 6] detections, those that count at the operating point.
        truth: [M, 6] lesions.
        spacing: mm along z, y, x.
        max_mm: largest distance of a pair; a pair at exactly this distance counts.
        possible: [M] True for lesions that are only possible.

    Returns:
        [N] index of the lesion that each detection finds, or -1.
    """
    matched = np.full(len(boxes), -1, dtype=np.int64)
    distance = pair_distance(boxes, truth, spacing)
    near = distance <= max_mm
    if not near.any():
        return matched
    # One pair more outweighs any sum of distances; a pair with a definite lesion outweighs one with a possible lesion.
    # (A largest matching that also finds as many definite lesions as can be found always exists.)
    pair = 1.0 + max_mm * min(distance.shape)
    weight = pair * (2.0 - (np.zeros(len(truth)) if possible is None else possible.astype(float)))
    rows, columns = linear_sum_assignment(np.where(near, distance - weight, 0.0))
    kept = near[rows, columns]
    matched[rows[kept]] = columns[kept]
    return matched


def match_by_iou(
    boxes: np.ndarray, scores: np.ndarray, truth: np.ndarray, iou: float, possible: np.ndarray | None = None
) -> np.ndarray:
    """The greedy matching of one scan and class by IoU, as COCO and nnDetection have it.

    Args:
        boxes: [N, 6] detections.
        scores: [N]; equal scores keep their order.
        truth: [M, 6] lesions.
        iou: smallest IoU of a pair.
        possible: [M] True for lesions that are only possible.

    Returns:
        [N] index of the lesion that each detection finds, or -1.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    values = pair_iou(np.asarray(boxes)[order], truth)
    possible = np.zeros(len(truth), dtype=bool) if possible is None else possible
    pairs = Pairs.of(values, values >= iou).by_preference(possible)
    matched = np.full(len(boxes), -1, dtype=np.int64)
    for rank, lesion in _take_greedily(pairs, iou):
        matched[order[rank]] = lesion
    return matched


@dataclass(frozen=True)
class Pairs:
    """Candidate pairs of detections and lesions, ordered by detection; detections are numbered by descending score.

    Attributes:
        detection: [P] number of the detection.
        lesion: [P] number of the lesion.
        value: [P] IoU, or distance in mm.
    """

    detection: np.ndarray
    lesion: np.ndarray
    value: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, allowed: np.ndarray) -> Pairs:
        """The ``allowed`` entries of a matrix detections x lesions."""
        detection, lesion = np.nonzero(allowed)
        return cls(detection, lesion, values[detection, lesion])

    def by_detection(self) -> Pairs:
        """Ordered by detection."""
        order = np.argsort(self.detection, kind="stable")
        return Pairs(self.detection[order], self.lesion[order], self.value[order])

    def by_preference(self, possible: np.ndarray) -> Pairs:
        """Ordered by detection, then as a detection chooses: definite before possible, higher IoU, later lesion."""
        order = np.lexsort((-self.lesion, -self.value, possible[self.lesion], self.detection))
        return Pairs(self.detection[order], self.lesion[order], self.value[order])


def greedy_status(pairs: Pairs, n_detections: int, possible: np.ndarray, iou: float) -> np.ndarray:
    """Status of every detection under greedy matching by IoU, valid at every score threshold.

    Args:
        pairs: candidate pairs of all scans, in the order of ``Pairs.by_preference``, with their IoU.
        n_detections: number of detections.
        possible: [L] True for lesions that are only possible.
        iou: smallest IoU of a pair.

    Returns:
        int8 [n_detections]: ``TRUE``, ``FALSE`` or ``IGNORED``.
    """
    status = np.full(n_detections, FALSE, dtype=np.int8)
    for detection, lesion in _take_greedily(pairs, iou):
        status[detection] = IGNORED if possible[lesion] else TRUE
    return status


def _take_greedily(pairs: Pairs, iou: float) -> list[tuple[int, int]]:
    enough = pairs.value >= iou
    taken: set[int] = set()
    matched: list[tuple[int, int]] = []
    last = -1
    for detection, lesion in zip(pairs.detection[enough].tolist(), pairs.lesion[enough].tolist(), strict=True):
        if detection != last and lesion not in taken:
            taken.add(lesion)
            matched.append((detection, lesion))
            last = detection
    return matched


def optimal_status(pairs: Pairs, n_detections: int, possible: np.ndarray) -> np.ndarray:
    """Status of every detection under optimal one-to-one matching, valid at every score threshold.

    At any threshold the number of ``TRUE`` detections from it on is the size of the largest matching between those
    detections and the definite lesions, and ``TRUE`` and ``IGNORED`` together that with all lesions.

    Args:
        pairs: candidate pairs of all scans, ordered by detection.
        n_detections: number of detections.
        possible: [L] True for lesions that are only possible.

    Returns:
        int8 [n_detections]: ``TRUE``, ``FALSE`` or ``IGNORED``.
    """
    status = np.full(n_detections, FALSE, dtype=np.int8)
    if possible.any():
        status[_matchable(pairs.detection, pairs.lesion)] = IGNORED
    definite = ~possible[pairs.lesion]
    status[_matchable(pairs.detection[definite], pairs.lesion[definite])] = TRUE
    return status


def _matchable(detection: np.ndarray, lesions_of: np.ndarray) -> list[int]:
    """The detections that can be matched besides every one kept before them (Kuhn's augmenting paths)."""
    if not len(detection):
        return []
    starts = np.flatnonzero(np.diff(detection, prepend=-1))
    near = dict(
        zip(detection[starts].tolist(), (part.tolist() for part in np.split(lesions_of, starts[1:])), strict=True)
    )
    owner: dict[int, int] = {}  # lesion -> detection
    holds: dict[int, int] = {}  # detection -> lesion
    closed: set[int] = set()  # lesions from which no free lesion can be reached any more, whatever comes later
    for new, lesions in near.items():
        came_from: dict[int, int] = {}  # lesion -> detection that reached it
        queue = [(lesion, new) for lesion in lesions if lesion not in closed]
        free = None
        for reached, by in queue:  # breadth first: the queue grows while it is walked
            if reached in came_from:
                continue
            came_from[reached] = by
            if reached not in owner:
                free = reached
                break
            queue += [(lesion, owner[reached]) for lesion in near[owner[reached]] if lesion not in closed]
        if free is None:
            closed.update(came_from)
        while free is not None:  # hand the lesions on along the path, back to the new detection
            by = came_from[free]
            owner[free], holds[by], free = by, free, holds.get(by)
    return list(holds)
