"""What a benchmark consists of: methods, a budget, and an entry for every network that is to be trained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmb_plugin.dataset import Case, Dataset, read_splits
from cmb_plugin.dataset.domains import UNNAMED, slug
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import EvaluationConfig
from cmb_plugin.files import read_json
from cmb_plugin.paths import FoldFolder, ModelFolder, TaskFolder
from cmb_plugin.plugins import trainers
from cmb_plugin.settings import read_settings
from cmb_plugin.training import ExperimentConfig
from cmb_plugin.training.config import WITHOUT
from cmb_plugin.workflows.training_run import DEFAULT_PLAN, model_folder

from .nnunet import NnunetTask, batch_size

PHASES = ("prep", "train", "predict", "eval")
NNUNET = "nnunet"
EPOCHS = 16  # a budget of steps is cut into about so many epochs
TAKEN = {  # settings that the benchmark decides, and how
    "module": "--models TRAINER",
    "plan": "--models TRAINER:PLAN",
    "planner": "--models TRAINER:PLAN",
    "train.mode": "nothing: what has begun goes on",
    "exp.fold": "--folds",
    "exp.seed": "--seeds",
    "exp.tag": "--output, whose name marks the model folders",
}

MEASURED = ("eval_cfg.match_mm", "eval_cfg.operating_point")
"""Of how detections are compared what changes the tables; which numbers they have is the same for all."""


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
        name: in tables; as the user wrote it, of a folder its last part.
        trainer, plan: of a method of this installation; empty for others.
        overrides: overrides of its own, on top of the benchmark's.
        folder: predictions of somebody else.
    """

    name: str
    trainer: str = ""
    plan: str = ""
    overrides: tuple[str, ...] = ()
    folder: Path | None = None

    @property
    def is_nnunet(self) -> bool:
        """Whether the real nnU-Net is trained."""
        return not self.trainer and self.folder is None

    @property
    def made_by(self) -> str:
        """Trainer and plan, whatever the name in tables: what a record is of."""
        return f"{self.trainer}:{self.plan}" if self.trainer else NNUNET

    @property
    def slug(self) -> str:
        """The name as it stands in file names: of ``+ FFM + HSPL`` it is ``FFM_HSPL``."""
        return re.sub(r"[^A-Za-z0-9.-]+", "_", self.name).strip("_")

    @property
    def mark(self) -> str:
        """What tells its model folders from those of the plain trainer with the same plan."""
        plain = not self.overrides and self.name in (self.trainer, f"{self.trainer}:{self.plan}")
        return "" if plain else f"_{self.slug}"


@dataclass(frozen=True)
class Benchmark:
    """What one call was asked for; ``overrides`` are those of all methods, ``jobs`` networks train side by side, and
    with ``by_domain`` each without one of the task's domains, in place of ``folds``."""

    tasks: tuple[TaskFolder, ...]
    methods: tuple[Method, ...]
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    budget: Budget
    overrides: tuple[str, ...]
    output: Path
    phases: tuple[str, ...] = PHASES
    nnunet_memory_gb: float | None = None
    resamples: int = 2000
    jobs: int = 1
    by_domain: bool = False

    def __post_init__(self) -> None:
        check_overrides(self.overrides)
        for method in self.methods if self.by_domain else ():
            if not method.trainer:
                raise UserError(
                    f"--models {method.name}: cannot be trained without a domain",
                    remedy="name trainers of this installation with --folds domains",
                )

    def entries(self, task: TaskFolder) -> list[Entry]:
        """Every network of a task: a seed with all methods, then the next. Folders of predictions stand there once."""
        if self.by_domain:
            return [
                Entry(self, task, method, 0, seed, domain)
                for seed in self.seeds
                for domain in domains_of(task)
                for method in self.methods
            ]
        return [
            Entry(self, task, method, fold, seed)
            for seed in self.seeds
            for fold in self.folds
            for method in self.methods
            if method.folder is None or (seed, fold) == (self.seeds[0], self.folds[0])
        ]


