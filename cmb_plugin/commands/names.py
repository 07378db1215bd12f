"""What the names, numbers and paths of a command line mean: the only place that knows them as text."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cmb_plugin.errors import UserError
from cmb_plugin.models.shipped import is_packed_name, packed_file
from cmb_plugin.paths import ModelFolder, TaskFolder, data_root, models_root
from cmb_plugin.plugins import suggest

if TYPE_CHECKING:
    import torch

    from cmb_plugin.cluster import Cluster
    from cmb_plugin.models.trained import TrainedModel
    from cmb_plugin.regions.sources import RegionChoice

ALL_FOLDS = -1  # nnDetection's number for all folds together
REGION_FORMS = "auto, model:NAME, parcellation:DIR, atlas:FILE[:LABELS.tsv], atlas:builtin, none"


def find_task(task: str, root: Path | None = None) -> TaskFolder:
    """The Task folder that ``task`` means: a number (``101``), a name (``CMB``), both (``Task101_CMB``) or a path.

    As in nnDetection a number may have letters behind it (``101FG``, ``000D3``), and stands without them for the one
    Task that has it with letters, where none has it alone.

    Raises:
        UserError: none or several fit.
    """
    if "/" in task and Path(task).is_dir():
        return TaskFolder(Path(task).resolve())
    root = root or data_root()
    folders = sorted(path for path in root.glob("Task*") if path.is_dir()) if root.is_dir() else []
    number = task.removeprefix("Task")
    matches = [
        folder
        for folder in folders
        if folder.name == task
        or folder.name.partition("_")[2] == task
        or folder.name.partition("_")[0] == f"Task{number}"
        or (number.isdecimal() and _task_number(folder) == int(number))
    ]
    if not matches and number.isdecimal():
        matches = [folder for folder in folders if _task_number(folder, before="[A-Za-z]") == int(number)]
    if len(matches) == 1:
        return TaskFolder(matches[0])
    if matches:
        raise UserError(f"'{task}' fits several tasks in {root}", remedy=f"name one: {_joined(matches)}")
    hint = suggest(task, [folder.name for folder in folders])
    raise UserError(f"no task '{task}' in {root}", remedy=f"{hint}; det_data says where Tasks lie")


def new_task(
    name: str, pattern: str = r"Task\d+_[A-Za-z0-9_.-]+", example: str = "Task101_CMB", option: str = "--task"
) -> TaskFolder:
    """The Task folder in ``$det_data`` that a command shall fill; ``option`` is what the user named it by.

    Raises:
        UserError: the name is no Task folder's.
    """
    if not re.fullmatch(pattern, name):
        raise UserError(f"{option} {name}: not the name of a Task folder", remedy=f"name it like {example}")
    return TaskFolder(data_root() / name)


def find_model(task: TaskFolder, model: str | None = None, root: Path | None = None) -> ModelFolder:
    """The trained model that ``model`` means: its folder's name, a path, a packed model, or None when there is only
    one, models of regions not counted unless there are no others.

    Raises:
        UserError: none or several fit.
    """
    if model is not None and is_packed_name(model):
        from cmb_plugin.models.packed import unpacked

        return unpacked(packed_file(model))
    if model and "/" in model and Path(model).is_dir():
        return ModelFolder(Path(model).resolve())
    folder = (root or models_root()) / task.name
    trained = sorted(path for path in folder.glob("*") if ModelFolder(path).trained_folds()) if folder.is_dir() else []
    matches = [path for path in trained if model is None or path.name == model]
    if len(matches) > 1:
        matches = [path for path in matches if ModelFolder(path).target == "lesions"] or matches
    if len(matches) == 1:
        return ModelFolder(matches[0])
    if len(matches) > 1:
        raise UserError(f"{task.name} has several models in {folder}", remedy=f"name one: {_joined(matches)}")
    for path in sorted(folder.glob("*")):
        if model in (None, path.name) and ModelFolder(path).unfinished_folds():
            ModelFolder(path).chosen_folds(None)  # tells how to finish it
    if model:
        hint = suggest(model, [path.name for path in trained])
        raise UserError(
            f"no trained model '{model}' in {folder}", remedy=f"train it with nndet_train {task.name}; {hint}"
        )
    raise UserError(
        f"no trained model of {task.name} in {folder}", remedy=f"run nndet_train {task.name}, or set det_models"
    )


def model_of(task: str, model: str | None, has_input: bool) -> tuple[TaskFolder, ModelFolder]:
    """Task and model of a command that predicts: ``TASK [MODEL]``, or a packed model alone, which needs an input.

    Args:
        task, model: as given.
        has_input: whether other scans than the Task's are to be predicted, so that a Task that is not here will do.

    Raises:
        UserError: one of them is not there.
    """
    if model is None and is_packed_name(task):
        folder = find_model(TaskFolder(data_root() / Path(task).stem), task)
        if not has_input:
            remedy = f"add --input SCANS --output DIR, or name a Task before it: nndet_predict TASK {task} --output DIR"
            raise UserError(f"{task}: a packed model has no scans of its own", remedy=remedy)
        return TaskFolder(data_root() / folder.name), folder
    found = task_of_models(task, model) if has_input else find_task(task)
    return found, find_model(found, model)


def predicting_model(
    task: str | None, model: str | None, fold: int, fp_per_scan: float | None
) -> tuple[TaskFolder, TrainedModel]:
    """Task and folds of a command that predicts an input, by ``--task``, ``--model``, ``-f`` and ``--fp-per-scan``.

    Raises:
        UserError: one of them is not there, or no Task is named and the model is no packed one.
    """
    if task is None and not is_packed_name(model):
        remedy = "name the Task whose trained model predicts, as in nndet_predict, or --model pretrained"
        raise UserError("--task is missing", remedy=remedy)
    named, model_name = (str(model), None) if task is None else (task, model)
    found, folder = model_of(named, model_name, has_input=True)
    return found, replace(find_folds(folder, fold), fp_per_scan=fp_per_scan)


def find_folds(folder: ModelFolder, fold: int | None = None, checkpoint: str = "last") -> TrainedModel:
    """The fold with a number, or all trained folds together (None or -1).

    Raises:
        UserError: there are none, or the fold is not trained; those that are, are listed.
    """
    from cmb_plugin.models.trained import TrainedModel

    left_out = folder.unfinished_folds() if fold is None or fold == ALL_FOLDS else []
    return TrainedModel(folder, tuple(folder.chosen_folds(fold)), checkpoint, tuple(left_out))


def task_of_models(task: str, model: str | None) -> TaskFolder:
    """As ``find_task``, but a task of which only models are here will do.

    Raises:
        UserError: there are neither scans nor models of it.
    """
    try:
        return find_task(task)
    except UserError:
        model_is_path = model is not None and (Path(model).is_dir() or is_packed_name(model))
        if not (model_is_path or (models_root() / task).is_dir()):
            raise
        return TaskFolder(data_root() / task)


def split_named(flags: Mapping[str, bool], default: str) -> str:
    """The split that a flag names; without one the default.

    Raises:
        UserError: several flags were given.
    """
    chosen = [split for split, given in flags.items() if given]
    if len(chosen) > 1:
        raise UserError(f"both {' and '.join(chosen)} scans are asked for", remedy="give one of the flags")
    return chosen[0] if chosen else default


def device_named(name: str | None, here: bool = True) -> torch.device | None:
    """``cpu``, ``cuda``, ``cuda:1``, ...; None where none is named.

    Args:
        name: as given.
        here: whether this machine works on it.

    Raises:
        UserError: it cannot be used.
    """
    if name is None:
        return None
    import torch

    try:
        device = torch.device(name)
        if here:
            torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device '{name}' cannot be used ({reason})", remedy="leave --device out, or use cpu") from None
    return device


@contextmanager
def machines_named(text: str | None) -> Iterator[Cluster | None]:
    """The machines that ``--scheduler`` names; None where it is not given.

    Raises:
        UserError: it names none, or none that answer.
    """
    if text is None:
        yield None
        return
    from cmb_plugin.schedulers import open_cluster

    with open_cluster(text, log=lambda note: print(note, file=sys.stderr)) as cluster:
        yield cluster


def region_choice(text: str, task: TaskFolder) -> RegionChoice | None:
    """What ``--regions`` means; None for ``none``.

    Args:
        text: ``auto``, ``model:NAME``, ``parcellation:DIR``, ``atlas:FILE[:LABELS.tsv]``, ``atlas:builtin``, ``none``.
        task: whose region models ``model:NAME`` means.

    Raises:
        UserError: no such kind of source, or no such model.
    """
    from cmb_plugin.regions import sources

    kind, _, rest = text.partition(":")
    if text == "none":
        return None
    if text == sources.AUTO:
        return partial(sources.automatic_source, task=task)
    if kind == sources.MODEL and rest:
        return partial(sources.model_source, folder=find_model(task, rest))
    if kind == sources.PARCELLATION and rest:
        return partial(sources.parcellation_source, folder=Path(rest))
    if kind == sources.ATLAS and rest:
        file, _, table = rest.partition(":")
        return partial(sources.atlas_source, file=file, table=table)
    raise UserError(f"--regions {text}: no known source of regions", remedy=f"known: {REGION_FORMS}")


def file_patterns(text: str) -> dict[str, str]:
    """What ``--channels swi=*_swi.nii.gz,phase=*_phase.nii.gz`` means: modality -> pattern.

    Raises:
        UserError: it has another form.
    """
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name.strip() and pattern.strip() for name, _, pattern in pairs):
        raise UserError(f"--channels {text}: is no list of NAME=PATTERN", remedy="write swi=*_swi.nii.gz,phase=...")
    return {name.strip(): pattern.strip() for name, _, pattern in pairs}


def check_resamples(number: int) -> None:
    """Raises a ``UserError`` for a number of bootstrap resamples that is none."""
    if number < 0:
        raise UserError(f"--resamples {number}: is less than none", remedy="give 0 or more")


def _task_number(folder: Path, before: str = "_|$") -> int:
    """Number of a Task folder before a pattern: alone by default, not as in ``Task101FG_CMB``; -1 without one."""
    match = re.match(rf"Task(\d+)(?={before})", folder.name)
    return int(match[1]) if match else -1


def _joined(folders: Iterable[Path]) -> str:
    return ", ".join(folder.name for folder in folders)
