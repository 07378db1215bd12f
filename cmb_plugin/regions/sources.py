"""Where maps of brain regions come from: a trained model, a parcellation beside the scans, or an atlas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cmb_plugin.anatomy import RegionMap, registration
from cmb_plugin.dataset import Case
from cmb_plugin.errors import UserError
from cmb_plugin.files import stamp
from cmb_plugin.images import Grid, read_grid, read_scan
from cmb_plugin.paths import ModelFolder, TaskFolder, models_root
from cmb_plugin.preparation import estimate_brain

if TYPE_CHECKING:
    from cmb_plugin.anatomy.atlas import Atlas

AUTO, MODEL, PARCELLATION, ATLAS = "auto", "model", "parcellation", "atlas"
BUILT_IN = "builtin"
PARCELLATIONS = "parcellations"  # folder beside the scans in which ``automatic_source`` looks for them


@dataclass(frozen=True)
class RegionSource:
    """Makes the region map of a scan.

    Attributes:
        name: kind and origin, as ``nndet_predict --regions`` takes them; never ``auto``.
        make: map of a case, on the grid of its scan.
        files: what the map of a case is made from; when they change it is made anew.
        uses_all_cores: made by a network, so that several processes at once would bring nothing.
    """

    name: str
    make: Callable[[Case], RegionMap]
    files: Callable[[Case], Sequence[Path]]
    uses_all_cores: bool = False

    def key(self, case: Case) -> str:
        """Changes when the map of the case would."""
        stamps = [(str(p), *stamp(p)) for p in self.files(case) if p.is_file()]
        return f"{self.name} registration {registration.VERSION} {stamps}"


@dataclass(frozen=True)
class Surroundings:
    """What a source needs to know of the scans.

    Attributes:
        images: their folder.
        channel: modality in which the brain is seen.
        device: where a model works.
    """

    images: Path
    channel: int = 0
    device: str = "cpu"


RegionChoice = Callable[[Surroundings], RegionSource]
"""What the user asked for, before it is known which scans are meant."""


def automatic_source(scans: Surroundings, task: TaskFolder) -> RegionSource:
    """A trained model of the task's regions, else parcellations beside the scans, else the built-in atlas."""
    models = region_models(task)
    if models:
        return model_source(scans, models[0])
    beside = scans.images.parent / PARCELLATIONS
    return parcellation_source(scans, beside) if beside.is_dir() else atlas_source(scans, BUILT_IN)


def model_source(scans: Surroundings, folder: ModelFolder) -> RegionSource:
    """Maps by a trained model of regions."""
    from .prediction import RegionModel

    model = RegionModel(folder, scans.device)
    return RegionSource(f"{MODEL}:{folder.name}", make=model, files=model.files, uses_all_cores=True)


def parcellation_source(scans: Surroundings, folder: Path) -> RegionSource:
    """Maps from parcellations of other programs, named by case.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder", remedy="name the folder that holds the parcellations")
    return RegionSource(
        f"{PARCELLATION}:{folder}",
        partial(_from_parcellation, folder=folder, channel=scans.channel),
        partial(_with_parcellations, folder=folder, channel=scans.channel),
    )


def atlas_source(scans: Surroundings, file: str, table: str = "") -> RegionSource:
    """Maps from an atlas that is registered to each scan.

    Args:
        scans: the scans.
        file: of the atlas, or ``builtin``.
        table: what its labels stand for; empty for the table beside it.

    Raises:
        UserError: it cannot be read.
    """
    from cmb_plugin.anatomy.atlas import read_atlas

    atlas = read_atlas(file, table or None)
    used = [Path(name) for name in (file, table)]
    return RegionSource(
        ":".join((ATLAS, file, *([table] if table else []))),
        partial(_from_atlas, atlas=atlas, channel=scans.channel),
        partial(_with_files, files=used, channel=scans.channel),
    )


def region_models(task: TaskFolder) -> list[ModelFolder]:
    """The trained models of a task that learned its regions."""
    folders = (ModelFolder(path) for path in sorted((models_root() / task.name).glob("*")))
    return [folder for folder in folders if folder.trained_folds() and folder.target == "regions"]


def _with_parcellations(case: Case, folder: Path, channel: int) -> list[Path]:
    return [case.images[channel], *folder.glob(f"{case.case_id}*")]


def _with_files(case: Case, files: Sequence[Path], channel: int) -> list[Path]:
    return [case.images[channel], *files]


def _scan(case: Case, channel: int) -> tuple[np.ndarray, Grid, np.ndarray | None]:
    """The scan, its grid and the brain in it as far as it is found."""
    image, grid = read_scan(case.images[channel])
    image = np.nan_to_num(image)
    return image, grid, estimate_brain(image, grid.spacing)


def _from_parcellation(case: Case, folder: Path, channel: int) -> RegionMap:
    from cmb_plugin.anatomy.parcellation import find_parcellation, parcellation_regions

    path = find_parcellation(folder, case.case_id)
    if not case.images[channel].is_file():
        return parcellation_regions(path, read_grid(path))
    _, grid, brain = _scan(case, channel)
    return parcellation_regions(path, grid, brain=brain)


def _from_atlas(case: Case, atlas: Atlas, channel: int) -> RegionMap:
    from cmb_plugin.anatomy.atlas import atlas_regions

    image, grid, brain = _scan(case, channel)
    return atlas_regions(image, grid, atlas, brain)
