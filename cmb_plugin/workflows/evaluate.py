"""``evaluate`` and ``sweep``: predictions and labels of a split become metrics, tables and figures, or a threshold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cmb_plugin.dataset import Case, Dataset, Truth, instances_file, read_lesion_facts, read_mimics, read_truth
from cmb_plugin.dataset.foreign import find_prediction, foreign_cases, read_foreign
from cmb_plugin.dataset.predictions import ENDING, CasePredictions, read_case_predictions
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import (
    DEFAULT_OPERATING_POINT,
    CaseResult,
    EvaluationConfig,
    OperatingPoint,
    SweepConfig,
    find_operating_point,
)
from cmb_plugin.evaluation.masks import compare_masks
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import Grid, read_mask
from cmb_plugin.paths import FoldFolder, TaskFolder, find_model, find_task
from cmb_plugin.settings import Overrides
from cmb_plugin.workers import run_cases

from .operating import Swept, swept_point
from .region_evaluation import evaluate_regions
from .removal import choose_removal
from .results import EvaluationRun, Loaded, measure_loaded, write_results

SPLITS = {"val": "Tr", "test": "Ts"}
ALL_FOLDS = -1  # nnDetection's number for all folds together


@dataclass(frozen=True)
class _Source:
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


def evaluate(
    task: str,
    model: str | None = None,
    fold: int | None = None,
    split: str = "val",
    predictions: Path | str | None = None,
    output: Path | str | None = None,
    words: Sequence[str] = (),
    workers: int = 0,
    masks: bool = False,
) -> EvaluationRun:
    """Measures the predictions of one split and writes metrics.json, detections.tsv, figures and report.html.

    Args:
        task: number, name or path of the Task folder.
        model: name or path of the model folder; None when there is only one.
        fold: its number; None or -1 takes all trained folds: of test scans what they predicted together, of validation
            scans what each predicted for those that it was not trained on.
        split: ``val`` or ``test``.
        predictions: another folder of predictions than the fold's; needs ``output``.
        output: where to write; None for the fold's results.
        words: overrides, ``eval_cfg.*``.
        workers: processes that read labels.
        masks: compare instance masks too, component by component.

    Raises:
        UserError: there is nothing to evaluate, or a setting is wrong. A single case that is missing or unreadable does
            not stop the others; ``EvaluationRun.complete`` tells.
    """
    config: EvaluationConfig = Overrides.parse(words).apply(eval_cfg=EvaluationConfig())["eval_cfg"]
    task_folder = find_task(task)
    dataset = Dataset.load(task_folder)
    if predictions is not None and output is None:
        raise UserError("--predictions: does not say where to write", remedy="name a folder with --output")
    source = _source(task_folder, model, fold, split) if predictions is None else _elsewhere(Path(predictions))
    cases, folders = _cases(dataset, source, split)
    if predictions is None and find_model(task_folder, model).target == "regions":
        title = f"{task_folder.name}, {source.words}, {split}"
        return evaluate_regions(dataset, cases, folders, Path(output or source.results or ""), title, split)
    loaded = _load(cases, folders, dataset, source, workers, connectivity=config.connectivity if masks else None)
    config, origin = _with_operating_point(config, source, loaded)

    metrics = measure_loaded(loaded, dataset.classes, config, task=task_folder.name, split=split)
    metrics["operating_point"] |= {"source": origin, "ranking": source.swept.ranking if source.swept else None}
    notes = [*_operating_notes(config, origin, split, loaded), *_notes(loaded, source)]
    folder = Path(output) if output is not None else source.results
    assert folder is not None
    title = ", ".join(word for word in (task_folder.name, source.words, split) if word)
    images = {case.case_id: case.present[0] for case in cases}
    files = write_results(folder, title, metrics, loaded, config, dataset.classes, images, notes)
    return EvaluationRun(title, metrics, folder, files, notes)


def load_split(
    task: str,
    model: str,
    fold: int,
    split: str = "test",
    words: Sequence[str] = (),
    truths: dict[str, Truth] | None = None,
) -> tuple[list[CaseResult], EvaluationConfig]:
    """The scans of a split as ``evaluate`` measures them, and its configuration with the operating point.

    For what ``evaluate`` does not do: comparing models, resampling.

    Args:
        task, model, fold, split, words: as for ``evaluate``.
        truths: lesions by case, filled here and used by the next call; masks are slow to read.

    Raises:
        UserError: as ``evaluate``; also when a single case is missing or unreadable.
    """
    config: EvaluationConfig = Overrides.parse(words).apply(eval_cfg=EvaluationConfig())["eval_cfg"]
    dataset = Dataset.load(find_task(task))
    source = _source(dataset.task, model, fold, split)
    loaded = _load(*_cases(dataset, source, split), dataset, source, workers=0, truths=truths)
    _must_be_complete(loaded, source)
    return loaded.cases, _with_operating_point(config, source, loaded)[0]


def _must_be_complete(loaded: Loaded, source: _Source) -> None:
    if loaded.missing:
        raise UserError(f"{source.predictions[0]}: no predictions of {loaded.missing[0]}", remedy=source.remedy)
    if loaded.unreadable:
        raise UserError(next(iter(loaded.unreadable.values())))


def sweep(task: str, model: str | None = None, fold: int | None = None, words: Sequence[str] = ()) -> OperatingPoint:
    """Chooses the operating point on the fold's validation predictions and writes ``operating_point.json``.

    Args:
        task, model: as for ``evaluate``.
        fold: its number; None when only one is trained.
        words: overrides, ``sweep_cfg.*`` and ``eval_cfg.match_mm``.

    Raises:
        UserError: as ``evaluate``; also when a validation case is missing, because the choice would be another one.
    """
    settings = Overrides.parse(words).apply(sweep_cfg=SweepConfig(), eval_cfg=EvaluationConfig())
    task_folder = find_task(task)
    dataset = Dataset.load(task_folder)
    source = _source(task_folder, model, fold, "val")
    if len(source.folds) > 1:
        numbers = ", ".join(map(str, source.folds))
        raise UserError(f"{source.words}: each fold has its own operating point", remedy=f"name one: {numbers}")
    loaded = _load(*_cases(dataset, source, "val"), dataset, source, workers=0, removed_too=True)
    _must_be_complete(loaded, source)
    # Of all detections, removed ones included: the score then holds with and without regions.
    point = find_operating_point(loaded.cases, settings["sweep_cfg"], settings["eval_cfg"])
    (folder,) = source.folds.values()
    removal = choose_removal(loaded.cases, source.predictions[0], settings["eval_cfg"])
    content = {"schema": 1, **dataclasses.asdict(point)}
    write_json(folder.operating_point, content if removal is None else {**content, "removal": removal})
    return point


def _source(task: TaskFolder, model: str | None, fold: int | None, split: str) -> _Source:
    folder = find_model(task, model)
    trained = folder.trained_folds()
    if fold is not None and fold != ALL_FOLDS and fold not in trained:
        known = ", ".join(map(str, trained))
        raise UserError(f"{folder.root}: fold {fold} is not trained", remedy=f"trained folds: {known}")
    numbers = trained if fold is None or fold == ALL_FOLDS else [fold]
    folds = {number: folder.fold(number) for number in numbers}
    place = folds[numbers[0]] if len(numbers) == 1 else folder.consolidated
    asked_for = f" -f {numbers[0]}" if len(numbers) == 1 else ""
    return _Source(
        folds=folds,
        swept=swept_point(list(folds.values())),
        predictions=tuple(f.predictions(split) for f in (folds.values() if split == "val" else [place])),
        results=place.results(split),
        words=f"{folder.name}, fold{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}",
        remedy=f"run nndet_predict {task.name} {folder.name}{asked_for}{' --test_split' if split == 'val' else ''}",
    )


def _elsewhere(predictions: Path) -> _Source:
    remedy = "name the folder that nndet_predict --output wrote"
    return _Source(
        folds={}, swept=None, predictions=(predictions,), results=None, words=predictions.name, remedy=remedy
    )


def _cases(dataset: Dataset, source: _Source, split: str) -> tuple[list[Case], dict[str, Path]]:
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


def _validation_cases(task: TaskFolder, source: _Source) -> dict[str, Path]:
    """Validation case -> folder of its predictions, by the splits that each fold was trained with."""
    if not source.folds:
        return dict.fromkeys(foreign_cases(source.predictions[0]), source.predictions[0])
    folders: dict[str, Path] = {}
    for (number, fold), predictions in zip(source.folds.items(), source.predictions, strict=True):
        path = fold.splits if fold.splits.is_file() else task.splits
        splits = read_json(path)
        if number >= len(splits):
            raise UserError(f"{path}: has no fold {number}", remedy="restore the file")
        folders |= dict.fromkeys(splits[number]["val"], predictions)
    return folders


def _load(
    cases: Sequence[Case],
    folders: Mapping[str, Path],
    dataset: Dataset,
    source: _Source,
    workers: int,
    truths: dict[str, Truth] | None = None,
    connectivity: int | None = None,
    removed_too: bool = False,
) -> Loaded:
    """``removed_too``: also detections that a rule about their place removed, to choose rules and scores anew."""
    if not any(foreign_cases(folder) for folder in source.predictions):
        raise UserError(f"{source.predictions[0]}: holds no predictions", remedy=source.remedy)
    loaded = Loaded(unlabelled=[case.case_id for case in cases if case.label is None])
    labelled = [case for case in cases if case.label is not None]
    ranking = source.swept.ranking if source.swept else None
    read = partial(
        _load_case,
        folders=folders,
        classes=dataset.classes,
        ranking=ranking,
        truths=truths,
        sessions=dataset.session_id,
        connectivity=connectivity,
        removed_too=removed_too,
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
    ranking: str | None,
    truths: dict[str, Truth] | None = None,
    sessions: Mapping[str, str] | None = None,
    connectivity: int | None = None,
    removed_too: bool = False,
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
        if ranking is not None and len(predicted.detections) and ranking not in predicted.detections.columns:
            raise UserError(f"{path}: has no {ranking}, by which the model ranks now", remedy="predict the case again")
        found = predicted.detections if removed_too else predicted.kept
        detections, operating_point = found.ranked_by(ranking), predicted.operating_point
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
    if predicted.grid.shape != grid.shape or predicted.grid.corner_distance(grid) >= min(grid.spacing) / 2:
        raise UserError(
            f"{path}: was predicted on another grid than that of {case.label}", remedy="predict the scan of this label"
        )
    if tuple(predicted.classes) != tuple(classes):
        raise UserError(
            f"{path}: has the classes {', '.join(predicted.classes)}, the task {', '.join(classes)}",
            remedy="evaluate with the task that the model was trained for",
        )


def _with_operating_point(config: EvaluationConfig, source: _Source, loaded: Loaded) -> tuple[EvaluationConfig, str]:
    """The configuration with a score, and where the score comes from."""
    if config.operating_point is not None:
        return config, "setting"
    if source.swept is not None:
        score, origin = source.swept.score, "operating_point.json"
    elif len(loaded.operating_points) == 1:
        (score,), origin = loaded.operating_points, "predictions"
    else:
        score, origin = DEFAULT_OPERATING_POINT, "default"
    return dataclasses.replace(config, operating_point=score), origin


def _operating_notes(config: EvaluationConfig, origin: str, split: str, loaded: Loaded) -> list[str]:
    predicted_at = ", ".join(f"{score:g}" for score in sorted(loaded.operating_points))
    if origin == "default" and not loaded.operating_points:
        return [f"the predictions name no operating point: they count from score {config.operating_point:g} on"]
    if origin == "default":
        return [f"the predictions have different operating points ({predicted_at})"]
    if origin != "operating_point.json":
        return []
    if split == "val":
        return ["the operating point was chosen on these scans: what is measured at it is better than on new ones"]
    score = config.operating_point or 0.0
    if all(abs(value - score) <= 1e-6 for value in loaded.operating_points):
        return []
    remedy = "predict again to have the same lesions reported"
    return [f"measured at score {score:g} (operating_point.json), predicted with {predicted_at}; {remedy}"]


def _notes(loaded: Loaded, source: _Source) -> list[str]:
    notes = []
    if loaded.missing:
        names = ", ".join(loaded.missing)
        notes.append(f"no predictions of {names}: counted as without detections, all lesions missed; {source.remedy}")
    notes += [f"left out {case_id}: {error}" for case_id, error in sorted(loaded.unreadable.items())]
    if loaded.unlabelled:
        notes.append(f"left out, because they have no label: {', '.join(loaded.unlabelled)}")
    return notes


def load_predictions(
    dataset: Dataset,
    cases: Sequence[Case],
    predictions: Path,
    words: Sequence[str] = (),
    truths: dict[str, Truth] | None = None,
    fold: FoldFolder | None = None,
) -> tuple[list[CaseResult], EvaluationConfig, list[str]]:
    """Labelled scans and a folder of predictions in any format, as ``evaluate`` measures them.

    Args:
        dataset, cases, predictions: the Task, which of its scans, and the folder.
        words, truths: as for ``load_split``.
        fold: whose sweep chose operating point and ranking; None takes those of the predictions.

    Returns:
        scans, the configuration with its operating point, and the names of the scans without predictions.

    Raises:
        UserError: nothing can be read, or a single scan is unreadable.
    """
    config: EvaluationConfig = Overrides.parse(words).apply(eval_cfg=EvaluationConfig())["eval_cfg"]
    source = _elsewhere(predictions)
    if fold is not None:
        source = dataclasses.replace(source, swept=swept_point([fold]))
    loaded = _load(cases, {case.case_id: predictions for case in cases}, dataset, source, 0, truths)
    if loaded.unreadable:
        raise UserError(next(iter(loaded.unreadable.values())))
    return loaded.cases, _with_operating_point(config, source, loaded)[0], loaded.missing
