"""The verbs as a command line calls them, with tasks, models and folds by name, for tests that need their results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmb_plugin.commands.names import device_named, find_folds, find_model, find_task, region_choice, task_of_models
from cmb_plugin.dataset import Dataset
from cmb_plugin.evaluation import EvaluationConfig, SweepConfig
from cmb_plugin.models.operating_point import OperatingPoint
from cmb_plugin.models.results import EvaluationRun
from cmb_plugin.models.scored_cases import PredictionSet
from cmb_plugin.settings import Overrides
from cmb_plugin.workflows import evaluate as evaluation
from cmb_plugin.workflows import predict as prediction
from cmb_plugin.workflows.scan_selection import ScanSelection


def predict(
    task: str,
    model: str | None = None,
    fold: int | None = None,
    *,
    input: Path | None = None,
    output: Path | None = None,
    split: str = "test",
    without: Sequence[str] = (),
    overrides: Sequence[str] = (),
    regions: str = "none",
    device: str | None = None,
    workers: int = 0,  # starting a process takes longer than the whole case
    overwrite: bool = False,
    **kwargs: Any,
) -> prediction.PredictReport:
    """``workflows.predict.predict``."""
    folder = find_task(task) if input is None else task_of_models(task, model)
    folds = find_folds(find_model(folder, model), fold)
    config = Overrides.parse(overrides).apply(inference_cfg=folds.inference_config())["inference_cfg"]
    options = prediction.PredictOptions(
        config,
        None if device is None else device_named(device),
        output,
        region_choice(regions, folder),
        workers,
        overwrite,
    )
    return prediction.predict(
        folds, ScanSelection(folder, split, () if input is None else (input,), tuple(without)), options, **kwargs
    )


def predictions(task: str, model: str | None = None, fold: int | None = None, split: str = "val") -> PredictionSet:
    """What a model predicted."""
    dataset = Dataset.load(find_task(task))
    return PredictionSet.of_model(dataset, find_folds(find_model(dataset.task, model), fold), split)


def evaluate(
    task: str,
    model: str | None = None,
    fold: int | None = None,
    split: str = "val",
    predictions_folder: Path | None = None,
    output: Path | None = None,
    overrides: Sequence[str] = (),
) -> EvaluationRun:
    """``workflows.evaluate.evaluate``."""
    config = Overrides.parse(overrides).apply(eval_cfg=EvaluationConfig())["eval_cfg"]
    if predictions_folder is not None:
        measured = PredictionSet.of_folder(Dataset.load(find_task(task)), predictions_folder, split)
    else:
        measured = predictions(task, model, fold, split)
    return evaluation.evaluate(measured, config, output)


def sweep(
    task: str, model: str | None = None, fold: int | None = None, overrides: Sequence[str] = ()
) -> OperatingPoint:
    """``workflows.evaluate.sweep``."""
    settings = Overrides.parse(overrides).apply(sweep_cfg=SweepConfig(), eval_cfg=EvaluationConfig())
    dataset = Dataset.load(find_task(task))
    folds = find_folds(find_model(dataset.task, model), fold)
    return evaluation.sweep(dataset, folds, settings["sweep_cfg"], settings["eval_cfg"])
