"""Atomic writes, plain JSON and locks: what stands under its final name is whole and written by one process."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import UserError

FULL_BYTES = 2**16  # a disk with less left is full: a writer that failed may have given back its last block


@contextmanager
def atomic(path: Path | str, durable: bool = False) -> Iterator[Path]:
    """Yields a temporary path in the folder of ``path`` and renames it to ``path`` when the block ends without error.

    The temporary name is hidden, unique among the hosts that share the folder, and ends like ``path``, because writers
    such as SimpleITK choose the format by the ending.

    Args:
        path: the final name.
        durable: also wait until the disk has the file, so that a power failure or a crash of the machine leaves the old
            or the new one. For checkpoints, where days of training hang on one file; not always, because waiting costs
            up to tens of milliseconds a file, and what a command writes by the thousand it can write again.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{_host()[:32]}.{os.getpid()}.{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        if durable:
            _sync(temporary, os.O_RDWR)
        temporary.replace(path)
        if durable:
            with suppress(OSError):  # not every system opens folders
                _sync(path.parent, os.O_RDONLY)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # nothing where the disk is full
            error.filename = str(path)
        raise
    except RuntimeError as error:  # all that torch, SimpleITK and blosc2 say of a full disk
        if shutil.disk_usage(path.parent).free > FULL_BYTES:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path | str) -> Iterator[None]:
    """Holds the lock file ``path`` while the block runs, so that no other process enters a block locked by it.

    The file is created in one step that only one process can win, also among hosts that share a folder, and removed at
    the end. A lock left behind by a process of this host that is gone is taken over; of a process on another host
    nobody here can tell whether it lives. Not for each rank of a distributed run: the first one holds it for all.

    Raises:
        UserError: another process, or another block of this one, holds it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(_holder()))
    except FileExistsError:
        _take_over(path)
    try:
        yield
    finally:
        if _read_holder(path) == _holder():  # neither removed by hand and taken by another, nor left to a forked child
            path.unlink(missing_ok=True)


def _take_over(path: Path) -> None:
    """Makes the lock of a process that is gone ours.

    Of several that try, the system's lock on the file lets one at a time look and write; the others then find a process
    that lives.
    """
    try:
        import fcntl

        with path.open("r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            holder = _parsed(file.read())
            if holder is None or _may_live(holder) or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise _held(path, holder)
            file.seek(0)
            file.write(json.dumps(_holder()))
            file.truncate()
    except (ImportError, OSError):  # removed in this moment, or a system without such locks
        raise _held(path, _read_holder(path)) from None


def _held(path: Path, holder: dict[str, Any] | None) -> UserError:
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return UserError(
        f"{path}: {who} is at work here", remedy="wait until it has ended; remove this file if it no longer runs"
    )


def _holder() -> dict[str, Any]:
    """What tells this process from all others, on any host and at any time."""
    return {"host": _host(), "space": _process_space(), "pid": os.getpid(), "started": _start_time(os.getpid())}


def _read_holder(path: Path) -> dict[str, Any] | None:
    try:
        return _parsed(path.read_text(encoding="utf-8"))
    except OSError:
        return None


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        holder = json.loads(text)
    except json.JSONDecodeError:  # just being written
        return None
    whole = isinstance(holder, dict) and holder.keys() == _holder().keys() and isinstance(holder["pid"], int)
    return holder if whole else None


def _may_live(holder: dict[str, Any]) -> bool:
    """Whether a process runs, or might: False only of a process that would be seen from here."""
    if (holder["host"], holder["space"]) != (_host(), _process_space()):
        return True
    try:
        os.kill(holder["pid"], 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return bool(holder["started"] == _start_time(holder["pid"]))


def _host() -> str:
    return socket.gethostname().replace(os.sep, "_") or "localhost"


def _process_space() -> str:
    """The numbers of processes hold within one container; empty where the system does not tell."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _start_time(pid: int) -> str:
    """When a process began, in ticks since the system did, which tells it from a later one of the same number.

    Empty where the system does not tell, and of a process that has ended and only waits to be noticed.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


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
        UserError: the file is missing, cannot be opened or is not JSON; the line and column are named.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", remedy="check the path") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})", remedy="check the file and its rights") from None
    except RecursionError:
        raise UserError(f"{path}: not valid JSON (too deeply nested)", remedy="repair or restore the file") from None
    except ValueError as error:  # of the syntax, the encoding, or a number with thousands of digits
        raise UserError(f"{path}: not valid JSON ({error})", remedy="repair or restore the file") from None


def files_below(folder: Path) -> list[Path]:
    """The files in a folder and its subfolders, in order; also links to files that are not here.

    Links to folders are followed, and no folder is seen twice. What is hidden is passed over: the store of
    git-annex in .git holds each scan a second time, and a Mac puts a file ._NAME beside each.
    """
    found: list[Path] = []
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(found)


def stamp(path: Path) -> tuple[int, ...]:
    """Size and time of change of a file, by which a later run knows whether it is the same; nothing of a file that is
    not there."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns


def digest(value: Any) -> str:
    """A short text that changes when ``value``, plain data as JSON knows it, does."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
