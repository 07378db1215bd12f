"""``fit``: trains a module on prepared cases with Lightning."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from cmb_plugin.errors import UserError
from cmb_plugin.inference import InferenceConfig
from cmb_plugin.networks import resolve_precision
from cmb_plugin.paths import FoldFolder
from cmb_plugin.planning import Plan
from cmb_plugin.preparation import find_scheme
from cmb_plugin.workers import default_workers, keep_freed_memory

from .augmentation import Augmentation
from .averaging import WeightAveraging
from .callbacks import AtomicCheckpointIO, Checkpoints, TrainingProgress
from .cases import PreparedCases
from .config import AugmentConfig, TrainerConfig
from .finite import FiniteCheck
from .history import History
from .module import TrainingModule, read_checkpoint
from .painting import can_be_painted
from .patches import Sample, StepSampler, collate
from .validation import Validation, choose_validation_cases


def fit(
    module: TrainingModule,
    folder: FoldFolder,
    prepared: Path,
    train_ids: Sequence[str],
    val_ids: Sequence[str],
    augment_cfg: AugmentConfig,
    resume: bool = False,
    inference_cfg: InferenceConfig | None = None,
    domains: Mapping[str, str] | None = None,
) -> History:
    """Trains ``module`` and leaves checkpoints, ``history.csv`` and ``progress.png`` in ``folder``, and the module with
    its last weights on the device that it was trained on.

    Args:
        module: what to train, with its ``trainer_cfg``.
        folder: where the fold's files go.
        prepared: folder of prepared cases.
        train_ids: cases to learn from.
        val_ids: cases to validate on; may be empty.
        augment_cfg: random changes of the patches.
        resume: go on from ``model_last.ckpt``.
        inference_cfg: how validation scans are predicted, but for the overlap, which is ``validation_overlap``.
        domains: case -> site, scanner or protocol, for ``domain_balance``.

    Returns:
        the history of the run.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; the last finished epoch is saved.
        UserError: losses or weights are not finite; the epoch before is saved. Or settings that do not suit the plan or
            the machine.
    """
    config = module.trainer_cfg
    history = History(folder.root)
    averaging = WeightAveraging(first_epoch=config.epochs)
    validation = Validation(
        prepared,
        choose_validation_cases(prepared, val_ids, config.validation_cases),
        config.validate_every,
        dataclasses.replace(inference_cfg or InferenceConfig(), overlap=config.validation_overlap),
        averaging,
        history,
    )
    _quiet_lightning()
    keep_freed_memory()
    trainer = _trainer(
        config,
        default_root_dir=folder.root,
        precision=resolve_precision(config.precision, _device(config.accelerator)),
        max_epochs=config.epochs + config.swa_epochs,
        gradient_clip_val=config.gradient_clip or None,
        # Lightning calls checkpoint callbacks last, so the order here is: check, average, validate, record, show, save.
        callbacks=[
            FiniteCheck(),
            *module.callbacks(),
            *(averaging, validation, history, TrainingProgress(history), Checkpoints(folder, validation)),
        ],
        plugins=[AtomicCheckpointIO()],
        logger=_logger(folder.root),
        deterministic="warn" if config.deterministic else False,
        benchmark=not config.deterministic,
        use_distributed_sampler=False,  # StepSampler knows its rank
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    loader = _loader(module, PreparedCases(prepared, tuple(train_ids), domains or {}), augment_cfg, trainer)
    module.to(memory_format=torch.channels_last_3d)
    # Results do not hang on what uninitialised memory holds: no kernel here reads it. Filling it costs a write of every
    # tensor that is made.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if resume:
        # Worker processes begin to draw before Lightning says which epoch it is.
        assert isinstance(loader.sampler, StepSampler)
        loader.sampler.set_epoch(read_checkpoint(folder.last)["epoch"] + 1)
    try:
        trainer.fit(module, loader, ckpt_path=folder.last if resume else None, weights_only=True)
    except SystemExit as stop:  # Lightning's answer to Ctrl-C and SIGTERM, with exit codes 1 and 0
        raise KeyboardInterrupt from stop
    module.to(trainer.strategy.root_device)  # Lightning's teardown takes it to the CPU
    return history


def _loader(
    module: TrainingModule, cases: PreparedCases, augment_cfg: AugmentConfig, trainer: Trainer
) -> DataLoader[Sample]:
    config, plan, batch_size = module.trainer_cfg, module.plan, module.batch_size
    recipe = plan.preprocessing
    circular = [find_scheme(step.scheme).circular for step in recipe.normalisation]
    _check_painted(augment_cfg, plan)
    augmentation = Augmentation(
        plan.patch_size, recipe.spacing, augment_cfg, module.mirror_axes, circular, plan.polarities
    )
    sampler = StepSampler(config.steps_per_epoch, batch_size, trainer.global_rank, trainer.world_size)
    workers = config.num_workers
    if workers is None:
        cores = default_workers()
        workers = 0 if cores <= 2 else min(12, cores - 1)
    return DataLoader(
        module.patches(cases, augmentation, module.seed),
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=trainer.accelerator.__class__.__name__ == "CUDAAccelerator",
    )


def _check_painted(config: AugmentConfig, plan: Plan) -> None:
    """Raises a ``UserError`` where deposits cannot be painted."""
    if config.painted <= 0:
        return
    if plan.target != "lesions":
        raise UserError(f"augment_cfg.painted={config.painted}: the plan is for {plan.target}", remedy="leave it at 0")
    if not can_be_painted(plan):
        raise UserError(
            f"augment_cfg.painted: microbleeds are dark or bright in none of {', '.join(plan.modalities)}",
            remedy="leave it at 0",
        )
    if config.painted_class >= len(plan.classes):
        raise UserError(
            f"augment_cfg.painted_class={config.painted_class}: the classes are {', '.join(plan.classes)}",
            remedy=f"give a number from 0 to {len(plan.classes) - 1}",
        )


def seed_all(seed: int) -> None:
    """Seeds the weights; patches and sampling have their own generators."""
    seed_everything(seed, verbose=False)


def _trainer(config: TrainerConfig, **options: Any) -> Trainer:
    """Lightning's trainer on the devices of the settings.

    Raises:
        UserError: they are not there.
    """
    try:
        return Trainer(accelerator=config.accelerator, devices=config.devices, num_nodes=config.num_nodes, **options)
    except (MisconfigurationException, ValueError, TypeError, ImportError) as error:  # it is not of one mind
        reason = " ".join(str(error).split())
        raise UserError(
            f"trainer_cfg.accelerator={config.accelerator} trainer_cfg.devices={config.devices}: {reason}",
            remedy="nndet_env tells what this machine has; accelerator is auto, cpu, gpu or mps, devices a number",
        ) from error


def _device(accelerator: str) -> torch.device:
    """The device that ``trainer_cfg.accelerator`` means on this machine, for the first process."""
    cuda = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
    return torch.device("cuda" if cuda else "cpu")


def _logger(folder: Path) -> TensorBoardLogger | bool:
    """TensorBoard where it is installed; the history is written in any case."""
    if find_spec("tensorboard") is None:
        return False
    return TensorBoardLogger(folder, name="tensorboard", version="")


def _quiet_lightning() -> None:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Patches are drawn in this process on machines with few cores, on purpose: the cores are busy with the network.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Lightning 2.6 asks torch about trees of values by an old name; whoever trains cannot change that.
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
    # Validation is a callback here, because it predicts whole scans with averaged weights.
    warnings.filterwarnings("ignore", message=".*you have defined a `val.*|.*no `val_dataloader`.*")
