"""``TrainingModule``: what every trainer inherits, and every place where it can do otherwise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lightning import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from cmb_plugin.dataset import CasePredictions
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import CaseResult
from cmb_plugin.inference import PatchDetections, PatchSegmenter
from cmb_plugin.networks import autocast, resolve_precision
from cmb_plugin.paths import FoldFolder
from cmb_plugin.planning import Plan
from cmb_plugin.settings import read_settings, typed
from cmb_plugin.workers import keep_freed_memory

from .augmentation import Augmentation
from .cases import LabelledCases, PreparedCases
from .config import TrainerConfig
from .patches import Batch, PatchDataset, Sample
from .schedule import learning_rate

RAW = "raw"
"""Name of the checkpoint that is the last one with the weights as they were before averaging."""


@dataclass
class ModelConfig:
    """Settings of a network (``-o model_cfg.*``). A trainer that has some names its own subclass in
    ``model_config``."""


class TrainingModule(LightningModule, ABC):
    """Base of all trainers: optimiser, schedule and loading are here; network and losses a subclass gives.

    ``DetectionModule`` and ``SegmentationModule`` say how a trained network predicts. Everything that a trainer may
    change stands under "Extension points"; the program knows no trainer by name, and this is all that it asks of one.

    Args:
        plan: what the planner decided.
        model_cfg: an instance of ``model_config``.
        trainer_cfg: schedule and precision.
        seed: of everything random in the losses.
    """

    def __init__(
        self, plan: Plan, model_cfg: ModelConfig | None = None, trainer_cfg: TrainerConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.plan = plan
        self.model_cfg = model_cfg or self.model_config()
        self.trainer_cfg = trainer_cfg or TrainerConfig()
        self.seed = seed
        self.patch_size = plan.patch_size
        self.network = self.build_network()

    # Extension points: what every trainer defines ---------------------------------------------------------------------

    @abstractmethod
    def build_network(self) -> nn.Module:
        """The network that the plan and the settings describe."""

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalar losses of a batch; training minimises their sum."""

    # Extension points: what a trainer may say of itself ---------------------------------------------------------------

    model_config: ClassVar[type[ModelConfig]] = ModelConfig
    """Dataclass of the network's settings."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    """Further named presets, ``{name: {dotted key: value}}``, or changes to the common ones."""

    @classmethod
    def defaults_for(cls, plan: Plan) -> dict[str, Any]:
        """Settings, ``{dotted key: value}``, whose usual values are others for this trainer and plan than for all;
        presets and what a user gives come on top."""
        return {}

    target: ClassVar[str] = "lesions"
    """What it learns, as in ``Plan.target``."""

    default_plan: ClassVar[str] = ""
    """Plan that ``nndet_train`` takes where none is named; empty for the program's own."""

    @classmethod
    def migrated(cls, model_cfg: dict[str, Any]) -> dict[str, Any]:
        """The settings of a network that was trained before some of today's existed, so that it stays what it was.

        A setting that is missing takes its default; a trainer whose new default would build another network says here
        what it was.

        Args:
            model_cfg: as ``settings.yaml`` of a trained fold has them.
        """
        return model_cfg

    tolerates_missing: ClassVar[bool] = False
    """Whether it learns from, and predicts, scans that lack some of the plan's modalities; their channels are 0."""

    leaves_out_unjudged: ClassVar[bool] = False
    """Whether its losses look at ``Batch.judged``; others refuse cases that were judged in places only."""

    files: ClassVar[tuple[str, ...]] = ()
    """Names of its own files in the folder of a fold that prediction reads (``load``), such as ``after_training``
    writes. A packed model holds them, so they name no case."""

    scores: ClassVar[dict[str, str]] = {}
    """Columns ``score_*`` of its detections, by any of which they may be ranked, and what each means, half a sentence.
    ``nndet_sweep`` chooses among them; ``run.json`` says what they mean."""

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes of a patch, 0 z, 1 y, 2 x, along which it may be mirrored in training and prediction."""
        return (0, 1, 2)

    @property
    def halo(self) -> tuple[int, int, int] | None:
        """Voxels along z, y, x beyond which a patch does not change the answer, as ``PatchDetector.halo`` describes
        it; a scan is then predicted in few large tiles, exactly. None, by default, where the answer may depend on the
        whole patch, and overlapping tiles of ``patch_size`` are merged."""
        return None

    @property
    def divisor(self) -> tuple[int, int, int]:
        """Sides of a patch are multiples of this, along z, y, x; asked for where there is a ``halo``."""
        return self.plan.architecture.divisor

    # Extension points: what a trainer may do, in the order in which it is asked ---------------------------------------

    def callbacks(self) -> list[Callback]:
        """Lightning callbacks of its own, called before the program's: these average weights, validate and save. What
        they remember travels in the checkpoint (``Callback.state_dict``)."""
        return []

    def patches(self, cases: PreparedCases, augmentation: Augmentation, seed: int) -> Dataset[Sample]:
        """The training patches, by default those of ``PatchDataset``.

        Item ``i`` depends on ``seed`` and ``i`` alone, so that a resumed run draws what an uninterrupted one would:
        batch ``b`` of a run holds the items ``b * batch_size`` to ``(b + 1) * batch_size - 1``, and no item is drawn
        twice. Worker processes hold copies of the data set.

        Args:
            cases: what is learned from.
            augmentation: random changes of a patch by the settings of the run.
            seed: of the run.
        """
        return PatchDataset(cases, **self.patch_settings(augmentation, seed))

    def patch_settings(self, augmentation: Augmentation, seed: int) -> dict[str, Any]:
        """The keyword arguments of ``PatchDataset``, and of what derives from it, by the plan and the settings of the
        run; for trainers with ``patches`` of their own."""
        return {
            "batch_size": self.batch_size,
            "foreground_fraction": self.trainer_cfg.foreground_fraction,
            "augmentation": augmentation,
            "patch_size": self.plan.patch_size,
            "seed": seed,
            "domain_balance": self.trainer_cfg.domain_balance,
        }

    def learn_from_validation(self, cases: Sequence[CaseResult]) -> None:
        """Takes what the last validation found in whole scans, and what is there; for trainers that choose something by
        it. Called for lesions only, with the weights of training in place."""

    def after_training(self, fold: FoldFolder, cases: LabelledCases) -> None:
        """A step after training, before the fold's scans are predicted and measured.

        Called once, in the first process, for the module as ``load`` gives it: with the weights that predict, in
        evaluation mode, on the device of the training (``self.device``).

        Args:
            fold: where a trainer writes its ``files``.
            cases: scans with their truth.
        """

    def remarks(self, predictions: Sequence[CasePredictions]) -> list[str]:
        """What a user should be told after a run of prediction, a sentence each.

        Args:
            predictions: all scans of the run, those of earlier runs in the same folder included.
        """
        return []

    # Training ---------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The sum of the losses as ``loss``, to be minimised, and each of them; ``FiniteCheck`` looks at them later."""
        losses = self.losses(batch)
        total = torch.stack(list(losses.values())).sum()
        return {"loss": total, **{name: value.detach() for name, value in losses.items()}}

    @property
    def batch_size(self) -> int:
        """Patches per step and process."""
        return self.trainer_cfg.batch_size or self.plan.batch_size

    def step_generator(self) -> torch.Generator:
        """A generator that depends on seed, step and rank alone, so that a resumed run draws what an uninterrupted
        one would."""
        generator = torch.Generator()
        generator.manual_seed((self.seed * 1_000_003 + self.global_step) * 1009 + self.global_rank)
        return generator

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser of ``trainer_cfg`` with ``learning_rate`` at each step.

        Raises:
            UserError: there is no such optimiser.
        """
        config = self.trainer_cfg
        # Decay pulls weights of convolutions only: scales and shifts of norms and biases are not decayed.
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        optimizer: Optimizer
        if config.optimizer == "sgd":
            nesterov = config.momentum > 0  # torch refuses it without momentum, where it changes nothing
            optimizer = torch.optim.SGD(groups, lr=1.0, momentum=config.momentum, nesterov=nesterov)
        elif config.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, lr=1.0)
        else:
            raise UserError(f"unknown trainer_cfg.optimizer '{config.optimizer}'", remedy="known: adamw, sgd")
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, config))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Loading ----------------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, fold: FoldFolder, device: torch.device | str = "cpu", checkpoint: str = "last") -> Self:
        """A trained module, ready to predict: in evaluation mode, with averaged weights where training made them.

        Args:
            fold: folder of the trained fold.
            device: where to put it.
            checkpoint: ``last``, ``best``, or ``raw``: the last one's weights before averaging.

        Raises:
            UserError: a file is missing, or does not fit this trainer.
        """
        device = torch.device(device)
        plan = Plan.load(fold.plan)
        settings = read_settings(fold.settings)
        module = cls(
            plan,
            typed(cls.model_config, cls.migrated(settings.get("model_cfg", {})), str(fold.settings)),
            typed(TrainerConfig, settings.get("trainer_cfg", {}), str(fold.settings)),
        )
        path = fold.checkpoint(checkpoint)
        weights = read_weights(path, averaged=checkpoint != RAW)
        try:
            module.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(
                f"{path}: does not fit {cls.__name__} ({str(error).splitlines()[-1].strip()})",
                remedy="plan.json or settings.yaml beside it was changed after training; restore it",
            ) from None
        # A model trained in float16 on a GPU also predicts on a CPU.
        if module.trainer_cfg.precision == "16-mixed" and device.type == "cpu":
            module.trainer_cfg.precision = "auto"
        resolve_precision(module.trainer_cfg.precision, device)
        keep_freed_memory()
        return module.to(device, memory_format=torch.channels_last_3d).eval()


class DetectionModule(TrainingModule):
    """Base of trainers that find lesions patch by patch."""

    @abstractmethod
    def find(self, images: Tensor) -> tuple[list[PatchDetections], Tensor | None]:
        """Detections in a batch of patches, as ``PatchDetector.detect`` describes them."""

    def detect(self, patches: Tensor) -> tuple[list[PatchDetections], Tensor | None]:
        """``PatchDetector.detect``: patches [B, C, Z, Y, X] -> detections of each and foreground probability [B, Z,
        Y, X]."""
        with torch.inference_mode(), autocast(patches.device, self.trainer_cfg.precision):
            return self.find(patches)


class SegmentationModule(TrainingModule, PatchSegmenter):
    """Base of trainers that give every voxel a class.

    Tiles, mirrorings and folds are averaged as probabilities; what becomes of these, a map of regions or lesions with
    scores, is decided by the plan's target.
    """

    @abstractmethod
    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities [B, K, Z, Y, X] float32, background first, of patches [B, C, Z, Y, X]."""

    def segment(self, patches: Tensor) -> Tensor:
        """``PatchSegmenter.segment``."""
        with torch.inference_mode(), autocast(patches.device, self.trainer_cfg.precision):
            return self.probabilities(patches)


def read_weights(path: Path, averaged: bool = True) -> dict[str, Tensor]:
    """The weights of a checkpoint that predict: averaged ones where training made them and they are wanted.

    Raises:
        UserError: the file is missing or damaged.
    """
    content = read_checkpoint(path)
    weights: dict[str, Tensor] = (averaged and content.get("averaged_weights")) or content["state_dict"]
    return weights


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint; only tensors and plain data are accepted.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", remedy="train the fold with nndet_train") from None
    except Exception as error:  # torch raises several classes for damaged files
        raise UserError(
            f"{path}: not readable as a checkpoint ({str(error).splitlines()[0]})", remedy="train again"
        ) from None
