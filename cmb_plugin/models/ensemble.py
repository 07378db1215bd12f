"""``Ensemble``: trained folds in memory, and everything else that decides what they say."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cmb_plugin.dataset import CasePredictions
from cmb_plugin.errors import UserError
from cmb_plugin.inference import InferenceConfig, PatchDetector
from cmb_plugin.paths import FoldFolder
from cmb_plugin.planning import Plan
from cmb_plugin.plugins import import_additional, trainers
from cmb_plugin.settings import read_settings

from .operating_point import OperatingPoint
from .trained import TrainedModel

SCHEMA = 1
SHARED_BY_FOLDS = ("target", "modalities", "channels", "classes", "preprocessing", "patch_size")
"""What the plans of folds that predict together agree about."""


@dataclass(frozen=True)
class Ensemble:
    """The models that predict together.

    Attributes:
        model: the folds that were loaded.
        plan: of the first fold; the others prepare scans in the same way.
        members: one loaded model per fold.
        settings: of tiled prediction.
        device: where the members are.
        operating_point: what the folds' sweeps chose, or the default.
    """

    model: TrainedModel
    plan: Plan
    members: list[PatchDetector]
    settings: InferenceConfig
    device: torch.device
    operating_point: OperatingPoint

    @property
    def tolerates_missing(self) -> bool:
        """Whether all members predict scans that lack modalities."""
        return all(getattr(member, "tolerates_missing", False) for member in self.members)

    @property
    def scores(self) -> dict[str, str]:
        """What the columns mean by which detections may be ranked."""
        return dict(getattr(self.members[0], "scores", {}))

    def remarks(self, predictions: Sequence[CasePredictions]) -> list[str]:
        """What the trainer has to say about a run of prediction."""
        return self.members[0].remarks(predictions)

    def description(self) -> dict[str, Any]:
        """What the predictions depend on besides the scans, as plain data for ``run.json``."""
        point, checkpoint = self.operating_point, self.model.checkpoint
        files = {number: fold.checkpoint(checkpoint) for number, fold in self.model.fold_folders.items()}
        return {
            "schema": SCHEMA,
            "model": self.model.name,
            "folds": list(self.model.folds),
            "checkpoint": checkpoint,
            "checkpoint_sha256": self._digests(files),
            "settings": dataclasses.asdict(self.settings),
            "operating_point": {"score": point.score, "ranking": point.ranking, "source": point.origin},
            "classes": list(self.plan.classes),
        }

    def _digests(self, files: Mapping[int, Path]) -> dict[str, str]:
        """Of the weights of every fold; of a packed model those of its file, which unpacking does not change."""
        packed = self.model.packed
        if packed is not None:
            return {str(number): str(packed["weights_sha256"])[:16] for number in files}
        return {str(number): _digest(path) for number, path in files.items()}


def trainer_of(fold: FoldFolder) -> Any:
    """The class of the trainer that a fold was trained with.

    Raises:
        UserError: its settings name none, or one that is not installed.
    """
    content = read_settings(fold.settings)
    import_additional(content.get("additional_imports") or [])
    if not content.get("module"):
        raise UserError(f"{fold.settings}: names no module", remedy="restore the file, or train the fold again")
    return trainers.get(content["module"])


def load_ensemble(model: TrainedModel, device: torch.device, settings: InferenceConfig) -> Ensemble:
    """Loads one model per fold.

    Raises:
        UserError: a file is missing or damaged, or the folds do not fit together.
    """
    folds = model.fold_folders.values()
    members = [trainer_of(fold).load(fold, device, model.checkpoint) for fold in folds]
    plans = [Plan.load(fold.plan) for fold in folds]
    _check_alike(model, plans, [_network_settings(member) for member in members])
    return Ensemble(model, plans[0], members, settings, device, model.operating_point())


def _check_alike(model: TrainedModel, plans: Sequence[Plan], networks: Sequence[Mapping[str, Any]]) -> None:
    """Refuses folds that prepare scans in different ways, or whose networks say different things.

    Raises:
        UserError: the first difference.
    """
    first = model.folds[0]
    for (number, fold), plan, network in zip(model.fold_folders.items(), plans, networks, strict=True):
        remedy = f"predict with one fold (-f {number}), or train the folds alike"
        for what in SHARED_BY_FOLDS:
            if getattr(plan, what) != getattr(plans[0], what):
                raise UserError(f"{fold.plan}: its {what} differ from fold {first}'s", remedy=remedy)
        for key in sorted({*network, *networks[0]}):
            ours, theirs = network.get(key), networks[0].get(key)
            if ours != theirs:
                raise UserError(f"{fold.settings}: {key} is {ours}, fold {first}'s is {theirs}", remedy=remedy)


def _network_settings(member: PatchDetector) -> dict[str, Any]:
    """Module and ``model_cfg`` with their defaults: networks that differ here may give different columns."""
    config = getattr(member, "model_cfg", None)
    settings = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else {}  # type: ignore[arg-type]
    return {"module": type(member).__name__, **{f"model_cfg.{key}": value for key, value in settings.items()}}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
