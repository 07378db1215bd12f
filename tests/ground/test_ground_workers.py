"""One bad case never stops the others, in this process or in several."""

import ctypes
import fcntl
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from cmb_plugin.errors import UserError
from cmb_plugin.workers import THREAD_VARIABLES, cases_ahead, failures, run_cases


def treat(item: int) -> int:
    if item == 1:
        raise UserError("case 1: broken", remedy="mend it")
    if item == 2:
        raise ZeroDivisionError("a bug")
    return item * 10


def die_at_zero(item: int) -> int:
    if item == 0:
        os._exit(9)
    return item * 10


def die_in_company(item: int, lock: Path) -> int:
    """Stands for a case that needs more than half of the memory: the second at a time is killed."""
    with lock.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os._exit(9)
        time.sleep(0.2)
    return item * 10


def threads(_: int) -> list[str]:
    return [os.environ[name] for name in THREAD_VARIABLES]


def process_and_time(item: int) -> tuple[int, float]:
    return os.getpid(), time.time()


@pytest.mark.parametrize("workers", [0, 2])
def test_outcomes_keep_their_order_and_name_what_went_wrong(workers):
    outcomes = run_cases(treat, [3, 1, 2, 0], workers=workers)
    assert [o.result for o in outcomes] == [30, None, None, 0]
    user, bug = failures(outcomes)
    assert (user.item, user.error, user.is_bug) == (1, "case 1: broken - mend it", False)
    assert bug.is_bug
    assert "ZeroDivisionError" in bug.details


@pytest.mark.parametrize("through", [run_cases, cases_ahead])
def test_of_many_cases_only_the_one_that_is_killed_alone_fails(through):
    items = [*range(5, 9), 0, *range(9, 14)]
    outcomes = list(through(die_at_zero, items, workers=3))
    assert [outcome.item for outcome in outcomes] == items
    assert [outcome.result for outcome in outcomes if outcome.item] == [item * 10 for item in items if item]
    (failure,) = failures(outcomes)
    assert failure.item == 0
    assert not failure.is_bug
    assert "killed even while it was the only one" in failure.error


def test_cases_that_are_only_too_large_together_all_succeed(tmp_path):
    items = [1, 2, 3, 4, 5]
    outcomes = run_cases(partial(die_in_company, lock=tmp_path / "lock"), items, workers=2)
    assert [outcome.result for outcome in outcomes] == [10, 20, 30, 40, 50]


def test_reading_ahead_is_bounded_and_in_the_background():
    ahead = cases_ahead(process_and_time, range(8), workers=2)
    outcomes = [next(ahead)]
    time.sleep(1.5)
    asked = time.time()
    outcomes += list(ahead)
    assert [outcome.item for outcome in outcomes] == list(range(8))
    assert os.getpid() not in {outcome.result[0] for outcome in outcomes}
    begun_before = [outcome.item for outcome in outcomes if outcome.result[1] < asked]
    assert begun_before == [0, 1, 2]


@pytest.mark.parametrize("through", [run_cases, cases_ahead])
def test_processes_take_one_thread_each_and_leave_the_environment_alone(through, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = dict(os.environ)
    for outcome in through(threads, [0, 1], workers=2):
        assert set(outcome.result) == {"1"}
        assert dict(os.environ) == before


KEEPS_AND_RELEASES = """
import numpy as np
from cmb_plugin.workers import keep_freed_memory, release_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

keep_freed_memory()
before = resident()
for size in range(20, 60, 4):  # each larger than the gap that the one before left
    blocks = [np.ones(size << 20, np.uint8) for _ in range(2)]
    pin = np.ones(2000, np.uint8)  # lies behind them, as a result that is kept
    del blocks
grown = resident() - before
assert not release_freed_memory(above=grown * 2)
kept = resident() - before
assert release_freed_memory(above=1 << 20)
print(grown >> 20, kept >> 20, resident() - before >> 20)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="only glibc from 2.33 on tells what is kept")
def test_memory_that_is_kept_is_given_back_when_it_is_too_much():
    """In a process of its own: how malloc behaves is set once for all."""
    run = subprocess.run([sys.executable, "-c", KEEPS_AND_RELEASES], capture_output=True, text=True, check=True)
    grown, kept, left = map(int, run.stdout.split())
    assert grown > 100
    assert kept > grown / 2
    assert left < grown / 5
