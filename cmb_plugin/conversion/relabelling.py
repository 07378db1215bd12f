"""``seg2det`` and ``cls2fg``: nnDetection's two ways of making other labels of a Task folder's own."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.conversion import Drawn, instances_of_mask
from cmb_plugin.dataset import Dataset, image_files
from cmb_plugin.dataset.dataset import SPLITS, definition_file, read_definition
from cmb_plugin.errors import UserError
from cmb_plugin.files import atomic, read_json, write_json
from cmb_plugin.images import (
    image_stem,
    pieces_of_instances,
    read_mask,
    voxels_of_instances,
    write_image,
)
from cmb_plugin.paths import TaskFolder, data_root
from cmb_plugin.workers import Outcome, run_cases


@dataclass(frozen=True)
class Relabelled:
    """What became of one label file.

    Attributes:
        case_id: the case.
        lesions: their number, None where it was done before.
        dropped: number of the mask that is of no class -> its connected pieces, which are no lesions now.
    """

    case_id: str
    lesions: int | None
    dropped: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Numbering:
    """How lesions are numbered.

    Attributes:
        things: numbers of the masks, in the order of the classes.
        least: pieces of as many voxels or fewer are dropped.
        connectivity: 6, 18 or 26.
    """

    things: tuple[int, ...]
    least: int
    connectivity: int

    def number(self, mask: np.ndarray) -> Drawn:
        """The lesions of a mask with class numbers."""
        classes = {value: index for index, value in enumerate(self.things)}
        mask = np.where(np.isin(mask, self.things), mask, 0)
        drawn = instances_of_mask(mask, connectivity=self.connectivity, classes=classes)
        small = [number for number, count in voxels_of_instances(drawn.mask).items() if count <= self.least]
        if small:
            mask[np.isin(drawn.mask, [0, *small])] = 0
            drawn = instances_of_mask(mask, connectivity=self.connectivity, classes=classes)
        return drawn


def seg2det(folder: TaskFolder, *, connectivity: int = 26, workers: int = 0) -> list[Outcome[Path, Relabelled]]:
    """Numbers the lesions of semantic masks: each connected component of a class becomes an instance.

    Number 1 of a mask is the first class of dataset.json, 2 the second; ``seg2det_things`` in dataset.json names other
    numbers in the order of the classes, as in nnDetection, and ``min_vol`` drops pieces of as many voxels or fewer.
    The masks as they were go to ``segTr`` and ``segTs`` beside ``labelsTr``, with a note of what was made of them: a
    mask in ``labelsTr`` that is not this is a new one, and replaces the one that is kept. A case that has a class file
    is done.

    Args:
        folder: the Task folder.
        connectivity: 6, 18 or 26.
        workers: processes.

    Raises:
        UserError: the folder holds no labels, or dataset.json is wrong.
    """
    dataset = Dataset.load(folder)
    numbering = _numbering(definition_file(folder), len(dataset.classes), connectivity)
    masks = [mask for split in SPLITS for mask in image_files(folder.labels(split))]
    if not masks:
        raise UserError(f"{folder.labels('Tr')}: holds no mask", remedy="put {case}.nii.gz there, one per case")
    work = partial(_seg2det_case, numbering=numbering)
    return run_cases(work, masks, workers=workers, description=f"Numbering lesions of {folder.name}")


def unread_limits(folder: TaskFolder) -> list[str]:
    """nnDetection's further limits for small lesions in dataset.json, which ``seg2det`` does not heed.

    Raises:
        UserError: dataset.json is missing or unreadable.
    """
    data: Mapping[str, Any] = read_definition(definition_file(folder))
    return [f"{key}={data[key]}" for key in ("min_size", "min_vol_mm3") if data.get(key)]


def _numbering(path: Path, n_classes: int, connectivity: int) -> _Numbering:
    data: Mapping[str, Any] = read_definition(path)
    things = data.get("seg2det_things") or list(range(1, n_classes + 1))
    if not isinstance(things, list) or not all(isinstance(number, int) and number > 0 for number in things):
        remedy = "give a list of numbers in the order of the classes, as [1]"
        raise UserError(f"{path}: seg2det_things is {things!r}", remedy=remedy)
    if len(things) > n_classes:
        remedy = "name every class under labels"
        raise UserError(f"{path}: seg2det_things names {len(things)} classes of {n_classes}", remedy=remedy)
    least = data.get("min_vol") or 0
    if not isinstance(least, int | float):
        raise UserError(f"{path}: min_vol is {least!r}", remedy="give a number of voxels")
    return _Numbering(tuple(things), int(least), connectivity)


def _seg2det_case(path: Path, numbering: _Numbering) -> Relabelled:
    case_id = str(image_stem(path))
    classes_file = path.parent / f"{case_id}.json"
    if classes_file.is_file():
        return Relabelled(case_id, None)
    kept = path.parent.parent / path.parent.name.replace("labels", "seg") / path.name
    made = kept.with_name(f"{case_id}.json")
    mask, grid = read_mask(path)
    new = not kept.is_file()
    if not new:
        former, its_grid = read_mask(kept)
        new = _is_new(path, mask, kept, former, made, numbering)
        mask, grid = (mask, grid) if new else (former, its_grid)
    drawn = numbering.number(mask)
    strange = np.where(np.isin(mask, numbering.things), 0, mask)
    if strange.any() and not drawn.classes:
        numbers = np.unique(strange[strange != 0]).tolist()
        remedy = 'name the numbers of the lesions in dataset.json: "seg2det_things": [1]'
        raise UserError(f"{path}: holds numbers {numbers[:5]}, none of {list(numbering.things)}", remedy=remedy)
    if new:
        with atomic(kept) as temporary:
            shutil.copy2(path, temporary)
    # Before the labels: a run that is killed here finds the mask as it was, which is not what the note tells of.
    write_json(made, {"numbered": _digest(drawn.mask)})
    dtype = "uint8" if len(drawn.classes) < 256 else "uint16"
    write_image(path, drawn.mask.astype(dtype), grid)
    write_json(classes_file, {"instances": {str(n): c for n, c in drawn.classes.items()}})
    return Relabelled(case_id, len(drawn.classes), pieces_of_instances(strange))


def _is_new(path: Path, mask: np.ndarray, kept: Path, former: np.ndarray, made: Path, numbering: _Numbering) -> bool:
    """Whether the mask in ``labelsTr`` is one that somebody put there since an earlier run, not what that run made.

    Raises:
        UserError: it cannot be told, or the mask looks like lesions that somebody numbered.
    """
    if made.is_file():
        if read_json(made).get("numbered") == _digest(mask):
            return False
    # Earlier versions left no note of what they made.
    elif mask.shape == former.shape and not np.array_equal(mask, former):
        if np.array_equal(mask, numbering.number(former).mask):
            return False
        if not (mask[former == 0] != 0).any():
            remedy = f"if it is a corrected mask, remove {kept}; if not, copy that file over it"
            raise UserError(f"{path}: may be the lesions of {kept} or a corrected mask", remedy=remedy)
    if strange := sorted(set(np.unique(mask).tolist()) - {0, *numbering.things, *np.unique(former).tolist()}):
        remedy = f"write {image_stem(path)}.json with a class for each, or put a mask with class numbers there"
        raise UserError(f"{path}: looks like numbered lesions: {strange[:5]} are of no class", remedy=remedy)
    return True


def _digest(mask: np.ndarray) -> str:
    """A short text that changes with the numbers of a mask, whatever type they are stored in."""
    content = hashlib.sha256(str(mask.shape).encode())
    content.update(np.ascontiguousarray(mask, np.int32).tobytes())
    return content.hexdigest()[:16]


def cls2fg(folder: TaskFolder, *, overwrite: bool = False) -> TaskFolder:
    """Copies a Task folder to ``Task{number}FG_{name}``, in which all lesions are of one class.

    Args:
        folder: the Task folder.
        overwrite: replace a copy that is there.

    Returns:
        the new folder.

    Raises:
        UserError: the copy exists, or the folder's name is no task's.
    """
    dataset = Dataset.load(folder)
    match = re.fullmatch(r"Task(\d+)_(.+)", folder.name)
    if match is None:
        raise UserError(f"{folder.root}: not the name of a Task folder", remedy="name it like Task101_CMB")
    target = TaskFolder(data_root() / f"Task{match[1]}FG_{match[2]}")
    if target.root.exists() and not overwrite:
        raise UserError(f"{target.root}: exists", remedy="add --overwrite to replace it")
    copy = TaskFolder(target.root.with_name(f".{target.name}.copying"))  # a killed run leaves no half Task folder
    shutil.rmtree(copy.root, ignore_errors=True)
    for source in sorted(folder.raw.iterdir()):
        if source.is_dir() and not source.name.startswith(("seg", ".")):
            shutil.copytree(source, copy.raw / source.name)
    for split in SPLITS:
        for file in sorted(copy.labels(split).glob("*.json")):
            content = read_json(file)
            content["instances"] = dict.fromkeys(content.get("instances", {}), 0)
            write_json(file, content)
    path = definition_file(folder)
    data: dict[str, Any] = read_definition(path)
    data |= {"task": target.name, "labels": {"0": "fg"}, "target_class": None if dataset.target_class is None else 0}
    write_json(copy.root / "dataset.json", data)
    if target.root.exists():
        shutil.rmtree(target.root)
    copy.root.rename(target.root)
    return target
