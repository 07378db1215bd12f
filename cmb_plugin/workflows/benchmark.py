"""``benchmark``: the same budget and splits for every method and task, one table; killed at any time, it goes on.

What is finished stands in a record per task, method, fold and seed. Methods are trainers of this installation, nnU-Net
v2 through its own commands, and folders of predictions that somebody else made.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.paths import TaskFolder, find_task, models_root
from cmb_plugin.plugins import import_additional
from cmb_plugin.settings import Overrides

from .benchmark_entries import (
    NNUNET,
    Benchmark,
    Entry,
    measured_cases,
    measured_split,
    split_words,
    steps_of,
)
from .nnunet import NnunetTask, collect, export_task, is_planned, link_scans
from .train import DEFAULT_PLAN

PROBE = (4, 14)  # steps of the two trials that tell how long a step takes
LONGEST_PROBE = 300


@dataclass
class BenchmarkRun:
    """What a benchmark did: entries that stand, entries that failed with their logs, files of the report."""

    finished: list[Entry] = field(default_factory=list)
    failed: dict[str, Path] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    table: Any = None


def run_benchmark(benchmark: Benchmark, say: Callable[[str], None] = print) -> BenchmarkRun:
    """Prepares, trains, predicts and measures what is missing, then writes the table.

    Seeds are worked off one after the other, each with all methods, so that what was stopped compares all methods on
    the seeds that it has. An entry that fails is named, the others go on.

    Raises:
        UserError: an unknown task, fold or method; records of another budget; nothing to compare.
    """
    from .benchmark_table import write_table

    import_additional(Overrides.parse(benchmark.words).take_imports())
    folders = [find_task(task) for task in benchmark.tasks]
    done = BenchmarkRun()
    for task in folders:
        if "prep" in benchmark.phases:
            _prepare(benchmark, task, say)
        entries = [
            Entry(benchmark, task, method, fold, seed)
            for seed in benchmark.seeds
            for fold in benchmark.folds
            for method in benchmark.methods
            if method.folder is None or (seed, fold) == (benchmark.seeds[0], benchmark.folds[0])
        ]
        _check_folds(task, benchmark.folds)
        for entry in entries:
            if {"train", "predict"} & set(benchmark.phases) and not _finish(entry, say):
                done.failed[f"{task.name} {entry.name}"] = entry.log
            if entry.is_finished():
                done.finished.append(entry)
    if "eval" in benchmark.phases:
        if not done.finished:
            raise UserError(f"{benchmark.output}: nothing is finished", remedy="leave --only out")
        done.table, done.files = write_table(benchmark, done.finished, say)
    return done


def _prepare(benchmark: Benchmark, task: TaskFolder, say: Callable[[str], None]) -> None:
    plans = dict.fromkeys(method.plan for method in benchmark.methods if method.trainer)
    log = benchmark.output / task.name / "prep.log"
    words = split_words(benchmark.words)["prep"]
    for plan in plans or {DEFAULT_PLAN: None}:
        if not task.plan(plan).is_file() or not task.splits.is_file() or not _is_prepared(task, plan):
            command = ["nndet_prep", str(task.root), "-o", f"planner={plan.removesuffix('_3d')}", *words]
            if _call(command, log, say) not in (0, 2):
                raise UserError(f"{task.name}: preparation failed", remedy=f"see {log}")
    if any(method.name == NNUNET for method in benchmark.methods):
        target = NnunetTask(task, benchmark.output / task.name / "nnunet")
        if not is_planned(target):
            say(f"{task.name}: exporting to nnU-Net's layout in {target.raw}")
            export_task(target, read_json(task.splits))
            command = target.plan_command(_memory(benchmark), 1 if _device() == "cpu" else 4)
            if _call(command, log, say, target.environment()) != 0:
                raise UserError(f"{task.name}: nnU-Net could not plan", remedy=f"see {log}")
            export_task(target, read_json(task.splits))  # its planning may have written splits of its own


def _is_prepared(task: TaskFolder, plan: str) -> bool:
    return any(task.prepared(plan, "Tr").glob("*.b2nd"))


def _check_folds(task: TaskFolder, folds: Sequence[int]) -> None:
    if not task.splits.is_file():
        raise UserError(f"{task.name} is not prepared", remedy=f"leave --only out, or run nndet_prep {task.name}")
    count = len(read_json(task.splits))
    for fold in folds:
        if not 0 <= fold < count:
            raise UserError(f"{task.splits}: no fold {fold}", remedy=f"choose --folds from 0 to {count - 1}")


def _finish(entry: Entry, say: Callable[[str], None]) -> bool:
    """The phases of an entry that are missing; False when one failed."""
    if entry.method.folder is not None:
        return True
    state = entry.state()
    if "train" not in state["finished"] and "train" in entry.benchmark.phases:
        if state["steps"] is None:
            state["steps"] = _steps(entry, say)
            write_json(entry.record, state)
        epochs, per_epoch = steps_of(state["steps"])
        if not _timed(entry, state, "train", partial(_train, entry, epochs, per_epoch, say)):
            return False
        say(f"{entry.task.name} {entry.name}: trained in {state['seconds']['train']:.0f} s")
    if "train" in state["finished"] and "predict" not in state["finished"] and "predict" in entry.benchmark.phases:
        if not _timed(entry, state, "predict", partial(_predict, entry, say)):
            return False
        say(f"{entry.task.name} {entry.name}: predicted in {state['seconds']['predict']:.0f} s")
    return True


def _timed(entry: Entry, state: dict[str, Any], phase: str, work: Callable[[], int]) -> bool:
    start = time.perf_counter()
    code = work()
    state["seconds"][phase] = round(state["seconds"].get(phase, 0.0) + time.perf_counter() - start, 1)
    if code == 0:
        state["finished"].append(phase)
    write_json(entry.record, state)
    return code == 0


def _train(entry: Entry, epochs: int, per_epoch: int, say: Callable[[str], None]) -> int:
    if entry.method.name == NNUNET:
        environment = entry.nnunet.environment(entry.seed, epochs, per_epoch)
        return _call(entry.nnunet.train_command(entry.seed, entry.fold, _device()), entry.log, say, environment)
    mode = ["train.mode=resume"] if entry.fold_folder.last.is_file() else ["train.mode=overwrite"]
    tag = f"exp.tag={entry.benchmark.output.name}_seed{entry.seed}"
    return _call(_train_command(entry, epochs, per_epoch, [tag, *mode]), entry.log, say)


def _train_command(entry: Entry, epochs: int, per_epoch: int, further: Sequence[str]) -> list[str]:
    words = split_words(entry.benchmark.words)["train"]
    preset = [] if any(word.startswith("train=") for word in words) else ["train=demo"]
    averaged = epochs // 5
    return [
        *("nndet_train", str(entry.task.root), "-o"),
        *(f"module={entry.method.trainer}", f"plan={entry.method.plan}", *preset),
        *(f"trainer_cfg.epochs={epochs - averaged}", f"trainer_cfg.swa_epochs={averaged}"),
        *(f"trainer_cfg.steps_per_epoch={per_epoch}", f"trainer_cfg.validate_every={max(1, epochs // 2)}"),
        *(*words, f"exp.fold={entry.fold}", f"exp.seed={entry.seed}", *further),
    ]


def _predict(entry: Entry, say: Callable[[str], None]) -> int:
    split = measured_split(entry.task)
    if entry.method.name == NNUNET:
        cases = measured_cases(entry.task, entry.fold)
        target = entry.predictions(split)
        source = entry.nnunet.root / (f"scans_fold{entry.fold}" if split == "val" else "scans_test")
        link_scans(cases, source)
        given = target.with_name(f"{target.name}_nnunet")
        command = entry.nnunet.predict_command(source, given, entry.fold, _device())
        code = _call(command, entry.log, say, entry.nnunet.environment(entry.seed))
        if code == 0:
            collect(entry.nnunet, cases, given, target)
        return code
    if split == "val":
        return 0  # nndet_train has predicted them
    words = split_words(entry.benchmark.words)["predict"]
    command = ["nndet_predict", str(entry.task.root), str(entry.model.root), "-f", str(entry.fold)]
    return _call([*command, *(["-o", *words] if words else [])], entry.log, say)


def _steps(entry: Entry, say: Callable[[str], None]) -> int:
    """Steps of the budget; of a budget in minutes as many as two short trials say that fit."""
    budget = entry.benchmark.budget
    if budget.steps is not None:
        return budget.steps
    known = entry.folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', entry.method.name)}_step.json"
    if not known.is_file():
        write_json(known, {"seconds_per_step": _seconds_per_step(entry, say)})
    return max(1, int(60 * (budget.minutes or 0.0) / float(read_json(known)["seconds_per_step"])))


def _seconds_per_step(entry: Entry, say: Callable[[str], None]) -> float:
    """From the difference of a short and a longer trial: start-up and validation cancel out.

    The longer one grows until the difference stands out from what start-up varies by.
    """
    few, many = PROBE
    _trial(entry, few, say)  # fills caches
    short, long = _trial(entry, few, say), _trial(entry, many, say)
    while long - short < 0.3 * short and many < LONGEST_PROBE:
        many *= 3
        long = _trial(entry, many, say)
    if entry.method.trainer:
        trial_model = f"{entry.method.trainer}_{entry.method.plan}_{entry.benchmark.output.name}_trial"
        shutil.rmtree(models_root() / entry.task.name / trial_model, ignore_errors=True)
    return max((long - short) / (many - few), 1e-3)


def _trial(entry: Entry, steps: int, say: Callable[[str], None]) -> float:
    """Seconds that a training of so many steps takes, with all that comes with it."""
    start = time.perf_counter()
    if entry.method.name == NNUNET:
        results = entry.nnunet.root / "results_seed999"
        shutil.rmtree(results, ignore_errors=True)
        environment = entry.nnunet.environment(999, 1, steps)
        code = _call(entry.nnunet.train_command(999, entry.fold, _device()), entry.log, say, environment)
        shutil.rmtree(results, ignore_errors=True)
    else:
        further = [f"exp.tag={entry.benchmark.output.name}_trial", "train.mode=overwrite"]
        code = _call(_train_command(entry, 1, steps, further), entry.log, say)
    if code:
        raise UserError(f"{entry.name}: a trial of {steps} steps failed", remedy=f"see {entry.log}")
    return time.perf_counter() - start


def _call(
    command: Sequence[str], log: Path, say: Callable[[str], None], environment: Mapping[str, str] | None = None
) -> int:
    """Runs a command of this installation with its output added to ``log``; it ends when this process does."""
    log.parent.mkdir(parents=True, exist_ok=True)
    program = shutil.which(command[0], path=str(Path(sys.executable).parent)) or shutil.which(command[0])
    if program is None:
        raise UserError(f"{command[0]} is not installed", remedy="pip install nnunetv2")
    say(" ".join(command))
    with log.open("a") as output:
        output.write(f"\n$ {' '.join(command)}\n")
        output.flush()
        process = subprocess.Popen(
            [program, *command[1:]],
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code:
        tail = "\n".join(f"    {line}" for line in log.read_text(errors="replace").rstrip().splitlines()[-5:])
        say(f"{command[0]} ended with exit code {code}: {log}\n{tail}")
    return code


def _die_with_parent() -> None:
    """Asks the kernel to kill the command when the benchmark is killed: two must never train one network."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _memory(benchmark: Benchmark) -> float:
    """nnU-Net's planner aims at 8 GB; on a CPU that makes minutes per step."""
    if benchmark.nnunet_memory_gb is not None:
        return benchmark.nnunet_memory_gb
    return 8.0 if _device() == "cuda" else 2.0
