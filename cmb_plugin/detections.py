"""``Detections``: what a detector found in one scan, used everywhere after the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SCORE_PREFIX = "score_"
"""Columns whose names begin so are scores, by which the detections can be ranked instead."""
DEFAULT_OPERATING_POINT = 0.5
"""Score from which on a detection is reported until nndet_sweep has chosen one on validation."""
RAW_SCORE = "raw_score"
"""Column with the model's score where ``with_thresholds`` has moved it."""


def fold_column(ranking: str | None) -> str:
    """Column [N, folds] of an ensemble's detections: the score that each fold gave, 0 where it saw nothing.

    Args:
        ranking: name of the score, None for the one that detections are sorted by.
    """
    return f"folds_{ranking or 'score'}"


def stretched(scores: np.ndarray, own: np.ndarray | float, common: float) -> np.ndarray:
    """Scores in two straight pieces from 0 to 1, so that those that reached a threshold, and no others, reach another.

    All are compared with 6 decimals, as files have them: a float32 score that prints as the threshold reaches it, and
    what is below stays below where the pieces are flat.

    Args:
        scores: [N].
        own: [N] or one for all: the threshold that they are for, between 0 and 1.
        common: the threshold afterwards.
    """
    scores = np.round(scores.astype(float), 6)
    above = common + (scores - own) * (1 - common) / np.maximum(1 - own, 1e-6)
    below = np.minimum(scores * common / np.maximum(own, 1e-12), common - 1e-6)
    moved: np.ndarray = np.where(scores < own, below, above)
    return moved


@dataclass
class Detections:
    """The boxes of one scan with their scores and classes, as numpy arrays of one length N.

    Attributes:
        boxes: float32 [N, 6], half-open voxel-edge coordinates ``(z0, y0, x0, z1, y1, x1)``.
        scores: float32 [N], 0..1.
        labels: int64 [N], class indices from 0.
        columns: further values per detection, each [N] or [N, ...] (region, distance to a prototype, ...).
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.boxes = np.asarray(self.boxes, dtype=np.float32).reshape(-1, 6)
        self.scores = np.asarray(self.scores, dtype=np.float32).reshape(-1)
        self.labels = np.asarray(self.labels, dtype=np.int64).reshape(-1)
        self.columns = {name: np.asarray(values) for name, values in self.columns.items()}
        lengths = {len(self.boxes), len(self.scores), len(self.labels), *(len(v) for v in self.columns.values())}
        if len(lengths) > 1:
            raise ValueError(f"boxes, scores, labels and columns differ in length: {sorted(lengths)}")

    @classmethod
    def empty(cls) -> Detections:
        """No detection at all."""
        return cls(np.zeros((0, 6)), np.zeros(0), np.zeros(0))

    @classmethod
    def concatenate(cls, parts: Sequence[Detections]) -> Detections:
        """All parts one after another; columns that not every non-empty part has are dropped."""
        parts = [part for part in parts if len(part)]
        if not parts:
            return cls.empty()
        shared = set.intersection(*(set(part.columns) for part in parts))
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.labels for part in parts]),
            {name: np.concatenate([part.columns[name] for part in parts]) for name in sorted(shared)},
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> Detections:
        """Selects by a boolean mask, integer array or slice."""
        columns = {name: values[index] for name, values in self.columns.items()}
        return Detections(self.boxes[index], self.scores[index], self.labels[index], columns)

    def by_score(self) -> Detections:
        """Highest score first; equal scores keep their order."""
        return self[np.argsort(-self.scores, kind="stable")]

    @property
    def rankings(self) -> list[str]:
        """Names of the columns by which the detections can be ranked."""
        return [name for name in self.columns if name.startswith(SCORE_PREFIX)]

    def ranked_by(self, column: str | None) -> Detections:
        """The same detections with another score, highest first; None keeps the one they have.

        Raises:
            KeyError: there is no such column, and there are detections.
        """
        if column is None or not len(self):
            return self
        return Detections(self.boxes, self.columns[column], self.labels, self.columns).by_score()

    def with_thresholds(self, thresholds: Mapping[int, float], common: float) -> Detections:
        """The same detections with scores that one threshold serves, highest first.

        The scores of each class are stretched, in two straight pieces from 0 to 1, so that those that reached the
        threshold of their class reach ``common``; the order within a class stays. Column ``RAW_SCORE`` keeps them as
        they were.

        Args:
            thresholds: class index -> threshold, each between 0 and 1; scores of other classes stay.
            common: threshold of all classes afterwards.
        """
        scores = self.scores.astype(float)
        for label, own in thresholds.items():
            scores = np.where(self.labels == label, stretched(scores, own, common), scores)
        columns = {**self.columns, RAW_SCORE: self.scores}
        return Detections(self.boxes, scores.clip(0, 1), self.labels, columns).by_score()

    def without_thresholds(self) -> Detections:
        """What ``with_thresholds`` was given."""
        if RAW_SCORE not in self.columns:
            return self
        columns = {name: values for name, values in self.columns.items() if name != RAW_SCORE}
        return Detections(self.boxes, self.columns[RAW_SCORE], self.labels, columns).by_score()

    @property
    def centres(self) -> np.ndarray:
        """[N, 3] box centres in voxel-edge coordinates z, y, x."""
        return (self.boxes[:, :3] + self.boxes[:, 3:]) / 2

    @property
    def sizes(self) -> np.ndarray:
        """[N, 3] box sides in voxels along z, y, x."""
        return self.boxes[:, 3:] - self.boxes[:, :3]
