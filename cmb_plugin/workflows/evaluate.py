"""``evaluate`` and ``sweep``: predictions and labels of a split become metrics, tables and figures, or a threshold."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cmb_plugin.dataset import Case, Dataset, Truth
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import (
    DEFAULT_OPERATING_POINT,
    CaseResult,
    EvaluationConfig,
    OperatingPoint,
    SweepConfig,
    find_operating_point,
)
from cmb_plugin.files import write_json
from cmb_plugin.models.operating_point import swept_point
from cmb_plugin.models.results import EvaluationRun, measure_loaded, write_results
from cmb_plugin.models.scored_cases import Loaded, Source, cases_of, elsewhere, load, source_of
from cmb_plugin.paths import FoldFolder, find_model, find_task
from cmb_plugin.regions.agreement import evaluate_regions
from cmb_plugin.regions.removal import choose_removal
from cmb_plugin.settings import Overrides


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
    source = source_of(task_folder, model, fold, split) if predictions is None else elsewhere(Path(predictions))
    cases, folders = cases_of(dataset, source, split)
    if predictions is None and find_model(task_folder, model).target == "regions":
        title = f"{task_folder.name}, {source.words}, {split}"
        return evaluate_regions(dataset, cases, folders, Path(output or source.results or ""), title, split)
    loaded = load(cases, folders, dataset, source, workers, connectivity=config.connectivity if masks else None)
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
    source = source_of(dataset.task, model, fold, split)
    loaded = load(*cases_of(dataset, source, split), dataset, source, workers=0, truths=truths)
    _must_be_complete(loaded, source)
    return loaded.cases, _with_operating_point(config, source, loaded)[0]


def _must_be_complete(loaded: Loaded, source: Source) -> None:
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
    source = source_of(task_folder, model, fold, "val")
    if len(source.folds) > 1:
        numbers = ", ".join(map(str, source.folds))
        raise UserError(f"{source.words}: each fold has its own operating point", remedy=f"name one: {numbers}")
    loaded = load(*cases_of(dataset, source, "val"), dataset, source, workers=0, afresh=True)
    _must_be_complete(loaded, source)
    # Of all detections, removed ones included: the score then holds with and without regions.
    point = find_operating_point(loaded.cases, settings["sweep_cfg"], settings["eval_cfg"])
    (folder,) = source.folds.values()
    removal = choose_removal(loaded.cases, source.predictions[0], settings["eval_cfg"])
    content = {"schema": 1, **dataclasses.asdict(point)}
    write_json(folder.operating_point, content if removal is None else {**content, "removal": removal})
    return point


def _with_operating_point(config: EvaluationConfig, source: Source, loaded: Loaded) -> tuple[EvaluationConfig, str]:
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


def _notes(loaded: Loaded, source: Source) -> list[str]:
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
    source = elsewhere(predictions)
    if fold is not None:
        source = dataclasses.replace(source, swept=swept_point([fold]))
    loaded = load(cases, {case.case_id: predictions for case in cases}, dataset, source, 0, truths)
    if loaded.unreadable:
        raise UserError(next(iter(loaded.unreadable.values())))
    return loaded.cases, _with_operating_point(config, source, loaded)[0], loaded.missing
