"""Runs a function over many cases in parallel, with a progress bar; one bad case never stops the others."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from .errors import UserError, fixable
from .plugins import additional_imports, import_as_parent
from .process_end import broken_off_by_sigterm, end_with_parent

Item = TypeVar("Item")
Other = TypeVar("Other")
Result = TypeVar("Result")

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)

KILLED = UserError(
    "its process was killed even while it was the only one, most likely for want of memory",
    remedy="free memory or use a machine with more, or leave the case out",
)


@dataclass
class Outcome(Generic[Item, Result]):
    """What became of one item: a result, or one line that says why there is none.

    Attributes:
        item: what was given.
        result: what the function returned; None when it failed.
        error: empty when it succeeded.
        is_bug: True when the failure was nothing that a user can mend; ``details`` then holds the traceback.
    """

    item: Item
    result: Result | None = None
    error: str = ""
    is_bug: bool = False
    details: str = ""

    @property
    def value(self) -> Result:
        """The result.

        Raises:
            UserError: there is none, for a reason that the user can mend.
            RuntimeError: there is none because of a bug.
        """
        if self.result is None:
            raise RuntimeError(self.details) if self.is_bug else UserError(self.error)
        return self.result

    def failure_of(self, item: Other) -> Outcome[Other, Any]:
        """The same failure as that of another item, which this one was made from."""
        return Outcome(item, error=self.error, is_bug=self.is_bug, details=self.details)


class Machines(Protocol):
    """Several machines that work on cases together (``cluster.Cluster``)."""

    def run(
        self, function: Callable[[Item], Result], items: Sequence[Item], description: str = ""
    ) -> list[Outcome[Item, Result]]:
        """As ``run_cases``."""


Workers = int | Machines
"""Who works on cases: a number of processes, or machines."""


def run_cases(
    function: Callable[[Item], Result], items: Sequence[Item], workers: Workers = 0, description: str = ""
) -> list[Outcome[Item, Result]]:
    """Calls ``function(item)`` for every item and returns the outcomes in the order of ``items``.

    When a process is killed, most likely for want of memory, its items are tried again one at a time, and only the one
    that is killed alone is given up.

    Args:
        function: a module-level function or a ``functools.partial`` of one (it is sent to other processes).
        items: what to work on.
        workers: number of processes, or machines; 0 or 1 works in this process.
        description: title of the progress bar; empty shows none.
    """
    if not isinstance(workers, int):
        return workers.run(function, items, description)
    workers = min(workers, len(items))
    outcomes: dict[int, Outcome[Item, Result]] = {}
    with progress(description, len(items)) as advance:
        if workers <= 1:
            for index, item in enumerate(items):
                outcomes[index] = guarded(function, item)
                advance()
        else:
            with closing(_Pool(function, workers)) as pool:
                for index, item in enumerate(items):
                    pool.add(index, item)
                while len(outcomes) < len(items):
                    for index, outcome in pool.collect():
                        outcomes[index] = outcome
                        advance()
    return [outcomes[index] for index in range(len(items))]


def cases_ahead(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Generator[Outcome[Item, Result], None, None]:
    """``function(item)`` of every item in order, done in processes while the caller works on the one before.

    At most ``workers`` + 1 outcomes wait for the caller or are under way. A killed process costs only the item that is
    killed alone, as in ``run_cases``.

    Args:
        function: as in ``run_cases``.
        items: what to work on.
        workers: number of processes, at least 1.
    """
    waiting = iter(enumerate(items))
    ready: dict[int, Outcome[Item, Result]] = {}
    with closing(_Pool(function, workers)) as pool:
        for index, item in islice(waiting, workers):
            pool.add(index, item)
        for turn in range(len(items)):
            for index, item in islice(waiting, 1):
                pool.add(index, item)
            while turn not in ready:
                ready.update(pool.collect())
            yield ready.pop(turn)


class _Pool(Generic[Item, Result]):
    """Processes that call one function and of which some may be killed.

    A killed process ends the whole pool of the standard library and does not say which item it had. So few items are
    handed in at a time; after a kill each of them is tried alone, and then the others go on: with half the processes if
    all of them passed alone, because then it was together that they took too much memory.
    """

    def __init__(self, function: Callable[[Item], Result], workers: int) -> None:
        self._function = function
        self._workers = workers
        self._waiting: deque[tuple[int, Item]] = deque()
        self._suspects: deque[tuple[int, Item]] = deque()
        self._started: dict[Future[Outcome[Item, Result]], tuple[int, Item]] = {}
        self._alone = False  # whether suspects are tried
        self._guilty = False  # whether one of them was killed alone
        self._executor = _executor(workers)

    def add(self, index: int, item: Item) -> None:
        """Hands in one item; its outcome comes from ``collect`` under ``index``."""
        self._waiting.append((index, item))
        self._start()

    def collect(self) -> list[tuple[int, Outcome[Item, Result]]]:
        """Waits until something is done and returns it, in no order; after a kill this can be nothing yet."""
        self._start()
        done, _ = wait(self._started, return_when=FIRST_COMPLETED)
        if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
            done = set(self._started)  # the others are done or broken too
        outcomes: list[tuple[int, Outcome[Item, Result]]] = []
        killed: list[tuple[int, Item]] = []
        for future in [future for future in self._started if future in done]:
            index, item = self._started.pop(future)
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                killed.append((index, item))
            else:
                outcomes.append((index, future.result() if error is None else failed(item, error)))
        if killed and self._alone:
            self._guilty = True
            outcomes += [(index, failed(item, KILLED)) for index, item in killed]
            self._renew(1)
        elif killed:
            self._suspects.extend(killed)
            self._alone, self._guilty = True, False
            self._renew(1)
        if self._alone and not self._suspects and not self._started:
            self._alone = False
            self._workers = self._workers if self._guilty else max(1, self._workers // 2)
            self._renew(self._workers)
        self._start()
        return outcomes

    def close(self) -> None:
        """Ends the processes, those at work too: this is before the end only where nobody wants their outcomes."""
        if not all(future.done() for future in self._started):
            for process in list(self._executor._processes.values()):
                process.terminate()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> None:
        queue, most = (self._suspects, 1) if self._alone else (self._waiting, self._workers + 1)
        while queue and len(self._started) < most:
            try:
                with _one_thread_each():
                    future = self._executor.submit(broken_off_by_sigterm, guarded, self._function, queue[0][1])
            except BrokenProcessPool:
                if self._started:
                    return  # ``collect`` finds out
                self._renew(1 if self._alone else self._workers)  # a process was killed that had nothing to do
                continue
            self._started[future] = queue.popleft()

    def _renew(self, workers: int) -> None:
        self.close()
        self._executor = _executor(workers)


def _executor(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: forked children inherit the locks of torch and ITK threads and can hang.
    return ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_process,
        initargs=(additional_imports(),),
    )


def _begin_process(modules: Sequence[str]) -> None:
    end_with_parent()
    import_as_parent(modules)  # a spawned process knows no plugin that was registered by a decorator


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """While processes begin: the thread counts must stand in the environment before a child imports numpy."""
    saved = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def guarded(function: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    """``function(item)``, or why there is no result."""
    try:
        return Outcome(item, result=function(item))
    except Exception as error:
        return failed(item, error)


def failed(item: Item, error: BaseException) -> Outcome[Item, Any]:
    """The outcome of an item that met an error."""
    user_error = fixable(error)
    if user_error is not None:
        return Outcome(item, error=str(user_error))
    details = "".join(traceback.format_exception(error))
    return Outcome(item, error=f"{type(error).__name__}: {error}", is_bug=True, details=details)


class progress:  # noqa: N801 - used as a function, `with progress(...) as advance`
    """Progress bar on the terminal: ``with progress("Predicting", 12) as advance: advance()``.

    On a pipe or in a log file nothing is drawn but one closing line, so that logs stay readable.
    """

    def __init__(self, description: str, total: int) -> None:
        self.description = description
        self.total = total
        self._bar: Any = None

    def __enter__(self) -> Callable[[], None]:
        if not self.description or not self.total:
            return lambda: None
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._bar.start()
        task = self._bar.add_task(self.description, total=self.total)
        return lambda: self._bar.advance(task)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def default_workers() -> int:
    """Number of processes when the user names none: the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def failures(outcomes: Iterable[Outcome[Any, Any]]) -> list[Outcome[Any, Any]]:
    """Those outcomes that hold an error."""
    return [outcome for outcome in outcomes if outcome.error]


