"""Trains, predicts and evaluates variants of a model through the nndet_* commands, one after another or side by side.

A run is one variant and one seed. What it has finished is kept in a record beside the others, so that a study which
was stopped goes on where it was: finished steps are skipped, a half-trained network is resumed. Ctrl-C and SIGTERM
stop the commands too, which save their last finished epoch. Used by ablation.py and generalisation.py.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.paths import FoldFolder, ModelFolder, find_task, models_root
from cmb_plugin.workers import default_workers

PHASES = ("train", "predict", "eval")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
PACKAGES = ("cmb_plugin", "torch", "lightning", "numpy", "nnunetv2")


@dataclass(frozen=True)
class Run:
    """One variant with one seed.

    Attributes:
        row: name of the variant in tables.
        tag: short name of the variant and the seed, which the model folder and the record end with.
        seed: of weights, patches and augmentation.
        task: name of the Task folder.
        words: what ``nndet_train -o`` is given, ``module`` and ``plan`` included.
        fold: number of the fold.
        predict_words, eval_words: what ``nndet_predict -o`` and ``nndet_eval -o`` are given.
        output: folder of the records and logs.
    """

    row: str
    tag: str
    seed: int
    task: str
    words: tuple[str, ...]
    fold: int
    predict_words: tuple[str, ...]
    eval_words: tuple[str, ...]
    output: Path

    @property
    def model(self) -> ModelFolder:
        values = dict(word.split("=", 1) for word in self.words)
        return ModelFolder(models_root() / self.task / f"{values['module']}_{values['plan']}_{self.tag}")

    @property
    def folder(self) -> FoldFolder:
        return self.model.fold(self.fold)

    @property
    def record(self) -> Path:
        return self.output / f"{self.tag}.json"

    @property
    def log(self) -> Path:
        return self.output / f"{self.tag}.log"

    def command(self, phase: str) -> list[str]:
        """The command of a phase, as a user would type it; training is resumed where it has begun."""
        fold, model = str(self.fold), self.model.name
        if phase == "train":
            resume = ["train.mode=resume"] if self.folder.last.is_file() else []
            named = [f"exp.fold={fold}", f"exp.seed={self.seed}", f"exp.tag={self.tag}"]
            return ["nndet_train", self.task, "-o", *self.words, *named, *resume]
        words = self.predict_words if phase == "predict" else self.eval_words
        overrides = ["-o", *words] if words else []
        if phase == "predict":
            return ["nndet_predict", self.task, model, "-f", fold, *overrides]
        return ["nndet_eval", self.task, model, fold, "--test", *overrides]

    def state(self) -> dict[str, Any]:
        """The record, or that of a run which has not begun.

        Raises:
            UserError: the run was begun with other words.
        """
        if not self.record.is_file():
            return {"row": self.row, "seed": self.seed, "model": self.model.name, "finished": [], "seconds": {}}
        state = read_json(self.record)
        before = state.get("words")
        if before is not None and before != list(self.words):
            changed = sorted(set(before) ^ set(self.words))
            raise UserError(
                f"{self.record}: was begun with other overrides ({' '.join(changed)})",
                remedy="use those, or another --output and --suffix",
            )
        if not self.folder.last.is_file():
            state["finished"] = []
        return dict(state)

    def as_recorded(self) -> Run:
        """The same run with the words that it was begun with, so that a report need not be told them again."""
        words = read_json(self.record).get("words") if self.record.is_file() else None
        return self if words is None else dataclasses.replace(self, words=tuple(words))

    def is_finished(self) -> bool:
        return set(PHASES) <= set(self.state()["finished"]) and (self.folder.results("test") / "metrics.json").is_file()


class Commands:
    """Runs commands side by side and can stop them all."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.threads = max(1, default_workers() // jobs)
        self.running: set[subprocess.Popen[bytes]] = set()
        self.lock = threading.Lock()
        self.stopped = False

    def call(self, command: Sequence[str], log: Path) -> int:
        """Runs a command of this installation, its output added to ``log``; returns the exit code."""
        log.parent.mkdir(parents=True, exist_ok=True)
        program = shutil.which(command[0], path=str(Path(sys.executable).parent)) or command[0]
        environment = {**os.environ, **dict.fromkeys(THREADS, str(self.threads)), "PYTHONUNBUFFERED": "1"}
        with log.open("a") as output:
            output.write(f"\n$ {' '.join(command)}\n")
            output.flush()
            with self.lock:
                if self.stopped:
                    return -signal.SIGTERM
                # A session of its own: Ctrl-C reaches it through ``stop`` alone, once.
                process = subprocess.Popen(
                    [program, *command[1:]], stdout=output, stderr=output, env=environment, start_new_session=True
                )
                self.running.add(process)
            try:
                return process.wait()
            finally:
                with self.lock:
                    self.running.discard(process)

    def stop(self) -> None:
        """Asks every running command to end; a training saves its last finished epoch."""
        with self.lock:
            self.stopped = True
            for process in self.running:
                process.send_signal(signal.SIGTERM)


