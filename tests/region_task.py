"""A small Task folder whose scans are heads: an ellipsoid of brain with a deep and an infratentorial part."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cmb_plugin.dataset import write_dataset
from cmb_plugin.files import write_json
from cmb_plugin.images import Grid, write_image
from cmb_plugin.paths import TaskFolder

SHAPE, SPACING = (28, 36, 32), (5.0, 5.0, 5.0)
VALUES = {0: 5.0, 1: 100.0, 2: 55.0, 3: 145.0}  # of a scan outside, lobar, deep and infratentorial


def make_region_task(root: Path, n_train: int = 5, n_test: int = 2, name: str = "Task901_Heads") -> TaskFolder:
    """Writes ``root / name``: PHASE (noise) and SWI, about 1.1 l of brain, one lesion in each region of every case.

    The last training case has no mask in ``regionsTr``.
    """
    task, rng = TaskFolder(Path(root) / name), np.random.default_rng(0)
    direction = (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)  # x and y of the file run to the right and forwards
    for split, count, first in (("Tr", n_train, 1), ("Ts", n_test, 51)):
        for index in range(count):
            case_id = f"sub-{first + index:02d}"
            grid = Grid(SHAPE, SPACING, tuple(rng.uniform(-20, 20, 3).tolist()), direction)
            swi, regions, lesions = head(rng)
            for modality, image in enumerate((rng.normal(size=SHAPE).astype(np.float32), swi)):
                write_image(task.images(split) / f"{case_id}_{modality:04d}.nii.gz", image, grid)
            write_image(task.labels(split) / f"{case_id}.nii.gz", lesions, grid)
            write_json(task.labels(split) / f"{case_id}.json", {"instances": {"1": 0, "2": 0, "3": 0}})
            if split == "Ts" or index < count - 1:
                write_image(task.extra("regions", split) / f"{case_id}.nii.gz", regions, grid)
    write_dataset(task, modalities=("PHASE", "SWI"), classes=("cmb",), test_labels=True)
    return task


def head(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scan float32, regions uint8 and instances uint8, all [z, y, x]."""
    middle = np.array(SHAPE) / 2 + rng.uniform(-1, 1, 3)
    z, y, x = (np.arange(n) + 0.5 - m for n, m in zip(SHAPE, middle, strict=True))
    z, y, x = z[:, None, None], y[None, :, None], x[None, None, :]
    size = rng.uniform(0.93, 1.0)

    def inside(a: float, b: float, c: float) -> np.ndarray:
        found: np.ndarray = (z / (a * size)) ** 2 + (y / (b * size)) ** 2 + (x / (c * size)) ** 2 < 1
        return found

    regions = inside(12, 14, 12.5).astype(np.uint8)
    regions[inside(5, 6, 5)] = 2
    regions[(regions == 1) & (z < -6)] = 3
    image = np.vectorize(VALUES.get)(regions) + rng.normal(size=SHAPE) * 8
    lesions = np.zeros(SHAPE, dtype=np.uint8)
    for number, (dz, dy, dx) in enumerate(((6, 8, 0), (0, 0, 0), (-9, 0, 0)), start=1):
        place = tuple(np.floor(middle + np.array((dz, dy, dx))).astype(int))
        lesions[place] = number
        image[place] -= 40
    return image.astype(np.float32), regions, lesions
