"""``SquaresTask``: nnDetection's example data set, cubes with and without a hole, as a Task folder."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmb_plugin.dataset import write_dataset
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import Grid, write_image
from cmb_plugin.paths import TaskFolder
from cmb_plugin.phantom import ExampleOptions, ExampleReport, ExampleTask
from cmb_plugin.plugins import register_task
from cmb_plugin.workers import run_cases

SIDE = (48, 48, 48)  # voxels of 1 mm; nnDetection's are larger, which teaches nothing more
CUBE = (10, 16)  # smallest and largest side of a cube
WALL = 3  # of a hollow one
CLASSES = ("SquareHole", "Square")


@dataclass(frozen=True)
class SquaresSettings:
    """Kept in dataset.json under ``squares``."""

    train: int
    test: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Plain data by which a later call knows whether the cases are the same."""
        return dict(vars(self))


@register_task
class SquaresTask(ExampleTask):
    """Uniform noise with one brighter cube in every scan; a hollow one is class 0, a solid one class 1."""

    folder = "Task000D3_Example"

    def settings(self, options: ExampleOptions) -> SquaresSettings:
        """The numbers of cases, and the seed.

        Raises:
            UserError: there would be no case, or a number is negative.
        """
        train = 16 if options.train is None else options.train
        test, seed = 8 if options.test is None else options.test, options.seed
        if train < 0 or test < 0 or train + test == 0 or seed < 0:
            raise UserError(
                f"--train {train} --test {test} --seed {seed}: no case to make", remedy="give numbers from 0"
            )
        return SquaresSettings(train, test, seed)

    def write(
        self, task: TaskFolder, settings: SquaresSettings, *, workers: int = 0, overwrite: bool = False
    ) -> ExampleReport:
        """Makes the cases that are not there yet.

        Raises:
            UserError: the folder holds another data set.
        """
        definition = task.root / "dataset.json"
        if task.root.exists() and any(task.root.iterdir()):
            found = read_json(definition).get("squares") if definition.exists() else None
            if found != settings.to_json():
                raise UserError(f"{task.root}: holds another data set", remedy="remove it, or choose another --task")
        else:
            write_dataset(
                task,
                name="Example",
                modalities=["noise"],
                classes=CLASSES,
                test_labels=True,
                squares=settings.to_json(),
            )
        cases = [("Tr", i) for i in range(settings.train)]
        cases += [("Ts", i) for i in range(settings.train, settings.train + settings.test)]
        missing = [(split, i) for split, i in cases if not (task.labels(split) / f"case_{i}.json").exists()]
        work = functools.partial(_write_case, task, settings.seed)
        return ExampleReport(task, run_cases(work, missing, workers=workers), len(cases) - len(missing))


def make_square(seed: int, index: int) -> tuple[np.ndarray, np.ndarray, int]:
    """One scan.

    Args:
        seed, index: decide everything.

    Returns:
        float32 image [z, y, x] from 0 to 1, uint8 mask with the cube as 1 (its hole is background), class index.
    """
    rng = np.random.default_rng([seed, index])
    image = rng.random(SIDE)
    mask = np.zeros(SIDE, dtype=np.uint8)
    sides = rng.integers(CUBE[0], CUBE[1] + 1, 3)
    corner = rng.integers(1, np.array(SIDE) - sides)
    label = int(rng.integers(0, 2))
    mask[tuple(slice(a, a + n) for a, n in zip(corner, sides, strict=True))] = 1
    if label == 0:
        mask[tuple(slice(a + WALL, a + n - WALL) for a, n in zip(corner, sides, strict=True))] = 0
    image[mask > 0] += 0.4
    return np.clip(image, 0, 1).astype(np.float32), mask, label


def _write_case(task: TaskFolder, seed: int, place: tuple[str, int]) -> int:
    """The class file comes last and marks a case as finished."""
    split, index = place
    image, mask, label = make_square(seed, index)
    grid = Grid(SIDE, (1.0, 1.0, 1.0))
    write_image(task.images(split) / f"case_{index}_0000.nii.gz", image, grid)
    write_image(task.labels(split) / f"case_{index}.nii.gz", mask, grid)
    write_json(task.labels(split) / f"case_{index}.json", {"instances": {"1": label}})
    return 1