@dataclass(frozen=True)
class Entry:
    """One network: a method trained on one fold of a task, or without one of its domains, with one seed."""

    benchmark: Benchmark
    task: TaskFolder
    method: Method
    fold: int
    seed: int
    without: str = ""

    @property
    def name(self) -> str:
        """Method, fold or domain, and seed as they stand in file names."""
        part = f"{WITHOUT}-{slug(self.without)}" if self.without else f"fold{self.fold}"
        return f"{self.method.slug}_{part}_seed{self.seed}"

    @property
    def overrides(self) -> tuple[str, ...]:
        """Overrides of the benchmark, then those of the method, which win."""
        return (*self.benchmark.overrides, *self.method.overrides)

    @property
    def folder(self) -> Path:
        """Where the task's records, logs and nnU-Net's folders lie."""
        return self.benchmark.output / self.task.name

    @property
    def record(self) -> Path:
        """What is finished, how long it took and by which commands; see ``state``."""
        return self.folder / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """What the child processes printed."""
        return self.folder / f"{self.name}.log"

    @property
    def tag(self) -> str:
        """Tag of the model folder: it tells benchmarks, methods and seeds apart."""
        return f"{self.benchmark.output.name}{self.method.mark}_seed{self.seed}"

    @property
    def model(self) -> ModelFolder:
        """The model folder that a trainer writes."""
        return self.model_tagged(self.tag)

    def model_tagged(self, tag: str) -> ModelFolder:
        """The model folder of another tag."""
        exp = ExperimentConfig(self.trained_fold, tag, self.seed)
        return model_folder(self.task, self.method.trainer, self.method.plan, exp)

    @property
    def trained_fold(self) -> int | str:
        """``exp.fold`` of its training."""
        return f"{WITHOUT}:{self.without}" if self.without else self.fold

    @property
    def fold_folder(self) -> FoldFolder:
        """The fold of ``model`` that this entry trains."""
        return self.model.fold(self.fold)

    @property
    def nnunet(self) -> NnunetTask:
        """The task as nnU-Net sees it."""
        return NnunetTask(self.task, self.folder / "nnunet")

    def predictions(self, split: str) -> Path:
        """The folder of predictions; ``split`` is ``val`` or ``test``."""
        if self.method.folder is not None:
            own = self.method.folder / self.task.name
            return own if own.is_dir() else self.method.folder
        if self.method.is_nnunet:
            return self.folder / "nnunet" / f"{split}_predictions_fold{self.fold}_seed{self.seed}"
        return self.fold_folder.predictions(split)

    def state(self) -> dict[str, Any]:
        """The record, or that of an entry that has not begun.

        Raises:
            UserError: it was begun with another method of this name, another budget or other overrides.
        """
        asked = {
            "trainer": self.method.made_by,
            "words": list(self.overrides),
            "budget": _plain(self.benchmark.budget),
        }
        if not self.record.is_file():
            about = {"method": self.method.name, "fold": self.trained_fold, "seed": self.seed}
            return {**about, **asked, "finished": [], "seconds": {}, "steps": None, "commands": {}}
        # Records of before do not say what they are of.
        state = {"commands": {}, "trainer": self.method.made_by, **read_json(self.record)}
        for key, value in asked.items():
            if state.get(key) != value and {"train", "predict", "prep"} & set(self.benchmark.phases):
                raise UserError(
                    f"{self.record}: was begun with {key} {_shown(state.get(key))}, now it is {_shown(value)}",
                    remedy="use the same as before, or another --output",
                )
        if self.method.trainer and not self.fold_folder.root.is_dir():
            state |= {"finished": [], "seconds": {}}  # somebody removed the model to have it trained anew
        return state

    def is_finished(self) -> bool:
        """Whether the predictions are there: given, or trained and predicted."""
        return self.method.folder is not None or {"train", "predict"} <= set(self.state()["finished"])


def parse_methods(text: str) -> tuple[Method, ...]:
    """``RetinaUNetV001, nnunet, path/to/predictions, no mimics: CMBRetinaUNet:D3CMB_3d model_cfg.hspl=false``.

    Commas stand between methods (those in brackets do not count). Each is ``[NAME: ]WHAT [KEY=VALUE ...]``.

    Raises:
        UserError: an unknown trainer, a folder that is not there, a method twice, an override that it cannot have.
    """
    methods = [_method(part.strip()) for part in re.split(r",(?![^\[]*\])", text) if part.strip()]
    slugs = [method.slug.casefold() for method in methods]
    models = [(m.trainer, m.plan, m.mark if m.trainer else "") for m in methods if m.folder is None]  # one folder each
    if not methods or len(set(slugs)) < len(slugs) or len(set(models)) < len(models):
        raise UserError(f"--models {text}: a method is missing or named twice", remedy="name each once")
    return tuple(methods)


