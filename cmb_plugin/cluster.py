"""Several machines: the workers of a Dask scheduler run what ``run_cases`` runs in processes, with the same outcomes.

All machines see the same files under the same paths; what travels is the name of a case and what became of it. So a
worker that is killed costs what it was working on, and a command that ends is run again and goes on from the files.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import UserError
from .plugins import additional_imports, import_as_parent
from .workers import KILLED, Outcome, failed, guarded, progress

if TYPE_CHECKING:
    from distributed import Client, Future

Item = TypeVar("Item")
Result = TypeVar("Result")

VARIABLES = ("det_data", "det_models")  # environment variables that decide which files are meant
PACKAGES = ("cmb_plugin", "numpy", "SimpleITK", "torch")  # must be the same everywhere for the same files
LOOK_AROUND_S = 2.0  # between two questions how many workers there are
FUNCTIONS = "cmb_plugin"  # under this name functions lie at the scheduler


@dataclass(frozen=True)
class Setting:
    """Where and with what the command works, as its workers have to.

    Attributes:
        folder: current directory, to which relative paths refer.
        modules: plugins that the user had imported.
        variables: environment variables; None where one is not set.
        versions: of Python and of the packages that decide what is computed.
        threads: of torch, whose convolutions in float32 end at other last bits with another number; None where the
            command does without torch.
    """

    folder: str
    modules: tuple[str, ...]
    variables: dict[str, str | None]
    versions: dict[str, str]
    threads: int | None = None

    @classmethod
    def here(cls) -> Setting:
        """That of this process."""
        variables = {name: os.environ.get(name) for name in VARIABLES}
        threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
        return cls(str(Path.cwd()), tuple(additional_imports()), variables, dict(_versions()), threads)

    def enter(self) -> None:
        """Makes this process work there.

        Raises:
            UserError: it has other packages, or does not see the folder.
        """
        for name, here in _versions():
            if here != self.versions[name]:
                raise UserError(
                    f"worker on {socket.gethostname()}: has {name} {here or 'not installed'}, the command "
                    f"{self.versions[name]}",
                    remedy="install the same versions on all machines",
                )
        try:
            os.chdir(self.folder)
        except OSError:
            raise UserError(
                f"worker on {socket.gethostname()}: {self.folder} is not there",
                remedy="let all machines see the same files under the same paths",
            ) from None
        for name, value in self.variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if self.folder not in sys.path:
            sys.path.append(self.folder)
        import_as_parent(self.modules)
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)


class Cluster:
    """The workers of a Dask scheduler, in place of a number of processes in ``run_cases``.

    Args:
        client: of the scheduler.
        name: of the scheduler, for messages.
        log: is given a sentence when there is no worker yet.
    """

    def __init__(self, client: Client, name: str, log: Callable[[str], None]) -> None:
        self._client = client
        self._name = name
        self._log = log
        self._room = 1  # how many items may be under way
        self._looked: float | None = None  # when that was found out

    def run(
        self, function: Callable[[Item], Result], items: Sequence[Item], description: str = ""
    ) -> list[Outcome[Item, Result]]:
        """As ``run_cases``: calls ``function(item)`` for every item, returns the outcomes in the order of ``items``.

        The function is sent once, and each worker keeps it, with what it has loaded. Two items for each worker are
        under way, so that the scheduler never holds a hundred thousand. An item whose workers were killed four times is
        tried alone at the end, and given up when they are killed there too.

        Args:
            function: what pickle or cloudpickle can send.
            items: what to work on; they can be pickled, and what comes back is small.
            description: title of the progress bar; empty shows none.

        Raises:
            UserError: the scheduler is gone, or a worker has several threads.
        """
        if not items:
            return []
        outcomes: dict[int, Outcome[Item, Result]] = {}
        with progress(description, len(items)) as advance, self._sent(function) as token:
            suspects = []
            for index, outcome in self._outcomes(token, enumerate(items)):
                if outcome.error == str(KILLED):
                    suspects.append((index, outcome.item))
                else:
                    outcomes[index] = outcome
                    advance()
            for index, outcome in self._outcomes(token, suspects, alone=True):
                outcomes[index] = outcome
                advance()
        return [outcomes[index] for index in range(len(items))]

    @contextmanager
    def _sent(self, function: Callable[[Any], Any]) -> Iterator[str]:
        """While the function lies at the scheduler, under the name that is given."""
        import cloudpickle
        from distributed.comm import CommClosedError

        client, token = self._client, uuid.uuid4().hex
        try:
            client.set_metadata([FUNCTIONS, token], pickle.dumps((Setting.here(), cloudpickle.dumps(function))))
            yield token
        except CommClosedError:
            raise self._gone() from None
        finally:
            if client.status == "running":
                client.set_metadata([FUNCTIONS, token], None)

    def _outcomes(
        self, token: str, items: Iterable[tuple[int, Item]], alone: bool = False
    ) -> Iterator[tuple[int, Outcome[Item, Any]]]:
        """Outcomes as they come, with the numbers of their items; ``alone`` has one item under way."""
        import cloudpickle

        name = f"{'alone' if alone else 'first'}-{token}"
        waiting = iter(items)
        started: dict[Future, tuple[int, Item]] = {}
        done: SimpleQueue[Future] = SimpleQueue()
        while True:
            self._look_around()
            for index, item in islice(waiting, max(0, (1 if alone else self._room) - len(started))):
                future = self._client.submit(_work, token, cloudpickle.dumps(item), key=f"{name}-{index}", pure=False)
                started[future] = (index, item)
                future.add_done_callback(done.put)
            if not started:
                return
            try:
                batch = [done.get(timeout=LOOK_AROUND_S)]
                batch += [done.get() for _ in range(done.qsize())]
            except Empty:
                continue
            results = self._results([future for future in batch if future.status == "finished"])
            for future in batch:
                index, item = started.pop(future)
                yield index, self._outcome(future, item, results.get(future))

    def _look_around(self) -> None:
        """Counts the workers now and then: they come and go.

        Raises:
            UserError: one has several threads.
        """
        now, first = time.monotonic(), self._looked is None
        if self._looked is not None and now - self._looked < LOOK_AROUND_S:
            return
        self._looked = now
        threads = self._client.nthreads()
        for address, number in threads.items():
            if number > 1:
                raise UserError(
                    f"worker {address}: has {number} threads, but a case needs a process of its own",
                    remedy=f"start the worker with --nthreads 1 --nworkers {number}",
                )
        if first and not threads:
            self._log(f"Note: waiting for the first worker of {self._name}")
        # The second one lies there when the first is done. More would be blamed when the worker is killed.
        self._room = 2 * len(threads) + 1

    def _results(self, futures: list[Future]) -> dict[Future, Any]:
        """What several tasks returned, in one message; those that are not here are to be asked for one by one."""
        from distributed import CancelledError

        try:
            return dict(zip(futures, self._client.gather(futures), strict=True))
        except CancelledError:
            raise self._gone() from None
        except Exception:  # one that had finished was lost with its worker, and killed the next ones
            return {}

    def _outcome(self, future: Future, item: Item, returned: Any) -> Outcome[Item, Any]:
        """What a task says that is done; ``returned`` is what it returned, None where nobody has asked yet.

        Raises:
            UserError: nothing, because the scheduler is gone.
        """
        from distributed import CancelledError
        from distributed.scheduler import KilledWorker

        try:
            result, error, is_bug, details = returned or future.result()
        except CancelledError:
            raise self._gone() from None
        except KilledWorker:
            return failed(item, KILLED)
        except Exception as problem:
            return failed(item, problem)
        return Outcome(item, result, error, is_bug, details)

    def _gone(self) -> UserError:
        return UserError(
            f"{self._name}: the scheduler is gone",
            remedy="start it and its workers again, then the same command, which goes on from what is finished",
        )


@dataclass
class _Loaded:
    """The function that this worker process runs, kept with all that it has loaded."""

    token: str = ""
    function: Callable[[Any], Any] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


_loaded = _Loaded()


def _work(token: str, item: bytes) -> tuple[Any, str, bool, str]:
    """Runs in a worker: the function with that token on a pickled item; the fields of its outcome but the item."""
    with _loaded.lock:
        outcome = guarded(_call, (token, item))
    return outcome.result, outcome.error, outcome.is_bug, outcome.details


def _call(task: tuple[str, bytes]) -> Any:
    token, item = task
    if _loaded.token != token:
        from distributed import get_client

        setting, blob = pickle.loads(get_client().get_metadata([FUNCTIONS, token]))
        setting.enter()  # before the function is unpickled, which may need the user's modules
        _loaded.token, _loaded.function = token, pickle.loads(blob)
    assert _loaded.function is not None
    return _loaded.function(pickle.loads(item))


def _versions() -> Iterator[tuple[str, str]]:
    yield "Python", ".".join(map(str, sys.version_info[:2]))
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, ""
