"""From predictions, of our models or of any program, and reference lesions to the scans that evaluation measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmb_plugin.dataset import (
    Case,
    Dataset,
    Truth,
    read_truth,
)
from cmb_plugin.dataset.foreign import find_prediction, foreign_cases, has_shared_table
from cmb_plugin.dataset.predictions import ENDING, read_case_predictions
from cmb_plugin.documents import some_of
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import DEFAULT_OPERATING_POINT, CaseResult, EvaluationConfig
from cmb_plugin.images import Grid
from cmb_plugin.workers import Outcome, run_cases

from .case_reader import CaseReader, ReadCase
from .loose_masks import find_masks, find_scans, read_loose_truth
from .operating_point import OperatingPoint
from .trained import PARTS, TrainedModel

REMEDIES = {"test": "", "val": " --test_split", "unseen": " --unseen"}  # how nndet_predict names a split


@dataclass(frozen=True)
class PredictionSet:
    """Predictions that shall be measured, and what they are measured against.

    Attributes:
        cases: the scans, whether predicted or not.
        folders: case -> folder that its predictions should be in.
        classes: names by index.
        name: of the task, or of the folder of reference masks.
        split: ``val``, ``test`` or ``unseen``; empty where there is no Task folder.
        title: model and folds, or the folder of predictions.
        remedy: how to make predictions that are missing.
        results: where results go; None where the user must say.
        operating_point: what the model's sweeps chose; the default without a model.
        dataset: the Task; None where there is none.
        images: case -> scan that pictures show.
        notes: sentences on what the reader of the numbers should know.
        target: what was predicted: ``lesions`` or ``regions``.
    """

    cases: tuple[Case, ...]
    folders: Mapping[str, Path]
    classes: tuple[str, ...]
    name: str
    split: str
    title: str
    remedy: str
    results: Path | None = None
    operating_point: OperatingPoint = field(default_factory=OperatingPoint)
    dataset: Dataset | None = None
    images: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    target: str = "lesions"

    @classmethod
    def of_model(cls, dataset: Dataset, model: TrainedModel, split: str) -> PredictionSet:
        """What a model predicted: test scans all folds together, each validation scan the fold that had not seen it,
        scans of the domain that it was trained without (``unseen``) its fold.

        Raises:
            UserError: the split holds no labelled case.
        """
        cases, folders = dataset.cases(PARTS[split]), {}
        if split != "test":
            held_out = model.held_out_cases(dataset.task, split)
            folders = {case: model.folder.fold(fold).predictions(split) for case, fold in held_out.items()}
            cases = [case for case in cases if case.case_id in folders]
        else:
            folders = dict.fromkeys((case.case_id for case in cases), model.place.predictions("test"))
        fold = f" -f {model.folds[0]}" if len(model.folds) == 1 else ""
        predict = f"run nndet_predict {dataset.task.name} {model.name}{fold}{REMEDIES[split]}"
        return cls(
            **_of_task(dataset, cases, split),
            folders=folders,
            title=model.title,
            remedy=predict,
            results=model.place.results(split),
            operating_point=model.operating_point(),
            target=model.target,
        )

    @classmethod
    def of_folder(
        cls, dataset: Dataset, folder: Path, split: str, cases: Sequence[Case] | None = None
    ) -> PredictionSet:
        """A folder of predictions in any format (``cmb_plugin.dataset.foreign``) of scans of a Task.

        Args:
            dataset: the Task.
            folder: of the predictions.
            split: ``test``, or ``val``: those training scans that the folder has predictions of.
            cases: which scans instead.

        Raises:
            UserError: the split holds no labelled case.
        """
        unnamed: list[str] = []
        if cases is None:
            cases = dataset.cases(PARTS[split])
            if split == "val":
                known = {case.case_id for case in cases}
                predicted = set(foreign_cases(folder, known))
                if has_shared_table(folder, known):
                    unnamed = [case.case_id for case in cases if case.label and case.case_id not in predicted]
                cases = [case for case in cases if case.case_id in predicted]
        content = _of_task(dataset, cases, split)
        if unnamed:
            content["notes"] += (f"left out, because no row of the table names them: {some_of(unnamed)}",)
        return cls(
            **content,
            folders=dict.fromkeys((case.case_id for case in cases), folder),
            title=folder.name,
            remedy="name the folder that nndet_predict --output wrote",
        )

    @classmethod
    def of_masks(
        cls, folder: Path, labels: Path, images: Path | None = None, classes: Sequence[str] = ()
    ) -> PredictionSet:
        """A folder of predictions in any format against a folder of masks, without a Task.

        Args:
            folder: of the predictions.
            labels: masks named by case: instance numbers, with ``{case}.json`` for their classes where there are
                several, or binary; then the lesions are its components (26 neighbours).
            images: folder of the scans that pictures show, ``{case}.nii.gz`` or ``{case}_0000.nii.gz``.
            classes: names by index; empty for those that the predictions name, else ``lesion``.

        Raises:
            UserError: a folder holds nothing that can be read, or the two have no case in common.
        """
        masks = find_masks(labels)
        if not masks:
            raise UserError(f"{labels}: holds no mask", remedy="name the folder of the reference masks with --labels")
        predicted = foreign_cases(folder, masks)
        if not predicted:
            raise UserError(
                f"{folder}: holds no predictions", remedy="see docs/evaluation.md for the formats that are read"
            )
        if not set(predicted) & set(masks):
            raise UserError(
                f"{folder}: has no case of {labels} ({predicted[0]} is not {min(masks)})",
                remedy="name predictions and labels alike, {case} and an ending",
            )
        unused = sorted(set(predicted) - set(masks))
        return cls(
            cases=tuple(
                Case(name, (path,), path, _classes_file(path, name), "", labels) for name, path in masks.items()
            ),
            folders=dict.fromkeys(masks, folder),
            classes=tuple(classes) or _classes_named(folder, predicted) or ("lesion",),
            name=labels.name,
            split="",
            title=f"{folder.name} against {labels.name}",
            remedy="predict it",
            results=folder / "results",
            images={} if images is None else find_scans(images, list(masks)),
            notes=(f"{len(unused)} predicted cases have no label: {some_of(unused)}",) if unused else (),
        )

    @property
    def full_title(self) -> str:
        """First line of reports: task, model and split, or the two folders."""
        return self.title if self.dataset is None else ", ".join((self.name, self.title, self.split))

    def read_truth(self, case: Case) -> Truth:
        """The reference lesions of one of the cases.

        Raises:
            UserError: its mask, or the classes of its lesions, cannot be read.
        """
        if self.dataset is None:
            return read_loose_truth(case, len(self.classes))
        return read_truth(case, len(self.classes))

    def read(
        self,
        workers: int = 0,
        truths: dict[str, Truth] | None = None,
        connectivity: int | None = None,
        before_sweep: bool = False,
    ) -> ScoredCases:
        """Reads labels and predictions of all cases; one that cannot be read does not stop the others.

        Args:
            workers: processes.
            truths: lesions by case, filled here and used by the next call, in one process; masks are slow to read.
            connectivity: compare masks too, by components of so many neighbours.
            before_sweep: detections as if no sweep had been, to choose scores and rules anew: also those that a rule
                about their place removed, and all with the scores that the model gave them.

        Raises:
            UserError: nothing can be measured.
        """
        folders = list(dict.fromkeys(self.folders.values()))
        if not any(foreign_cases(folder) for folder in folders):
            raise UserError(f"{folders[0]}: holds no predictions", remedy=self.remedy)
        scored = ScoredCases(self, unlabelled=[case.case_id for case in self.cases if case.label is None])
        read = CaseReader(
            self.read_truth,
            self.folders,
            self.classes,
            self.operating_point,
            {} if self.dataset is None else self.dataset.session_id,
            truths,
            connectivity,
            before_sweep,
        )
        labelled = [case for case in self.cases if case.label is not None]
        for outcome in run_cases(read, labelled, workers=workers):
            scored.add(outcome)
        if not scored.cases:
            raise UserError(next(iter(scored.unreadable.values())))
        if len(scored.missing) == len(scored.cases):
            raise UserError(f"{folders[0]}: holds none of the cases to evaluate", remedy=self.remedy)
        if not any(case.masks for case in scored.cases if case.case_id not in scored.missing):
            scored.cases = [dataclasses.replace(case, masks=None) for case in scored.cases]
        return scored


def _of_task(dataset: Dataset, cases: Sequence[Case], split: str) -> dict[str, Any]:
    """What a ``PredictionSet`` of scans of a Task has in common.

    Raises:
        UserError: there is no case, or none with a label.
    """
    part = PARTS[split]
    # Where nobody has looked, what is found is neither right nor wrong.
    left_out = [case.case_id for case in cases if case.judged is not None]
    cases = [case for case in cases if case.judged is None]
    if not cases:
        where = dataset.task.images(part)
        raise UserError(f"{where}: holds no {split} case", remedy="add scans, or evaluate another split")
    if not any(case.label for case in cases):
        raise UserError(f"{dataset.task.labels(part)}: holds no label", remedy="add labels to measure against")
    return {
        "cases": tuple(cases),
        "classes": dataset.classes,
        "name": dataset.task.name,
        "split": split,
        "dataset": dataset,
        "images": {case.case_id: case.present[0] for case in cases},
        "notes": (f"left out, because they were judged in places only: {', '.join(left_out)}",) if left_out else (),
    }


def _classes_file(label: Path, case_id: str) -> Path | None:
    path = label.parent / f"{case_id}.json"
    return path if path.is_file() else None


def _classes_named(folder: Path, predicted: Sequence[str]) -> tuple[str, ...]:
    """The classes that our own files in a folder of predictions name; empty where there is none."""
    paths = (find_prediction(folder, case_id) for case_id in predicted)
    own = next((path for path in paths if path is not None and path.name.endswith(ENDING)), None)
    return () if own is None else tuple(read_case_predictions(own).classes)


@dataclass
class ScoredCases:
    """All cases of a ``PredictionSet`` as far as they could be read.

    Attributes:
        source: where they come from.
        cases: scans with detections and reference lesions.
        grids: case -> grid.
        operating_points: scores from which on the files themselves report.
        missing: cases without predictions: measured as if nothing had been found.
        unreadable: case -> what is wrong.
        unlabelled: cases without reference: left out.
    """

    source: PredictionSet
    cases: list[CaseResult] = field(default_factory=list)
    grids: dict[str, Grid] = field(default_factory=dict)
    operating_points: set[float] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    unlabelled: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome[Case, ReadCase]) -> None:
        """Takes what became of reading a case.

        Raises:
            RuntimeError: reading it met a bug.
        """
        case_id, read = outcome.item.case_id, outcome.result
        if outcome.is_bug:
            raise RuntimeError(f"{case_id}: {outcome.details}")
        if read is None:
            self.unreadable[case_id] = outcome.error
            return
        self.cases.append(read.case)
        self.grids[case_id] = read.grid
        if not read.predicted:
            self.missing.append(case_id)
        elif read.operating_point is not None:
            self.operating_points.add(read.operating_point)

    def check_complete(self) -> None:
        """Refuses a set of which something is missing.

        Raises:
            UserError: a case was not predicted or cannot be read.
        """
        if self.missing:
            folder = self.source.folders[self.missing[0]]
            raise UserError(f"{folder}: no predictions of {self.missing[0]}", remedy=self.source.remedy)
        if self.unreadable:
            raise UserError(next(iter(self.unreadable.values())))

    def at_operating_point(self, config: EvaluationConfig) -> tuple[EvaluationConfig, str]:
        """The configuration with a score, and where that comes from: ``setting``, ``operating_point.json`` of the
        model, ``predictions`` where all files name the same, or ``default``."""
        if config.operating_point is not None:
            return config, "setting"
        if not self.source.operating_point.is_default:
            score, origin = self.source.operating_point.score, "operating_point.json"
        elif len(self.operating_points) == 1:
            (score,), origin = self.operating_points, "predictions"
        else:
            score, origin = DEFAULT_OPERATING_POINT, "default"
        return dataclasses.replace(config, operating_point=score), origin

    @property
    def notes(self) -> list[str]:
        """Sentences on what could not be measured."""
        notes = []
        if self.missing:
            counted = "counted as without detections, all lesions missed"
            notes.append(f"no predictions of {', '.join(self.missing)}: {counted}; {self.source.remedy}")
        notes += [f"left out {case_id}: {error}" for case_id, error in sorted(self.unreadable.items())]
        if self.unlabelled:
            notes.append(f"left out, because they have no label: {', '.join(self.unlabelled)}")
        return [*notes, *self.source.notes]
