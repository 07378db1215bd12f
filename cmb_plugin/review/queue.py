"""``ReviewQueue``: scans in the order in which they should be reviewed, as a file that ``nndet_review`` opens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmb_plugin.dataset import Case
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.tabular import write_table

SCHEMA = 1
COLUMNS = ("rank", "case", "domain", "value", "reported", "candidates", "scan")


@dataclass(frozen=True)
class QueuedScan:
    """One scan of a queue.

    Attributes:
        case_id: its name.
        images: number of the modality -> file.
        predictions: folder of its candidates.
        value: what decided its place, by the queue's strategy.
        domain: site, scanner or protocol; empty where nobody says.
        reported, candidates: how many of them there are.
    """

    case_id: str
    images: Mapping[int, Path]
    predictions: Path
    value: float = 0.0
    domain: str = ""
    reported: int = 0
    candidates: int = 0

    def case(self, n_modalities: int) -> Case:
        """The scan as commands know it: without labels, and of no split."""
        first = next(iter(self.images.values()))
        absent = tuple(number for number in range(n_modalities) if number not in self.images)
        paths = tuple(self.images.get(number, first.with_name(f"{self.case_id}_{number:04d}.nii.gz"))
                      for number in range(n_modalities))  # fmt: skip
        return Case(self.case_id, paths, raw=first.parent, missing=absent, domain=self.domain)


@dataclass(frozen=True)
class ReviewQueue:
    """Scans in the order in which they should be reviewed.

    Attributes:
        task: name of the Task whose classes and modalities they have.
        title: what chose them.
        scans: first to be reviewed first.
        chosen: plain data on how they were chosen: strategy, model, seed, ...
    """

    task: str
    title: str
    scans: tuple[QueuedScan, ...]
    chosen: Mapping[str, Any]

    def save(self, path: Path) -> tuple[Path, Path]:
        """Writes the queue, and beside it ``table`` under the same name; returns both paths."""
        rows = [
            {
                "case": scan.case_id,
                "domain": scan.domain,
                "value": scan.value,
                "images": {str(number): str(image) for number, image in scan.images.items()},
                "predictions": str(scan.predictions),
                "reported": scan.reported,
                "candidates": scan.candidates,
            }
            for scan in self.scans
        ]
        content = {"schema": SCHEMA, "task": self.task, "title": self.title, "chosen": dict(self.chosen)}
        write_json(path, {**content, "scans": rows})
        return path, self.table(path.with_suffix(".tsv"))

    def table(self, path: Path) -> Path:
        """Writes a table of the scans for people, and returns its path."""
        rows = [
            {
                "rank": rank,
                "case": scan.case_id,
                "domain": scan.domain,
                "value": scan.value,
                "reported": scan.reported,
                "candidates": scan.candidates,
                "scan": next(iter(scan.images.values())),
            }
            for rank, scan in enumerate(self.scans, start=1)
        ]
        write_table(path, COLUMNS, rows)
        return path

    @classmethod
    def load(cls, path: Path) -> ReviewQueue:
        """Reads what ``save`` wrote.

        Raises:
            UserError: the file is missing, or is no queue.
        """
        content = read_json(path)
        try:
            if content["schema"] != SCHEMA:
                raise ValueError(f"schema {content['schema']}")
            scans = [
                QueuedScan(
                    str(row["case"]),
                    {int(number): Path(image) for number, image in row["images"].items()},
                    Path(row["predictions"]),
                    float(row["value"]),
                    str(row["domain"]),
                    int(row["reported"]),
                    int(row["candidates"]),
                )
                for row in content["scans"]
            ]
            if not all(scan.images for scan in scans):
                raise ValueError("a scan has no file")
            return cls(str(content["task"]), str(content["title"]), tuple(scans), dict(content["chosen"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path}: is no queue of nndet_active ({type(error).__name__}: {error})",
                remedy="run nndet_active again",
            ) from None
