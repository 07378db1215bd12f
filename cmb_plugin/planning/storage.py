"""Plans in a Task folder: written, and known from those that a person edited."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cmb_plugin.dataset import Dataset
from cmb_plugin.errors import UserError
from cmb_plugin.files import write_text
from cmb_plugin.paths import TaskFolder

from .plan import Plan


def write_plan(folder: TaskFolder, plan: Plan, given: Path | None) -> Path:
    """Writes the plan into its folder, unless another stands there that was edited by hand.

    A digest beside it tells a planner's file from an edited one.

    Raises:
        UserError: the plan there was edited; how to keep it and how to drop it is said.
    """
    path = folder.plan(plan.name)
    written = path.with_name(".plan.sha256")
    if given is not None and path.is_file() and path.resolve() == given.resolve():
        return path
    if path.is_file() and not (written.is_file() and written.read_text(encoding="utf-8") == _digest(path)):
        try:
            edited = Plan.load(path) != plan
        except UserError:
            edited = True
        if edited:
            raise UserError(f"{path}: was edited by hand", remedy=f"keep it with -o plan={path}, or delete it")
    plan.save(path)
    if given is None:
        write_text(written, _digest(path))
    else:
        written.unlink(missing_ok=True)
    return path


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_fitting_plan(path: Path, dataset: Dataset) -> Plan:
    """A plan file of the user's, checked against the data set.

    Raises:
        UserError: it is no plan, or is one for other modalities or classes.
    """
    plan = Plan.load(path)
    modalities = plan.used(dataset.modalities) if plan.n_files <= len(dataset.modalities) else dataset.modalities
    classes = dataset.classes if plan.target == "lesions" else dataset.regions
    for what, names in (("modalities", modalities), ("classes", classes)):
        if getattr(plan, what) != names:
            ours, theirs = ", ".join(names), ", ".join(getattr(plan, what))
            raise UserError(
                f"{path}: its {what} are {theirs}, the data set's {ours}", remedy="plan this data set itself"
            )
    return plan
