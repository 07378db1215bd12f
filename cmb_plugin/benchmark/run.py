"""``benchmark``: the same budget and splits for every method and task, one table; killed at any time, it goes on.

What is finished stands in a record per task, method, fold and seed. Methods are trainers of this installation, nnU-Net
v2 through its own commands, and folders of predictions that somebody else made.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from cmb_plugin.dataset import read_splits
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.paths import TaskFolder
from cmb_plugin.plugins import import_additional
from cmb_plugin.settings import Overrides
from cmb_plugin.workflows.training_run import DEFAULT_PLAN

from .entries import EPOCHS, Benchmark, Entry, measured_cases, measured_split, split_overrides, steps_of
from .machine import machine
from .nnunet import NnunetTask, collect, export_task, is_planned, link_scans
from .processes import Commands

TRIAL_EPOCHS = 4  # the first warms up, the last is not run, those between tell how long a step takes
TRIAL_STEPS = (4, 4000)  # of an epoch, at first and at most


@dataclass
class BenchmarkRun:
    """What a benchmark did: entries that stand, entries that failed with their logs, files of the report, and its rows:
    a ``table``, or of a benchmark by domain ``domains``."""

    finished: list[Entry] = field(default_factory=list)
    failed: dict[str, Path] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    table: Any = None
    domains: Any = None


def run_benchmark(benchmark: Benchmark, log: Callable[[str], None] = print) -> BenchmarkRun:
    """Prepares, trains, predicts and measures what is missing, then writes the table.

    Seeds follow one another, each with all methods, so that what was stopped compares all methods on
    the seeds that it has. An entry that fails is named, the others go on.

    Raises:
        UserError: an unknown task, fold, method or setting; records of another budget; nothing to compare.
        KeyboardInterrupt: Ctrl-C or SIGTERM; what is finished is recorded.
    """
    from .table import evaluation_config, write_table

    import_additional(Overrides.parse(benchmark.overrides).take_imports())
    evaluation_config(benchmark)  # what is wrong in it must not wait for the trainings
    commands = Commands(benchmark.jobs, log)
    entries: list[Entry] = []
    for task in benchmark.tasks:
        if "prep" in benchmark.phases:
            _prepare(benchmark, task, commands)
        _check_folds(task, benchmark.folds)
        entries += benchmark.entries(task)
    todo = [entry for entry in entries if not entry.is_finished()]  # refuses records of other overrides at once
    done = BenchmarkRun()
    if {"train", "predict"} & set(benchmark.phases):
        log(f"{len(entries)} entries, {len(entries) - len(todo)} of them finished; {benchmark.jobs} at a time")
        succeeded = commands.run_all(partial(_finish, commands=commands), todo)
        pairs = zip(todo, succeeded, strict=True)
        done.failed = {f"{entry.task.name} {entry.name}": entry.log for entry, good in pairs if not good}
    done.finished = [entry for entry in entries if entry.is_finished()]
    if "eval" in benchmark.phases:
        if not done.finished:
            raise UserError(f"{benchmark.output}: nothing is finished", remedy="leave --only out")
        if benchmark.by_domain:
            from .domain_table import write_domain_table

            done.domains, done.files = write_domain_table(benchmark, done.finished, log)
        else:
            done.table, done.files = write_table(benchmark, done.finished, log)
    return done


def _prepare(benchmark: Benchmark, task: TaskFolder, commands: Commands) -> None:
    plans = dict.fromkeys(method.plan for method in benchmark.methods if method.trainer)
    log = benchmark.output / task.name / "prep.log"
    overrides = split_overrides(benchmark.overrides)["prep"]
    for plan in plans or {DEFAULT_PLAN: None}:
        if not task.plan(plan).is_file() or not task.splits.is_file() or not _is_prepared(task, plan):
            command = ["nndet_prep", str(task.root), "-o", f"planner={plan.removesuffix('_3d')}", *overrides]
            if commands.call(command, log) not in (0, 2):
                raise UserError(f"{task.name}: preparation failed", remedy=f"see {log}")
    if any(method.is_nnunet for method in benchmark.methods):
        target = NnunetTask(task, benchmark.output / task.name / "nnunet")
        if not is_planned(target):
            commands.log(f"{task.name}: exporting to nnU-Net's layout in {target.raw}")
            export_task(target, read_splits(task.splits))
            command = target.plan_command(_memory(benchmark), 1 if _device() == "cpu" else 4)
            if commands.call(command, log, target.environment()) != 0:
                raise UserError(f"{task.name}: nnU-Net could not plan", remedy=f"see {log}")
            export_task(target, read_splits(task.splits))  # its planning may have written splits of its own


def _is_prepared(task: TaskFolder, plan: str) -> bool:
    return any(task.prepared(plan, "Tr").glob("*.b2nd"))


def _check_folds(task: TaskFolder, folds: Sequence[int]) -> None:
    if not task.splits.is_file():
        raise UserError(f"{task.name} is not prepared", remedy=f"leave --only out, or run nndet_prep {task.name}")
    count = len(read_splits(task.splits))
    for fold in folds:
        if not 0 <= fold < count:
            raise UserError(f"{task.splits}: no fold {fold}", remedy=f"choose --folds from 0 to {count - 1}")


def _finish(entry: Entry, commands: Commands) -> bool:
    """The phases of an entry that are missing; False when one failed."""
    state = entry.state() | {"machine": machine(), "jobs": commands.jobs, "threads": commands.threads}
    if entry.method.trainer:
        state["model"] = entry.model.name
    try:
        for phase, work in (("train", _train), ("predict", _predict)):
            if phase in state["finished"] or phase not in entry.benchmark.phases:
                continue
            if phase == "predict" and "train" not in state["finished"]:
                return True  # --only predict, of what is trained
            if not _timed(entry, state, phase, work, commands):
                return False
            commands.log(f"{entry.task.name} {entry.name}: {phase} took {state['seconds'][phase]:.0f} s")
    except UserError as error:
        commands.log(f"{entry.task.name} {entry.name}: {error}")
        return False
    return True


Work = Callable[[Entry, dict[str, Any], Commands], int]


def _timed(entry: Entry, state: dict[str, Any], phase: str, work: Work, commands: Commands) -> bool:
    if phase == "train" and state["steps"] is None:
        state["steps"] = _steps(entry, commands)
    write_json(entry.record, state)
    start = time.perf_counter()
    code = work(entry, state, commands)
    state["seconds"][phase] = round(state["seconds"].get(phase, 0.0) + time.perf_counter() - start, 1)
    if code == 0:
        state["finished"].append(phase)
    write_json(entry.record, state)
    return code == 0


def _train(entry: Entry, state: dict[str, Any], commands: Commands) -> int:
    epochs, per_epoch = steps_of(state["steps"])
    if entry.method.is_nnunet:
        command = entry.nnunet.train_command(entry.seed, entry.fold, _device())
        state["commands"]["train"] = " ".join(command)
        return commands.call(command, entry.log, _nnunet_environment(entry, commands, epochs, per_epoch))
    command = _train_command(entry, epochs, per_epoch, entry.tag)
    state["commands"]["train"] = " ".join(command)
    if entry.fold_folder.last.is_file():
        return commands.call([*command, "train.mode=resume"], entry.log)
    state["seconds"].pop("train", None)  # what was stopped within its first epoch begins anew
    return commands.call([*command, "train.mode=overwrite"], entry.log)


def _train_command(entry: Entry, epochs: int, per_epoch: int, tag: str) -> list[str]:
    overrides = split_overrides(entry.overrides)["train"]
    preset = [] if any(override.startswith("train=") for override in overrides) else ["train=demo"]
    averaged = epochs // 5
    return [
        *("nndet_train", str(entry.task.root), "-o"),
        *(f"module={entry.method.trainer}", f"plan={entry.method.plan}", *preset),
        *(f"trainer_cfg.epochs={epochs - averaged}", f"trainer_cfg.swa_epochs={averaged}"),
        *(f"trainer_cfg.steps_per_epoch={per_epoch}", f"trainer_cfg.validate_every={max(1, epochs // 2)}"),
        *(*overrides, f"exp.fold={entry.trained_fold}", f"exp.seed={entry.seed}", f"exp.tag={tag}"),
    ]


def _nnunet_environment(entry: Entry, commands: Commands, epochs: int = 1, steps: int = 1) -> dict[str, str]:
    return entry.nnunet.environment(entry.seed, epochs, steps, commands.threads)


def _predict(entry: Entry, state: dict[str, Any], commands: Commands) -> int:
    split = measured_split(entry.task)
    if entry.method.is_nnunet:
        return _predict_with_nnunet(entry, split, state, commands)
    if split == "val":
        return 0  # nndet_train has predicted them
    overrides = split_overrides(entry.overrides)["predict"]
    command = ["nndet_predict", str(entry.task.root), str(entry.model.root), "-f", str(entry.fold)]
    command += ["-o", *overrides] if overrides else []
    state["commands"]["predict"] = " ".join(command)
    return commands.call(command, entry.log)


def _predict_with_nnunet(entry: Entry, split: str, state: dict[str, Any], commands: Commands) -> int:
    cases = measured_cases(entry.task, entry.fold)
    target = entry.predictions(split)
    source = entry.nnunet.root / (f"scans_fold{entry.fold}" if split == "val" else "scans_test")
    with commands.alone(str(source)):  # other seeds predict the same scans
        link_scans(cases, source)
    given = target.with_name(f"{target.name}_nnunet")
    command = entry.nnunet.predict_command(source, given, entry.fold, _device())
    state["commands"]["predict"] = " ".join(command)
    code = commands.call(command, entry.log, _nnunet_environment(entry, commands))
    if code == 0:
        collect(entry.nnunet, cases, given, target)
    return code


def _steps(entry: Entry, commands: Commands) -> int:
    """Steps of the budget; of a budget in minutes as many as two short trials say that fit."""
    budget = entry.benchmark.budget
    if budget.steps is not None:
        return budget.steps
    known = entry.folder / f"{entry.method.slug}_step.json"
    with commands.alone(str(known)):
        if not known.is_file():
            write_json(known, {"seconds_per_step": _seconds_per_step(entry, commands)})
    return max(1, int(60 * (budget.minutes or 0.0) / float(read_json(known)["seconds_per_step"])))


def _seconds_per_step(entry: Entry, commands: Commands) -> float:
    """From trials whose epochs grow to about the length that those of the training will have, at most 20 s.

    What comes once per epoch, such as its checkpoint, then weighs as it will; start-up and validation count nothing.
    """
    aim = min(max(60 * (entry.benchmark.budget.minutes or 0.0) / EPOCHS, 5.0), 20.0)
    steps, most = TRIAL_STEPS
    seconds = _trial(entry, steps, commands)
    while seconds < 0.6 * aim and steps < most:
        steps = min(most, int(steps * aim / max(seconds, 0.5)))
        seconds = _trial(entry, steps, commands)
    if entry.method.trainer:
        shutil.rmtree(entry.model_tagged(_trial_tag(entry)).root, ignore_errors=True)
    return max(seconds, 0.01) / steps


def _trial_tag(entry: Entry) -> str:
    return f"{entry.benchmark.output.name}{entry.method.mark}_trial"


def _trial(entry: Entry, steps: int, commands: Commands) -> float:
    """Seconds of an epoch of so many steps. The trial ends before the last epoch, whose end would validate and predict:
    of a slow network that took much longer than the trial."""

    def lengths() -> list[float]:
        """Of the epochs that the trial has printed."""
        return epoch_seconds(entry.log.read_text(encoding="utf-8", errors="replace").rpartition("\n$ ")[2])

    def enough() -> bool:
        """Whether they say how long one takes."""
        return len(lengths()) >= TRIAL_EPOCHS - 1

    if entry.method.is_nnunet:
        results = entry.nnunet.root / "results_seed999"
        shutil.rmtree(results, ignore_errors=True)
        environment = entry.nnunet.environment(999, TRIAL_EPOCHS, steps, commands.threads)
        code = commands.call(entry.nnunet.train_command(999, entry.fold, _device()), entry.log, environment, enough)
        shutil.rmtree(results, ignore_errors=True)
    else:
        command = _train_command(entry, TRIAL_EPOCHS, steps, _trial_tag(entry))
        once = [
            f"trainer_cfg.epochs={TRIAL_EPOCHS}",
            "trainer_cfg.swa_epochs=0",
            f"trainer_cfg.steps_per_epoch={steps}",
        ]
        further = [*once, f"trainer_cfg.validate_every={TRIAL_EPOCHS}", "train.mode=overwrite"]
        code = commands.call([*command, *further], entry.log, enough=enough)
    if code or not enough():
        raise UserError(f"{entry.name}: a trial of {steps} steps failed", remedy=f"see {entry.log}")
    known = lengths()[1 : TRIAL_EPOCHS - 1]
    return sum(known) / len(known)


def epoch_seconds(said: str) -> list[float]:
    """Length of each epoch, from what nndet_train (time since the beginning) or nnU-Net (time of the epoch) printed."""
    if given := re.findall(r"Epoch time: ([\d.]+) s", said):
        return [float(seconds) for seconds in given]
    since = [float(seconds) for seconds in re.findall(r"^Epoch \d+/\d+ .* (\d+) s, \d+ s left$", said, re.MULTILINE)]
    return [after - before for before, after in pairwise([0.0, *since])]


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _memory(benchmark: Benchmark) -> float:
    """nnU-Net's planner aims at 8 GB; on a CPU that makes minutes per step."""
    if benchmark.nnunet_memory_gb is not None:
        return benchmark.nnunet_memory_gb
    return 8.0 if _device() == "cuda" else 2.0
