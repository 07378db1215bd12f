"""``follow``: several scans of each person become lists of new, stable and vanished lesions."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmb_plugin.dataset import boxes_file
from cmb_plugin.errors import UserError
from cmb_plugin.files import atomic
from cmb_plugin.followup.comparison import Rules
from cmb_plugin.followup.following import follow_person, forget_person
from cmb_plugin.followup.sources import (
    TimePoint,
    came_back,
    persons_of_bids,
    persons_of_points,
    visit_names,
)
from cmb_plugin.followup.tables import write_tables
from cmb_plugin.followup.visits import Person, Visit
from cmb_plugin.images import SUFFIXES, image_stem
from cmb_plugin.workers import Outcome, Workers, failures, run_cases

from .scan_selection import SCANS, ScanSelection, select_for

if TYPE_CHECKING:
    from cmb_plugin.models.trained import TrainedModel
    from cmb_plugin.paths import TaskFolder

    from .predict import PredictOptions

PREDICTIONS = "predictions"  # folder in the output


@dataclass
class FollowReport:
    """What became of the persons.

    Attributes:
        rows: of ``followup.tsv``.
        done: persons compared now.
        kept: persons that an earlier run had compared with the same files and rules.
        failures: persons that could not be compared, and why.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    done: int = 0
    kept: int = 0
    failures: list[Outcome[Person, bool]] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0; 2 where a person or a visit could not be compared; 1 when one met a bug."""
        if any(failure.is_bug for failure in self.failures):
            return 1
        return 2 if self.failures or any(row["status"] != "compared" for row in self.rows) else 0


def follow(persons: Sequence[Person], output: Path, rules: Rules | None = None, workers: Workers = 0) -> FollowReport:
    """Compares the visits of each person; who cannot be compared is reported, and the others go on.

    Args:
        persons: whose scans are predicted.
        output: folder for ``{person}_followup.json``, pictures and tables.
        rules: how lesions are compared.
        workers: processes, or machines.
    """
    output.mkdir(parents=True, exist_ok=True)
    work = partial(follow_person, folder=output, rules=rules or Rules())
    outcomes = run_cases(work, persons, workers=workers, description="Comparing")
    failed = failures(outcomes)
    reasons = {outcome.item.name: outcome.error for outcome in failed}
    for name in reasons:
        forget_person(output, name)
    rows = write_tables(output, [person.name for person in persons], reasons)
    done = [bool(outcome.result) for outcome in outcomes if not outcome.error]
    return FollowReport(rows, sum(done), len(done) - sum(done), failed)


@dataclass(frozen=True)
class Predictor:
    """What predicts scans that are not predicted yet.

    Attributes:
        task: whose model it is.
        model: the trained folds.
        options: of prediction; the output folder is chosen here.
        log: is given sentences about what is used.
    """

    task: TaskFolder
    model: TrainedModel
    options: PredictOptions
    log: Callable[[str], None]

    def points(self, points: Sequence[TimePoint], output: Path) -> list[Person]:
        """Predicts image files that are named one by one."""
        folder = output / SCANS
        points = [point if point.problem else dataclasses.replace(point, problem=_no_image(point)) for point in points]
        names = set()
        for point in points:
            if not point.problem and all(file.is_file() for file in point.files):  # comparing reports the others
                names |= {_link(file, folder, f"{point.case}_{c:04d}") for c, file in enumerate(point.files)}
        for old in folder.glob("*"):
            if old.name not in names and old.is_symlink():
                old.unlink()  # of a scan that is no longer named
        failed = self._run(folder, output / PREDICTIONS)[1] if names else {}
        points = [dataclasses.replace(point, problem=point.problem or failed.get(point.case, "")) for point in points]
        return persons_of_points(points, output / PREDICTIONS)

    def paths(self, paths: Sequence[Path], person: str, output: Path) -> list[Person]:
        """Predicts the scans of one person, each a file, files of several channels, or a folder with a DICOM series."""
        labels = visit_names([image_stem(path) or path.name.strip(".") or path.resolve().name for path in paths])
        visits = [
            self._examination(label, path, output / PREDICTIONS / label)
            for label, path in zip(labels, paths, strict=True)
        ]
        return [Person(person, tuple(visits))]

    def bids(self, root: Path, output: Path) -> list[Person]:
        """Predicts a BIDS data set."""
        folder = output / PREDICTIONS
        scans, failed = self._run(root, folder)
        persons, once = came_back(persons_of_bids(root, scans, folder, failed), root)
        if once:
            self.log(f"left out, with one session only: {', '.join(once)}")
        return persons

    def _examination(self, label: str, path: Path, folder: Path) -> Visit:
        """Predicts one scan of a person; where there is none, or several, the visit says so."""
        try:
            scans, failed = self._run(path, folder)
            if len(scans) != 1:
                remedy = "name the folder of one examination, or list the scans in a table of visits"
                raise UserError(f"{path}: holds {len(scans)} scans that the model can read", remedy=remedy)
        except UserError as error:
            return Visit(label, label, path, boxes_file(folder, label), str(error))
        ((case, scan),) = scans.items()
        return Visit(label, case, scan, boxes_file(folder, case), failed.get(case, ""))

    def _run(self, scans: Path, folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
        """Predicts a file or folder; case -> image, and case -> why it could not be predicted."""
        from .predict import predict

        selection = ScanSelection(self.task, inputs=(scans,))
        report = predict(self.model, selection, dataclasses.replace(self.options, output=folder), log=self.log)
        for failure in report.failures:
            self.log(f"error: {failure.item.case.case_id}: {failure.error}")
        for remark in report.remarks:
            self.log(f"warning: {remark}")
        sources = select_for(self.model, selection, folder).sources
        failed = {failure.item.case.case_id: failure.error for failure in report.failures}
        return {source.case.case_id: source.case.images[0] for source in sources}, failed


def _no_image(point: TimePoint) -> str:
    """Which file of a time point is no image by its name, and what to do; "" where all are."""
    remedy = f"name a file that ends in {', '.join(SUFFIXES)}"
    return next((f"{file}: is no image file - {remedy}" for file in point.files if image_stem(file) is None), "")


def _link(file: Path, folder: Path, name: str) -> str:
    """Puts a scan under another name into a folder, as a link where the system has them."""
    suffix = next(suffix for suffix in SUFFIXES if file.name.endswith(suffix))
    target = folder / f"{name}{suffix}"
    with atomic(target) as temporary:
        try:
            temporary.symlink_to(file.resolve())
        except OSError:
            shutil.copy2(file, temporary)
    return target.name
