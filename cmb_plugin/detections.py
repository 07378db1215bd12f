"""``Detections``: what a detector found in one scan, used everywhere after the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SCORE_PREFIX = "score_"
"""Columns whose names begin so are scores, by which the detections can be ranked instead."""


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

    @property
    def centres(self) -> np.ndarray:
        """[N, 3] box centres in voxel-edge coordinates z, y, x."""
        return (self.boxes[:, :3] + self.boxes[:, 3:]) / 2

    @property
    def sizes(self) -> np.ndarray:
        """[N, 3] box sides in voxels along z, y, x."""
        return self.boxes[:, 3:] - self.boxes[:, :3]
