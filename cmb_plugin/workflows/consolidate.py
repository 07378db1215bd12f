"""``consolidate``: the folds of a model measured together, and packed for other machines."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cmb_plugin.dataset import read_splits
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import OperatingPoint
from cmb_plugin.files import atomic
from cmb_plugin.models.ensemble import check_checkpoint, choose_model, trainer_of
from cmb_plugin.models.results import EvaluationRun
from cmb_plugin.models.scored_cases import splits_file
from cmb_plugin.paths import ModelFolder
from cmb_plugin.training import read_weights

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


def consolidate(
    task: str,
    model: str | None = None,
    num_folds: int | None = None,
    checkpoint: str = "last",
    *,
    sweep_again: bool = False,
    pack: bool = True,
    whole: bool = False,
    words: Sequence[str] = (),
) -> Consolidated:
    """Measures the validation scans of all folds together, and packs what prediction needs.

    Args:
        task, model: as for ``predict``.
        num_folds: folds 0 to ``num_folds - 1`` make the model; None for as many as the splits have.
        checkpoint: ``last`` or ``best``, the one that is packed.
        sweep_again: choose each fold's operating point first.
        pack: write ``consolidated/{model}``, a model folder of its own that names no patient.
        whole: pack checkpoints as they are, optimiser included, instead of their weights alone.
        words: overrides, ``eval_cfg.*`` and ``sweep_cfg.*``.

    Raises:
        UserError: a fold is not trained, or there is nothing to measure.
    """
    check_checkpoint(checkpoint)
    task_folder, folder, trained = choose_model(task, model, None)
    folds = range(num_folds or len(read_splits(splits_file(task_folder, folder.fold(trained[0])))))
    absent = [number for number in folds if number not in trained]
    for number in absent:
        if number in folder.unfinished_folds():
            folder.chosen_folds(number)  # tells how to finish it
    if absent:
        names = ", ".join(str(number) for number in absent)
        raise UserError(
            f"{folder.root}: fold {names} not trained",
            remedy=f"train with nndet_train {task_folder.name} -o exp.fold={absent[0]}, or give --num_folds",
        )
    extra = [number for number in trained if number not in folds]
    if extra:  # prediction and evaluation take all that are trained
        raise UserError(
            f"{folder.root}: has {len(trained)} trained folds, asked for are {len(folds)}",
            remedy=f"give --num_folds {max(trained) + 1}, or move fold{extra[0]} elsewhere",
        )
    known, name = str(task_folder.root), str(folder.root)
    points = {number: sweep(known, name, number, words) for number in folds} if sweep_again else {}
    measured = evaluate(known, name, words=[word for word in words if not word.startswith("sweep_cfg.")])
    packed = _pack(folder, folds, checkpoint, whole) if pack else None
    return Consolidated(tuple(folds), points, measured, packed)


def _pack(model: ModelFolder, folds: Sequence[int], checkpoint: str, whole: bool) -> Path:
    """A model folder with what prediction reads of each fold: no splits, no history, nothing that names a case."""
    target = ModelFolder(model.consolidated.root / model.name)
    shutil.rmtree(target.root, ignore_errors=True)
    for number in folds:
        source, fold = model.fold(number), target.fold(number)
        fold.root.mkdir(parents=True)
        own = [source.root / name for name in trainer_of(source).files]
        for path in (source.plan, source.settings, source.operating_point, *own):
            if path.is_file():
                shutil.copy2(path, fold.root / path.name)
        chosen = source.checkpoint(checkpoint)
        if whole:
            shutil.copy2(chosen, fold.last)
        else:
            with atomic(fold.last) as temporary:
                torch.save({"state_dict": read_weights(chosen)}, temporary)
        fold.mark(finished=True)
    return target.root
