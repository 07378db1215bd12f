"""``evaluate`` and ``sweep``: predictions and labels of a split become metrics, tables and figures, or a threshold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cmb_plugin.dataset import Dataset, Truth
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import EvaluationConfig, SweepConfig
from cmb_plugin.files import read_json
from cmb_plugin.models.operating_point import OperatingPoint, views_of_run
from cmb_plugin.models.results import EvaluationRun, measure_scored, write_results
from cmb_plugin.models.scored_cases import PredictionSet, ScoredCases
from cmb_plugin.models.shipped import ENDING
from cmb_plugin.models.trained import TrainedModel
from cmb_plugin.regions.agreement import evaluate_regions
from cmb_plugin.regions.removal import choose_removal


def evaluate(
    predictions: PredictionSet,
    config: EvaluationConfig,
    output: Path | None = None,
    workers: int = 0,
    masks: bool = False,
    truths: dict[str, Truth] | None = None,
) -> EvaluationRun:
    """Measures predictions and writes metrics.json, detections.tsv, figures and report.html.

    Args:
        predictions: what is measured, against what.
        config: how detections are compared; without a score the model's, or the predictions', counts.
        output: where to write; None for the model's own results.
        workers: processes that read labels.
        masks: compare instance masks too, component by component.
        truths: as for ``PredictionSet.read``.

    Raises:
        UserError: there is nothing to evaluate. A single case that is missing or unreadable does not stop the others;
            ``EvaluationRun.complete`` tells.
    """
    folder = output or predictions.results
    if folder is None:
        raise UserError("--predictions: does not say where to write", remedy="name a folder with --output")
    if predictions.target == "regions":
        return evaluate_regions(predictions, folder)
    scored = predictions.read(workers, truths, connectivity=config.connectivity if masks else None)
    config, origin = scored.at_operating_point(config)
    metrics = measure_scored(scored, config, origin)
    notes = [*_operating_notes(config, origin, scored), *_mask_notes(config, scored), *scored.notes]
    title = predictions.full_title
    files = write_results(folder, title, metrics, scored, config, notes)
    return EvaluationRun(title, metrics, folder, files, notes)


def sweep(
    dataset: Dataset,
    model: TrainedModel,
    rule: SweepConfig,
    config: EvaluationConfig,
    truths: dict[str, Truth] | None = None,
) -> OperatingPoint:
    """Chooses the operating point on a fold's validation predictions and writes ``operating_point.json``.

    Args:
        dataset: the Task.
        model: one fold.
        rule: what to aim at.
        config: how detections are matched.
        truths: as for ``PredictionSet.read``.

    Raises:
        UserError: as ``evaluate``; also when a validation case is missing, because the choice would be another one.
    """
    if len(model.folds) > 1:
        numbers = ", ".join(map(str, model.folds))
        raise UserError(f"{model.title}: each fold has its own operating point", remedy=f"name one: {numbers}")
    predictions = PredictionSet.of_model(dataset, model, "val")
    scored = predictions.read(truths=truths, before_sweep=True)
    scored.check_complete()
    removal = choose_removal(scored.cases, model.place.predictions("val"), config)
    # Of all detections, removed ones included: the score then holds with and without regions.
    point = OperatingPoint.choose(scored.cases, rule, config, model.place.root.name, removal)
    point = replace(point, views=views_of_run(model.place.predictions("val")))
    point.save(model.place.operating_point)
    return point


def sweep_packed(
    dataset: Dataset,
    source: Path,
    predictions: Path,
    target: Path,
    rule: SweepConfig,
    config: EvaluationConfig,
) -> OperatingPoint:
    """Chooses the operating point of a packed model on labelled scans of another scanner, and packs it with that.

    Args:
        dataset: the Task that has the scans; those of its training scans count that were predicted.
        source: the packed model, of one fold.
        predictions: folder that ``nndet_predict`` filled with it.
        target: packed model to write.
        rule, config: as for ``sweep``.

    Raises:
        UserError: the predictions are another model's, or as ``sweep``, ``repackable`` and ``repack``.
    """
    from cmb_plugin.models.packed import repack, repackable

    header = repackable(source, target)  # before all scans are read
    name = source.name.removesuffix(ENDING)
    run = predictions / "run.json"
    model = read_json(run).get("model") if run.is_file() else None
    if model != name:
        raise UserError(
            f"{predictions}: {'does not say by which model' if model is None else f'is by {model}, not {name}'}",
            remedy=f"run nndet_predict {source} --input SCANS --output DIR and name that folder",
        )
    scored = PredictionSet.of_folder(dataset, predictions, "val").read(before_sweep=True)
    scored.check_complete()
    point = OperatingPoint.choose(scored.cases, rule, config, dataset.task.name)
    point = replace(point, views=views_of_run(predictions))
    repack(source, header, target, point.content())
    return point


def _operating_notes(config: EvaluationConfig, origin: str, scored: ScoredCases) -> list[str]:
    points = scored.operating_points
    predicted_at = ", ".join(f"{score:g}" for score in sorted(points))
    if origin == "default" and not points:
        return [f"the predictions name no operating point: they count from score {config.operating_point:g} on"]
    if origin == "default":
        return [f"the predictions have different operating points ({predicted_at})"]
    if origin != "operating_point.json":
        return []
    if scored.source.split == "val":
        return ["the operating point was chosen on these scans: what is measured at it is better than on new ones"]
    score = config.operating_point or 0.0
    if all(abs(value - score) <= 1e-6 for value in points):
        return []
    remedy = "predict again to have the same lesions reported"
    return [f"measured at score {score:g} (operating_point.json), predicted with {predicted_at}; {remedy}"]


def _mask_notes(config: EvaluationConfig, scored: ScoredCases) -> list[str]:
    """Masks are drawn when scans are predicted, before nndet_train sweeps, and show what was reported then."""
    drawn = [score for score in sorted(scored.operating_points) if abs(score - (config.operating_point or 0.0)) > 1e-6]
    if not drawn or not any(case.masks is not None for case in scored.cases):
        return []
    scores = ", ".join(f"{score:g}" for score in drawn)
    return [f"components and VALDO's numbers are of masks that were drawn from score {scores} on; predict again"]
