"""How a process of a pool ends: with its parent, and on SIGTERM in order, without the temporary files of its case."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any, TypeVar

Result = TypeVar("Result")

CODE = 128 + signal.SIGTERM

END_S = 10.0
"""How long a process that is to end may take to break its case off."""


class _Ended(BaseException):
    """SIGTERM while a case is under way."""


def end_with_parent() -> None:
    """To be called first in a process that was spawned: it ends when its parent does, be that killed, and at most
    ``END_S`` after a SIGTERM."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)  # written to even while a library computes
    threading.Thread(target=_watch, args=(woken,), daemon=True).start()


def _watch(woken: int) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    while woken in wait([woken, parent.sentinel]):
        if os.read(woken, 1)[0] == signal.SIGTERM:
            break
    else:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_S)
    os._exit(CODE)


def broken_off_by_sigterm(function: Callable[..., Result], *arguments: Any) -> Result:
    """``function(*arguments)``, during which SIGTERM raises, so that temporary files go, before the process ends.

    At other times it ends at once: a process that waits for its next case has nothing to remove, and a handler in
    Python may wait as long as the process does.
    """
    try:
        signal.signal(signal.SIGTERM, _raise)
        return function(*arguments)
    except _Ended:
        os._exit(CODE)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise(number: int, frame: Any) -> None:
    raise _Ended
