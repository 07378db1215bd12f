"""``--regions``: the words of the command line become a source of region maps for every scan."""

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
from cmb_plugin.images import Grid, read_grid, read_scan
from cmb_plugin.paths import ModelFolder, TaskFolder, find_model, models_root
from cmb_plugin.preparation import estimate_brain

if TYPE_CHECKING:
    from cmb_plugin.anatomy.atlas import Atlas

NONE, AUTO, MODEL, PARCELLATION, ATLAS = "none", "auto", "model", "parcellation", "atlas"
BUILT_IN = f"{ATLAS}:builtin"
FORMS = f"auto, model:NAME, parcellation:DIR, atlas:FILE[:LABELS.tsv], {BUILT_IN}, none"
PARCELLATIONS = "parcellations"  # folder beside the scans in which ``auto`` looks for them


@dataclass(frozen=True)
class RegionSource:
    """Makes the region map of a scan.

    Attributes:
        words: of the command line, made definite: never ``auto``.
        make: map of a case, on the grid of its scan.
        files: what the map of a case is made from; when they change it is made anew.
    """

    words: str
    make: Callable[[Case], RegionMap]
    files: Callable[[Case], Sequence[Path]]

    def key(self, case: Case) -> str:
        """Changes when the map of the case would."""
        stamps = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in self.files(case) if p.is_file()]
        return f"{self.words} registration {registration.VERSION} {stamps}"


def maps_folder(predictions: Path) -> Path:
    """``{predictions}/regions``: the maps that were made for a folder of predictions."""
    return predictions / "regions"


def region_source(words: str, task: TaskFolder, images: Path, channel: int, device: str = "cpu") -> RegionSource:
    """What ``--regions`` means.

    ``auto`` takes a trained model of the task's regions, else parcellations beside the scans, else the built-in atlas.

    Args:
        words: of the command line.
        task: whose region models ``model:NAME`` means.
        images: folder of the scans.
        channel: modality in which the brain is seen.
        device: where a model works.

    Raises:
        UserError: no such kind of source, or what it names is not there.
    """
    kind, rest = _kind(words)
    if kind == AUTO:
        return region_source(_automatic(task, images), task, images, channel, device)
    if kind == MODEL:
        return _model_source(words, find_model(task, rest), device)
    if kind == PARCELLATION:
        folder = Path(rest)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder", remedy="name the folder that holds the parcellations")
        return RegionSource(
            words,
            partial(_from_parcellation, folder=folder, channel=channel),
            lambda case: [case.images[channel], *folder.glob(f"{case.case_id}*")],
        )
    return _atlas_source(words, rest, channel)


def _kind(words: str) -> tuple[str, str]:
    kind, _, rest = words.partition(":")
    if (kind == AUTO and not rest) or (kind in (MODEL, PARCELLATION, ATLAS) and rest):
        return kind, rest
    raise UserError(f"--regions {words}: no known source of regions", remedy=f"known: {FORMS}")


def _automatic(task: TaskFolder, images: Path) -> str:
    models = region_models(task)
    if models:
        return f"{MODEL}:{models[0].name}"
    beside = images.parent / PARCELLATIONS
    return f"{PARCELLATION}:{beside}" if beside.is_dir() else BUILT_IN


def region_models(task: TaskFolder) -> list[ModelFolder]:
    """The trained models of a task that learned its regions."""
    folders = (ModelFolder(path) for path in sorted((models_root() / task.name).glob("*")))
    return [folder for folder in folders if folder.trained_folds() and folder.target == "regions"]


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


def _atlas_source(words: str, rest: str, channel: int) -> RegionSource:
    from cmb_plugin.anatomy.atlas import read_atlas

    file, _, table = rest.partition(":")
    atlas = read_atlas(file, table or None)
    used = [Path(name) for name in (file, table)]
    return RegionSource(
        words, partial(_from_atlas, atlas=atlas, channel=channel), lambda case: [case.images[channel], *used]
    )


def _from_atlas(case: Case, atlas: Atlas, channel: int) -> RegionMap:
    from cmb_plugin.anatomy.atlas import atlas_regions

    image, grid, brain = _scan(case, channel)
    return atlas_regions(image, grid, atlas, brain)


def _model_source(words: str, folder: ModelFolder, device: str) -> RegionSource:
    from .prediction import RegionModel

    model = RegionModel(folder, device)
    return RegionSource(words, make=model, files=model.files)
