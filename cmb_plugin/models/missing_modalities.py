"""Modalities that scans to predict do without: by dataset.json, by the user's wish, or because there is no file."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from cmb_plugin.dataset import Case, Dataset
from cmb_plugin.dataset.dataset import DEFINITION_FILES
from cmb_plugin.errors import UserError
from cmb_plugin.paths import TaskFolder
from cmb_plugin.plugins import suggest


def channels_without(known: Sequence[str], names: Sequence[str], tolerates_missing: bool, model: str) -> frozenset[int]:
    """The channels of the modalities that shall be left out.

    Args:
        known: modalities of the model.
        names: those to leave out.
        tolerates_missing: whether it can do without some.
        model: its name.

    Raises:
        UserError: there is no such modality, none would be left, or the model needs all of them.
    """
    for name in names:
        if name not in known:
            raise UserError(f"--without: the model knows no modality '{name}'", remedy=suggest(name, known))
    if names and not tolerates_missing:
        remedy = "leave --without out, or use a model that can do without (docs/predictions.md)"
        raise UserError(f"{model} needs every modality: {', '.join(known)}", remedy=remedy)
    if {*names} == {*known}:
        raise UserError("--without: no modality is left", remedy=f"keep one of: {', '.join(known)}")
    return frozenset(known.index(name) for name in names)


def declared_missing(task: TaskFolder) -> dict[str, tuple[int, ...]]:
    """``Dataset.missing``; nothing where there is no dataset.json, as on a machine that has prepared scans only."""
    return Dataset.load(task).missing if _is_defined(task) else {}


def declared_domains(task: TaskFolder) -> dict[str, str]:
    """``Dataset.domain``; nothing where there is no dataset.json."""
    return Dataset.load(task).domain if _is_defined(task) else {}


def _is_defined(task: TaskFolder) -> bool:
    return any((task.root / name).is_file() for name in DEFINITION_FILES)


def with_missing(case: Case, without: Collection[int], by_files: bool) -> Case:
    """The case as a model sees it that does without some channels.

    Args:
        case: as the model's plan sees it (``Plan.case``).
        without: channels to leave out.
        by_files: leave also those out of which there is no file, unless there is none of any.
    """
    absent = {channel for channel, path in enumerate(case.images) if by_files and not path.is_file()}
    if len(absent) == len(case.images):
        absent = set()
    return dataclasses.replace(case, missing=tuple(sorted({*case.missing, *without, *absent})))
