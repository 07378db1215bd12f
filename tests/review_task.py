"""A tiny Task whose test scans have candidates, for the tests of the review, its page, and what learns from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tiny_task import make_tiny_task

from cmb_plugin.dataset import CasePredictions, Dataset, instances_file, read_truth, write_case_predictions
from cmb_plugin.detections import Detections
from cmb_plugin.images import read_mask, write_image
from cmb_plugin.paths import TaskFolder
from cmb_plugin.review.session import ReviewSession


def make_review_task(root: Path, **settings) -> TaskFolder:
    """Two test scans, ``sub-51`` and ``sub-52``, with predictions in ``root / "found"``."""
    task = make_tiny_task(root, n_train=1, n_test=2, shape=(20, 24, 24), healthy=False, **settings)
    for case in Dataset.load(task).cases("Ts"):
        predict(task, root / "found", case.case_id)
    return task


def predict(task: TaskFolder, folder: Path, case_id: str, extra: int = 1) -> None:
    """The labelled lesions as reported detections, and some weaker ones."""
    dataset = Dataset.load(task)
    case = next(case for case in dataset.cases("Ts") if case.case_id == case_id)
    truth = read_truth(case)
    weak = [[2 + 4 * i, 3, 3, 4 + 4 * i, 5, 5] for i in range(extra)]
    boxes = np.concatenate([truth.boxes, np.array(weak, np.float32).reshape(-1, 6)])
    scores = np.linspace(0.9, 0.6, len(truth)).tolist() + [0.2] * extra
    detections = Detections(boxes, np.array(scores, np.float32), np.zeros(len(boxes), np.int64))
    write_case_predictions(folder, CasePredictions(case_id, detections, truth.grid, dataset.classes, 0.5))
    write_image(instances_file(folder, case_id), read_mask(case.label)[0].astype(np.uint8), truth.grid)


def open_session(task: TaskFolder, reader: str = "ann") -> ReviewSession:
    """What ``reader`` sees of it."""
    dataset = Dataset.load(task)
    folders = dict.fromkeys((case.case_id for case in dataset.cases("Ts")), task.root.parent / "found")
    return ReviewSession.of(dataset, folders, "Ts", reader, "found")
