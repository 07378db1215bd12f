"""``resolve``: what a user asks of ``nndet_train`` becomes a ``TrainingRun``, before anything is written."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cmb_plugin.dataset.domains import slug
from cmb_plugin.errors import UserError
from cmb_plugin.inference import InferenceConfig
from cmb_plugin.paths import FoldFolder, ModelFolder, TaskFolder, models_root
from cmb_plugin.planning import Plan
from cmb_plugin.plugins import import_additional, suggest, trainers
from cmb_plugin.settings import Overrides
from cmb_plugin.training import (
    AUGMENT_PRESETS,
    PRESETS,
    AugmentConfig,
    ExperimentConfig,
    TrainerConfig,
    TrainingModule,
    seed_all,
)
from cmb_plugin.training.config import WITHOUT

if TYPE_CHECKING:  # what begins with random weights reads none
    from cmb_plugin.models.initial_weights import InitialWeights

DEFAULT_TRAINER = "CMBRetinaUNet"
DEFAULT_PLAN = "D3CMB_3d"
MODES = ("new", "resume", "overwrite")


@dataclass(frozen=True)
class TrainingRun:
    """Everything that one call of ``train`` has decided before it begins.

    Attributes:
        task: the Task folder.
        plan: the plan to train.
        trainer: class of the module.
        preset: name of the preset that the settings began with.
        mode: ``new``, ``resume`` or ``overwrite``.
        settings: groups ``exp``, ``trainer_cfg``, ``augment_cfg``, ``model_cfg``, ``inference_cfg``.
        fold: folder that the run writes.
        initial: weights to begin with; None for random ones.
    """

    task: TaskFolder
    plan: Plan
    trainer: type[TrainingModule]
    preset: str
    mode: str
    settings: dict[str, Any]
    fold: FoldFolder
    initial: InitialWeights | None = None

    def module(self) -> TrainingModule:
        """The untrained module; its weights depend on the seed alone."""
        seed_all(self.settings["exp"].seed)
        return self.trainer(
            self.plan, self.settings["model_cfg"], self.settings["trainer_cfg"], self.settings["exp"].seed
        )


def resolve(folder: TaskFolder, overrides: Overrides) -> TrainingRun:
    """Turns the settings that a user gave into a ``TrainingRun``; nothing is written.

    Args:
        folder: of the task.
        overrides: ``module``, ``plan``, ``planner``, ``train``, ``augment``, ``train.mode``, ``train.init``,
            ``additional_imports`` and settings.

    Raises:
        UserError: an unknown trainer, preset or setting; a task without a plan.
    """
    overrides = overrides.copy()
    imports = overrides.take_imports()
    import_additional(imports)
    init, initial = overrides.take("train.init"), None
    if init is not None:
        from cmb_plugin.models.initial_weights import InitialWeights

        initial = InitialWeights.named(str(init), folder, _number(overrides))
        imports = list(dict.fromkeys([*imports, *initial.additional_imports]))
        import_additional(imports)
    name = str(overrides.take("module", initial.module if initial else DEFAULT_TRAINER))
    trainer = trainers.get(name)
    planner = overrides.take("planner")
    default_plan = f"{planner}_3d" if planner else trainer.default_plan or DEFAULT_PLAN
    if initial is not None and not planner and folder.plan(initial.plan_name).is_file():
        default_plan = initial.plan_name
    plan_name = str(overrides.take("plan", default_plan))
    if not folder.plan(plan_name).is_file():
        known = sorted(path.parent.name for path in folder.preprocessed.glob("*/plan.json"))
        raise UserError(
            f"{folder.name} has no plan '{plan_name}'",
            remedy=f"run nndet_prep {folder.name}"
            + (f", or -o plan=... with one of: {', '.join(known)}" if known else ""),
        )
    mode = str(overrides.take("train.mode", "new"))
    if mode not in MODES:
        raise UserError(f"unknown train.mode '{mode}'", remedy=suggest(mode, MODES))
    presets = {key: {**PRESETS.get(key, {}), **trainer.presets.get(key, {})} for key in {*PRESETS, *trainer.presets}}
    preset = overrides.take("train")
    usual = "finetune" if initial is not None else "v001" if torch.cuda.is_available() else "fast"
    preset = str(preset) if preset else usual
    if preset not in presets:
        raise UserError(f"unknown preset 'train={preset}'", remedy=suggest(preset, presets))
    augment = overrides.take("augment")
    if augment is not None and str(augment) not in AUGMENT_PRESETS:
        raise UserError(f"unknown preset 'augment={augment}'", remedy=suggest(str(augment), AUGMENT_PRESETS))
    plan = Plan.load(folder.plan(plan_name))
    if plan.target != trainer.target:
        raise UserError(
            f"{name} learns {trainer.target}, plan {plan_name} is one for {plan.target}",
            remedy="choose another plan=NAME or module=NAME",
        )
    network = trainer.migrated(initial.model_cfg) if initial is not None and initial.module == name else {}
    changes = {
        **trainer.defaults_for(plan),
        **presets[preset],
        **(AUGMENT_PRESETS[augment] if augment else {}),
        **{f"model_cfg.{key}": value for key, value in network.items()},
    }
    settings = overrides.below(changes).apply(
        exp=ExperimentConfig(),
        trainer_cfg=TrainerConfig(),
        augment_cfg=AugmentConfig(),
        model_cfg=trainer.model_config(),
        inference_cfg=InferenceConfig(),
    )
    begun = {"init": _begun_with(str(init), initial, folder)} if initial is not None else {}
    settings = {"module": name, "plan": plan_name, "train": preset, "additional_imports": imports, **begun, **settings}
    exp: ExperimentConfig = settings["exp"]
    model = model_folder(folder, name, plan_name, exp)
    return TrainingRun(folder, plan, trainer, preset, mode, settings, model.fold(exp.number), initial)


def _begun_with(text: str, initial: InitialWeights, task: TaskFolder) -> dict[str, Any]:
    """What a fold's settings keep of the weights that it began with."""
    seen = initial.seen_with(task)
    return {"from": text, "weights": initial.digest, **({"seen": dataclasses.asdict(seen)} if seen else {})}


def _number(overrides: Overrides) -> int:
    """Number of the fold that is asked for; settings are checked later."""
    fold = overrides.copy().take("exp.fold", 0)
    return fold if isinstance(fold, int) else 0


def model_folder(task: TaskFolder, trainer: str, plan: str, exp: ExperimentConfig) -> ModelFolder:
    """``{trainer}_{plan}[_without-{domain}][_{tag}]``: what has not seen a domain is a model of its own.

    Raises:
        UserError: the fold is none, or the tag would make a folder of another place.
    """
    if Path(f"_{exp.tag}").name != f"_{exp.tag}":
        raise UserError(f"exp.tag={exp.tag}: is a path", remedy="give a word without /, which ends the model's name")
    without = f"_{WITHOUT}-{slug(exp.without)}" if exp.without else ""
    return ModelFolder(models_root() / task.name / f"{trainer}_{plan}{without}{f'_{exp.tag}' if exp.tag else ''}")
