"""``DarkSpots``: a few convolutions that mark lesions, with every hook of a trainer in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from cmb_plugin.dataset import CasePredictions, read_truth
from cmb_plugin.evaluation import match_by_distance
from cmb_plugin.files import read_json, write_json
from cmb_plugin.inference import PatchDetections, component_detections
from cmb_plugin.paths import FoldFolder
from cmb_plugin.plugins import register_trainer
from cmb_plugin.training import (
    Augmentation,
    Batch,
    DetectionModule,
    LabelledCases,
    ModelConfig,
    PreparedCases,
    Sample,
    read_region,
)

CALIBRATION = "calibration.json"


@dataclass
class DarkSpotsConfig(ModelConfig):
    """Settings of ``DarkSpots`` (``-o model_cfg.*``).

    Attributes:
        width: channels of the convolutions.
        floor: probability from which voxels are put together to detections.
    """

    width: int = 8
    floor: float = 0.1


class MiddlePatches(Dataset[Sample]):
    """Every second patch has a lesion in its middle, the others lie anywhere. Item ``i`` depends on ``seed`` and ``i``
    alone."""

    def __init__(self, cases: PreparedCases, patch_size: Sequence[int], seed: int) -> None:
        self.cases, self.patch_size, self.seed = cases, np.asarray(patch_size), seed
        self.lesions = [(case_id, box) for case_id in cases.case_ids for box in cases.open(case_id).boxes]

    def __getitem__(self, index: int) -> Sample:
        """Patch number ``index`` of the run; ``extra`` tells whether it was drawn around a lesion."""
        rng = np.random.default_rng([self.seed, index])
        centred = index % 2 == 1 and bool(self.lesions)
        if centred:
            case_id, box = self.lesions[rng.integers(len(self.lesions))]
            start = np.floor((box[:3] + box[3:] - self.patch_size) / 2).astype(int)
        else:
            case_id = self.cases.case_ids[rng.integers(len(self.cases.case_ids))]
            start = rng.integers(0, np.maximum(1, np.asarray(self.cases.open(case_id).shape) - self.patch_size + 1))
        case = self.cases.open(case_id)
        return Sample(
            image=torch.from_numpy(read_region(case.data, start, self.patch_size)),
            boxes=torch.zeros(0, 6),
            labels=torch.zeros(0, dtype=torch.int64),
            foreground=torch.from_numpy((read_region(case.instances, start, self.patch_size) > 0).astype(np.uint8)),
            extra={"centred": torch.tensor(float(centred))},
        )


@register_trainer
class DarkSpots(DetectionModule):
    """Voxels of lesions by three convolutions; scores are the share of detections of that probability that are right on
    the validation scans."""

    model_config = DarkSpotsConfig
    model_cfg: DarkSpotsConfig
    default_plan: ClassVar[str] = "SpotPlanner_3d"
    files: ClassVar[tuple[str, ...]] = (CALIBRATION,)
    centred: Tensor
    calibrated_on: int = 0

    def build_network(self) -> nn.Module:
        """[B, C, Z, Y, X] -> logits [B, 1, Z, Y, X]."""
        self.register_buffer("centred", torch.zeros(()))  # patches around lesions that were learned from
        width = self.model_cfg.width
        return nn.Sequential(
            nn.Conv3d(len(self.plan.modalities), width, 3, padding=1),
            nn.ReLU(),
            nn.Conv3d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv3d(width, 1, 1),
        )

    def patches(self, cases: PreparedCases, augmentation: Augmentation, seed: int) -> Dataset[Sample]:
        """Lesions in the middle, never augmented."""
        return MiddlePatches(cases, self.plan.patch_size, seed)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy in which the voxels of lesions weigh ten times."""
        self.centred += batch.extra["centred"].sum()
        truth = batch.foreground.float()
        logits = self.network(batch.images)[:, 0].float()
        return {"voxels": F.binary_cross_entropy_with_logits(logits, truth, weight=1 + 9 * truth)}

    def find(self, images: Tensor) -> tuple[list[PatchDetections], Tensor | None]:
        """Connected voxels above the floor."""
        probability = self.network(images)[:, 0].float().sigmoid()
        return [self._of_patch(patch.cpu().numpy()) for patch in probability], probability

    def _of_patch(self, probability: np.ndarray) -> PatchDetections:
        found = component_detections(np.stack([1 - probability, probability]), self.model_cfg.floor)
        tensors: dict[str, Any] = {name: torch.from_numpy(values) for name, values in found.columns.items()}
        return PatchDetections(
            torch.from_numpy(found.boxes), torch.from_numpy(found.scores), torch.from_numpy(found.labels), tensors
        )

    def after_training(self, fold: FoldFolder, cases: LabelledCases) -> None:
        """Counts right and wrong detections of the validation scans."""
        right = wrong = 0
        labelled = cases.labelled()
        for case in labelled:
            truth = read_truth(case, len(self.plan.classes))
            detections = cases.predict(self, case.case_id, self.device, foreground=False)
            matched = match_by_distance(detections.boxes, truth.boxes, truth.grid.spacing, 5.0) >= 0
            right, wrong = right + int(matched.sum()), wrong + int((~matched).sum())
        content = {"scans": len(labelled), "right": right, "wrong": wrong, "centred": int(self.centred)}
        write_json(fold.root / CALIBRATION, content)

    @classmethod
    def load(cls, fold: FoldFolder, device: torch.device | str = "cpu", checkpoint: str = "last") -> Self:
        """As ``TrainingModule.load``, with what the step after training has found."""
        module = super().load(fold, device, checkpoint)
        if (fold.root / CALIBRATION).is_file():
            module.calibrated_on = read_json(fold.root / CALIBRATION)["scans"]
        return module

    def remarks(self, predictions: Sequence[CasePredictions]) -> list[str]:
        """How many scans stand behind the numbers."""
        return [f"{len(predictions)} scans by a model that was calibrated on {self.calibrated_on}"]
