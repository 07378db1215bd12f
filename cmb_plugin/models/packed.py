"""Packed models: one file ``NAME.cmb`` that predicts anywhere, written from a trained model and read back as one.

The file is a safetensors file: weights in float16 under ``fold{N}.{name}``, and a JSON header. Read back it is a model
folder in a temporary place, so that whatever takes a trained model takes it too.
"""

from __future__ import annotations

import atexit
import dataclasses
import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from cmb_plugin.documents import RESEARCH_USE_ONLY, from_json
from cmb_plugin.errors import UserError
from cmb_plugin.files import atomic, digest, read_json, write_json, write_text
from cmb_plugin.paths import ModelFolder
from cmb_plugin.settings import read_settings, write_settings
from cmb_plugin.training import read_weights

from .ensemble import trainer_of
from .seen import SeenScans
from .shipped import ENDING
from .trained import PACKED, TrainedModel

FORMAT = 1

_KEY = "cmb_plugin"
_SETTINGS = ("module", "plan", "additional_imports", "model_cfg", "trainer_cfg", "inference_cfg", "versions")
"""What of a fold's settings a packed model keeps: nothing that names the Task's folder or its scans."""
_HEADER_LIMIT = 100_000_000  # bytes, as safetensors has it


@dataclass(frozen=True)
class PackedHeader:
    """What a packed model says about itself.

    Attributes:
        format: of the file.
        name: of the model folder that was packed.
        target: what it learned, as in ``Plan.target``.
        folds: number -> ``plan``, ``settings``, ``operating_point`` (None for the default) and ``files``, the trainer's
            own, as text.
        seen: what the scans that it learned from are like.
        trainer: class and module of its trainer, by which somebody finds the plugin.
        recipe: how it was trained, a sentence.
        commit: of the program that packed it, or its version.
        parameters: weights of one fold that were learned.
        weights_sha256: of all tensors.
        aliases: name of a tensor -> name of the one that it equals, which alone is in the file: networks know some of
            their weights by two names.
        warning: what it may be used for.
    """

    format: int
    name: str
    target: str
    folds: dict[str, dict[str, Any]]
    seen: dict[str, Any]
    trainer: dict[str, str]
    recipe: str = ""
    commit: str = ""
    parameters: int = 0
    weights_sha256: str = ""
    aliases: dict[str, str] = field(default_factory=dict)
    warning: str = RESEARCH_USE_ONLY

    @property
    def seen_scans(self) -> SeenScans:
        """``seen``, typed."""
        return from_json(SeenScans, self.seen, self.name)


def pack_file(model: TrainedModel, seen: SeenScans, target: Path, recipe: str = "", commit: str = "") -> PackedHeader:
    """Writes trained folds as one packed model. The same model gives the same bytes.

    Args:
        model: the folds, and the checkpoint of each that is packed.
        seen: what its training scans are like.
        target: the file, ending in ``.cmb``.
        recipe: how it was trained, a sentence.
        commit: of the program.

    Raises:
        UserError: the name ends otherwise, or a file of the model cannot be read.
    """
    _check_name(target)
    tensors: dict[str, Tensor] = {}
    folds: dict[str, dict[str, Any]] = {}
    trainer: Any = None
    aliases: dict[str, str] = {}
    for number, fold in model.fold_folders.items():
        trainer = trainer_of(fold)
        weights = read_weights(fold.checkpoint(model.checkpoint))
        own_aliases = _aliases(weights)
        aliases |= {f"fold{number}.{name}": f"fold{number}.{kept}" for name, kept in own_aliases.items()}
        tensors |= {f"fold{number}.{name}": _half(value) for name, value in weights.items() if name not in own_aliases}
        settings, point = read_settings(fold.settings), fold.operating_point
        own = {name: fold.root / name for name in trainer.files}
        folds[str(number)] = {
            "plan": read_json(fold.plan),
            "settings": {key: settings[key] for key in _SETTINGS if key in settings},
            "operating_point": read_json(point) if point.is_file() else None,
            "files": {name: path.read_text(encoding="utf-8") for name, path in own.items() if path.is_file()},
        }
    assert trainer is not None, "a model has at least one fold"
    header = PackedHeader(
        format=FORMAT,
        name=model.name,
        target=model.target,
        folds=folds,
        seen=dataclasses.asdict(seen),
        trainer={"class": trainer.__name__, "module": trainer.__module__},
        recipe=recipe,
        commit=commit or f"cmb_plugin {version('cmb_plugin')}",
        parameters=_parameters(tensors, f"fold{model.folds[0]}."),
        weights_sha256=_sha256(tensors),
        aliases=aliases,
    )
    _write(tensors, header, target)
    return header


def repackable(source: Path, target: Path) -> PackedHeader:
    """The header of a packed model that ``repack`` can write as another one.

    Raises:
        UserError: as ``read_header``; also where it holds several folds, which have an operating point each, or where
            the name of the other one ends otherwise.
    """
    _check_name(target)
    header = read_header(source)
    if len(header.folds) > 1:
        raise UserError(
            f"{source}: each of its {len(header.folds)} folds has its own operating point",
            remedy="pack a single fold (nndet_pack -f 0)",
        )
    return header


def repack(source: Path, header: PackedHeader, target: Path, operating_point: dict[str, Any]) -> None:
    """Writes a packed model anew, with another operating point.

    Args:
        source: the packed model.
        header: of ``repackable``.
        target: the file, ending in ``.cmb``.
        operating_point: what ``operating_point.json`` holds.

    Raises:
        UserError: its weights are damaged.
    """
    folds = {number: {**content, "operating_point": operating_point} for number, content in header.folds.items()}
    _write(_tensors(source, header), dataclasses.replace(header, folds=folds), target)


