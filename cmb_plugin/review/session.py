"""``ReviewSession``: the scans that are reviewed, their candidates, and where the decisions go."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.dataset import Case, CasePredictions, Dataset, boxes_file, read_case_predictions, read_scans
from cmb_plugin.errors import UserError
from cmb_plugin.files import digest
from cmb_plugin.images import image_stem
from cmb_plugin.paths import TaskFolder
from cmb_plugin.preparation import modality_polarity

from .decisions import DECISIONS, CaseScope, Review, ReviewStore
from .queue import QueuedScan, ReviewQueue


@dataclass(frozen=True)
class ReviewCase:
    """A scan with its candidates.

    Attributes:
        case: its files.
        predictions: file of the candidates.
    """

    case: Case
    predictions: Path

    def read(self) -> CasePredictions:
        """The candidates, the strongest first.

        Raises:
            UserError: the file is damaged.
        """
        return read_case_predictions(self.predictions)


@dataclass(frozen=True)
class ReviewSession:
    """Everything that a reader sees.

    Attributes:
        title: of the page.
        dataset: the Task; of predictions without one, what is known of it.
        cases: by name.
        store: decisions of the reader.
    """

    title: str
    dataset: Dataset
    cases: Mapping[str, ReviewCase]
    store: ReviewStore

    @classmethod
    def of(cls, dataset: Dataset, folders: Mapping[str, Path], split: str, reader: str, title: str) -> ReviewSession:
        """The scans of a Task that have predictions.

        Args:
            dataset: the Task.
            folders: case -> folder of its predictions.
            split: ``Tr`` or ``Ts``.
            reader: whose decisions are shown; those of others are not.
            title: of the page.

        Raises:
            UserError: there is none, or the reader's name cannot be a folder's.
        """
        cases = {}
        for case in dataset.cases(split):
            folder = folders.get(case.case_id)
            if folder is not None and boxes_file(folder, case.case_id).is_file() and case.present[0].is_file():
                cases[case.case_id] = ReviewCase(case, boxes_file(folder, case.case_id))
        if not cases:
            raise UserError(
                f"{dataset.task.name}: no predicted scan to review", remedy=f"run nndet_predict {dataset.task.name}"
            )
        return cls(title, dataset, cases, _store(dataset, reader))

    @classmethod
    def of_queue(cls, dataset: Dataset, queue: ReviewQueue, reader: str) -> ReviewSession:
        """The scans of a queue, in its order.

        Args:
            dataset: the Task that the queue is of.
            queue: which scans.
            reader: whose decisions are shown.

        Raises:
            UserError: a scan or its predictions are gone, or the reader's name cannot be a folder's.
        """
        cases = {}
        for scan in queue.scans:
            own = ReviewCase(scan.case(len(dataset.modalities)), boxes_file(scan.predictions, scan.case_id))
            for path in (*own.case.present, own.predictions):
                if not path.is_file():
                    raise UserError(
                        f"{path}: is gone, the queue names it", remedy="restore it, or run nndet_active again"
                    )
            cases[scan.case_id] = own
        if not cases:
            raise UserError("the queue is empty", remedy="run nndet_active again with more scans in --pool")
        return cls(queue.title, dataset, cases, _store(dataset, reader))

    @classmethod
    def of_folder(cls, folder: Path, reader: str) -> ReviewSession:
        """The scans of a predictions folder, without a Task; decisions go into ``folder / "review"``.

        Args:
            folder: that ``nndet_predict --output`` wrote. Cases whose scans are gone are left out.
            reader: whose decisions are shown.

        Raises:
            UserError: it does not say where its scans are, none is left, or the reader's name cannot be a folder's.
        """
        modalities, scans = read_scans(folder)
        queued = [
            QueuedScan(case_id, images, folder)
            for case_id, images in scans.items()
            if boxes_file(folder, case_id).is_file() and all(image.is_file() for image in images.values())
        ]
        if not queued:
            raise UserError(
                f"{folder}: no predicted scan to review", remedy="run nndet_predict --input SCANS --output again"
            )
        classes = read_case_predictions(boxes_file(folder, queued[0].case_id)).classes
        cases = [scan.case(len(modalities)) for scan in queued]
        missing = {case.case_id: case.missing for case in cases if case.missing}
        dataset = Dataset(TaskFolder(folder), folder.name, modalities, classes, missing=missing)
        return cls.of_queue(dataset, ReviewQueue(folder.name, folder.name, tuple(queued), {}), reader)

    def read_by(self, reader: str) -> ReviewSession:
        """The same scans with the decisions of another reader.

        Raises:
            UserError: the name cannot be a folder's, or there are no decisions of that reader.
        """
        store = _store(self.dataset, reader)
        if not store.folder.is_dir():
            decided = store.folder.parent.glob(f"*/{DECISIONS}")  # not the files of review/agreement
            known = sorted({path.parent.name for path in decided})
            remedy = f"readers are: {', '.join(known)}" if known else "nobody has judged these scans"
            raise UserError(f"{store.folder}: no decisions of {reader}", remedy=remedy)
        return replace(self, store=store)

    def key(self, case_id: str) -> str:
        """Tells these candidates of a case from others."""
        predictions = self.cases[case_id].read()
        return digest([predictions.key, np.round(predictions.detections.boxes, 3).tolist()])

    def scope(self, case_id: str) -> CaseScope:
        """What may be decided about a case."""
        predictions = self.cases[case_id].read()
        return CaseScope(len(predictions.detections), predictions.grid.shape, len(predictions.classes))

    def review(self, case_id: str) -> Review:
        """What the reader has decided about a case."""
        return self.store.read(case_id, self.key(case_id))

    def listing(self) -> list[dict[str, Any]]:
        """A line per case: its name, how many candidates are reported, how many were judged, whether it is done; or
        what is wrong with it."""
        lines: list[dict[str, Any]] = []
        for case_id, own in self.cases.items():
            try:
                predictions, state = own.read(), self.review(case_id).state()
            except UserError as error:
                lines.append({"case": case_id, "problem": str(error)})
                continue
            judged = sum("verdict" in lesion for lesion in state["lesions"].values())
            reported = int(predictions.reported.sum())
            lines.append({"case": case_id, "reported": reported, "judged": judged, "done": state["done"]})
        return lines

    def describe(self, case_id: str) -> dict[str, Any]:
        """A case as the page shows it: images, candidates by rank, and the reader's decisions.

        Boxes are voxel-edge z, y, x of the scan's own array, low corner and high corner; ``ras_mm`` is their middle.
        """
        predictions = self.cases[case_id].read()
        detections, grid = predictions.detections, predictions.grid
        world = grid.to_world(detections.centres.astype(float)) * (-1.0, -1.0, 1.0)  # RAS, as NiiVue has it
        candidates = [
            {
                "lesion": str(row + 1),
                "score": round(float(detections.scores[row]), 4),
                "class": int(detections.labels[row]),
                "diameter_mm": round(float(predictions.diameters_mm[row]), 2),
                "ras_mm": np.round(world[row], 1).tolist(),
                "box": np.round(detections.boxes[row].astype(float), 2).tolist(),
                "reported": bool(predictions.reported[row]),
            }
            for row in range(len(detections))
        ]
        return {
            "case": case_id,
            "classes": list(predictions.classes),
            "images": [
                {
                    "name": self.dataset.modalities[n],
                    "number": n,
                    "file": f"scan{path.name.removeprefix(image_stem(path) or '')}",
                    "bright": modality_polarity(self.dataset.modalities[n]) == "bright",
                }
                for n, path in self.images(case_id).items()
            ],
            "shape": list(grid.shape),
            "candidates": candidates,
            "state": self.review(case_id).state(),
        }

    def images(self, case_id: str) -> dict[int, Path]:
        """Number of the modality -> scan, of those that the case has."""
        case = self.cases[case_id].case
        return {n: path for n, path in enumerate(case.images) if n not in case.missing and path.is_file()}


def _store(dataset: Dataset, reader: str) -> ReviewStore:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}", reader):
        raise UserError(f"--reader {reader}: cannot name a folder", remedy="use letters, digits, _ and -")
    return ReviewStore(dataset.task.root / "review" / reader, reader)
