"""``make_example``, ``make_squares``: Task folders made by whichever tasks are registered as such."""

from __future__ import annotations

import re
from typing import Any

from cmb_plugin.errors import UserError
from cmb_plugin.paths import TaskFolder, data_root
from cmb_plugin.plugins import tasks


def make_example(
    task: str = "Task100_Phantom",
    *,
    train: int = 16,
    test: int = 8,
    healthy: float = 0.3,
    protocol: str = "demo",
    modalities: str = "swi,phase",
    classes: str = "cmb",
    seed: int = 0,
    workers: int = 0,
    overwrite: bool = False,
) -> Any:
    """Writes phantoms to ``${det_data}/{task}`` and returns the report of ``PhantomTask.write``.

    Args:
        task: name of the folder, ``Task`` + number + ``_`` + name.
        train, test: number of cases.
        healthy: share of the cases of each split that have no microbleed.
        protocol: a protocol, several separated by commas, or ``mixed``; cases take them in turn.
        modalities: names separated by commas; lesions are outlined on the first.
        classes: ``cmb`` or ``cmb,iron``.
        seed: the same seed gives the same files.
        workers: processes; 0 or 1 works in this one.
        overwrite: replace phantoms made with other settings.

    Raises:
        UserError: a wrong argument, or the folder holds something else.
    """
    if not re.fullmatch(r"Task\d+_[A-Za-z0-9_.-]+", task):
        raise UserError(f"--task {task}: not the name of a Task folder", remedy="name it like Task100_Phantom")
    plugin = tasks.get("phantom")
    settings = plugin.settings(train, test, healthy, protocol, modalities, classes, seed)
    return plugin().write(TaskFolder(data_root() / task), settings, workers=workers, overwrite=overwrite)


def make_squares(
    task: str = "Task000D3_Example", *, train: int = 10, test: int = 10, seed: int = 0, workers: int = 0
) -> Any:
    """Writes nnDetection's example, cubes with and without a hole, to ``${det_data}/{task}``.

    Raises:
        UserError: a wrong argument, or the folder holds something else.
    """
    if not re.fullmatch(r"Task\d+[A-Za-z0-9]*_[A-Za-z0-9_.-]+", task):
        raise UserError(f"--task {task}: not the name of a Task folder", remedy="name it like Task000D3_Example")
    plugin = tasks.get("squares")
    return plugin().write(TaskFolder(data_root() / task), plugin.settings(train, test, seed), workers=workers)
