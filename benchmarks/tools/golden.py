"""Results of two tiny tasks, to see whether a change of the code changes what it computes, bit for bit.

    python -m benchmarks.tools.golden write golden_before --bin ../before/.venv/bin
    python -m benchmarks.tools.golden write golden_after
    python -m benchmarks.tools.golden compare golden_before golden_after

``write`` makes the two tasks with tests/tiny_task.py, one of one class and one of two, and runs the commands of a
checkout on them, all on the CPU with one thread: ``nndet_prep`` for 2 GB, ``nndet_train`` for 30 steps of seed 0,
``nndet_predict`` and ``nndet_eval --test``. ``--bin`` is the folder of the interpreter and commands to run, by default
that of this Python. The folder holds all that the commands wrote, and golden.json: the plans, the digest of every
tensor of the weights, the predictions and metrics. A run that golden.json has is not done again.

``compare`` lists every value that differs and ends with exit code 1 if there is one. Processors with other instructions
sum in another order: compare what one machine wrote.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmb_plugin.commands.cli import command, parser
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.paths import TaskFolder
from cmb_plugin.workers import THREAD_VARIABLES

ROOT = Path(__file__).parents[2]
RECORD = "golden.json"
THIRTY_STEPS = (
    "train=demo", "exp.seed=0", "trainer_cfg.epochs=2", "trainer_cfg.swa_epochs=1", "trainer_cfg.steps_per_epoch=10",
    "trainer_cfg.validate_every=3", "trainer_cfg.batch_size=2", "trainer_cfg.num_workers=0",
    "trainer_cfg.precision=32-true", "trainer_cfg.accelerator=cpu",
)  # fmt: skip
BUDGET = "planner_cfg.gpu_memory_gb=2"
SMALL = ("planner_cfg.base_features=8", "planner_cfg.pyramid_channels=16", "planner_cfg.batch_size=2")
FILES = ("plan.json", "splits.json", "operating_point.json", "*_predictions/*_boxes.json", "*_results/metrics.json")


@dataclass(frozen=True)
class Run:
    """One network: the task that it learns and the overrides of ``nndet_train``."""

    task: str
    trainer: str
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``TASK/TRAINER``, as the record calls it."""
        return f"{self.task}/{self.trainer}"


TASKS: dict[str, dict[str, Any]] = {  # name: arguments of make_tiny_task
    "Task901_OneClass": {"modalities": ("swi",), "classes": ("cmb",), "seed": 1},
    "Task902_TwoClasses": {"modalities": ("swi", "t2"), "classes": ("cmb", "iron"), "seed": 2},
}
RUNS = (
    Run("Task901_OneClass", "CMBRetinaUNet", ("model_cfg.hspl_start=0",)),
    Run("Task902_TwoClasses", "RetinaUNetV001"),
    Run("Task902_TwoClasses", "DeepMIRUNet"),
    Run(
        "Task901_OneClass",
        "TwoStepKD",
        ("model_cfg.levels=2", "model_cfg.crop_mm=8", "model_cfg.radii_mm=[1.6]"),
    ),
)  # fmt: skip


