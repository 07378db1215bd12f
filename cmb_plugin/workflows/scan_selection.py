"""Which scans are predicted: those of a split of a task, or of any folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from cmb_plugin.dataset import Case, find_cases
from cmb_plugin.errors import UserError
from cmb_plugin.models.ensemble import Ensemble
from cmb_plugin.models.missing_modalities import channels_without, declared_missing, with_missing
from cmb_plugin.models.trained import PARTS
from cmb_plugin.paths import TaskFolder
from cmb_plugin.preparation import ScanSource, input_cases, prepared_cases


@dataclass(frozen=True)
class ScanSelection:
    """The scans of one run of prediction.

    Attributes:
        task: the Task folder; of one that is not here only models may be used.
        split: ``test``: imagesTs; ``val``: each fold predicts the cases that it was not trained on.
        folder: any folder of scans instead of the task's own.
        without: modalities to leave out of every case, by name, as if there were no file of them.
    """

    task: TaskFolder
    split: str = "test"
    folder: Path | None = None
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.split not in PARTS:
            raise UserError(f"unknown split '{self.split}'", remedy=f"known: {', '.join(PARTS)}")

    def sources(self, ensemble: Ensemble) -> list[ScanSource]:
        """The cases as a model sees them, each from its prepared array where there is a current one.

        Raises:
            UserError: there are none, or the model cannot do without what is left out.
        """
        plan, tolerates = ensemble.plan, ensemble.tolerates_missing
        left_out = channels_without(ensemble, self.without)
        if self.folder is not None:
            cases = [plan.case(case) for case in input_cases(self.folder, plan.n_files)]
            return [ScanSource(with_missing(case, left_out, tolerates), tolerates_missing=tolerates) for case in cases]
        prepared = self.task.prepared(plan.name, PARTS[self.split])
        cases = [with_missing(plan.case(case), left_out, tolerates) for case in self._cases(ensemble)]
        return [ScanSource.of(case, prepared, plan.preprocessing, tolerates) for case in cases]

    def _cases(self, ensemble: Ensemble) -> list[Case]:
        part, count = PARTS[self.split], ensemble.plan.n_files
        images = self.task.images(part)
        missing = declared_missing(self.task)
        known = {case.case_id: case for case in find_cases(images, count, part)}
        if self.split == "val":
            ids = sorted(ensemble.model.validation_cases(self.task))
        else:
            ids = sorted({*known, *prepared_cases(self.task.prepared(ensemble.plan.name, part))})
        if not ids:
            raise UserError(f"{images}: holds no scan to predict", remedy="add scans, or name a folder with --input")
        return [
            dataclasses.replace(
                known.get(case_id) or _absent(case_id, images, count, part), missing=missing.get(case_id, ())
            )
            for case_id in ids
        ]


def _absent(case_id: str, images: Path, n_modalities: int, part: str) -> Case:
    """A case whose scans are not here: its prepared array may be."""
    paths = tuple(images / f"{case_id}_{m:04d}.nii.gz" for m in range(n_modalities))
    return Case(case_id, paths, split=part, raw=images.parent)
