"""Trains the weights of the package in rounds, each on phantoms that no round has seen. `make pretrained` runs this.

    python -m benchmarks.pretraining.rounds pretraining --rounds 4 --train 240 --steps 12000 --ship
    python -m benchmarks.pretraining.rounds pretraining --rounds 6 --ship --page docs/studies/pretrained.md

A round draws phantoms with a seed of its own, half of them in the protocols of data sets and half with a random scanner
each, plans for the weights of the round before (the first round plans by itself), trains on from them, and is measured
on a validation pool that is the same in all rounds and that nothing is trained on. Weights replace the best ones, and
with --ship those in the package, if their mean sensitivity at 0.25, 0.5, 1 and 2 false positives per scan on the pool
is higher. Run it again at any time: what is finished is not done twice, and a training goes on where it was.

In FOLDER: data and models, as ${det_data} and ${det_models}; round_{N}.cmb and round_{N}.json of finished rounds, and
best.cmb. A finished round's scans are removed unless --keep is given.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.tools.markdown import add_page, put_between_markers, table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands import example, pack, prep, train
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.dataset.dataset import SPLITS
from cmb_plugin.errors import UserError
from cmb_plugin.files import atomic, read_json, write_json
from cmb_plugin.models.packed import read_header
from cmb_plugin.models.shipped import SHIPPED_MB, SHIPPED_PARAMETERS, pretrained_file
from cmb_plugin.paths import ModelFolder, TaskFolder
from cmb_plugin.tabular import show_number

POOL_SEED = 900_000
"""Of the validation pool; rounds have other seeds, so that no scan of it is ever trained on."""
PROTOCOLS = ",".join(["mixed", *["random"] * 6])
"""Six protocols of data sets in turn, then six random scanners."""
RATES = ("0.25", "0.5", "1", "2")
POOL_PREFIX = "pool_"
TRAINER = "CMBRetinaUNet"


def seed_of(number: int) -> int:
    """Of a round's phantoms and of its training: 1000, 2000, ..."""
    return 1000 * (number + 1)


