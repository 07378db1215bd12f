"""A small Task folder for tests: dark blobs that a network can learn, on oblique scans with an empty border."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from cmb_plugin.dataset import write_dataset
from cmb_plugin.files import write_json
from cmb_plugin.images import Grid, write_image
from cmb_plugin.paths import TaskFolder


def make_tiny_task(
    root: Path,
    n_train: int = 4,
    n_test: int = 2,
    modalities: Sequence[str] = ("swi", "phase"),
    classes: Sequence[str] = ("cmb",),
    shape: tuple[int, int, int] = (24, 32, 32),
    spacing: tuple[float, float, float] = (1.5, 1.2, 1.2),
    seed: int = 0,
    name: str = "Task900_Tiny",
    suffix: str = ".nii.gz",
    oblique: bool = True,
    healthy: bool = True,
) -> TaskFolder:
    """Writes the Task folder ``root / name`` (so ``root`` is ``$det_data``) and returns it.

    Training cases are ``sub-01``, ``sub-02``, ..., test cases ``sub-51``, ...; the last of each split is healthy (if it
    is not the only one and ``healthy`` is set). The others hold 2 to 4 blobs of 2-3 voxels, at least 6 voxels apart,
    dark in even modalities and bright in odd ones; their classes take turns. Two voxels at the low end of z and one at
    the high end of x are empty (0). Test labels are written.
    """
    task = TaskFolder(Path(root) / name)
    rng = np.random.default_rng(seed)
    grid = tiny_grid(shape, spacing, oblique)
    for split, count, first in (("Tr", n_train, 1), ("Ts", n_test, 51)):
        for index in range(count):
            case_id = f"sub-{first + index:02d}"
            n_lesions = 0 if healthy and count > 1 and index == count - 1 else int(rng.integers(2, 5))
            images, mask = tiny_case(rng, shape, len(modalities), n_lesions)
            for modality, image in enumerate(images):
                write_image(task.images(split) / f"{case_id}_{modality:04d}{suffix}", image, grid)
            write_image(task.labels(split) / f"{case_id}{suffix}", mask, grid)
            instances = {str(i + 1): i % len(classes) for i in range(n_lesions)}
            write_json(task.labels(split) / f"{case_id}.json", {"instances": instances})
    write_dataset(task, modalities=modalities, classes=classes, test_labels=n_test > 0)
    return task


def tiny_grid(shape: tuple[int, int, int], spacing: tuple[float, float, float], oblique: bool = True) -> Grid:
    """A grid as a NIfTI scan has it: x and y run against LPS, turned by 12 and 20 degrees, origin off zero."""
    direction = np.diag([-1.0, -1.0, 1.0])
    if oblique:
        a, b = np.deg2rad([12.0, 20.0])
        turn_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        turn_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
        direction = turn_x @ turn_z @ direction
    return Grid(shape, spacing, (31.0, 42.5, -17.25), tuple(direction.ravel().tolist()))


def tiny_case(
    rng: np.random.Generator, shape: tuple[int, int, int], n_modalities: int, n_lesions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 [C, z, y, x] around 100, and an instance mask uint8 [z, y, x] of ``n_lesions`` blobs."""
    noise = rng.standard_normal((n_modalities, *shape))
    smooth = gaussian_filter(noise, (0, 4, 4, 4))
    images = 100 + 10 * smooth / smooth.std() + 2 * rng.standard_normal((n_modalities, *shape))
    mask = np.zeros(shape, dtype=np.uint8)
    places = np.indices(shape).transpose(1, 2, 3, 0)
    for number, centre in enumerate(_centres(rng, shape, n_lesions), start=1):
        mask[np.linalg.norm(places - centre, axis=-1) <= rng.uniform(1.0, 1.5)] = number
    for modality, image in enumerate(images):
        image[mask > 0] += 60 if modality % 2 else -60
    images[:, :2] = 0
    images[:, :, :, -1:] = 0
    return images.astype(np.float32), mask


def _centres(rng: np.random.Generator, shape: tuple[int, int, int], count: int) -> list[np.ndarray]:
    centres: list[np.ndarray] = []
    for _ in range(1000 * count):
        if len(centres) == count:
            break
        centre = rng.uniform([5, 4, 4], np.array(shape) - 5)
        if all(np.linalg.norm(centre - other) >= 6 for other in centres):
            centres.append(np.round(centre * 2) / 2)  # on voxels or between them: blobs of 2 and of 3 voxels
    assert len(centres) == count, f"{count} blobs do not fit into {shape}"
    return centres
