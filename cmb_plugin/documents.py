"""Dataclasses from plain JSON data, names and types checked on the way; and words that documents and messages share."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from .errors import UserError
from .plugins import suggest

T = TypeVar("T")
LARGEST = sys.float_info.max

RESEARCH_USE_ONLY = "Research use only: no medical device, not for diagnosis or treatment."
"""Stands in every file that somebody may read as a finding."""


def counted(count: int, noun: str) -> str:
    """``1 doubt``, ``2 doubts``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def some_of(values: Sequence[object], most: int = 5) -> str:
    """``3, 4, 5, 6, 7 and 2 more``: the first of many in a sentence."""
    shown = ", ".join(map(str, values[:most]))
    return shown if len(values) <= most else f"{shown} and {len(values) - most} more"


def from_json(kind: type[T], data: Any, where: str) -> T:
    """Builds dataclass ``kind`` from plain JSON data, checking names and types as it goes.

    Args:
        kind: a dataclass whose fields are numbers, strings, tuples, unions with None or dataclasses.
        data: what ``json`` gave.
        where: the place in the file, for messages.

    Raises:
        UserError: an unknown, missing or ill-typed field.
    """
    result: T = _convert(kind, data, where)
    return result


def _convert(kind: Any, data: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(kind, data, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if data is None:
            return None
        return _convert(next(a for a in arguments if a is not types.NoneType), data, where)
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise UserError(f"{where}: expected a list, found {data!r}", remedy="repair the entry")
        if arguments[-1] is Ellipsis:
            return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
        if len(arguments) != len(data):
            raise UserError(f"{where}: expected {len(arguments)} numbers, found {len(data)}", remedy="repair the entry")
        return tuple(
            _convert(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(arguments, data, strict=True))
        )
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        if not abs(data) < LARGEST:  # neither NaN nor infinite
            raise UserError(f"{where}: {data} is no finite number", remedy="repair the entry")
        return float(data)
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise UserError(f"{where}: expected {kind.__name__}, found {data!r}", remedy="repair the entry")
    return data


def _convert_dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected an object, found {data!r}", remedy="repair the entry")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in data:
        if key not in fields:
            raise UserError(f"{where}: unknown field {key!r}", remedy=suggest(key, fields))
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise UserError(
                f"{where}: field '{name}' is missing",
                remedy="repair the file, or run nndet_prep again to write it anew",
            )
    return kind(**{key: _convert(hints[key], value, f"{where}: {key}") for key, value in data.items()})
