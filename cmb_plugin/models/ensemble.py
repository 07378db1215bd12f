"""Which trained models predict together, and what else decides what they say."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cmb_plugin.dataset import CasePredictions
from cmb_plugin.errors import UserError
from cmb_plugin.inference import InferenceConfig, PatchDetector
from cmb_plugin.paths import FoldFolder, ModelFolder, TaskFolder, data_root, find_model, find_task, models_root
from cmb_plugin.planning import Plan
from cmb_plugin.plugins import import_additional, trainers
from cmb_plugin.settings import read_settings

from .operating_point import Swept, swept_point

SCHEMA = 1
CHECKPOINTS = ("last", "best")
SHARED_BY_FOLDS = ("target", "modalities", "channels", "classes", "preprocessing", "patch_size")
"""What the plans of folds that predict together agree about."""
DEFAULT_SCORE = 0.5  # operating point where no sweep has chosen one


@dataclass(frozen=True)
class Ensemble:
    """The models that predict together, and everything that decides what they say.

    Attributes:
        model: the model folder.
        folds: the folds used.
        checkpoint: ``last`` or ``best``.
        plan: of the first fold; the others prepare scans in the same way.
        members: one loaded model per fold.
        settings: of tiled prediction.
        score: operating point.
        ranking: column that the score is taken from; None for the one that the models give.
        score_source: where it comes from, as half a sentence.
        device: where the members are.
        swept: all that the folds' sweeps chose; None where there was none.
    """

    model: ModelFolder
    folds: tuple[int, ...]
    checkpoint: str
    plan: Plan
    members: list[PatchDetector]
    settings: InferenceConfig
    score: float
    ranking: str | None
    score_source: str
    device: torch.device
    swept: Swept | None = None

    @property
    def tolerates_missing(self) -> bool:
        """Whether all members predict scans that lack modalities."""
        return all(getattr(member, "tolerates_missing", False) for member in self.members)

    def remarks(self, predictions: Sequence[CasePredictions]) -> list[str]:
        """What the trainer has to say about a run of prediction."""
        return self.members[0].remarks(predictions)

    def description(self) -> dict[str, Any]:
        """What the predictions depend on besides the scans, as plain data for ``run.json``."""
        files = {fold: self.model.fold(fold).checkpoint(self.checkpoint) for fold in self.folds}
        return {
            "schema": SCHEMA,
            "model": self.model.name,
            "folds": list(self.folds),
            "checkpoint": self.checkpoint,
            "checkpoint_sha256": {str(fold): _digest(path) for fold, path in files.items()},
            "settings": dataclasses.asdict(self.settings),
            "operating_point": {"score": self.score, "ranking": self.ranking, "source": self.score_source},
            "classes": list(self.plan.classes),
        }


def choose_model(
    task: str, model: str | None, fold: int | None, *, num_models: int | None = None, data_needed: bool = True
) -> tuple[TaskFolder, ModelFolder, list[int]]:
    """The Task folder, model folder and folds that the words of a command mean.

    Args:
        task: number, name or path of the Task folder.
        model: name or path; None when there is only one.
        fold: None or -1 for all that are trained.
        num_models: only the first so many.
        data_needed: False accepts a task of which only models are here.

    Raises:
        UserError: something is not there; what is, is listed.
    """
    try:
        folder = find_task(task)
    except UserError:
        model_is_path = model is not None and Path(model).is_dir()
        if data_needed or not (model_is_path or (models_root() / task).is_dir()):
            raise
        folder = TaskFolder(data_root() / task)
    model_folder = find_model(folder, model)
    folds = model_folder.chosen_folds(fold)
    return folder, model_folder, folds[:num_models] if num_models and num_models > 0 else folds


def check_checkpoint(name: str) -> None:
    """Refuses a name that no checkpoint has.

    Raises:
        UserError: it is none of ``CHECKPOINTS``.
    """
    if name not in CHECKPOINTS:
        raise UserError(f"unknown checkpoint '{name}'", remedy=f"known: {', '.join(CHECKPOINTS)}")


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


def load_ensemble(
    model: ModelFolder, folds: Sequence[int], device: torch.device, checkpoint: str, settings: InferenceConfig
) -> Ensemble:
    """Loads one model per fold.

    Raises:
        UserError: a file is missing or damaged, or the folds do not fit together.
    """
    check_checkpoint(checkpoint)
    members, plans = [], []
    for number in folds:
        fold = model.fold(number)
        members.append(trainer_of(fold).load(fold, device, checkpoint))
        plans.append(Plan.load(fold.plan))
    for number, plan in zip(folds, plans, strict=True):
        for what in SHARED_BY_FOLDS:
            if getattr(plan, what) != getattr(plans[0], what):
                raise UserError(
                    f"{model.fold(number).plan}: its {what} differ from fold {folds[0]}'s",
                    remedy="predict with one fold (-f), or train the folds with one plan",
                )
    for number, member in zip(folds, members, strict=True):
        ours, first = _network_settings(member), _network_settings(members[0])
        for key in sorted({*ours, *first}):
            if ours.get(key) != first.get(key):
                raise UserError(
                    f"{model.fold(number).settings}: {key} is {ours.get(key)}, fold {folds[0]}'s is {first.get(key)}",
                    remedy="predict with one fold (-f), or train the folds alike",
                )
    swept = swept_point([model.fold(number) for number in folds])
    score, ranking, source = DEFAULT_SCORE, None, "the default: nndet_sweep has chosen none yet"
    if swept is not None:
        score, ranking = swept.score, swept.ranking
        by = f", of {ranking}" if ranking else ""
        source = f"swept on the validation cases of {', '.join(swept.folds)}{by}"
    return Ensemble(model, tuple(folds), checkpoint, plans[0], members, settings, score, ranking, source, device, swept)


def _network_settings(member: PatchDetector) -> dict[str, Any]:
    """Module and ``model_cfg`` with their defaults: networks that differ here may give different columns."""
    config = getattr(member, "model_cfg", None)
    settings = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else {}  # type: ignore[arg-type]
    return {"module": type(member).__name__, **{f"model_cfg.{key}": value for key, value in settings.items()}}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
