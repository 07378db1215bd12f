"""What every command shares: help from the docstring, one-line errors, exit codes."""

from __future__ import annotations

import argparse
import functools
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from cmb_plugin.errors import fixable


class Main(Protocol):
    """The function of a command: takes its arguments, those of the process when there are none; returns the exit
    code."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def parser(doc: str | None) -> argparse.ArgumentParser:
    """An argument parser whose help is the docstring of the command: summary first, then everything else."""
    from inspect import cleandoc

    summary, _, rest = cleandoc(doc or "").partition("\n")
    return argparse.ArgumentParser(
        description=summary,
        epilog=rest.strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_overrides(arguments: argparse.ArgumentParser) -> None:
    """Adds nnDetection's ``-o key=value [key=value ...]``, which may be given several times."""
    arguments.add_argument(
        *("-o", "--overrides", "--overwrites"),  # the last is nnDetection's
        action="extend",
        nargs="+",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="override any setting",
    )


def add_scheduler(arguments: argparse.ArgumentParser) -> None:
    """Adds ``--scheduler``."""
    arguments.add_argument(
        "--scheduler",
        metavar="WHERE",
        help="let several machines work, through Dask: tcp://HOST:8786, a scheduler file, slurm, or local:N for N "
        "processes here (docs/cluster.md)",
    )


def command(main: Main) -> Main:
    """Decorator of every ``main``: exit code 0 done, 2 the user can fix it (one line on stderr), 1 a bug, 130
    interrupted, 143 ended by SIGTERM."""

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        """``main`` with errors of the user as one line and exit code 2."""
        with _sigterm_interrupts() as terminated:
            return _code(main, argv, terminated)

    return guarded


@contextmanager
def _sigterm_interrupts() -> Iterator[list[int]]:
    """SIGTERM, as a scheduler or ``timeout`` sends it, is an interruption as Ctrl-C is: processes end, temporary
    folders go. The list holds the signal once it has come. An application's own handler stays."""
    terminated: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        """The first SIGTERM raises; what then cleans up is not interrupted by further ones."""
        if not terminated:
            terminated.append(number)
            raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()  # others can have no handler
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield terminated
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _code(main: Main, argv: Sequence[str] | None, terminated: Sequence[int]) -> int:
    try:
        return main(argv)
    except KeyboardInterrupt:
        print("interrupted; run it again to go on (nndet_train with -o train.mode=resume)", file=sys.stderr)
        return 128 + terminated[0] if terminated else 130
    except BrokenPipeError:
        return 141  # the reader, `head` for instance, has gone: as a shell reports SIGPIPE
    except Exception as error:
        user_error = fixable(error)
        if user_error is None:
            traceback.print_exc()
            return 1
        print(f"error: {user_error}", file=sys.stderr)
        return 2
