"""Runs commands of this installation side by side, and ends them all when this process is to end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from cmb_plugin.errors import UserError
from cmb_plugin.workers import THREAD_VARIABLES, default_workers

Item = TypeVar("Item")
Result = TypeVar("Result")

POLL_S = 0.5
"""How often a command that may be ended early is looked at."""

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: a forked child must not load it


class Commands:
    """Calls commands, ``jobs`` of them at a time, each with its share of the cores as threads.

    Two networks with one thread each are faster than one after the other with two. A single job has what the
    environment gives it.

    Attributes:
        jobs, threads: how many commands at a time, and threads of each.
        log: is given sentences about what is done.
        stopped: they were asked to end, and no further one begins.
    """

    def __init__(self, jobs: int, log: Callable[[str], None]) -> None:
        self.jobs = jobs
        cores = default_workers()
        given = os.environ.get(THREAD_VARIABLES[0], "")
        self.threads = int(given) if jobs == 1 and given.isdecimal() else max(1, cores // jobs)
        self.log = log
        self.stopped = False
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._alone: dict[str, threading.Lock] = {}

    def alone(self, name: str) -> threading.Lock:
        """The lock of something that two jobs must not do at once."""
        with self._lock:
            return self._alone.setdefault(name, threading.Lock())

    def call(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        enough: Callable[[], bool] | None = None,
    ) -> int:
        """Runs a command with its output added to ``log``; returns its exit code. It ends when this process does.

        Args:
            command: program and arguments.
            log: file.
            environment: variables that differ.
            enough: asked every now and then; once it says so, the command is ended, and the exit code is 0.

        Raises:
            UserError: it is not installed.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        program = shutil.which(command[0], path=str(Path(sys.executable).parent)) or shutil.which(command[0])
        if program is None:
            raise UserError(f"{command[0]} is not installed", remedy="pip install nnunetv2")
        share = dict.fromkeys(THREAD_VARIABLES, str(self.threads)) if self.jobs > 1 else {}
        with log.open("a", encoding="utf-8") as output:
            output.write(f"\n$ {' '.join(command)}\n")
            output.flush()
            with self._lock:
                if self.stopped:
                    return -signal.SIGTERM
                self.log(" ".join(command))
                process = subprocess.Popen(
                    [program, *command[1:]],
                    stdout=output,
                    stderr=output,
                    env={**os.environ, **share, "PYTHONUNBUFFERED": "1", **(environment or {})},
                    start_new_session=True,  # Ctrl-C reaches it through ``stop`` alone, once
                    preexec_fn=_die_with_parent if _LIBC else None,
                )
                self._running.add(process)
            try:
                code = process.wait() if enough is None else _wait_until(process, enough)
            except BaseException:
                process.terminate()
                process.wait()
                raise
            finally:
                with self._lock:
                    self._running.discard(process)
        if code and not self.stopped:
            said = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
            tail = "\n".join(f"    {line}" for line in said[-5:])
            self.log(f"{command[0]} ended with exit code {code}: {log}\n{tail}")
        return code

    def run_all(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Calls ``function`` for each of ``items`` in their order, ``jobs`` at a time.

        Ctrl-C and SIGTERM stop the running commands, which keep what they have finished, and raise.
        """

        def terminate(number: int, frame: Any) -> None:
            """SIGTERM ends the waiting as Ctrl-C does."""
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, terminate)
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                return list(pool.map(function, items))
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop()
                self.log("stopping; the same command goes on from here")
                raise
            finally:
                signal.signal(signal.SIGTERM, before)

    def _stop(self) -> None:
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.send_signal(signal.SIGTERM)


def _wait_until(process: subprocess.Popen[bytes], enough: Callable[[], bool]) -> int:
    """The exit code of a process that ends by itself; 0 of one that is ended, with all that it started."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(POLL_S)
        if enough():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return 0


def _die_with_parent() -> None:
    """Asks the kernel to kill the command when the benchmark is killed: two must never train one network."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGKILL)
