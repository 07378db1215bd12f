"""Validation during training: whole scans are predicted and scored, as they will be in the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from cmb_plugin.evaluation import CaseResult, evaluate
from cmb_plugin.inference import InferenceConfig, predict_array
from cmb_plugin.preparation import StoredCase

from .averaging import WeightAveraging
from .history import History
from .module import DetectionModule


class Validation(Callback):
    """Every ``every`` epochs and after the last, predicts the validation scans and adds ``val_*`` figures to the
    history.

    Boxes are compared in the network's own voxels, so nothing has to be read from scans; under DDP the scans are
    shared out.

    Attributes:
        score: FROC score of the last validation; None before the first, and after an epoch without one.
    """

    def __init__(
        self,
        folder: Path,
        case_ids: Sequence[str],
        every: int,
        overlap: float,
        averaging: WeightAveraging,
        history: History,
    ) -> None:
        self.folder = folder
        self.case_ids = list(case_ids)
        self.every = every
        self.overlap = overlap
        self.averaging = averaging
        self.history = history
        self.score: float | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DetectionModule)
        self.score = None
        epoch = trainer.current_epoch + 1
        if not self.case_ids or (epoch % self.every and epoch != trainer.max_epochs):
            return
        mine = self.case_ids[trainer.global_rank :: trainer.world_size]
        pl_module.eval()
        with self.averaging.applied(pl_module):
            results = [self._predict(pl_module, case_id) for case_id in mine]
        pl_module.train()
        figures = validation_figures(_gathered(results, trainer), pl_module.plan.classes)
        self.history.add(figures)
        self.score = figures["val_froc_score"]

    def _predict(self, module: DetectionModule, case_id: str) -> CaseResult:
        case = StoredCase.open(self.folder, case_id)
        config = InferenceConfig(overlap=self.overlap, foreground=False)
        prediction = predict_array([module], case.data, config, module.device)
        return CaseResult(
            case_id=case_id,
            detections=prediction.detections,
            truth_boxes=case.boxes,
            truth_labels=case.labels,
            spacing=module.plan.preprocessing.spacing,
        )


def validation_figures(cases: Sequence[CaseResult], classes: Sequence[str]) -> dict[str, float | None]:
    """The figures of one validation: FROC score and sensitivity at one false positive per scan, by centre distance."""
    metrics = evaluate(cases, classes)
    return {"val_froc_score": metrics["froc_score"], "val_sensitivity": metrics["froc"]["1"]}


def _gathered(results: list[CaseResult], trainer: Trainer) -> list[CaseResult]:
    if trainer.world_size == 1:
        return results
    parts: list[list[CaseResult] | None] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, results)
    return [result for part in parts if part for result in part]
