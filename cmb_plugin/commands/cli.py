"""What every command shares: help from the docstring, one-line errors, exit codes."""

from __future__ import annotations

import argparse
import functools
import sys
import traceback
from collections.abc import Sequence
from typing import Protocol

from cmb_plugin.errors import UserError


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
        "-o", "--overrides", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="override any setting"
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
    interrupted."""

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        """``main`` with errors of the user as one line and exit code 2."""
        try:
            return main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted; run it again to go on (nndet_train with -o train.mode=resume)", file=sys.stderr)
            return 130
        except BrokenPipeError:
            return 141  # the reader, `head` for instance, has gone: as a shell reports SIGPIPE
        except Exception:
            traceback.print_exc()
            return 1

    return guarded
