"""Which scans are predicted: those of a split of a task, or of any files and folders."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cmb_plugin.dataset import Case, Dataset, find_cases, image_files
from cmb_plugin.errors import UserError
from cmb_plugin.models.ensemble import trainer_of
from cmb_plugin.models.missing_modalities import channels_without, declared_domains, declared_missing, with_missing
from cmb_plugin.models.trained import PARTS, TrainedModel
from cmb_plugin.paths import TaskFolder
from cmb_plugin.planning import Plan
from cmb_plugin.preparation import ScanSource, input_cases, prepared_cases

if TYPE_CHECKING:  # what any other input needs is imported where there is one
    from cmb_plugin.intake import Channels, InputCase, InputOptions, InputRow

    from .scan_inputs import Listed

SCANS = "scans"  # folder in the output: scans that were made from DICOM series and from echoes


@dataclass(frozen=True)
class Selected:
    """What a model predicts.

    Attributes:
        sources: one for each case.
        rows: of an input, what is taken and what is not, and why; empty for the scans of a task.
        inputs: of an input that is no folder named as in a Task folder, the cases with their volumes.
    """

    sources: list[ScanSource]
    rows: list[InputRow] = field(default_factory=list)
    inputs: list[InputCase] = field(default_factory=list)


@dataclass(frozen=True)
class ScanSelection:
    """The scans of one run of prediction.

    Attributes:
        task: the Task folder; of one that is not here only models may be used.
        split: ``test``: imagesTs; ``val``: each fold predicts the cases that it was not trained on; ``unseen``:
            those of the domain that the model was trained without.
        inputs: any files, folders and tables of scans instead of the task's own.
        without: modalities to leave out of every case, by name, as if there were no file of them.
        options: how ``inputs`` are read where they hold no files named as in a Task folder.
        echo: number of the echo to take of several; None takes that whose time suits best.
        only: names of the cases of a split to predict; empty for all.
        known: files, without links, whose cases in ``inputs`` are passed over.
    """

    task: TaskFolder
    split: str = "test"
    inputs: tuple[Path, ...] = ()
    without: tuple[str, ...] = ()
    options: InputOptions | None = None
    echo: int | None = None
    only: tuple[str, ...] = ()
    known: frozenset[Path] = frozenset()

    def __post_init__(self) -> None:
        if self.split not in PARTS:
            raise UserError(f"unknown split '{self.split}'", remedy=f"known: {', '.join(PARTS)}")
        if self.echo is not None and self.echo < 1:
            raise UserError(f"--echo {self.echo}: there is no such echo", remedy="count them from 1")

    def select(self, model: TrainedModel, plan: Plan, tolerates: bool, output: Path | None = None) -> Selected:
        """The cases as a model sees them, those of a task from their prepared arrays where these are current.

        Args:
            model: the folds.
            plan: of the model.
            tolerates: whether it predicts scans that lack modalities.
            output: predictions folder; scans that are no files yet are written into it. None where nothing will be.

        Raises:
            UserError: there are none, or the model cannot do without what is left out.
        """
        left_out = channels_without(plan.modalities, self.without, tolerates, model.name)
        packed = model.packed is not None
        if self.inputs:
            return self._input(plan, tolerates, left_out, output, turns_qsm=packed)
        if packed:
            plan = plan_for_task(plan, self.task)
            cases = [with_missing(plan.case(case), left_out, tolerates) for case in self._cases(model, plan)]
            return Selected([ScanSource(case, tolerates_missing=tolerates) for case in cases])
        prepared = self.task.prepared(plan.name, PARTS[self.split])
        cases = [with_missing(plan.case(case), left_out, tolerates) for case in self._cases(model, plan)]
        return Selected([ScanSource.of(case, prepared, plan.preprocessing, tolerates) for case in cases])

    def _input(
        self, plan: Plan, tolerates: bool, left_out: frozenset[int], output: Path | None, turns_qsm: bool
    ) -> Selected:
        from cmb_plugin.intake import Channels

        from .scan_inputs import list_together

        dark = turns_qsm and plan.polarity == ("dark",)
        channels = Channels(plan.modalities, tolerates, left_out, self.echo, turns_qsm=dark)
        list_one = partial(self._listed, plan=plan, channels=channels)
        listed = [list_one(self.inputs[0])] if len(self.inputs) == 1 else list_together(self.inputs, list_one, channels)
        cases = [case for one in listed for case in one.cases]
        sources = [ScanSource(case, tolerates_missing=tolerates) for one in listed for case in one.named]
        sources += [case.source((output or Path()) / SCANS) for case in cases]
        if len(listed) > 1:
            sources.sort(key=lambda source: source.case.case_id)
        new = [source for source in sources if self._is_new(source.case)]
        return Selected(new, [row for one in listed for row in one.rows], cases)

    def _listed(self, path: Path, plan: Plan, channels: Channels) -> Listed:
        """The cases of one of the inputs."""
        from cmb_plugin.intake import is_task_named, list_input

        from .scan_inputs import Listed, rows_of_named

        several = len(plan.modalities) > 1 or plan.n_files > 1
        named = is_task_named(path) or (several and path.is_dir() and bool(image_files(path)))
        if named and (self.options is None or not self.options.patterns):
            cases = [plan.case(case) for case in input_cases(path, plan.n_files)]
            cases = [with_missing(case, channels.without, channels.tolerates_missing) for case in cases]
            return Listed(path, rows_of_named(path, cases, plan.modalities), named=cases)
        intake = list_input(path, channels, self.options)
        return Listed(path, intake.rows, cases=intake.cases)

    def _is_new(self, case: Case) -> bool:
        return not self.known or not any(path.resolve() in self.known for path in case.images)

    def _cases(self, model: TrainedModel, plan: Plan) -> list[Case]:
        part, count = PARTS[self.split], plan.n_files
        images = self.task.images(part)
        missing, domain = declared_missing(self.task), declared_domains(self.task)
        known = {case.case_id: case for case in find_cases(images, count, part)}
        if self.split != "test":
            ids = sorted(model.held_out_cases(self.task, self.split))
        else:
            ids = sorted({*known, *prepared_cases(self.task.prepared(plan.name, part))})
        if self.only:
            ids = [case_id for case_id in ids if case_id in self.only]
        if not ids:
            raise UserError(f"{images}: holds no scan to predict", remedy="add scans, or name a folder with --input")
        return [
            dataclasses.replace(
                known.get(case_id) or _absent(case_id, images, count, part),
                missing=missing.get(case_id, ()),
                domain=domain.get(case_id, ""),
            )
            for case_id in ids
        ]


def plan_for_task(plan: Plan, task: TaskFolder) -> Plan:
    """A plan that reads of a Task's modalities those that a packed model sees: by name; a model of one, by what it
    shows: the first in which microbleeds look as in the model's.

    Raises:
        UserError: there are none such.
    """
    from cmb_plugin.preparation import modality_polarity

    names = Dataset.load(task).modalities
    if {*plan.modalities} <= {*names}:
        return dataclasses.replace(plan, channels=tuple(names.index(name) for name in plan.modalities))
    alike = [i for i, name in enumerate(names) if plan.polarity == (modality_polarity(name),)]
    if len(plan.modalities) == 1 and alike:
        return dataclasses.replace(plan, channels=(alike[0],))
    raise UserError(
        f"{task.name}: its modalities are {', '.join(names)}, the model sees {', '.join(plan.modalities)}",
        remedy="name files of such scans with --input",
    )


def _absent(case_id: str, images: Path, n_modalities: int, part: str) -> Case:
    """A case whose scans are not here: its prepared array may be."""
    paths = tuple(images / f"{case_id}_{m:04d}.nii.gz" for m in range(n_modalities))
    return Case(case_id, paths, split=part, raw=images.parent)


def select_for(model: TrainedModel, scans: ScanSelection, output: Path | None = None) -> Selected:
    """What ``predict`` would take, or has taken, into the folder ``output``, without loading the weights.

    Raises:
        UserError: as ``ScanSelection.select``.
    """
    folds = list(model.fold_folders.values())
    tolerates = all(getattr(trainer_of(fold), "tolerates_missing", False) for fold in folds)
    return scans.select(model, Plan.load(folds[0].plan), tolerates, output)
