"""Trains the weights of the package in rounds, each on phantoms that no round has seen. `make pretrained` runs this.

    python -m benchmarks.pretraining.rounds pretraining --rounds 4 --train 240 --steps 12000 --ship
    python -m benchmarks.pretraining.rounds pretraining --rounds 2 --start pretrained --ship
    python -m benchmarks.pretraining.rounds pretraining --anatomy head.nii.gz:tissues.tsv

A round draws phantoms with a seed of its own: half of them in the protocols of data sets, half with scanners drawn
anew, several for each subject; with --anatomy half of these have that head. It plans for the weights of the round
before (the first round plans by itself, or for those of --start), trains on from them, and is measured on a validation
pool that is the same in all rounds and that nothing is trained on. Weights replace the best ones, and with --ship those
in the package, if their mean sensitivity at 0.25, 0.5, 1 and 2 false positives per scan on the pool is higher. Run it
again at any time: what is finished is not done twice, and a training goes on where it was.

In FOLDER: data and models, as ${det_data} and ${det_models}; start.json, what --start reaches on the pool;
round_{N}.cmb and round_{N}.json of finished rounds, and best.cmb. A finished round's scans are removed unless --keep is
given.
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

from benchmarks.tools.markdown import add_page, put_between_markers
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands import eval as evaluate
from cmb_plugin.commands import example, pack, predict, prep, train
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.dataset.dataset import SPLITS
from cmb_plugin.errors import UserError
from cmb_plugin.files import atomic, read_json, write_json
from cmb_plugin.models.packed import read_header
from cmb_plugin.models.shipped import SHIPPED_MB, SHIPPED_PARAMETERS, pretrained_file
from cmb_plugin.paths import ModelFolder, TaskFolder

from .recipe import POOL_SEED, Recipe, seed_of
from .results import quality_of, table

POOL = "Task700_Pool"
POOL_PREFIX = "pool_"


@dataclass(frozen=True)
class Rounds:
    """All rounds in one folder.

    Attributes:
        folder: where everything lies.
        recipe: of each round.
        also: Task folders whose training cases are learned from in each round too.
        keep: leave the scans of finished rounds.
        processes: that make and prepare scans; None takes every core.
        start: packed weights that the first round begins with.
        log: is given a line on each step.
    """

    folder: Path
    recipe: Recipe
    also: tuple[Path, ...] = ()
    keep: bool = False
    processes: int | None = None
    start: Path | None = None
    log: Callable[[str], None] = print

    def packed(self, number: int) -> Path:
        """Weights of a round."""
        return self.folder / f"round_{number}.cmb"

    @property
    def best(self) -> Path:
        """Weights of the best round."""
        return self.folder / "best.cmb"

    def results(self) -> list[dict[str, Any]]:
        """What the weights at the start (round -1) and the finished rounds brought, in order."""
        start = [read_json(self._start_result)] if self._start_result.is_file() else []
        paths = sorted(self.folder.glob("round_*.json"), key=lambda path: int(path.stem.partition("_")[2]))
        return start + [read_json(path) for path in paths]

    @property
    def _start_result(self) -> Path:
        return self.folder / "start.json"

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
            pool = self._pool()
            parts = [TaskFolder(data / f"{task}{part.name}") for part in self.recipe.parts]
            for place, (folder, part) in enumerate(zip(parts, self.recipe.parts, strict=True)):
                words = ["--train", str(part.subjects), "--test", "0", *part.words]
                self._phantoms(folder.name, words, seed_of(number) + place)
            self._compose(parts[0], pool, [*self.also, *(folder.root for folder in parts[1:])])
            start = self.packed(number - 1) if number else self._measured_start(pool)
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
            for folder in parts:
                shutil.rmtree(folder.root)
        return dict(read_json(done))

    def describe(self, number: int) -> str:
        """The recipe of a round's weights, a sentence."""
        own = self.recipe
        also = f", and the scans of {', '.join(path.name for path in self.also)}" if self.also else ""
        seeds = ", ".join(str(seed_of(earlier)) for earlier in range(number + 1))
        begun = ""
        if self.start is not None:
            header = read_header(self.folder / "start.cmb")
            begun = f" Begun with {header.name}: {header.recipe.rstrip('. ')}."
        return (
            f"Round {number} of benchmarks/pretraining: in each of {number + 1} rounds {own.description} "
            f"(seeds {seeds}){also}, {own.steps} steps; "
            f"measured and swept on {own.pool} phantoms of seed {POOL_SEED}.{begun}"
        )

    def _phantoms(self, task: str, words: Sequence[str], seed: int) -> None:
        own = self.recipe
        fixed = ["--healthy", str(own.healthy), "--modalities", own.modality, "--seed", str(seed)]
        self._do(example.main, "--task", task, *words, *fixed, *self._processes)

    def _pool(self) -> TaskFolder:
        """The scans that measure all rounds."""
        own = self.recipe
        words = ["--train", "0", "--test", str(own.pool), "--protocol", own.pool_protocol]
        self._phantoms(POOL, words, POOL_SEED)
        return TaskFolder(self.folder / "data" / POOL)

    def _measured_start(self, pool: TaskFolder) -> Path | None:
        """The weights that the first round begins with; what they reach on the pool, any round has to surpass."""
        if self.start is None:
            return None
        copy = self.folder / "start.cmb"
        if not copy.is_file():
            copy_whole(self.start, copy)
        if not self._start_result.is_file():
            found, measured = self.folder / "start", self.folder / "start_results"
            self._do(predict.main, pool.name, str(copy), "--output", str(found))
            words = ["--test", "--predictions", str(found), "--output", str(measured)]
            self._do(evaluate.main, pool.name, *words)
            quality = quality_of(read_json(measured / "metrics.json"))
            copy_whole(copy, self.best)
            recipe = {**asdict(self.recipe), "scans": 0, "steps": 0}
            result = {"round": -1, "seed": 0, "recipe": recipe, "hours": 0.0, **quality, "kept": True}
            write_json(self._start_result, {**result, "machine": measured_on("cmb_plugin", "torch")})
        return copy

    @property
    def _processes(self) -> list[str]:
        return [] if self.processes is None else ["-np", str(self.processes)]

    def _compose(self, task: TaskFolder, pool: TaskFolder, further: Sequence[Path]) -> None:
        """Links the pool, and what else is learned from, into the round's Task: one fold, which validates on the pool.

        ``nndet_prep`` leaves a split that covers all cases as it is.
        """
        learned = [(TaskFolder(path), f"{path.name}_", SPLITS[0]) for path in further]
        description = read_json(task.root / "dataset.json")
        domains = dict(description.get("domain", {}))
        for source, prefix, split in ((pool, POOL_PREFIX, SPLITS[1]), *learned):
            for file in sorted(source.raw.glob(f"*{split}/*")):
                link = task.raw / f"{file.parent.name.removesuffix(split)}{SPLITS[0]}" / f"{prefix}{file.name}"
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():
                    link.symlink_to(file.resolve())
            own = read_json(source.root / "dataset.json").get("domain", {})
            domains |= {f"{prefix}{name}": domain for name, domain in own.items()}
        if domains:
            write_json(task.root / "dataset.json", {**description, "domain": domains})
        ending = f"_0000{''.join(next(pool.images(SPLITS[1]).iterdir()).suffixes)}"
        cases = sorted(path.name.removesuffix(ending) for path in task.images(SPLITS[0]).glob(f"*{ending}"))
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
    arguments.add_argument("--protocol", default=own.protocol, help="of data sets (default: %(default)s)")
    arguments.add_argument("--drawn", default=own.drawn, help="of drawn scanners (default: %(default)s)")
    arguments.add_argument("--anatomy", default=own.anatomy, metavar="FILE:TABLE", help="head of half of the latter")
    arguments.add_argument(
        "--lesions",
        type=int,
        default=own.lesions,
        metavar="N",
        help="of a scan that has any, on average; 0: as in cohorts (default: %(default)s)",
    )
    arguments.add_argument("--start", metavar="FILE", help="packed weights to begin with, or pretrained")
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
        lesions=args.lesions,
        protocol=args.protocol,
        drawn=args.drawn,
        anatomy=args.anatomy,
        modality=args.modality,
        prep=tuple(args.prep),
        train=tuple(args.set),
    )
    folder = args.folder.resolve()
    start = None if args.start is None else pretrained_file() if args.start == "pretrained" else Path(args.start)
    also = tuple(path.resolve() for path in args.also)
    rounds = Rounds(folder, recipe, also, args.keep, args.num_processes, start)
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
