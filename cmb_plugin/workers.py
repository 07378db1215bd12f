"""Runs a function over many cases in parallel, with a progress bar; one bad case never stops the others."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


@dataclass
class Outcome(Generic[Item, Result]):
    """What became of one item: a result, or one line that says why there is none.

    Attributes:
        item: what was given.
        result: what the function returned; None when it failed.
        error: empty when it succeeded.
        is_bug: True when the failure was not a ``UserError``; ``details`` then holds the traceback.
    """

    item: Item
    result: Result | None = None
    error: str = ""
    is_bug: bool = False
    details: str = ""


def run_cases(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int = 0, description: str = ""
) -> list[Outcome[Item, Result]]:
    """Calls ``function(item)`` for every item and returns the outcomes in the order of ``items``.

    Args:
        function: a module-level function or a ``functools.partial`` of one (it is sent to other processes).
        items: what to work on.
        workers: number of processes; 0 or 1 works in this process.
        description: title of the progress bar; empty shows none.
    """
    outcomes: list[Outcome[Item, Result] | None] = [None] * len(items)
    with progress(description, len(items)) as advance:
        for index, outcome in _outcomes(function, items, workers):
            outcomes[index] = outcome
            advance()
    return [outcome for outcome in outcomes if outcome is not None]


def _outcomes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[tuple[int, Outcome[Item, Result]]]:
    workers = min(workers, len(items))
    if workers <= 1:
        for index, item in enumerate(items):
            yield index, _guarded(function, item)
        return
    # Spawned, not forked: forked children inherit the locks of torch and ITK threads and can hang. The thread counts
    # must stand in the environment before a child imports numpy.
    context = multiprocessing.get_context("spawn")
    saved = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            futures = {pool.submit(_guarded, function, item): index for index, item in enumerate(items)}
            for future in as_completed(futures):
                index = futures[future]
                try:
                    yield index, future.result()
                except BrokenProcessPool:
                    message = "a worker process was killed, most likely for want of memory: use fewer processes"
                    yield index, Outcome(items[index], error=message)
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _guarded(function: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    try:
        return Outcome(item, result=function(item))
    except UserError as error:
        return Outcome(item, error=str(error))
    except Exception as error:
        return Outcome(item, error=f"{type(error).__name__}: {error}", is_bug=True, details=traceback.format_exc())


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