class _MallocInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def keep_freed_memory() -> None:
    """Lets this process keep large blocks that it frees, instead of giving them back to the system.

    malloc asks the system for large blocks, such as feature maps and scans, and returns them at once; each step then
    begins with thousands of page faults. Without them a training step on a CPU takes about a tenth less time, a
    phantom a fifth less. Only glibc knows this; elsewhere nothing happens.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, 2**31 - 1)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory(above: int) -> bool:
    """Gives back to the system what ``keep_freed_memory`` has kept, if that is more than so many bytes.

    Blocks of many sizes, as scans of different shapes need them, do not fit into each other's gaps, and a process that
    keeps them all grows with each new shape. Only glibc from 2.33 on tells how much is kept; elsewhere nothing happens.

    Returns:
        whether anything was given back.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return False
    library.mallinfo2.restype = _MallocInfo
    return library.mallinfo2().fordblks > above and bool(library.malloc_trim(0))


def first_line(command: Sequence[str]) -> str:
    """What a program answers; nothing where it is not installed or fails."""
    if shutil.which(command[0]) is None:
        return ""
    answer = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    return answer.stdout.strip().partition("\n")[0] if answer.returncode == 0 else ""


def commit_of_code() -> str:
    """Of an installation from a clone, with ``-dirty`` where files differ from it; an environment that merely stands
    within some repository has none."""
    git = ["git", "-C", str(Path(__file__).parent)]
    if not first_line([*git, "ls-files", Path(__file__).name]):
        return ""
    return first_line([*git, "describe", "--always", "--dirty"])