@dataclass(frozen=True)
class Recipe:
    """How large a round is.

    Attributes:
        scans: training phantoms of a round.
        pool: phantoms of the validation pool.
        healthy: share without lesions.
        steps: optimisation steps of a round; a tenth of them averages weights.
        epochs: into which the steps are divided.
        modality: the one channel.
        protocol: of ``nndet_example``.
        prep, train: further overrides of ``nndet_prep`` in the first round, and of ``nndet_train``.
    """

    scans: int = 240
    pool: int = 48
    healthy: float = 0.3
    steps: int = 12_000
    epochs: int = 20
    modality: str = "swi"
    protocol: str = PROTOCOLS
    prep: tuple[str, ...] = ()
    train: tuple[str, ...] = ()

    def overrides(self, number: int) -> list[str]:
        """Those of ``nndet_train`` in a round."""
        averaging = max(1, self.epochs // 10)
        return [
            f"module={TRAINER}",
            "train=fast",
            f"exp.seed={seed_of(number)}",
            f"trainer_cfg.epochs={max(1, self.epochs - averaging)}",
            f"trainer_cfg.swa_epochs={averaging}",
            f"trainer_cfg.steps_per_epoch={max(1, self.steps // self.epochs)}",
            f"trainer_cfg.validate_every={self.epochs}",
            *self.train,
        ]


@dataclass(frozen=True)
class Rounds:
    """All rounds in one folder.

    Attributes:
        folder: where everything lies.
        recipe: of each round.
        also: Task folders whose training cases are learned from in each round too.
        keep: leave the scans of finished rounds.
        processes: that make and prepare scans; None takes every core.
        log: is given a line on each step.
    """

    folder: Path
    recipe: Recipe
    also: tuple[Path, ...] = ()
    keep: bool = False
    processes: int | None = None
    log: Callable[[str], None] = print

    def packed(self, number: int) -> Path:
        """Weights of a round."""
        return self.folder / f"round_{number}.cmb"

    @property
    def best(self) -> Path:
        """Weights of the best round."""
        return self.folder / "best.cmb"

    def results(self) -> list[dict[str, Any]]:
        """What the finished rounds brought, in order."""
        paths = sorted(self.folder.glob("round_*.json"), key=lambda path: int(path.stem.partition("_")[2]))
        return [read_json(path) for path in paths]

    def run(self, number: int) -> dict[str, Any]:
        """Does one round, or what is left of it.

        Raises:
            UserError: a step cannot be done; run again to go on from there.
        """
        done = self.folder / f"round_{number}.json"
        if done.is_file():
            return dict(read_json(done))
        begun, task = time.time(), f"Task{710 + number}_Round"
        with _environment(self.folder):
            data, models = self.folder / "data", self.folder / "models"
            self._phantoms("Task700_Pool", self.recipe.pool, POOL_SEED)
            self._phantoms(task, self.recipe.scans, seed_of(number))
            self._compose(TaskFolder(data / task), TaskFolder(data / "Task700_Pool"))
            start = self.packed(number - 1) if number else None
            if start is not None:  # one name in all rounds, which plans are named after
                shutil.copyfile(start, self.folder / "weights.cmb")
            before = [f"plan_from={self.folder / 'weights.cmb'}"] if start is not None else list(self.recipe.prep)
            self._do(prep.main, task, "--no_check", *self._processes, "-o", *before)
            self._train(task, models, number, start is not None)
            self._do(pack.main, task, "--output", str(self.packed(number)), "--recipe", self.describe(number))
            (model,) = (models / task).glob("*")
            metrics = read_json(ModelFolder(model).fold(0).results("val") / "metrics.json")
        result = {
            "round": number,
            "seed": seed_of(number),
            "recipe": asdict(self.recipe),
            "also": [path.name for path in self.also],
            "hours": round((time.time() - begun) / 3600, 2),
            "machine": measured_on("cmb_plugin", "torch"),
            **quality_of(metrics),
        }
        result["kept"] = self._keep_if_better(number, result["quality"])
        write_json(done, result)
        if not self.keep:
            shutil.rmtree(data / task)
        return dict(read_json(done))

    def describe(self, number: int) -> str:
        """The recipe of a round's weights, a sentence."""
        own = self.recipe
        also = f", and the scans of {', '.join(path.name for path in self.also)}" if self.also else ""
        seeds = ", ".join(str(seed_of(earlier)) for earlier in range(number + 1))
        return (
            f"Round {number} of benchmarks/pretraining: in each of {number + 1} rounds {own.scans} phantoms of "
            f"protocols {own.protocol} (seeds {seeds}){also}, {own.steps} steps; "
            f"measured and swept on {own.pool} phantoms of seed {POOL_SEED}"
        )

    def _phantoms(self, task: str, count: int, seed: int) -> None:
        own = self.recipe
        words = ["--task", task, "--train", str(count), "--test", "0", "--healthy", str(own.healthy)]
        words += ["--protocol", own.protocol, "--modalities", own.modality, "--seed", str(seed)]
        self._do(example.main, *words, *self._processes)

    @property
    def _processes(self) -> list[str]:
        return [] if self.processes is None else ["-np", str(self.processes)]

    def _compose(self, task: TaskFolder, pool: TaskFolder) -> None:
        """Links the pool, and what else is learned from, into the round's Task: one fold, which validates on the pool.

        ``nndet_prep`` leaves a split that covers all cases as it is.
        """
        for source, prefix in ((pool, POOL_PREFIX), *((TaskFolder(path), f"{path.name}_") for path in self.also)):
            for file in sorted(source.raw.glob(f"*{SPLITS[0]}/*")):
                link = task.raw / file.parent.name / f"{prefix}{file.name}"
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():
                    link.symlink_to(file.resolve())
        ending = f"_0000{''.join(next(pool.images('Tr').iterdir()).suffixes)}"
        cases = sorted(path.name.removesuffix(ending) for path in task.images("Tr").glob(f"*{ending}"))
        held_out = [name for name in cases if name.startswith(POOL_PREFIX)]
        write_json(task.splits, [{"train": [name for name in cases if name not in held_out], "val": held_out}])

    def _train(self, task: str, models: Path, number: int, initial: bool) -> None:
        overrides = self.recipe.overrides(number)
        if initial:
            overrides.append(f"train.init={self.folder / 'weights.cmb'}")
        folders = list((models / task).glob("*/fold0"))
        if folders and (folders[0] / "settings.yaml").is_file():
            overrides.append("train.mode=resume")
        self._do(train.main, task, "-o", *overrides)

    def _do(self, main: Callable[[Sequence[str]], int], *words: str) -> None:
        """Runs a command of the program.

        Raises:
            UserError: it did not end well.
        """
        words = tuple(word for word in words if word != "-o") if words[-1:] == ("-o",) else words
        name = f"nndet_{main.__module__.rpartition('.')[2]}"
        self.log(f"$ {name} {' '.join(words)}")
        code = main(list(words))
        if code == 130:
            raise KeyboardInterrupt
        if code:
            raise UserError(f"{name} ended with {code}", remedy="mend what it says above, and run this again")

    def _keep_if_better(self, number: int, quality: float) -> bool:
        """Makes a round's weights the best ones if they are."""
        before = max((result["quality"] for result in self.results() if result["kept"]), default=-1.0)
        if quality <= before:
            return False
        copy_whole(self.packed(number), self.best)
        return True


def quality_of(metrics: dict[str, Any]) -> dict[str, Any]:
    """What decides, the mean sensitivity at ``RATES``, and the sensitivities themselves.

    Args:
        metrics: the content of ``metrics.json``.
    """
    froc = metrics["froc"]
    reached = {rate: froc[rate] or 0.0 for rate in RATES}
    return {
        "quality": round(sum(reached.values()) / len(RATES), 4),
        "sensitivity": {rate: round(value, 4) for rate, value in reached.items()},
        "healthy_fp_per_scan": metrics["healthy"]["fp_per_scan"],
        "protocols": metrics["strata"].get("domain") or {},
    }


def ship(path: Path, target: Path | None = None) -> Path:
    """Puts packed weights into the package.

    Raises:
        UserError: they are too large for it.
    """
    target = target or pretrained_file()
    megabytes, parameters = path.stat().st_size / 1e6, read_header(path).parameters
    if megabytes > SHIPPED_MB or parameters > SHIPPED_PARAMETERS:
        raise UserError(
            f"{path}: {megabytes:.1f} MB and {parameters / 1e6:.1f} million weights are too much for the package",
            remedy=f"ship at most {SHIPPED_MB:g} MB and {SHIPPED_PARAMETERS / 1e6:g} million",
        )
    copy_whole(path, target)
    return target


def copy_whole(source: Path, target: Path) -> None:
    """Copies a file, so that the target is the old or the new one."""
    with atomic(target) as temporary:
        shutil.copyfile(source, temporary)


def table(results: Sequence[dict[str, Any]]) -> str:
    """What each round brought, in Markdown."""
    lines = [
        table_head(
            *("round", "seed", "scans", "steps", "hours", "mean"), *(f"at {rate} FP" for rate in RATES), "replaced"
        )
    ]
    for result in results:
        recipe = result["recipe"]
        lines.append(
            table_row(
                *(result["round"], result["seed"], recipe["scans"], recipe["steps"], f"{result['hours']:.2f}"),
                f"{result['quality']:.3f}",
                *(f"{result['sensitivity'][rate]:.3f}" for rate in RATES),
                "yes" if result["kept"] else "no",
            )
        )
    best = [result for result in results if result["kept"]][-1]
    lines += [
        "",
        f"Round {best['round']} by protocol, at its operating point:",
        "",
        table_head("protocol", "scans", "definite lesions", "sensitivity", "false positives per scan"),
    ]
    for name, own in best["protocols"].items():
        reached = (show_number(own[key], 3) for key in ("sensitivity", "fp_per_scan"))
        lines.append(table_row(name, own["n_cases"], own["n_lesions"], *reached))
    last = results[-1]
    lines += [
        "",
        f"Sensitivity on {last['recipe']['pool']} phantoms of seed {POOL_SEED}, on which operating points are chosen "
        f"too. Last round: {last['machine']}.",
    ]
    return "\n".join(lines)


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """``det_data`` and ``det_models`` in a folder."""
    before = {name: os.environ.get(name) for name in ("det_data", "det_models")}
    os.environ.update(det_data=str(folder / "data"), det_models=str(folder / "models"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def options() -> argparse.ArgumentParser:
    """Of the command line."""
    own = Recipe()
    arguments = parser(__doc__)
    arguments.add_argument("folder", type=Path, help="where everything lies")
    arguments.add_argument("--rounds", type=int, default=1, metavar="N", help="rounds 0 to N-1 (default: %(default)s)")
    arguments.add_argument("--train", dest="scans", type=int, default=own.scans, help="phantoms (default: %(default)s)")
    arguments.add_argument("--pool", type=int, default=own.pool, help="phantoms to validate on (default: %(default)s)")
    arguments.add_argument("--steps", type=int, default=own.steps, help="of a round (default: %(default)s)")
    arguments.add_argument("--epochs", type=int, default=own.epochs, help="of a round (default: %(default)s)")
    arguments.add_argument("--protocol", default=own.protocol, help="of nndet_example (default: %(default)s)")
    arguments.add_argument("--modality", default=own.modality, help="the one channel (default: %(default)s)")
    arguments.add_argument("--prep", nargs="+", default=[], metavar="KEY=VALUE", help="of nndet_prep in round 0")
    arguments.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of nndet_train")
    arguments.add_argument("--also", nargs="+", type=Path, default=[], metavar="TASK", help="folders of further scans")
    arguments.add_argument("-np", "--num_processes", type=int, metavar="N", help="processes; every core by default")
    arguments.add_argument("--keep", action="store_true", help="leave the scans of finished rounds")
    arguments.add_argument("--ship", action="store_true", help="put the best weights into the package")
    add_page(arguments)
    return arguments


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Does the rounds that are missing, and writes their table."""
    args = options().parse_args(argv)
    recipe = Recipe(
        scans=args.scans,
        pool=args.pool,
        steps=args.steps,
        epochs=args.epochs,
        protocol=args.protocol,
        modality=args.modality,
        prep=tuple(args.prep),
        train=tuple(args.set),
    )
    folder = args.folder.resolve()
    rounds = Rounds(folder, recipe, tuple(path.resolve() for path in args.also), args.keep, args.num_processes)
    for number in range(args.rounds):
        result = rounds.run(number)
        print(json.dumps({key: result[key] for key in ("round", "quality", "sensitivity", "kept", "hours")}))
        if result["kept"] and args.ship:
            print(f"Shipped {ship(rounds.best)}")
    text = table(rounds.results())
    print(text)
    if args.page:
        put_between_markers(args.page, "rounds", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
