"""A training that goes on, and folds beside each other, are of one model: what must not have changed between them."""

from __future__ import annotations

from typing import Any

from cmb_plugin.errors import UserError
from cmb_plugin.inference import InferenceConfig
from cmb_plugin.models.ensemble import SHARED_BY_FOLDS
from cmb_plugin.paths import FoldFolder
from cmb_plugin.planning import Plan
from cmb_plugin.settings import plain_settings, read_settings
from cmb_plugin.training import AugmentConfig, TrainerConfig

from .training_run import TrainingRun


def check_unchanged(run: TrainingRun) -> None:
    """A resumed run must be the run that began: same plan, same settings.

    Raises:
        UserError: something differs; the first difference is named.
    """
    before = _flat(_with_all_settings(run, read_settings(run.fold.settings)))
    now = _flat(plain_settings(run.settings))
    for key in dict.fromkeys([*now, "init.weights"]):  # which are missing where train.init was left out
        value = now.get(key)
        if key.startswith(
            "init.seen."
        ):  # follows from init.weights; a Task may have gone since, and older folds lack it
            continue
        if before.get(key) != value:
            raise UserError(
                f"{run.fold.settings}: {key} was {before.get(key)} when training began, now it is {value}",
                remedy="resume with the overrides that the training began with, or use exp.tag=NAME for a new one",
            )
    if Plan.load(run.fold.plan) != run.plan:
        raise UserError(
            f"{run.fold.plan}: the task's plan has changed since training began",
            remedy="train afresh with train.mode=overwrite, or use exp.tag=NAME",
        )


def _with_all_settings(run: TrainingRun, stored: dict[str, Any]) -> dict[str, Any]:
    """The settings of a fold of the run's trainer, with those that did not exist when it was trained."""
    groups = {"trainer_cfg": TrainerConfig(), "augment_cfg": AugmentConfig(), "inference_cfg": InferenceConfig()}
    defaults = plain_settings({**groups, "model_cfg": run.trainer.model_config()})
    known = {**stored, "model_cfg": run.trainer.migrated(stored.get("model_cfg") or {})}
    return {**known, **{name: {**own, **(known.get(name) or {})} for name, own in defaults.items()}}


def check_other_folds(run: TrainingRun) -> None:
    """Folds of one model predict together, so they must be one model: same module, same network, same scans.

    Raises:
        UserError: another fold differs; the first difference is named.
    """
    remedy = "give the overrides that the other fold was trained with, or exp.tag=NAME for a model of its own"
    ours = plain_settings({key: run.settings[key] for key in ("module", "plan", "model_cfg")})
    for other in sorted(run.fold.root.parent.glob("fold*/settings.yaml")):
        if other.parent == run.fold.root:
            continue
        theirs = _flat(_with_all_settings(run, read_settings(other)))
        for key, value in _flat(ours).items():
            if theirs.get(key) != value:
                raise UserError(f"{other}: {key} is {theirs.get(key)}, here it is {value}", remedy=remedy)
        plan = Plan.load(FoldFolder(other.parent).plan)
        for name in SHARED_BY_FOLDS:
            if getattr(plan, name) != getattr(run.plan, name):
                raise UserError(f"{other.parent}: the {name} of its plan are not those of the plan now", remedy=remedy)


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    return {
        k: v for key, value in values.items() for k, v in _flat(value, f"{prefix}.{key}" if prefix else key).items()
    }