def _check_name(target: Path) -> None:
    if target.suffix != ENDING:
        raise UserError(f"{target}: no name of a packed model", remedy=f"let it end in {ENDING}")


def _write(tensors: dict[str, Tensor], header: PackedHeader, target: Path) -> None:
    from safetensors.torch import save

    with atomic(target) as temporary:
        temporary.write_bytes(save(tensors, {_KEY: json.dumps(dataclasses.asdict(header), sort_keys=True)}))


def read_header(path: Path) -> PackedHeader:
    """What a packed model says about itself; the weights are not read.

    Raises:
        UserError: the file is missing, incomplete, no packed model, or of another format.
    """
    remedy = "name a file that nndet_pack wrote"
    try:
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            text = file.read(length) if 0 < length <= _HEADER_LIMIT else b""
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})", remedy="check the path") from None
    if not text.startswith(b"{") or length > _HEADER_LIMIT:
        raise UserError(f"{path}: is no packed model", remedy=remedy)
    if 8 + length > size:
        raise _damaged(path)
    try:
        content = json.loads(text)
        metadata = content.get("__metadata__") or {}
        if _KEY not in metadata:
            raise UserError(f"{path}: a safetensors file, but no packed model of cmb_plugin", remedy=remedy)
        own = json.loads(metadata[_KEY])
        end = max((entry["data_offsets"][1] for name, entry in content.items() if name != "__metadata__"), default=0)
        if own.get("format") != FORMAT:
            raise UserError(
                f"{path}: has format {own.get('format')}, this version reads {FORMAT}",
                remedy="use the version of cmb_plugin that packed it, or pack the model again",
            )
        header = PackedHeader(**own)
        if not header.folds:
            raise ValueError("it holds no fold")
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise UserError(f"{path}: its header cannot be read ({error})", remedy="copy the file again") from None
    if 8 + length + end != size:
        raise _damaged(path)
    return header


def read_packed_weights(path: Path, header: PackedHeader) -> dict[int, dict[str, Tensor]]:
    """Fold -> weights by name, in float32 where they are no whole numbers.

    Raises:
        UserError: they are damaged.
    """
    tensors = _tensors(path, header)
    tensors |= {name: tensors[kept].clone() for name, kept in header.aliases.items()}
    return {
        int(number): {
            name.removeprefix(f"fold{number}."): value.float() if value.is_floating_point() else value
            for name, value in tensors.items()
            if name.startswith(f"fold{number}.")
        }
        for number in header.folds
    }


def _tensors(path: Path, header: PackedHeader) -> dict[str, Tensor]:
    """The tensors as they stand in a packed model.

    Raises:
        UserError: they are damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError):
        raise _damaged(path) from None
    if _sha256(tensors) != header.weights_sha256:
        raise _damaged(path)
    return tensors


def unpacked(path: Path) -> ModelFolder:
    """A packed model as a model folder, which is removed when the process ends.

    Raises:
        UserError: as ``read_header`` and ``read_packed_weights``.
    """
    return _unpacked(path, digest(dataclasses.asdict(read_header(path))))


@cache
def _unpacked(path: Path, key: str) -> ModelFolder:
    """Once for each file and ``key``, which tells its content: it may be written anew while a process runs."""
    header = read_header(path)
    weights = read_packed_weights(path, header)
    temporary = TemporaryDirectory(prefix="nndet_model_")
    atexit.register(temporary.cleanup)
    folder = ModelFolder(Path(temporary.name) / path.name.removesuffix(ENDING))
    for number, content in header.folds.items():
        fold = folder.fold(int(number))
        fold.root.mkdir(parents=True)
        write_json(fold.plan, content["plan"])
        write_settings(fold.settings, content["settings"])
        if content["operating_point"] is not None:
            write_json(fold.operating_point, content["operating_point"])
        for name, text in content["files"].items():
            write_text(fold.root / Path(name).name, text)
        torch.save({"state_dict": weights[int(number)]}, fold.last)
        changed = path.stat().st_mtime_ns  # so that what was made with it before is known again
        os.utime(fold.last, ns=(changed, changed))
        fold.mark(finished=True)
    write_json(folder.root / PACKED, {"file": str(path), "weights_sha256": header.weights_sha256, "seen": header.seen})
    return folder


def _damaged(path: Path) -> UserError:
    return UserError(f"{path}: is damaged or incomplete", remedy="copy or download it again")


def _aliases(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of tensors that equal an earlier one bit for bit -> name of that one."""
    known: dict[str, str] = {}
    aliases = {}
    for name, value in weights.items():
        content = _sha256({f"{value.dtype} {tuple(value.shape)}": value})
        if known.setdefault(content, name) != name:
            aliases[name] = known[content]
    return aliases


def _half(value: Tensor) -> Tensor:
    """In float16 where that holds its range, else as it is."""
    value = value.detach().cpu().contiguous()
    if not value.is_floating_point():
        return value
    half = value.to(torch.float16)
    return half if torch.isfinite(half).all() or not torch.isfinite(value).all() else value.float()


def _parameters(tensors: Mapping[str, Tensor], prefix: str) -> int:
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    own = (value for name, value in tensors.items() if name.startswith(prefix) and not name.endswith(buffers))
    return sum(value.numel() for value in own)


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    whole = hashlib.sha256()
    for name in sorted(tensors):
        whole.update(name.encode())
        whole.update(tensors[name].cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()
