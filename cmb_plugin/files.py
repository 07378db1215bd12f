"""Atomic writes and plain JSON: what stands under its final name is whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path in the folder of ``path`` and renames it to ``path`` when the block ends without error.

    The temporary name is hidden and ends like ``path``, because writers such as SimpleITK choose the format by the
    ending.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Writes ``text`` as UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "tolist"):  # numpy and torch, without importing either
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def write_json(path: Path | str, value: Any) -> None:
    """Writes ``value`` as JSON, atomically; dataclasses, arrays and paths are turned into plain data.

    NaN and infinity are refused (``ValueError``): an undefined number is ``null``.
    """
    text = json.dumps(value, indent=2, default=_plain, allow_nan=False)
    write_text(path, _join_number_lists(text) + "\n")


def _join_number_lists(text: str) -> str:
    """Puts lists of plain numbers on one line, so that a person can read and edit boxes, spacings and plans."""
    lines = text.split("\n")
    joined: list[str] = []
    start: int | None = None
    for line in lines:
        stripped = line.strip()
        if stripped.endswith("["):
            start = len(joined)
        elif start is not None and stripped in ("]", "],"):
            joined[start:] = [joined[start] + " ".join(item.strip() for item in joined[start + 1 :]) + stripped]
            start = None
            continue
        elif start is not None and not stripped.rstrip(",").lstrip("-").replace(".", "", 1)[:1].isdigit():
            start = None
        joined.append(line)
    return "\n".join(joined)


def read_json(path: Path | str) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: the file is missing or is not JSON; the line and column are named.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", remedy="check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error})", remedy="repair or restore the file") from None


def digest(value: Any) -> str:
    """A short text that changes when ``value``, plain data as JSON knows it, does."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
