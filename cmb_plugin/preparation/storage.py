"""Prepared cases on disk: compressed arrays that are read patch by patch, and one JSON per case. No pickle, no
SimpleITK.

``{case}.b2nd`` holds the images, ``{case}_instances.b2nd`` the instance mask where there are labels,
``{case}_judged.b2nd`` where somebody has judged if that is not everywhere, ``{case}.json`` everything else. The JSON is
written last, so where it stands the case is whole.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Sequence
from collections.abc import Mapping as Dictionary
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.files import atomic, digest, read_json, stamp, write_json
from cmb_plugin.images import Mapping, boxes_of_instances

from .case import PreparedCase
from .recipe import Preprocessing

SCHEMA = 1
RULES = 2  # of preparation; a case that was prepared by earlier ones is prepared again. 2: the crop knows no labels
DEFAULT_PATCH = (64, 64, 64)


@dataclass(frozen=True)
class StoredCase:
    """A prepared case on disk. Arrays are opened at the first access and read only where they are sliced.

    Attributes:
        folder: where it lies.
        case_id: its name.
        shape: Z, Y, X of the arrays.
        channels: number of modalities.
        mapping: the way from the scan's voxels to the array's and back.
        boxes: float32 [N, 6] exact boxes of the lesions in network voxels, mapped from the scan.
        mask_boxes: float32 [N, 6] boxes of the resampled instances, whole voxels.
        truth: float32 [N, 6] boxes in the scan's voxels.
        labels: int64 [N] class index of each lesion.
        instance_ids: int64 [N] number of each lesion in the mask.
        redrawn: numbers of the lesions that had to be redrawn.
        nonfinite: number of replaced NaN and infinite values.
        labelled: False for a scan without labels.
        key: what it was made from and how, see ``work_key``.
        weak: the lesions were drawn from points or boxes, so that their outlines are nobody's judgement.
        missing: channels of modalities that the case does without: they hold nothing but 0.
        outside_ids: numbers of the lesions of which no voxel lies in the crop.
        outside_boxes: float32 [M, 6] their boxes in network voxels, outside the array.
        outside_labels: int64 [M] their class indices.
        judged_boxes: float32 [J, 6] boxes around the connected places that somebody has judged; None where that is the
            whole scan.

    Example:
        >>> case = StoredCase.open(folder, "sub-01")                      # doctest: +SKIP
        >>> case.data[:, 10:74, 20:84, 20:84].shape                       # doctest: +SKIP
        (1, 64, 64, 64)
    """

    folder: Path
    case_id: str
    shape: tuple[int, int, int]
    channels: int
    mapping: Mapping
    boxes: np.ndarray
    mask_boxes: np.ndarray
    truth: np.ndarray
    labels: np.ndarray
    instance_ids: np.ndarray
    redrawn: tuple[int, ...]
    nonfinite: int
    labelled: bool
    key: str
    weak: bool = False
    missing: tuple[int, ...] = ()
    outside_ids: tuple[int, ...] = ()
    outside_boxes: np.ndarray = field(default_factory=lambda: _boxes([]))
    outside_labels: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    judged_boxes: np.ndarray | None = None

    @classmethod
    def open(cls, folder: Path, case_id: str) -> StoredCase:
        """Reads the JSON of a case.

        Raises:
            UserError: the case is not prepared, or was written by another version, or is damaged.
        """
        path = _json_path(folder, case_id)
        if not path.is_file():
            raise UserError(f"{path}: case is not prepared", remedy="run nndet_prep again; it adds what is missing")
        content = read_json(path)
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise UserError(f"{path}: written by another version", remedy="delete the folder and run nndet_prep again")
        try:
            return cls._of_json(folder, case_id, content)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{path}: damaged ({reason})", remedy="delete it and run nndet_prep again") from None

    @classmethod
    def _of_json(cls, folder: Path, case_id: str, content: Dictionary[str, Any]) -> StoredCase:
        z, y, x = (int(side) for side in content["shape"])
        case = cls(
            folder=folder,
            case_id=case_id,
            shape=(z, y, x),
            channels=int(content["channels"]),
            mapping=Mapping.from_json(content["mapping"]),
            boxes=_boxes(content["boxes"]),
            mask_boxes=_boxes(content["mask_boxes"]),
            truth=_boxes(content["truth"]),
            labels=np.asarray(content["labels"], dtype=np.int64).reshape(-1),
            instance_ids=np.asarray(content["instance_ids"], dtype=np.int64).reshape(-1),
            redrawn=tuple(content["redrawn"]),
            nonfinite=int(content["nonfinite"]),
            labelled=bool(content["labelled"]),
            key=str(content["key"]),
            weak=bool(content.get("weak", False)),
            missing=tuple(int(channel) for channel in content.get("missing", ())),
            outside_ids=tuple(int(n) for n in content.get("outside", {}).get("instance_ids", ())),
            outside_boxes=_boxes(content.get("outside", {}).get("boxes", ())),
            outside_labels=np.asarray(content.get("outside", {}).get("labels", ()), dtype=np.int64).reshape(-1),
            judged_boxes=_boxes(content["judged_boxes"]) if "judged_boxes" in content else None,
        )
        lengths = {len(case.boxes), len(case.mask_boxes), len(case.truth), len(case.labels), len(case.instance_ids)}
        if len(lengths) > 1:
            raise ValueError(f"boxes, labels and instances differ in length: {sorted(lengths)}")
        if len({len(case.outside_ids), len(case.outside_boxes), len(case.outside_labels)}) > 1:
            raise ValueError("the lesions outside differ in length")
        return case

    @cached_property
    def data(self) -> Any:
        """float32 [C, Z, Y, X]; slicing gives numpy."""
        return _open_array(self.folder / f"{self.case_id}.b2nd")

    @cached_property
    def instances(self) -> Any:
        """int16 [Z, Y, X] with one number per lesion, slicing gives numpy; None for a scan without labels."""
        return _open_array(self.folder / f"{self.case_id}_instances.b2nd") if self.labelled else None

    @cached_property
    def judged(self) -> Any:
        """int16 [Z, Y, X], 1 where somebody has judged, slicing gives numpy; None where that is the whole scan."""
        return None if self.judged_boxes is None else _open_array(self.folder / f"{self.case_id}_judged.b2nd")

    @property
    def all_boxes(self) -> np.ndarray:
        """float32 [N + M, 6] boxes in network voxels of every lesion, also of those outside the array: what a network
        is measured against."""
        return np.concatenate([self.boxes, self.outside_boxes])

    @property
    def all_labels(self) -> np.ndarray:
        """int64 [N + M] class index of each of ``all_boxes``."""
        return np.concatenate([self.labels, self.outside_labels])

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to another process by name: open arrays stay where they are."""
        return StoredCase.open, (self.folder, self.case_id)