def _method(text: str) -> Method:
    title, named, rest = text.partition(": ")
    body = rest.strip() if named else text
    name = title.strip() if named else body
    what, *overrides = body.split() or [""]
    if "/" in what or Path(body).is_dir():
        path = Path(body).expanduser().resolve()
        if not path.is_dir():
            raise UserError(f"--models: {path} is no folder", remedy="name a folder of predictions")
        return Method(name if named else path.name, folder=path)
    check_overrides(overrides)
    parts = split_overrides(overrides)
    if parts["prep"] or parts["eval"] or (what == NNUNET and overrides):
        raise UserError(
            f"--models {text}: these overrides cannot be of one method alone",
            remedy="eval_cfg, planner_cfg, additional_imports go to -o, another plan to TRAINER:PLAN; nnunet has none",
        )
    if what == NNUNET:
        return Method(name)
    trainer, _, plan = what.partition(":")
    trainers.get(trainer)
    return Method(name, trainer, plan or DEFAULT_PLAN, tuple(overrides))


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuses overrides of what the benchmark decides, and those of evaluation that its tables have no number of.

    Raises:
        UserError: naming the option that says it, or the command that has such numbers.
    """
    for override in overrides:
        key, equals, _ = override.lstrip("+").partition("=")
        if not equals:
            raise UserError(f"override '{override}' is not key=value", remedy="write for instance model_cfg.hspl=false")
        if key in TAKEN:
            raise UserError(f"'{override}': is decided by the benchmark", remedy=f"say it by {TAKEN[key]}")
        name = key.removeprefix("eval_cfg.")
        if name != key and key not in MEASURED and hasattr(EvaluationConfig, name):
            raise UserError(
                f"'{override}': changes no number of the tables",
                remedy="give --resamples"
                if name == "resamples"
                else "run nndet_eval on the models, which measures more",
            )


def domains_of(task: TaskFolder) -> list[str]:
    """The domains of a task's training scans, sorted.

    Raises:
        UserError: there are not two.
    """
    domains = sorted({case.domain or UNNAMED for case in Dataset.load(task).cases("Tr")})
    if len(domains) < 2:
        raise UserError(
            f"{task.name}: has one domain", remedy="join Tasks with nndet_merge, or see docs/domains.md for their names"
        )
    return domains


def measured_split(task: TaskFolder) -> str:
    """``test`` where a test scan has a label, otherwise ``val``."""
    return "test" if any(case.label for case in Dataset.load(task).cases("Ts")) else "val"


def measured_cases(task: TaskFolder, fold: int) -> list[Case]:
    """The labelled test scans, or the validation scans of a fold where there are none."""
    dataset = Dataset.load(task)
    if measured_split(task) == "test":
        return [case for case in dataset.cases("Ts") if case.label]
    held_out = set(read_splits(task.splits)[fold]["val"])
    return [case for case in dataset.cases("Tr") if case.case_id in held_out]


def steps_of(budget_steps: int) -> tuple[int, int]:
    """Epochs and steps of each, together about ``budget_steps``."""
    per_epoch = max(1, round(budget_steps / EPOCHS)) if budget_steps >= EPOCHS else budget_steps
    return max(1, round(budget_steps / per_epoch)), per_epoch


def split_overrides(overrides: Sequence[str]) -> dict[str, list[str]]:
    """Overrides by the command that takes them."""
    parts: dict[str, list[str]] = {"prep": [], "train": [], "predict": [], "eval": []}
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        if key.startswith("planner_cfg."):
            parts["prep"].append(override)
        elif key.startswith("eval_cfg."):
            parts["eval"].append(override)
        elif key.startswith("inference_cfg."):  # training predicts its validation scans, which the sweep reads
            parts["train"].append(override)
            parts["predict"].append(override)
        elif key == "additional_imports":
            for phase in ("prep", "train", "predict"):
                parts[phase].append(override)
        else:
            parts["train"].append(override)
    return parts


def _shown(value: Any) -> str:
    return " ".join(value) or "none" if isinstance(value, list) else str(value)


def _plain(budget: Budget) -> dict[str, Any]:
    return {"steps": budget.steps, "minutes": budget.minutes}


def patches_per_step(entry: Entry) -> int | None:
    """Patches of a step, by which budgets of different methods can be compared."""
    if entry.method.is_nnunet:
        return batch_size(entry.nnunet)
    settings, plan = entry.fold_folder.settings, entry.fold_folder.plan
    own = read_settings(settings)["trainer_cfg"].get("batch_size") if settings.is_file() else None
    return own or (read_json(plan).get("batch_size") if plan.is_file() else None)


def trained_steps(entry: Entry) -> int | None:
    """Optimisation steps: those of the model's own settings, which overrides may have changed, else of the budget."""
    settings = entry.fold_folder.settings
    if entry.method.trainer and settings.is_file():
        schedule = read_settings(settings)["trainer_cfg"]
        return int((schedule["epochs"] + schedule["swa_epochs"]) * schedule["steps_per_epoch"])
    steps = entry.state()["steps"]
    return None if steps is None else int(steps)
