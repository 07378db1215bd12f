"""``nndet_train --slurm``: folds as entries of a Slurm job array, each trained as the command line would train it."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmb_plugin.dataset import read_splits
from cmb_plugin.errors import UserError
from cmb_plugin.paths import TaskFolder
from cmb_plugin.plugins import suggest
from cmb_plugin.settings import Overrides

from .train import split_of
from .training_run import resolve

DEFAULTS: dict[str, Any] = {"job_name": "nndet_train", "time": 24 * 60}
LOGS = "slurm_logs"  # folder in the model's folder
OURS = ("command", "folder", "map_count", "setup")  # parameters of submitit that are no options of the user


@dataclass(frozen=True)
class TrainingArray:
    """Folds that a job array trains.

    Attributes:
        script: what ``sbatch`` takes.
        logs: folder that the jobs write their output to; ``sbatch`` needs it to be there.
        folds: as ``exp.fold`` has them, in the order of the array's entries.
    """

    script: str
    logs: Path
    folds: tuple[str, ...]

    def submit(self) -> str:
        """Submits the script, which stands beside the logs from then on; what ``sbatch`` answers.

        Raises:
            UserError: there is no ``sbatch``, or it refuses.
        """
        if shutil.which("sbatch") is None:
            raise UserError("--slurm submit: there is no sbatch here", remedy="run it on a login node of the cluster")
        path = self.logs / "train.sh"
        path.write_text(self.script, encoding="utf-8")
        done = subprocess.run(
            ["sbatch", str(path)], capture_output=True, encoding="utf-8", errors="replace", check=False
        )
        if done.returncode != 0:
            raise UserError(f"{path}: sbatch refuses it: {done.stderr.strip()}", remedy="change --slurm-options")
        return done.stdout.strip()


def training_array(
    task: TaskFolder, overrides: Sequence[str], folds: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> TrainingArray:
    """The job array that trains folds of a task.

    Args:
        task: the Task folder, prepared.
        overrides: ``KEY=VALUE`` as for one fold, without ``exp.fold``.
        folds: as ``exp.fold`` has them; none for all of ``splits.json``.
        options: parameters of ``sbatch`` as submitit names them; ``time`` is in minutes.

    Raises:
        UserError: submitit is not installed, or a fold, setting or option is wrong.
    """
    if importlib.util.find_spec("submitit") is None:
        raise UserError("--slurm needs submitit", remedy="pip install 'cmb_plugin[cluster]'")
    # The text of the script is no public function of submitit: its executors want to find srun even to print it.
    from submitit.slurm.slurm import _make_sbatch_string

    if any(word.startswith("exp.fold=") for word in overrides):
        raise UserError("--slurm: exp.fold names one fold", remedy="name those of the array with -f 0,1,2")
    known = set(inspect.signature(_make_sbatch_string).parameters) - set(OURS)
    chosen = {**DEFAULTS, **(options or {})}
    for name in sorted(set(chosen) - known):
        raise UserError(f"--slurm-options {name}: is no option of sbatch", remedy=suggest(name, known))
    folds = tuple(folds) or tuple(map(str, range(len(read_splits(task.splits)))))
    runs = [resolve(task, Overrides.parse([*overrides, f"exp.fold={fold}"])) for fold in folds]
    for run in runs:
        split_of(run)  # whether it can be trained is known before a job waits for days
    logs = runs[0].fold.root.parent / LOGS
    logs.mkdir(parents=True, exist_ok=True)
    program = Path(sys.executable).with_name("nndet_train")
    words = [str(program), str(task.root), *(["-o", *overrides] if overrides else []), "-o"]
    script: str = _make_sbatch_string(
        command=f'{shlex.join(words)} "exp.fold=${{folds[$SLURM_ARRAY_TASK_ID]}}"',
        folder=logs,
        map_count=len(folds),
        setup=[f"folds=({shlex.join(folds)})"],
        # A training ends in order on SIGTERM; submitit's own signal would end it at once.
        **{"additional_parameters": {"signal": "TERM@120"}, **chosen},
    )
    return TrainingArray(script, logs, folds)


def slurm_options(words: Sequence[str]) -> dict[str, Any]:
    """What ``partition=gpu,time=600 exclude=node1,node2`` means: a comma begins the next option where ``NAME=``
    follows, else it belongs to the value.

    Raises:
        UserError: a part is no NAME=VALUE.
    """
    parts = [part for word in words for part in re.split(r",(?=\s*\w+=)", word)]
    options: dict[str, Any] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"--slurm-options {part}: is no NAME=VALUE", remedy="write partition=gpu,time=600")
        options[name.strip()] = int(value) if value.isdecimal() else value
    return options