def make_tasks(folder: Path) -> dict[str, str]:
    """Writes the tasks into ``folder`` where they are missing; returns the digest of every file of their scans."""
    sys.path.insert(0, str(ROOT / "tests"))
    make_tiny_task = importlib.import_module("tiny_task").make_tiny_task
    digests = {}
    for name, arguments in TASKS.items():
        raw = TaskFolder(folder / name).root / "raw_splitted"
        if not raw.is_dir():
            make_tiny_task(folder, n_train=6, n_test=3, name=name, suffix=".nii", **arguments)
        for path in sorted(raw.rglob("*.*")):
            digests[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def write(folder: Path, programs: Path, only: Sequence[str]) -> None:
    """Runs the commands and records what they computed in ``folder / golden.json``."""
    data, models = folder / "data", folder / "models"
    record_file = folder / RECORD
    record: dict[str, Any] = read_json(record_file) if record_file.is_file() else {"plans": {}, "runs": {}}
    record["scans"] = make_tasks(data)
    record["versions"] = versions(programs)
    environment = dict.fromkeys(THREAD_VARIABLES, "1") | {"det_data": str(data), "det_models": str(models)}
    environment |= {"CUDA_VISIBLE_DEVICES": ""}

    def run_all(lines: Sequence[Sequence[str]]) -> None:
        """Calls commands one after the other."""
        for line in lines:
            call([str(programs / line[0]), *line[1:]], environment, folder / "commands.log")

    for task in TASKS:
        if task not in record["plans"]:
            print(f"{task} ...", flush=True)
            # The plan of the stated budget is compared; a smaller network learns, so that this takes minutes.
            run_all([["nndet_prep", task, "-o", BUDGET]])
            record["plans"][task] = prepared(data / task)
            run_all([["nndet_prep", task, "-o", BUDGET, *SMALL]])
            write_json(record_file, record)
    for run in RUNS:
        if run.name not in record["runs"] and (not only or run.trainer in only):
            print(f"{run.name} ...", flush=True)
            run_all(commands_of(run))
            record["runs"][run.name] = results(data / run.task, models / run.task, run)
            write_json(record_file, record)


def commands_of(run: Run) -> list[list[str]]:
    """The command lines of one run on its prepared task."""
    model = [run.task, model_name(run)]
    train = ["nndet_train", run.task, "-o", f"module={run.trainer}", "train.mode=overwrite"]
    return [
        [*train, *THIRTY_STEPS, *run.overrides],
        ["nndet_predict", *model, "-f", "0", "--device", "cpu", "-ntta", "1", "-npp", "0", "--overwrite"],
        ["nndet_eval", *model, "0", "--test"],
    ]


def model_name(run: Run) -> str:
    """Name of the model folder."""
    return f"{run.trainer}_D3CMB_3d"


def call(line: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    """Runs a command; its output goes to the end of ``log``.

    Raises:
        UserError: it failed.
    """
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(line)}\n")
        file.flush()
        code = subprocess.run(line, env={**os.environ, **environment}, stdout=file, stderr=file, check=False).returncode
    if code:
        raise UserError(f"{' '.join(line)}: exit code {code}", remedy=f"read the end of {log}")


def versions(programs: Path) -> str:
    """Of the packages that compute, in the environment of ``programs``."""
    code = (
        "import numpy, platform, scipy, torch\n"
        "print(platform.machine(), *(f'{m.__name__} {m.__version__}' for m in (torch, numpy, scipy)))"
    )
    return subprocess.run(
        [str(programs / "python"), "-c", code], capture_output=True, encoding="utf-8", check=True
    ).stdout.strip()


def prepared(task: Path) -> dict[str, Any]:
    """Fingerprint, splits and plans of a task."""
    files = [*task.glob("preprocessed/*.json"), *task.glob("preprocessed/*/plan.json")]
    return {str(path.relative_to(task)): read_json(path) for path in sorted(files)}


def results(task: Path, models: Path, run: Run) -> dict[str, Any]:
    """The plan that was trained; tensors, predictions and metrics of the fold."""
    fold = models / model_name(run) / "fold0"
    files = prepared(task)
    for pattern in FILES:
        files |= {str(path.relative_to(fold)): read_json(path) for path in sorted(fold.glob(pattern))}
    state = torch.load(fold / "model_last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    return {"files": files, "weights": {name: digest(tensor) for name, tensor in sorted(state.items())}}


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 of type, shape and bytes."""
    array = np.ascontiguousarray(tensor.numpy())
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()


def differences(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """A line for every value that is not the same: ``place: before -> after``."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            inner = f"{place}.{key}" if place else key
            if key not in after or key not in before:
                one = before.get(key, after.get(key))
                yield f"{inner}: only {'before' if key in before else 'after'} ({_short(one)})"
            else:
                yield from differences(before[key], after[key], inner)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, f"{place}[{index}]")
    elif before != after:
        yield f"{place}: {_short(before)} -> {_short(after)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def compare(before: Path, after: Path) -> int:
    """Prints what differs; returns the number of differences."""
    one, other = read_json(before / RECORD), read_json(after / RECORD)
    lines = (
        [f"made with {one['versions']} and with {other['versions']}"] if one["versions"] != other["versions"] else []
    )
    lines += differences(one["scans"], other["scans"], "scans")
    lines += differences(one["plans"], other["plans"], "plans")
    for name in sorted({*one["runs"], *other["runs"]}):
        if name not in one["runs"] or name not in other["runs"]:
            lines.append(f"{name}: only {'before' if name in one['runs'] else 'after'}")
            continue
        ours, theirs = one["runs"][name], other["runs"][name]
        lines += _weights(name, ours["weights"], theirs["weights"])
        for file in sorted({*ours["files"], *theirs["files"]}):
            place = f"{name} {file}"
            if file not in ours["files"] or file not in theirs["files"]:
                lines.append(f"{place}: only {'before' if file in ours['files'] else 'after'}")
            else:
                lines += differences(ours["files"][file], theirs["files"][file], place)
    print("\n".join(lines) if lines else "the same, bit for bit")
    return len(lines)


def _weights(name: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Tensors with other values, and those that have other names."""
    changed = [key for key in before if key in after and before[key] != after[key]]
    gone, new = ([key for key in a if key not in b] for a, b in ((before, after), (after, before)))
    lines = (
        [f"{name} weights: {len(changed)} of {len(before)} tensors differ: {', '.join(changed[:4])} ..."]
        if changed
        else []
    )
    if gone or new:
        renamed = sorted(before[key] for key in gone) == sorted(after[key] for key in new)
        what = "have another name and the same values" if renamed else "are only in one of them"
        lines.append(f"{name} weights: {what}: {', '.join(gone[:4])} ... {', '.join(new[:4])} ...")
    return lines


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the record, or compares with one."""
    arguments = parser(__doc__)
    actions = arguments.add_subparsers(dest="action", required=True)
    writing = actions.add_parser("write", help="run the commands and record what they compute")
    writing.add_argument("folder", type=Path)
    writing.add_argument("--bin", type=Path, default=Path(sys.executable).parent, help="folder of python and nndet_*")
    writing.add_argument("--only", nargs="+", default=[], metavar="TRAINER", help="these trainers only")
    comparing = actions.add_parser("compare", help="list what differs")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    args = arguments.parse_args(argv)
    if args.action == "write":
        args.folder.mkdir(parents=True, exist_ok=True)
        write(args.folder.resolve(), args.bin.absolute(), args.only)
        return 0
    return 1 if compare(args.before, args.after) else 0


if __name__ == "__main__":
    sys.exit(main())
