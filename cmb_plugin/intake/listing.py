"""What ``--input`` names: a file, a folder of files, a table of scans, a BIDS data set or a folder of DICOM files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cmb_plugin.dataset import image_files, split_modality
from cmb_plugin.documents import counted
from cmb_plugin.errors import UserError
from cmb_plugin.files import files_below
from cmb_plugin.images import SUFFIXES, image_stem
from cmb_plugin.images.dicom_headers import is_dicom

from .scan_table import TABLES, list_table
from .selection import Channels, Intake, select
from .table import PASSED_OVER, InputRow
from .volumes import Volume, safe_case, volumes_of_file

_DESCRIPTION = "dataset_description.json"  # of a BIDS data set
_OTHER_FORMATS = (".mgz", ".mgh", ".hdr", ".nhdr", ".mhd", ".mnc", ".par", ".nii.bz2", ".nii.zst", ".head")


@dataclass(frozen=True)
class InputOptions:
    """How an input is read.

    Attributes:
        patterns: name of a modality, in capital or small letters -> pattern of the files that show it
            (``*_swi.nii.gz``, ``*/swi.nii``, ``**/mag.nii.gz``), relative to the input; what ``*`` stands for names the
            case.
        participants: of a BIDS data set, only these (``01`` or ``sub-01``); empty for all.
    """

    patterns: Mapping[str, str] = field(default_factory=dict)
    participants: tuple[str, ...] = ()


def is_task_named(path: Path) -> bool:
    """Whether a folder holds files named ``{case}_{modality:04d}``, as Task folders have them."""
    return path.is_dir() and any(split_modality(file)[1] is not None for file in image_files(path))


def list_input(path: Path, channels: Channels, options: InputOptions | None = None) -> Intake:
    """The cases in ``path`` for a model, and a row for everything that is there.

    Args:
        path: an image file, a folder of image files, a table of scans, a BIDS data set, or a folder with DICOM files.
        channels: what the model sees.
        options: how it is read.

    Raises:
        UserError: there is nothing, or a pattern is wrong.
    """
    options = options or InputOptions()
    if not path.exists():
        raise UserError(f"{path}: no such file or folder", remedy="name a scan, or a folder of scans")
    if path.is_file() and path.suffix.lower() in TABLES:
        return list_table(path, channels, partial(list_input, channels=channels))
    volumes, rows = _found(path, channels, options)
    if not volumes and not rows:
        remedy = f"scans are files ending in {', '.join(SUFFIXES)}, DICOM files, or a BIDS data set"
        raise UserError(f"{path}: holds no scan", remedy=remedy)
    intake = select(volumes, channels)
    intake.rows += rows
    return intake


def _found(path: Path, channels: Channels, options: InputOptions) -> tuple[list[Volume], list[InputRow]]:
    """The volumes of an input that is no table, and rows for what is none."""
    if options.patterns:
        return _by_patterns(path, channels, options.patterns), []
    if path.is_file() and image_stem(path) is not None:
        return _file(path, path.parent), []
    if path.is_dir() and any(path.glob("sub-*/")):
        from .bids import bids_volumes

        volumes = bids_volumes(path, options.participants)
        # Others name folders so too. What calls itself BIDS is BIDS: its other images are of functions or diffusion.
        if volumes or options.participants or (path / _DESCRIPTION).is_file():
            return volumes, _without_images(path, volumes, options) if volumes else []
    if path.is_dir() and image_files(path):
        return [v for file in image_files(path) for v in _file(file, path)], _beside(path)
    from .dicom import dicom_volumes

    volumes, rows = dicom_volumes(path)
    if not volumes and not rows and path.is_dir():
        files = [file for file in files_below(path) if image_stem(file) is not None]
        volumes = [v for file in files for v in _file(file, path)]
    elif path.is_dir():
        rows += _images_beside(path)
    return volumes, rows


def _without_images(root: Path, volumes: Sequence[Volume], options: InputOptions) -> list[InputRow]:
    """Rows for the subjects of a BIDS data set of which no image was found."""
    from .bids import FOLDERS, subjects_of

    found = {volume.name.partition("/")[0] for volume in volumes}
    why = f"no image in {' or '.join(FOLDERS)} of the subject or its sessions; --channels names others"
    return [
        InputRow("", "", name, "", PASSED_OVER, why)
        for name in subjects_of(root, options.participants)
        if name not in found
    ]


def _images_beside(root: Path) -> list[InputRow]:
    """Rows for the folders with image files below a folder whose DICOM files are read."""
    counts = Counter(file.parent for file in files_below(root) if image_stem(file) is not None)
    why = "image files below a folder with DICOM files: name their folder as a further input"
    return [
        InputRow("", "", f"{folder.relative_to(root).as_posix()} ({counted(n, 'image file')})", "", PASSED_OVER, why)
        for folder, n in sorted(counts.items())
    ]


def _file(file: Path, root: Path) -> list[Volume]:
    name = file.relative_to(root).as_posix()
    stem = name.removesuffix(file.name) + str(image_stem(file))
    return volumes_of_file(file, name, stem if "/" not in stem else safe_case(*stem.split("/")))


def _beside(folder: Path) -> list[InputRow]:
    """Rows for what lies beside the images of a folder, is none of them, and may well be a scan."""
    rows, dicoms = [], []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or image_stem(path) is not None:
            continue
        if path.is_dir():
            inside = any(image_stem(file) is not None or is_dicom(file) for file in files_below(path) if file.is_file())
            why = "a folder beside image files: name it as a further input" if inside else ""
        elif is_dicom(path):
            dicoms.append(path.name)
            continue
        else:
            other = path.name.lower().endswith(_OTHER_FORMATS)
            why = f"of a format that is not read: convert it to {SUFFIXES[0]}" if other else ""
            why = "its ending is read in small letters only: rename it" if path.name.lower().endswith(SUFFIXES) else why
        if why:
            rows.append(InputRow("", "", path.name, "", PASSED_OVER, why))
    if dicoms:
        why = "DICOM beside image files: move it into a folder of its own and name that as a further input"
        rows.append(InputRow("", "", f"{dicoms[0]} ({counted(len(dicoms), 'file')})", "", PASSED_OVER, why))
    return rows


def _by_patterns(root: Path, channels: Channels, patterns: Mapping[str, str]) -> list[Volume]:
    if not root.is_dir():
        raise UserError(f"{root}: is no folder", remedy="patterns are of files in a folder")
    numbers = channels.numbers
    for name in patterns:
        if name.lower() not in numbers:
            raise UserError(
                f"--channels: the model knows no modality '{name}'", remedy=f"it sees {', '.join(channels.names)}"
            )
    volumes = []
    for name, pattern in patterns.items():
        expression = _expression(pattern)
        matched = 0
        for file in sorted(root.glob(pattern)):
            match = expression.fullmatch(file.relative_to(root).as_posix())
            if match is None or image_stem(file) is None or file.name.startswith("."):
                continue
            matched += 1
            text = file.relative_to(root).as_posix()
            stem = text[: -len(file.name)] + str(image_stem(file))  # an ending that * stands for names no case
            parts = [stem[slice(*match.span(number))] for number in range(1, 1 + len(match.groups()))]
            case = safe_case(*(part for group in parts for part in group.split("/")))
            case = case or safe_case(str(image_stem(file)))
            volumes += volumes_of_file(file, text, case, channel=numbers[name.lower()])
        if not matched:
            raise UserError(f"{root}: no image fits {name}={pattern}", remedy="write for instance swi=*_swi.nii.gz")
    return volumes


def _expression(pattern: str) -> re.Pattern[str]:
    """A glob whose wildcards are groups."""
    parts = {"**/": r"((?:.*/)?)", "**": "(.*)", "*": "([^/]*)", "?": "([^/])"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return re.compile("".join(parts.get(piece, re.escape(piece)) for piece in pieces))
