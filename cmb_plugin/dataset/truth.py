"""The labelled lesions of a case as boxes in its scan's own voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json
from cmb_plugin.images import Grid, boxes_of_instances, centroids_of_instances

from .dataset import Case, Labels

CERTAINTIES = ("definite", "possible")


@dataclass(frozen=True)
class Truth:
    """What is to be found in one scan; arrays of one length N, in ascending order of the instance numbers.

    Attributes:
        boxes: float32 [N, 6] half-open voxel-edge boxes ``(z0, y0, x0, z1, y1, x1)`` in the scan's voxels.
        labels: int64 [N] class indices.
        instances: int64 [N] numbers in the mask.
        grid: grid of the mask.
        certainty: ``definite`` or ``possible`` for each lesion, where the data set says so (MARS).
        centroids: float64 [N, 3] mean place of each lesion's voxels, voxel-edge coordinates z, y, x.
    """

    boxes: np.ndarray
    labels: np.ndarray
    instances: np.ndarray
    grid: Grid
    certainty: list[str] | None = None
    centroids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes)


def read_truth(case: Case, n_classes: int | None = None) -> Truth:
    """Reads the lesions of a labelled case; see ``Case.read_labels`` for the errors."""
    labels = case.read_labels(n_classes)
    return truth_of_labels(labels, certainty=_read_certainty(case, labels))


def truth_of_labels(labels: Labels, certainty: list[str] | None = None) -> Truth:
    """The lesions of labels that are already in memory."""
    boxes, centroids = boxes_of_instances(labels.mask), centroids_of_instances(labels.mask)
    return Truth(
        boxes=np.array([boxes[number] for number in labels.classes], dtype=np.float32).reshape(-1, 6),
        labels=np.array(list(labels.classes.values()), dtype=np.int64),
        instances=np.array(list(labels.classes), dtype=np.int64),
        grid=labels.grid,
        certainty=certainty,
        centroids=np.array([centroids[number] for number in labels.classes]).reshape(-1, 3),
    )


def _read_certainty(case: Case, labels: Labels) -> list[str] | None:
    """From ``lesions{split}/{case}.json``; a lesion that the file passes over is definite."""
    path = case.extra("lesions")
    if path is None:
        return None
    try:
        given = {int(lesion["instance"]): lesion.get("certainty") for lesion in read_json(path)["lesions"]}
    except (KeyError, TypeError, ValueError, AttributeError):
        remedy = 'write {"lesions": [{"instance": 1, "certainty": "definite"}]}, or remove the file'
        raise UserError(f"{path}: not a list of lesions with their instance numbers", remedy=remedy) from None
    if given and not any(given.values()):
        return None
    for number, word in given.items():
        if word not in (*CERTAINTIES, None):
            remedy = f"give {' or '.join(CERTAINTIES)}"
            raise UserError(f"{path}: the certainty of instance {number} is {word!r}", remedy=remedy)
    return [given.get(number) or CERTAINTIES[0] for number in labels.classes]