def save_case(
    folder: Path,
    case_id: str,
    prepared: PreparedCase,
    classes: Dictionary[int, int],
    *,
    patch_size: Sequence[int] = DEFAULT_PATCH,
    key: str = "",
    weak: bool = False,
) -> None:
    """Writes a case; one that is there already is replaced.

    Args:
        folder: ``preprocessed/{plan}/imagesTr``.
        case_id: its name.
        prepared: what ``preprocess_case`` gave.
        classes: instance number -> class index.
        patch_size: what will be read at a time; chunks and blocks are laid out for it.
        key: kept with the case, so that a later run knows whether it is still good.
        weak: kept with the case: its lesions were drawn from points or boxes.
    """
    _json_path(folder, case_id).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    _save_array(folder / f"{case_id}.b2nd", prepared.data, patch_size)
    if prepared.instances is not None:
        _save_array(folder / f"{case_id}_instances.b2nd", prepared.instances, patch_size)
    if prepared.judged is not None:
        _save_array(folder / f"{case_id}_judged.b2nd", prepared.judged, patch_size)
    numbers = sorted(prepared.truth)
    truth = np.array([prepared.truth[number] for number in numbers]).reshape(-1, 6)
    in_mask = boxes_of_instances(prepared.instances) if prepared.instances is not None else {}
    beyond = sorted(prepared.outside)
    beyond_boxes = np.array([prepared.outside[number] for number in beyond]).reshape(-1, 6)
    content = {
        "schema": SCHEMA,
        "case": case_id,
        "key": key,
        "labelled": prepared.instances is not None,
        "channels": len(prepared.data),
        "shape": prepared.data.shape[1:],
        "mapping": prepared.mapping.to_json(),
        "instance_ids": numbers,
        "labels": [int(classes[number]) for number in numbers],
        "boxes": np.round(prepared.mapping.boxes_to_network(truth), 4),
        "mask_boxes": [in_mask[number] for number in numbers],
        "truth": truth,
        "redrawn": prepared.redrawn,
        "nonfinite": prepared.nonfinite,
        "weak": weak,
        "missing": [channel for channel, image in enumerate(prepared.data) if not image.any()],
        "outside": {
            "instance_ids": beyond,
            "labels": [int(classes[number]) for number in beyond],
            "boxes": np.round(prepared.mapping.boxes_to_network(beyond_boxes), 4),
        },
    }
    if prepared.judged is not None:
        content["judged_boxes"] = list(boxes_of_instances(_components(prepared.judged)).values())
    write_json(_json_path(folder, case_id), content)


