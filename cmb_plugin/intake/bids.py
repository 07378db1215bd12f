"""Volumes of a BIDS data set: ``sub-*/[ses-*/]{anat,swi}/*``."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from cmb_plugin.dataset import image_files
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json
from cmb_plugin.images import image_stem
from cmb_plugin.images.contrast import UNKNOWN, contrast_of_suffix

from .volumes import Volume, sidecar, volumes_of_file

FOLDERS = ("anat", "swi")
_NOT_OF_THE_CASE = ("part", "echo")  # entities in which volumes of one acquisition differ


def entities_of(stem: str) -> tuple[dict[str, str], str]:
    """Entities and suffix of a BIDS name: ``sub-01_ses-2_echo-1_GRE`` -> ``{"sub": "01", ...}``, ``GRE``."""
    *pairs, suffix = stem.split("_")
    return {key: value for key, _, value in (pair.partition("-") for pair in pairs)}, suffix


def bids_volumes(root: Path, participants: Collection[str] = ()) -> list[Volume]:
    """The images in ``anat`` and ``swi`` of all subjects and sessions.

    Args:
        root: of the data set.
        participants: only these subjects, with or without ``sub-``; empty for all.

    Raises:
        UserError: one of them is not there.
    """
    volumes = []
    for name in subjects_of(root, participants):
        subject = root / name
        visits = [path for path in sorted(subject.glob("ses-*")) if path.is_dir()]
        for visit in [subject, *visits]:
            for folder in FOLDERS:
                for file in image_files(visit / folder):
                    volumes += _volumes(file, root, "_".join(dict.fromkeys((subject.name, visit.name))))
    return volumes


def subjects_of(root: Path, participants: Collection[str] = ()) -> list[str]:
    """Names of the folders of subjects; see ``bids_volumes``."""
    subjects = [path.name for path in sorted(root.glob("sub-*")) if path.is_dir()]
    wanted = [name if name.startswith("sub-") else f"sub-{name}" for name in participants] or subjects
    for name in wanted:
        if name not in subjects:
            raise UserError(f"{root}: has no {name}", remedy=f"it holds {', '.join(subjects[:8])}")
    return wanted


def _volumes(file: Path, root: Path, session: str) -> list[Volume]:
    entities, suffix = entities_of(str(image_stem(file)))
    named = [f"{key}-{value}" for key, value in entities.items() if key not in _NOT_OF_THE_CASE and value]
    # A file that does not name its subject (anat/swi.nii.gz) has the session's name before its own.
    case = "_".join(named if "sub" in entities else dict.fromkeys([*session.split("_"), *named]))
    contrast = contrast_of_suffix(suffix, entities.get("part", ""))
    # Of a suffix that BIDS does not know (T1, CMB) the words of the name and the header tell more.
    known: dict[str, Any] = {} if contrast == UNKNOWN else {"contrast": contrast}
    if entities.get("echo", "").isdecimal():
        known["echo"] = int(entities["echo"])
    inherited = _inherited(root, suffix)
    if not sidecar(file) and isinstance(inherited.get("EchoTime"), int | float):
        known["echo_ms"] = round(1000 * inherited["EchoTime"], 3)
    if isinstance(inherited.get("MagneticFieldStrength"), int | float) and not sidecar(file):
        known["field_t"] = float(inherited["MagneticFieldStrength"])
    return volumes_of_file(file, file.relative_to(root).as_posix(), case, session, **known)


def _inherited(root: Path, suffix: str) -> dict[str, Any]:
    """What the JSON at the top of the data set says about all images with a suffix."""
    file = root / f"{suffix}.json"
    try:
        content = read_json(file) if file.is_file() else {}
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}