def run_all(runs: Sequence[Run], jobs: int = 1) -> int:
    """Works off ``runs`` in their order, ``jobs`` at a time; returns how many failed.

    Each of several gets its share of the cores as threads: two networks with one thread each are faster than one after
    the other with two.
    """
    todo = [run for run in runs if not run.is_finished()]
    say(f"{len(runs)} runs, {len(runs) - len(todo)} of them finished; {jobs} at a time")
    commands = Commands(jobs)

    def terminate(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            return sum(pool.map(lambda run: 0 if _finish(run, commands) else 1, todo))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            commands.stop()
            say("stopping; the same command goes on from here")
            raise
        finally:
            signal.signal(signal.SIGTERM, before)


def _finish(run: Run, commands: Commands) -> bool:
    """The phases of a run that are missing; False when one failed."""
    state = run.state() | {"words": list(run.words), "fold": run.fold, "machine": machine()}
    state |= {"threads": commands.threads, "jobs": commands.jobs}
    for phase in PHASES:
        if phase in state["finished"]:
            continue
        command = run.command(phase)
        if phase == "train" and not run.folder.last.is_file():
            state["seconds"].pop(phase, None)  # what was stopped within its first epoch begins anew
        write_json(run.record, state)
        say(f"{run.tag}: {' '.join(command)}")
        start = time.perf_counter()
        code = commands.call(command, run.log)
        seconds = time.perf_counter() - start
        state["seconds"][phase] = round(state["seconds"].get(phase, 0.0) + seconds, 1)
        state.setdefault("commands", {})[phase] = " ".join(word for word in command if word != "train.mode=resume")
        if code == 0:
            state["finished"].append(phase)
        write_json(run.record, state)
        if code:
            if not commands.stopped:
                say(f"{run.tag}: {command[0]} failed with exit code {code}: {run.log}\n{_last_lines(run.log)}")
            return False
        say(f"{run.tag}: {phase} done in {seconds:.0f} s")
    return True


def _last_lines(path: Path, count: int = 5) -> str:
    return "\n".join(f"    {line}" for line in path.read_text(errors="replace").rstrip().splitlines()[-count:])


def machine() -> dict[str, Any]:
    """What the numbers were measured with."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": _gpu(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _gpu() -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout.strip().splitlines()[0] if answer.returncode == 0 and answer.stdout.strip() else ""


def _commit() -> str:
    query = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def check_plan(task: str, plan: str) -> str:
    """The Task folder's name.

    Raises:
        UserError: there is no such task, or it is not prepared with that plan.
    """
    folder = find_task(task)
    if not folder.plan(plan).is_file():
        raise UserError(f"{folder.name} has no plan '{plan}'", remedy=f"run nndet_prep {folder.name}, or name --plan")
    return folder.name
