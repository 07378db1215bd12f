"""``consolidate``: the folds of a model measured together, and packed for other machines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cmb_plugin.dataset import Dataset, read_splits
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import EvaluationConfig, SweepConfig
from cmb_plugin.models.operating_point import OperatingPoint
from cmb_plugin.models.packing import pack
from cmb_plugin.models.results import EvaluationRun
from cmb_plugin.models.scored_cases import PredictionSet
from cmb_plugin.models.trained import TrainedModel
from cmb_plugin.paths import splits_file

from .evaluate import evaluate, sweep


@dataclass(frozen=True)
class Consolidated:
    """What was done.

    Attributes:
        folds: the folds that make the model.
        points: what the sweeps chose anew, by fold.
        evaluation: each validation scan by the fold that had not seen it.
        packed: the folder to hand over; None when none was asked for.
    """

    folds: tuple[int, ...]
    points: dict[int, OperatingPoint]
    evaluation: EvaluationRun
    packed: Path | None


@dataclass(frozen=True)
class ConsolidateOptions:
    """What ``consolidate`` shall do beside measuring.

    Attributes:
        num_folds: folds 0 to ``num_folds - 1`` make the model; None for as many as the splits have.
        sweep: choose each fold's operating point by this rule first; None leaves them.
        pack: write ``consolidated/{model}``, a model folder of its own that names no patient.
        whole: pack checkpoints as they are, optimiser included, instead of their weights alone.
    """

    num_folds: int | None = None
    sweep: SweepConfig | None = None
    pack: bool = True
    whole: bool = False


def consolidate(
    dataset: Dataset, model: TrainedModel, config: EvaluationConfig, options: ConsolidateOptions | None = None
) -> Consolidated:
    """Measures the validation scans of all folds together, and packs what prediction needs.

    Args:
        dataset: the Task.
        model: all its trained folds, and the checkpoint that is packed.
        config: how detections are compared.
        options: what else.

    Raises:
        UserError: a fold is not trained, or there is nothing to measure.
    """
    options = options or ConsolidateOptions()
    model = replace(model, folds=_folds(dataset, model, options.num_folds))
    points = {}
    if options.sweep is not None:
        for one in model.each():
            points[one.folds[0]] = sweep(dataset, one, options.sweep, config)
    measured = evaluate(PredictionSet.of_model(dataset, model, "val"), config)
    if options.pack and model.doubt_of_checkpoint:
        measured.notes.append(model.doubt_of_checkpoint)
    return Consolidated(model.folds, points, measured, pack(model, options.whole) if options.pack else None)


def _folds(dataset: Dataset, model: TrainedModel, count: int | None) -> tuple[int, ...]:
    """The folds that are asked for.

    Raises:
        UserError: they are not the trained ones.
    """
    root, trained = model.folder.root, model.folds
    folds = tuple(range(count or len(read_splits(splits_file(dataset.task, model.folder.fold(trained[0]))))))
    absent = [number for number in folds if number not in trained]
    for number in absent:
        if number in model.folder.unfinished_folds():
            model.folder.chosen_folds(number)  # tells how to finish it
    if absent:
        names = ", ".join(str(number) for number in absent)
        raise UserError(
            f"{root}: fold {names} not trained",
            remedy=f"train with nndet_train {dataset.task.name} -o exp.fold={absent[0]}, or give --num_folds",
        )
    extra = [number for number in trained if number not in folds]
    if extra:  # prediction and evaluation take all that are trained
        raise UserError(
            f"{root}: has {len(trained)} trained folds, asked for are {len(folds)}",
            remedy=f"give --num_folds {max(trained) + 1}, or move fold{extra[0]} elsewhere",
        )
    return folds
