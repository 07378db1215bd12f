"""Validation during training: whole scans are predicted and scored, as they will be in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from cmb_plugin.evaluation import CaseResult, dice_scores, mean_dice, measure
from cmb_plugin.inference import InferenceConfig, predict_array, segment_array
from cmb_plugin.preparation import StoredCase

from .averaging import WeightAveraging
from .history import History
from .module import TrainingModule


class Validation(Callback):
    """Every ``every`` epochs and after the last, predicts the validation scans and adds ``val_*`` figures to the
    history.

    Boxes and regions are compared in the network's own voxels, so nothing has to be read from scans; under DDP the
    scans are shared out.

    Args:
        folder: of prepared cases.
        case_ids: scans to predict; none for no validation.
        every: epochs between two validations.
        inference_cfg: how they are predicted; the foreground, which nothing is measured by, is left out.
        averaging: puts averaged weights into the network where there are some.
        history: gets the figures.

    Attributes:
        score: FROC score of the last validation, or of regions the mean Dice; None before the first, and after an epoch
            without one.
    """

    def __init__(
        self,
        folder: Path,
        case_ids: Sequence[str],
        every: int,
        inference_cfg: InferenceConfig,
        averaging: WeightAveraging,
        history: History,
    ) -> None:
        self.folder = folder
        self.case_ids = list(case_ids)
        self.every = every
        self.inference_cfg = replace(inference_cfg, foreground=False)
        self.averaging = averaging
        self.history = history
        self.score: float | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validates if it is time; every process predicts its share, and all get the figures of all scans."""
        assert isinstance(pl_module, TrainingModule)
        self.score = None
        epoch = trainer.current_epoch + 1
        if not self.case_ids or (epoch % self.every and epoch != trainer.max_epochs):
            return
        mine = self.case_ids[trainer.global_rank :: trainer.world_size]
        predict, measure = _MEASURES[pl_module.plan.target]
        pl_module.eval()
        with self.averaging.applied(pl_module):
            results = [
                predict(pl_module, StoredCase.open(self.folder, case_id), self.inference_cfg) for case_id in mine
            ]
        pl_module.train()
        results = _gathered(results, trainer)
        figures = measure(results, pl_module.plan.classes)
        if pl_module.plan.target == "lesions":
            pl_module.learn_from_validation(results)
        self.history.add(figures)
        self.score = next(iter(figures.values()))


def choose_validation_cases(folder: Path, case_ids: Sequence[str], count: int | None) -> list[str]:
    """``count`` of the cases, half of them with lesions and half without as far as there are such; None for all.

    A FROC score needs lesions, and false positives are counted in healthy scans too. Of each kind the first are taken,
    so the choice is the same in each process and each run.

    Args:
        folder: of prepared cases.
        case_ids: the validation cases of the fold.
        count: how many.
    """
    if count is None or count >= len(case_ids):
        return list(case_ids)
    with_lesions = [case_id for case_id in case_ids if len(StoredCase.open(folder, case_id).labels)]
    healthy = [case_id for case_id in case_ids if case_id not in with_lesions]
    in_turn = [case_id for case_id in chain(*zip_longest(with_lesions, healthy)) if case_id is not None]
    chosen = set(in_turn[:count])
    return [case_id for case_id in case_ids if case_id in chosen]


def _find_lesions(module: Any, case: StoredCase, config: InferenceConfig) -> CaseResult:
    prediction = predict_array([module], case.data, config, module.device)
    return CaseResult(
        case_id=case.case_id,
        detections=prediction.detections,
        truth_boxes=case.all_boxes,
        truth_labels=case.all_labels,
        spacing=module.plan.preprocessing.spacing,
    )


def _compare_regions(module: Any, case: StoredCase, config: InferenceConfig) -> np.ndarray:
    """[K] Dice of every region."""
    regions = segment_array([module], case.data, config, module.device).argmax(axis=0)
    return dice_scores(regions, case.instances[:], len(module.plan.classes))


def region_figures(cases: Sequence[np.ndarray], classes: Sequence[str]) -> dict[str, float | None]:
    """The figures of one validation of regions: Dice of each, averaged over the scans, and the mean of these."""
    means = mean_dice(np.array(cases))
    known = [value for value in means if value is not None]
    overall = sum(known) / len(known) if known else None
    return {"val_dice": overall, **{f"val_dice_{name}": mean for name, mean in zip(classes, means, strict=True)}}


def validation_figures(cases: Sequence[CaseResult], classes: Sequence[str]) -> dict[str, float | None]:
    """The figures of one validation: FROC score and sensitivity at one false positive per scan, by centre distance."""
    metrics = measure(cases, classes)
    return {"val_froc_score": metrics["froc_score"], "val_sensitivity": metrics["froc"]["1"]}


_MEASURES: dict[str, tuple[Any, Any]] = {
    "lesions": (_find_lesions, validation_figures),
    "regions": (_compare_regions, region_figures),
}
"""For each target of a plan: what is done with one scan, and the figures of all scans, of which the first is the
score."""


def _gathered(results: list[Any], trainer: Trainer) -> list[Any]:
    if trainer.world_size == 1:
        return results
    parts: list[list[Any] | None] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, results)
    return [result for part in parts if part for result in part]
