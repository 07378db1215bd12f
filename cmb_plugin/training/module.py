"""``DetectionModule``: what every trainer inherits - optimiser, schedule, validation on whole scans, loading."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import CaseResult
from cmb_plugin.inference import PatchDetections
from cmb_plugin.networks import autocast, keep_freed_memory, resolve_precision
from cmb_plugin.paths import FoldFolder
from cmb_plugin.planning import Plan
from cmb_plugin.settings import read_settings, typed

from .config import TrainerConfig
from .patches import Batch
from .schedule import learning_rate


@dataclass
class ModelConfig:
    """Settings of a network (``-o model_cfg.*``). A trainer that has some names its own subclass in
    ``model_config``."""


class DetectionModule(LightningModule):
    """Base of all trainers. A subclass gives a network, its losses and its detections; the rest is here.

    Class attributes to override:
        model_config: dataclass of the network's settings.
        presets: further named presets, ``{name: {dotted key: value}}``, or changes to the common ones.
        target: what it learns, as in ``Plan.target``.
        default_plan: plan that ``nndet_train`` takes where none is named; empty for the program's own.
        tolerates_missing: whether it learns from, and predicts, scans that lack some of the plan's modalities; their
            channels are 0.

    Args:
        plan: what the planner decided.
        model_cfg: an instance of ``model_config``.
        trainer_cfg: schedule and precision.
        seed: of everything random in the losses.
    """

    model_config: ClassVar[type[ModelConfig]] = ModelConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    target: ClassVar[str] = "lesions"
    default_plan: ClassVar[str] = ""
    tolerates_missing: ClassVar[bool] = False

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

    @property
    def lesion_free_background(self) -> bool:
        """Whether the patches of a batch that are not drawn around a lesion must hold none; else they lie anywhere."""
        return False

    @property
    def replay_fraction(self) -> float:
        """Share of the patches not drawn around a lesion that are drawn again where ``hardness`` was highest."""
        return 0.0

    hardness: Tensor | None = None
    """[B] how wrong the network was in each patch of the last training batch; for trainers that replay."""

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes of a patch, 0 z, 1 y, 2 x, along which it may be mirrored in training and prediction."""
        return (0, 1, 2)

    keep_embeddings: bool = False
    """Whether detections carry the column ``embedding`` [N, E], where a trainer learns a space of prototypes."""

    def prototype_space(self) -> tuple[Tensor, list[str]] | None:
        """Prototypes [K, E] and the kind of each, ``mimic`` or the name of a class; None where a trainer has none."""
        return None

    def learn_from_validation(self, cases: Sequence[CaseResult]) -> None:
        """Takes what the last validation found in whole scans, and what is there; for trainers that choose something by
        it. Called for lesions only, with the weights of training in place."""

    # What a trainer defines -------------------------------------------------------------------------------------------

    @abstractmethod
    def build_network(self) -> nn.Module:
        """The network that the plan and the settings describe."""

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalar losses of a batch; training minimises their sum."""

    @abstractmethod
    def find(self, images: Tensor) -> tuple[list[PatchDetections], Tensor | None]:
        """Detections in a batch of patches, as ``PatchDetector.detect`` describes them."""

    # Training ---------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The sum of the losses as ``loss``, to be minimised, and each of them; ``FiniteCheck`` looks at them later."""
        losses = self.losses(batch)
        total = torch.stack(list(losses.values())).sum()
        return {"loss": total, **{name: value.detach() for name, value in losses.items()}}

    def step_generator(self) -> torch.Generator:
        """A generator that depends on seed, step and rank alone, so that a resumed run draws what an uninterrupted
        one would."""
        generator = torch.Generator()
        generator.manual_seed((self.seed * 1_000_003 + self.global_step) * 1009 + self.global_rank)
        return generator

    def configure_optimizers(self) -> OptimizerLRScheduler:
        config = self.trainer_cfg
        # Decay pulls weights of convolutions only: scales and shifts of norms and biases are not decayed.
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        optimizer: Optimizer
        if config.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, lr=1.0, momentum=config.momentum, nesterov=True)
        elif config.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, lr=1.0)
        else:
            raise UserError(f"unknown trainer_cfg.optimizer '{config.optimizer}'", remedy="known: adamw, sgd")
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, config))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Prediction -------------------------------------------------------------------------------------------------------

    def detect(self, patches: Tensor) -> tuple[list[PatchDetections], Tensor | None]:
        """``PatchDetector.detect``: patches [B, C, Z, Y, X] -> detections of each and foreground probability [B, Z,
        Y, X]."""
        with torch.inference_mode(), autocast(patches.device, self.trainer_cfg.precision):
            return self.find(patches)

    @classmethod
    def load(cls, fold: FoldFolder, device: torch.device | str = "cpu", checkpoint: str = "last") -> Self:
        """A trained module, ready to predict: in evaluation mode, with averaged weights where training made them.

        Args:
            fold: folder of the trained fold.
            device: where to put it.
            checkpoint: ``last`` or ``best``.

        Raises:
            UserError: a file is missing, or does not fit this trainer.
        """
        device = torch.device(device)
        plan = Plan.load(fold.plan)
        settings = read_settings(fold.settings)
        module = cls(
            plan,
            typed(cls.model_config, settings.get("model_cfg", {}), str(fold.settings)),
            typed(TrainerConfig, settings.get("trainer_cfg", {}), str(fold.settings)),
        )
        path = fold.checkpoint(checkpoint)
        weights = read_weights(path)
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


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint that predict: averaged ones where training made them.

    Raises:
        UserError: the file is missing or damaged.
    """
    content = read_checkpoint(path)
    weights: dict[str, Tensor] = content.get("averaged_weights") or content["state_dict"]
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
