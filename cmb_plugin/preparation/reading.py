"""The files of a case as arrays on one grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmb_plugin.dataset import Case, Labels
from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid, read_mask, read_scan

from .recipe import Preprocessing

MOST_INSTANCES = int(np.iinfo(np.int16).max)  # prepared masks are int16


def read_images(case: Case) -> tuple[np.ndarray, Grid]:
    """All modalities of a case on the grid of the first that it has.

    Returns:
        float32 [C, z, y, x] and the grid; channels that the case does without are 0.

    Raises:
        UserError: a modality is missing, unreadable, on another grid than the first, or holds one value everywhere.
    """
    images: dict[Path, np.ndarray] = {}
    grid: Grid | None = None
    for path in case.present:
        if not path.is_file():
            raise UserError(f"{path}: no such file", remedy="add it, or remove the other modalities of the case")
        image, own = read_scan(path)
        grid = grid or own
        if not own.same_as(grid):
            raise UserError(
                f"{path}: does not lie on the grid of {case.present[0].name}", remedy="resample it to that grid"
            )
        finite = image[np.isfinite(image)]
        if not finite.size or finite.min() == finite.max():
            raise UserError(f"{path}: every voxel has the same value", remedy="export the scan again")
        images[path] = image
    assert grid is not None, "a case has at least one modality"
    absent = np.zeros(grid.shape, dtype=np.float32)
    return np.stack([images.get(path, absent) for path in case.images]), grid


def read_labels(case: Case, n_classes: int, grid: Grid) -> Labels:
    """The labels of a case whose scan lies on ``grid``.

    Raises:
        UserError: as ``Case.read_labels``; or the mask lies on another grid, or its numbers are too high to be stored.
    """
    labels = case.read_labels(n_classes)
    if not labels.grid.same_as(grid):
        raise UserError(
            f"{case.label}: does not lie on the grid of {case.images[0].name}", remedy="resample it to that grid"
        )
    if labels.classes and max(labels.classes) > MOST_INSTANCES:
        raise UserError(
            f"{case.label}: has an instance {max(labels.classes)}", remedy="number the lesions 1, 2, ... without gaps"
        )
    return labels


def read_regions(case: Case, n_regions: int, grid: Grid) -> Labels:
    """The region mask that stands as the label of ``case`` (``Plan.case``), for a scan on ``grid``.

    Returns:
        numbers 1 .. ``n_regions`` in the place of instances; number n is class n - 1.

    Raises:
        UserError: the mask is unreadable, on another grid, empty, or holds a number without a name.
    """
    assert case.label is not None, "the plan's view of the case has no region mask"
    mask, own = read_mask(case.label)
    if not own.same_as(grid):
        raise UserError(
            f"{case.label}: does not lie on the grid of {case.images[0].name}", remedy="resample it to that grid"
        )
    lowest, highest = int(mask.min(initial=0)), int(mask.max(initial=0))
    if lowest < 0 or highest > n_regions:
        raise UserError(
            f"{case.label}: holds {lowest if lowest < 0 else highest}, which has no name",
            remedy='name the regions in dataset.json: "regions": {"1": "lobar", "2": "deep", ...}',
        )
    if highest == 0:
        raise UserError(f"{case.label}: is empty", remedy="remove it; a scan without regions is left out")
    return Labels(mask, {number: number - 1 for number in range(1, n_regions + 1)}, own)


def read_brain(case: Case, grid: Grid) -> np.ndarray | None:
    """The brain mask [z, y, x] of a case of a Task folder (``brainTr/{case}.nii.gz``) whose scan lies on ``grid``.

    None without such a file, and for a scan that belongs to no Task folder.

    Raises:
        UserError: the mask is unreadable or lies on another grid.
    """
    path = brain_file(case)
    if path is None:
        return None
    mask, own = read_mask(path)
    if not own.same_as(grid):
        raise UserError(
            f"{path}: does not lie on the grid of {case.images[0].name}",
            remedy="resample it to that grid, or remove it: the brain is then estimated",
        )
    return mask


def read_judged(case: Case, grid: Grid) -> np.ndarray | None:
    """bool [z, y, x]: what somebody has judged in a scan on ``grid``; None where that is all of it.

    Raises:
        UserError: the mask is unreadable or lies on another grid.
    """
    if case.judged is None:
        return None
    mask, own = read_mask(case.judged)
    if not own.same_as(grid):
        raise UserError(
            f"{case.judged}: does not lie on the grid of {case.images[0].name}", remedy="resample it to that grid"
        )
    judged: np.ndarray = mask != 0
    return judged


def brain_file(case: Case) -> Path | None:
    """The brain mask of a case of a Task folder, if there is one."""
    path = case.extra("brain") if case.split else None
    return None if path is None or path.suffix == ".json" else path


def source_files(case: Case, recipe: Preprocessing | None = None, brain: bool = False) -> list[Path]:
    """The files that a prepared case depends on, as far as they exist.

    Args:
        case: the case.
        recipe: counts the brain mask if the recipe uses it.
        brain: counts the brain mask in any case.
    """
    labels = [case.label, case.classes_file, case.judged]
    return [*_existing([*case.present, *labels]), *_brain_files(case, recipe, brain)]


def scan_files(case: Case, recipe: Preprocessing) -> list[Path]:
    """The files that the array of a case depends on, as far as they exist: of ``source_files`` all but the labels."""
    return [*_existing(case.present), *_brain_files(case, recipe)]


def _brain_files(case: Case, recipe: Preprocessing | None, brain: bool = False) -> list[Path]:
    used = brain or (recipe is not None and recipe.brain_channel is not None)
    return _existing([brain_file(case)]) if used else []


def _existing(paths: Sequence[Path | None]) -> list[Path]:
    return [path for path in paths if path is not None and path.is_file()]