def prepared_cases(folder: Path) -> list[str]:
    """Names of the whole cases in a folder, sorted."""
    return sorted(path.name.removesuffix(".json") for path in folder.glob("*.json") if not path.name.startswith("."))


def keep_only(folder: Path, case_ids: Collection[str]) -> list[str]:
    """Deletes all other cases of a folder; returns their names, sorted."""
    others = [case_id for case_id in prepared_cases(folder) if case_id not in case_ids]
    for case_id in others:
        _json_path(folder, case_id).unlink()
        for ending in ("", "_instances", "_judged"):
            (folder / f"{case_id}{ending}.b2nd").unlink(missing_ok=True)
    return others


def work_key(sources: Sequence[Path], recipe: Preprocessing | None = None) -> str:
    """A short text that changes when a source file (by name, size and time of change) or the recipe changes."""
    files = [(path.name, *stamp(path)) for path in sources]
    how = recipe and {"rules": RULES, **dataclasses.asdict(recipe)}
    if how and not how["domain_units"]:
        del how["domain_units"]  # cases that were prepared before domains had units stay current
    return digest({"schema": SCHEMA, "recipe": how, "files": files})


def is_current(folder: Path, case_id: str, key: str) -> bool:
    """True when the case is whole and was made with ``key``."""
    path = _json_path(folder, case_id)
    try:
        return path.is_file() and read_json(path).get("key") == key
    except UserError:  # a damaged JSON: the case is made again
        return False


def _json_path(folder: Path, case_id: str) -> Path:
    return Path(folder) / f"{case_id}.json"


def _components(mask: np.ndarray) -> np.ndarray:
    """int32 [Z, Y, X]: connected places of a mask, numbered from 1; voxels that touch at a corner are connected."""
    from scipy import ndimage

    numbered: np.ndarray = ndimage.label(mask, structure=np.ones((3, 3, 3)))[0]
    return numbered


def _boxes(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float32).reshape(-1, 6)


def _open_array(path: Path) -> Any:
    import blosc2

    mapped = {} if os.name == "nt" else {"mmap_mode": "r"}  # blosc2 cannot map files on Windows
    return blosc2.open(urlpath=str(path), mode="r", dparams={"nthreads": 1}, **mapped)


def _save_array(path: Path, array: np.ndarray, patch_size: Sequence[int]) -> None:
    import blosc2
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params

    blosc2.set_nthreads(1)
    four = array if array.ndim == 4 else array[None]
    blocks, chunks = comp_blosc2_params(four.shape, tuple(patch_size), bytes_per_pixel=array.itemsize)
    cparams = {"codec": blosc2.Codec.LZ4HC, "clevel": 5, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1}
    with atomic(path) as temporary:
        blosc2.asarray(
            np.ascontiguousarray(array),
            urlpath=str(temporary),
            chunks=chunks[-array.ndim :],
            blocks=blocks[-array.ndim :],
            cparams=cparams,
        )
