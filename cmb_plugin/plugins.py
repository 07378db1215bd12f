"""Registries of planners, trainers, tasks, strategies: found by entry points or a decorator, never imported by name."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

from .errors import UserError

T = TypeVar("T", bound=type | FunctionType)


class Registry:
    """Classes, or functions, by name. An entry point is loaded only when its name is asked for.

    Args:
        kind: what the registry holds, in the singular, for messages.
        group: the entry point group, for instance ``cmb_plugin.trainers``.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._registered: dict[str, Any] = {}

    def register(self, cls: T) -> T:
        """Decorator: makes a class or function known under its own name. A later one of the same name replaces it."""
        self._registered[cls.__name__] = cls
        return cls

    def names(self) -> list[str]:
        """Every known name, without loading any class."""
        return sorted(set(self._registered) | {entry.name for entry in entry_points(group=self.group)})

    def get(self, name: str) -> Any:
        """The class called ``name``.

        Raises:
            UserError: the name is unknown; the message lists the known ones.
        """
        if name in self._registered:
            return self._registered[name]
        for entry in entry_points(group=self.group, name=name):
            return entry.load()
        raise UserError(f"unknown {self.kind} '{name}'", remedy=suggest(name, self.names()))


def suggest(name: str, known: Iterable[str]) -> str:
    """A remedy for a mistyped name: the nearest known ones, then all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return (f"did you mean {' or '.join(close)}? " if close else "") + f"known: {', '.join(known) or 'none'}"


planners = Registry("planner", "cmb_plugin.planners")
trainers = Registry("trainer", "cmb_plugin.trainers")
tasks = Registry("task", "cmb_plugin.tasks")
normalisations = Registry("normalisation scheme", "cmb_plugin.normalisations")
strategies = Registry("strategy", "cmb_plugin.strategies")

register_planner = planners.register
register_trainer = trainers.register
register_task = tasks.register
register_normalisation = normalisations.register
register_strategy = strategies.register


_additional: dict[str, None] = {}


def additional_imports() -> list[str]:
    """The modules that ``import_additional`` has imported, in that order."""
    return [module for module in _additional if module in sys.modules]


def import_as_parent(modules: Iterable[str]) -> None:
    """Imports in a spawned process what its parent has imported with ``import_additional``.

    Never an error, for the process would die of it again and again: a plugin that is missed is named where it is
    looked up.
    """
    for module in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(module)


def import_additional(modules: Iterable[str]) -> None:
    """Imports the user's own modules so that their decorators run (``-o additional_imports=[my_module]``).

    The current directory is searched too, as Python itself does for a script. Processes that are started later import
    them as well.

    Raises:
        UserError: a module is not found.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    for module in modules:
        try:
            importlib.import_module(module)
            _additional[module] = None
        except ModuleNotFoundError as error:
            if error.name and not module.startswith(error.name):
                raise
            raise UserError(
                f"additional_imports: no module named '{module}'",
                remedy=f"run the command in the folder of {module}.py, or put that folder on PYTHONPATH",
            ) from None
