"""Labels and predictions of a split, read to be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cmb_plugin.dataset import (
    Case,
    Dataset,
    Truth,
    instances_file,
    read_lesion_facts,
    read_mimics,
    read_splits,
    read_truth,
)
from cmb_plugin.dataset.foreign import find_prediction, foreign_cases, read_foreign
from cmb_plugin.dataset.predictions import ENDING, CasePredictions, read_case_predictions
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import CaseResult
from cmb_plugin.evaluation.masks import compare_masks
from cmb_plugin.images import Grid, read_mask
from cmb_plugin.paths import FoldFolder, TaskFolder, find_model
from cmb_plugin.workers import run_cases

from .operating_point import Swept, swept_point

SPLITS = {"val": "Tr", "test": "Ts"}
ALL_FOLDS = -1  # nnDetection's number for all folds together


@dataclass(frozen=True)
class Source:
    """Where predictions come from.

    Attributes:
        folds: number -> folder of the folds that predicted; empty for a predictions folder without a model.
        swept: what the folds' sweeps chose, None where there was none.
        predictions: folders of ``{case}_boxes.json``: of test scans one, of validation scans one per fold.
        results: where results go, None when the user must say.
        words: model and folds, for titles.
        remedy: how to make the predictions.
    """

    folds: dict[int, FoldFolder]
    swept: Swept | None
    predictions: tuple[Path, ...]
    results: Path | None
    words: str
    remedy: str


@dataclass
class Loaded:
    """All cases of a split as far as they could be read."""

    cases: list[CaseResult] = field(default_factory=list)
    grids: dict[str, Grid] = field(default_factory=dict)
    operating_points: set[float] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    unlabelled: list[str] = field(default_factory=list)


def source_of(task: TaskFolder, model: str | None, fold: int | None, split: str) -> Source:
    folder = find_model(task, model)
    numbers = folder.chosen_folds(fold)
    folds = {number: folder.fold(number) for number in numbers}
    place = folds[numbers[0]] if len(numbers) == 1 else folder.consolidated
    asked_for = f" -f {numbers[0]}" if len(numbers) == 1 else ""
    return Source(
        folds=folds,
        swept=swept_point(list(folds.values())),
        predictions=tuple(f.predictions(split) for f in (folds.values() if split == "val" else [place])),
        results=place.results(split),
        words=f"{folder.name}, fold{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}",
        remedy=f"run nndet_predict {task.name} {folder.name}{asked_for}{' --test_split' if split == 'val' else ''}",
    )


def elsewhere(predictions: Path) -> Source:
    remedy = "name the folder that nndet_predict --output wrote"
    return Source(folds={}, swept=None, predictions=(predictions,), results=None, words=predictions.name, remedy=remedy)


def cases_of(dataset: Dataset, source: Source, split: str) -> tuple[list[Case], dict[str, Path]]:
    """The cases of the split, whether predicted or not, and the folder that each one's predictions should be in."""
    cases = dataset.cases(SPLITS[split])
    folders = {case.case_id: source.predictions[0] for case in cases}
    if split == "val":
        folders = _validation_cases(dataset.task, source)
        cases = [case for case in cases if case.case_id in folders]
    where = dataset.task.images(SPLITS[split])
    if not cases:
        raise UserError(f"{where}: holds no {split} case", remedy="add scans, or evaluate another split")
    if not any(case.label for case in cases):
        raise UserError(f"{dataset.task.labels(SPLITS[split])}: holds no label", remedy="add labels to measure against")
    return cases, folders


def _validation_cases(task: TaskFolder, source: Source) -> dict[str, Path]:
    """Validation case -> folder of its predictions, by the splits that each fold was trained with."""
    if not source.folds:
        return dict.fromkeys(foreign_cases(source.predictions[0]), source.predictions[0])
    folders: dict[str, Path] = {}
    for (number, fold), predictions in zip(source.folds.items(), source.predictions, strict=True):
        path = splits_file(task, fold)
        splits = read_splits(path)
        if number >= len(splits):
            raise UserError(f"{path}: has no fold {number}", remedy="restore the file")
        folders |= dict.fromkeys(splits[number]["val"], predictions)
    return folders


def splits_file(task: TaskFolder, fold: FoldFolder) -> Path:
    """The splits that a fold was trained with; those of the task where it has no copy."""
    return fold.splits if fold.splits.is_file() else task.splits


