"""``seg2det`` and ``cls2fg``: nnDetection's two ways of making other labels of a Task folder's own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cmb_plugin.conversion import instances_of_mask
from cmb_plugin.dataset import Dataset, image_files
from cmb_plugin.dataset.dataset import SPLITS, definition_file
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import image_stem, read_mask, voxels_of_instances, write_image
from cmb_plugin.paths import TaskFolder, data_root
from cmb_plugin.workers import Outcome, run_cases


@dataclass(frozen=True)
class Relabelled:
    """What became of one label file: the case and its number of lesions, None where it was done before."""

    case_id: str
    lesions: int | None


def seg2det(folder: TaskFolder, *, connectivity: int = 26, workers: int = 0) -> list[Outcome[Path, Relabelled]]:
    """Numbers the lesions of semantic masks: each connected component of a class becomes an instance.

    Number 1 of a mask is the first class of dataset.json, 2 the second; ``seg2det_things`` in dataset.json names other
    numbers in the order of the classes, as in nnDetection, and ``min_vol`` drops pieces of as many voxels or fewer.
    The masks as they were go to ``segTr`` and ``segTs`` beside ``labelsTr``. A case that has a class file is done.

    Args:
        folder: the Task folder.
        connectivity: 6, 18 or 26.
        workers: processes.

    Raises:
        UserError: the folder holds no labels, or dataset.json is wrong.
    """
    dataset = Dataset.load(folder)
    path = definition_file(folder)
    extra: dict[str, Any] = read_json(path) if path.suffix == ".json" else {}
    things = extra.get("seg2det_things") or list(range(1, len(dataset.classes) + 1))
    if len(things) > len(dataset.classes):
        remedy = "name every class under labels"
        raise UserError(f"{path}: seg2det_things names {len(things)} classes of {len(dataset.classes)}", remedy=remedy)
    masks = [mask for split in SPLITS for mask in image_files(folder.labels(split))]
    if not masks:
        raise UserError(f"{folder.labels('Tr')}: holds no mask", remedy="put {case}.nii.gz there, one per case")
    work = partial(_seg2det_case, things=tuple(things), least=int(extra.get("min_vol", 0)), connectivity=connectivity)
    return run_cases(work, masks, workers=workers, description=f"Numbering lesions of {folder.name}")


def _seg2det_case(path: Path, things: Sequence[int], least: int, connectivity: int) -> Relabelled:
    case_id = str(image_stem(path))
    classes_file = path.parent / f"{case_id}.json"
    if classes_file.is_file():
        return Relabelled(case_id, None)
    kept = path.parent.parent / path.parent.name.replace("labels", "seg") / path.name
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, kept.with_name(f".{kept.name}"))
        kept.with_name(f".{kept.name}").replace(kept)
    mask, grid = read_mask(kept)
    strange = sorted(set(mask[mask != 0].tolist()) - set(things)) if things else []
    mask[~_is_in(mask, things)] = 0
    drawn = instances_of_mask(mask, connectivity=connectivity, classes={v: i for i, v in enumerate(things)})
    small = [number for number, count in voxels_of_instances(drawn.mask).items() if count <= least]
    if small:
        drawn.mask[_is_in(drawn.mask, small)] = 0
        mask[drawn.mask == 0] = 0
        drawn = instances_of_mask(mask, connectivity=connectivity, classes={v: i for i, v in enumerate(things)})
    if strange and not drawn.classes:
        remedy = 'name the numbers of the lesions in dataset.json: "seg2det_things": [1]'
        raise UserError(f"{path}: holds numbers {strange[:5]}, none of {list(things)}", remedy=remedy)
    dtype = "uint8" if len(drawn.classes) < 256 else "uint16"
    write_image(path, drawn.mask.astype(dtype), grid)
    write_json(classes_file, {"instances": {str(n): c for n, c in drawn.classes.items()}})
    return Relabelled(case_id, len(drawn.classes))


def _is_in(mask: Any, values: Sequence[int]) -> Any:
    import numpy as np

    return np.isin(mask, np.asarray(list(values)))


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
    data: dict[str, Any] = {}
    if path.suffix == ".json":
        data = read_json(path)
    else:
        import yaml

        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    data |= {"task": target.name, "labels": {"0": "fg"}, "target_class": None if dataset.target_class is None else 0}
    write_json(copy.root / "dataset.json", data)
    if target.root.exists():
        shutil.rmtree(target.root)
    copy.root.rename(target.root)
    return target
