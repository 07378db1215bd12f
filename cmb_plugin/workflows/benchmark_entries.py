"""What a benchmark consists of: methods, a budget, and an entry for every network that is to be trained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmb_plugin.dataset import Case, Dataset
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json
from cmb_plugin.paths import FoldFolder, ModelFolder, TaskFolder, models_root
from cmb_plugin.plugins import trainers

from .nnunet import NnunetTask, batch_size
from .train import DEFAULT_PLAN

PHASES = ("prep", "train", "predict", "eval")
NNUNET = "nnunet"
EPOCHS = 16  # a budget of steps is cut into about so many epochs


@dataclass(frozen=True)
class Budget:
    """How long every method trains: ``2000steps`` or ``30min``."""

    steps: int | None
    minutes: float | None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Reads ``2000steps``, ``30min`` or ``2h``.

        Raises:
            UserError: something else.
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(steps?|min|h)", text.strip())
        if not match or float(match[1]) <= 0:
            raise UserError(f"--budget {text}: not understood", remedy="give for instance 2000steps, 30min or 2h")
        if match[2].startswith("step"):
            return cls(max(1, int(float(match[1]))), None)
        return cls(None, float(match[1]) * (60 if match[2] == "h" else 1))


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: as the user wrote it, of a folder its last part.
        trainer, plan: of a method of this installation; empty for others.
        folder: predictions of somebody else.
    """

    name: str
    trainer: str = ""
    plan: str = ""
    folder: Path | None = None


@dataclass(frozen=True)
class Benchmark:
    """What one call was asked for."""

    tasks: tuple[str, ...]
    methods: tuple[Method, ...]
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    budget: Budget
    words: tuple[str, ...]
    output: Path
    phases: tuple[str, ...] = PHASES
    nnunet_memory_gb: float | None = None
    resamples: int = 2000


@dataclass(frozen=True)
class Entry:
    """One network: a method trained on one fold of a task with one seed."""

    benchmark: Benchmark
    task: TaskFolder
    method: Method
    fold: int
    seed: int

    @property
    def name(self) -> str:
        return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', self.method.name)}_fold{self.fold}_seed{self.seed}"

    @property
    def folder(self) -> Path:
        return self.benchmark.output / self.task.name

    @property
    def record(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def model(self) -> ModelFolder:
        tag = f"{self.benchmark.output.name}_seed{self.seed}"
        return ModelFolder(models_root() / self.task.name / f"{self.method.trainer}_{self.method.plan}_{tag}")

    @property
    def fold_folder(self) -> FoldFolder:
        return self.model.fold(self.fold)

    @property
    def nnunet(self) -> NnunetTask:
        return NnunetTask(self.task, self.folder / "nnunet")

    def predictions(self, split: str) -> Path:
        """The folder of predictions; ``split`` is ``val`` or ``test``."""
        if self.method.folder is not None:
            own = self.method.folder / self.task.name
            return own if own.is_dir() else self.method.folder
        if self.method.name == NNUNET:
            return self.folder / "nnunet" / f"{split}_predictions_fold{self.fold}_seed{self.seed}"
        return self.fold_folder.predictions(split)

    def state(self) -> dict[str, Any]:
        """The record, or that of an entry that has not begun.

        Raises:
            UserError: it was begun with another budget or other overrides.
        """
        asked = {"words": list(self.benchmark.words), "budget": _plain(self.benchmark.budget)}
        if not self.record.is_file():
            return {**asked, "finished": [], "seconds": {}, "steps": None}
        state = dict(read_json(self.record))
        for key, value in asked.items():
            if state.get(key) != value and {"train", "predict", "prep"} & set(self.benchmark.phases):
                raise UserError(
                    f"{self.record}: was begun with {key} {state.get(key)}, now it is {value}",
                    remedy="use the same as before, or another --output",
                )
        return state

    def is_finished(self) -> bool:
        return self.method.folder is not None or {"train", "predict"} <= set(self.state()["finished"])


def parse_methods(text: str) -> tuple[Method, ...]:
    """``RetinaUNetV001,CMBRetinaUNet:D3V001_3d,nnunet,path/to/predictions``.

    Raises:
        UserError: an unknown trainer, a folder that is not there, or a method twice.
    """
    methods = []
    for word in (word.strip() for word in text.split(",") if word.strip()):
        if word == NNUNET:
            methods.append(Method(word))
        elif "/" in word or Path(word).is_dir():
            path = Path(word).expanduser().resolve()
            if not path.is_dir():
                raise UserError(f"--models: {path} is no folder", remedy="name a folder of predictions")
            methods.append(Method(path.name, folder=path))
        else:
            name, _, plan = word.partition(":")
            trainers.get(name)
            methods.append(Method(word, trainer=name, plan=plan or DEFAULT_PLAN))
    names = [method.name for method in methods]
    if not methods or len(set(names)) < len(names):
        raise UserError(f"--models {text}: a method is missing or named twice", remedy="name each once")
    return tuple(methods)


def measured_split(task: TaskFolder) -> str:
    """``test`` where a test scan has a label, otherwise ``val``."""
    return "test" if any(case.label for case in Dataset.load(task).cases("Ts")) else "val"


def measured_cases(task: TaskFolder, fold: int) -> list[Case]:
    """The labelled test scans, or the validation scans of a fold where there are none."""
    dataset = Dataset.load(task)
    if measured_split(task) == "test":
        return [case for case in dataset.cases("Ts") if case.label]
    held_out = set(read_json(task.splits)[fold]["val"])
    return [case for case in dataset.cases("Tr") if case.case_id in held_out]


def steps_of(budget_steps: int) -> tuple[int, int]:
    """Epochs and steps of each, together about ``budget_steps``."""
    per_epoch = max(1, round(budget_steps / EPOCHS)) if budget_steps >= EPOCHS else budget_steps
    return max(1, round(budget_steps / per_epoch)), per_epoch


def split_words(words: Sequence[str]) -> dict[str, list[str]]:
    """Overrides by the command that takes them."""
    parts: dict[str, list[str]] = {"prep": [], "train": [], "predict": [], "eval": []}
    for word in words:
        key = word.lstrip("+").partition("=")[0]
        if key.startswith("planner_cfg."):
            parts["prep"].append(word)
        elif key.startswith("eval_cfg."):
            parts["eval"].append(word)
        elif key.startswith("inference_cfg."):
            parts["predict"].append(word)
        elif key == "additional_imports":
            for phase in ("prep", "train", "predict"):
                parts[phase].append(word)
        else:
            parts["train"].append(word)
    return parts


def _plain(budget: Budget) -> dict[str, Any]:
    return {"steps": budget.steps, "minutes": budget.minutes}


def patches_per_step(entry: Entry) -> int | None:
    """Patches of a step, by which budgets of different methods can be compared."""
    if entry.method.name == NNUNET:
        return batch_size(entry.nnunet)
    plan = entry.fold_folder.plan
    return int(read_json(plan)["batch_size"]) if plan.is_file() and "batch_size" in read_json(plan) else None
