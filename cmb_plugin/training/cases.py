"""Cases as trainers meet them: prepared arrays to draw patches from, and labelled scans for a step after training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cmb_plugin.dataset import Case, Dataset
from cmb_plugin.detections import Detections
from cmb_plugin.inference import InferenceConfig, PatchDetector, predict_array, restore
from cmb_plugin.paths import TaskFolder
from cmb_plugin.preparation import StoredCase


@dataclass(frozen=True)
class PreparedCases:
    """Some of the prepared cases of a folder.

    Attributes:
        folder: ``preprocessed/{plan}/imagesTr``.
        case_ids: which of them.
        domain: case -> site, scanner or protocol, as far as anybody says and asks.
    """

    folder: Path
    case_ids: tuple[str, ...]
    domain: Mapping[str, str] = field(default_factory=dict, hash=False)

    def open(self, case_id: str) -> StoredCase:
        """One of them; its arrays are read where they are sliced."""
        return StoredCase.open(self.folder, case_id)


@dataclass(frozen=True)
class LabelledCases:
    """The scans that a trained fold is looked at with: its validation scans, or, where it has none, those it learned
    from.

    Attributes:
        task: the Task folder: classes, labels, and what else it says about its scans (``cmb_plugin.dataset``).
        prepared: the same scans as the network sees them.
        settings: how scans are tiled.
    """

    task: TaskFolder
    prepared: PreparedCases
    settings: InferenceConfig

    def labelled(self, most: int | None = None) -> list[Case]:
        """Those of the first ``most`` of them that have labels, for ``read_truth`` and its like."""
        chosen = set(self.prepared.case_ids[:most])
        return [
            case for case in Dataset.load(self.task).cases("Tr") if case.case_id in chosen and case.label is not None
        ]

    def predict(self, model: PatchDetector, case_id: str, device: torch.device | str, **changes: Any) -> Detections:
        """What a model finds in one of them, in voxels of the scan.

        Args:
            model: in evaluation mode.
            case_id: name of the scan.
            device: where the model is.
            changes: settings that differ, for instance ``tta=1``.
        """
        stored = self.prepared.open(case_id)
        prediction = predict_array([model], stored.data, dataclasses.replace(self.settings, **changes), device)
        return restore(prediction.detections, stored.mapping)