def load(
    cases: Sequence[Case],
    folders: Mapping[str, Path],
    dataset: Dataset,
    source: Source,
    workers: int,
    truths: dict[str, Truth] | None = None,
    connectivity: int | None = None,
    afresh: bool = False,
) -> Loaded:
    """``afresh``: as if no sweep had been, to choose scores and rules anew: also detections that a rule about their
    place removed, and all with the scores that the model gave them."""
    if not any(foreign_cases(folder) for folder in source.predictions):
        raise UserError(f"{source.predictions[0]}: holds no predictions", remedy=source.remedy)
    loaded = Loaded(unlabelled=[case.case_id for case in cases if case.label is None])
    labelled = [case for case in cases if case.label is not None]
    read = partial(
        _load_case,
        folders=folders,
        classes=dataset.classes,
        swept=source.swept,
        truths=truths,
        sessions=dataset.session_id,
        connectivity=connectivity,
        afresh=afresh,
    )
    for outcome in run_cases(read, labelled, workers=workers):
        case_id = outcome.item.case_id
        if outcome.is_bug:
            raise RuntimeError(f"{case_id}: {outcome.details}")
        if outcome.result is None:
            loaded.unreadable[case_id] = outcome.error
            continue
        result, grid, predicted, operating_point = outcome.result
        loaded.cases.append(result)
        loaded.grids[case_id] = grid
        if not predicted:
            loaded.missing.append(case_id)
        elif operating_point is not None:
            loaded.operating_points.add(operating_point)
    if not loaded.cases:
        raise UserError(next(iter(loaded.unreadable.values())))
    if len(loaded.missing) == len(loaded.cases):
        raise UserError(f"{source.predictions[0]}: holds none of the cases to evaluate", remedy=source.remedy)
    return loaded


def _load_case(
    case: Case,
    folders: Mapping[str, Path],
    classes: Sequence[str],
    swept: Swept | None,
    truths: dict[str, Truth] | None = None,
    sessions: Mapping[str, str] | None = None,
    connectivity: int | None = None,
    afresh: bool = False,
) -> tuple[CaseResult, Grid, bool, float | None]:
    """One case, its grid, whether it was predicted and at which operating point; other programs name none."""
    known = {} if truths is None else truths
    truth = known[case.case_id] if case.case_id in known else read_truth(case, len(classes))
    known[case.case_id] = truth
    folder = folders[case.case_id]
    path = find_prediction(folder, case.case_id)
    detections, operating_point = Detections.empty(), None
    mask = None
    if path is not None and path.name.endswith(ENDING):
        predicted = read_case_predictions(path)
        _check_fit(path, predicted, truth.grid, case, classes)
        detections, operating_point = predicted.kept, predicted.operating_point
        ranking = swept.ranking if swept and len(predicted.detections) else None
        if ranking is not None and ranking not in predicted.detections.columns:
            raise UserError(f"{path}: has no {ranking}, by which the model ranks now", remedy="predict the case again")
        if afresh:
            detections = predicted.detections.without_thresholds()
        elif swept is not None:
            detections = swept.apply(detections)
    elif path is not None:
        foreign = read_foreign(path, case.case_id, truth.grid, classes)
        detections, mask = foreign.detections, foreign.mask
    if connectivity is not None and mask is None:
        drawn = instances_file(folder, case.case_id)
        mask = read_mask(drawn)[0] if drawn.is_file() else None
    facts = read_lesion_facts(case, truth.instances.tolist())
    assert case.label is not None
    result = CaseResult(
        case_id=case.case_id,
        detections=detections,
        truth_boxes=truth.boxes,
        truth_labels=truth.labels,
        spacing=truth.grid.spacing,
        certainty=truth.certainty,
        instances=truth.instances,
        mimics=read_mimics(case),
        centroids=truth.centroids,
        regions=facts.regions,
        cnr=facts.cnr,
        domain=facts.domain,
        patient=(sessions or {}).get(case.case_id),
        masks=None if mask is None else compare_masks(mask, read_mask(case.label)[0], truth.grid.spacing, connectivity),
    )
    return result, truth.grid, path is not None, operating_point


def _check_fit(path: Path, predicted: CasePredictions, grid: Grid, case: Case, classes: Sequence[str]) -> None:
    if not predicted.grid.same_as(grid):
        raise UserError(
            f"{path}: was predicted on another grid than that of {case.label}", remedy="predict the scan of this label"
        )
    if tuple(predicted.classes) != tuple(classes):
        raise UserError(
            f"{path}: has the classes {', '.join(predicted.classes)}, the task {', '.join(classes)}",
            remedy="evaluate with the task that the model was trained for",
        )
