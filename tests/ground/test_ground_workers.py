"""One bad case never stops the others, in this process or in several."""

import ctypes
import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from cmb_plugin.commands.cli import command
from cmb_plugin.errors import UserError
from cmb_plugin.files import atomic
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


def write_result(item: Path) -> int:
    with atomic(item) as temporary:
        if item.parent.name == "full":
            Path("/dev/full").write_text("does not fit", encoding="utf-8")
        raise PermissionError(errno.EACCES, "Permission denied", str(temporary))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_missing_rights_and_full_disks_are_one_line_with_the_file(tmp_path, capsys):
    """Whoever runs the tests may have all rights, so these are refused by hand."""
    paths = [tmp_path / "full" / "case.json", tmp_path / "closed" / "case.json"]
    expected = [
        f"{paths[0]}: No space left on device - free space there or choose another folder, then run the command again",
        f"{paths[1]}: Permission denied - check the rights of the file and its folder, or choose another folder",
    ]
    outcomes = run_cases(write_result, paths)
    assert [(outcome.error, outcome.is_bug) for outcome in outcomes] == [(line, False) for line in expected]
    for path, line in zip(paths, expected, strict=True):
        assert command(lambda argv=None, path=path: write_result(path))() == 2
        assert capsys.readouterr().err == f"error: {line}\n"


def test_a_missing_file_may_be_a_bug(tmp_path, capsys):
    assert command(lambda argv=None: (tmp_path / "none").stat().st_size)() == 1
    assert "Traceback" in capsys.readouterr().err


LONG_COMMAND = """
import os, sys, time
from pathlib import Path
from tempfile import TemporaryDirectory
from cmb_plugin.commands.cli import command
from cmb_plugin.files import atomic
from cmb_plugin.workers import run_cases

def long_case(folder):
    with atomic(folder / f"result{os.getpid()}") as temporary:
        temporary.touch()
        (folder / f"worker{os.getpid()}").touch()
        time.sleep(300)

@command
def main(argv=None):
    with TemporaryDirectory(dir=sys.argv[1]) as scratch:
        run_cases(long_case, [Path(sys.argv[1])] * 2, workers=2)

if __name__ == "__main__":
    sys.exit(main())
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_processes_end_with_their_command_and_leave_nothing(tmp_path, number, code):
    """Their cases would take five minutes; the signal goes to the command alone, as that of a scheduler does."""
    script, folder = tmp_path / "long_command.py", tmp_path / "work"
    script.write_text(LONG_COMMAND, encoding="utf-8")
    folder.mkdir()
    running = subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        stderr=subprocess.PIPE,
        text=True,
        # Where the suite itself runs in the background of a shell it ignores Ctrl-C, and so would the command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + 60
    while len(workers := list(folder.glob("worker*"))) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    running.send_signal(number)
    assert running.wait(timeout=30) == code
    pids = [int(path.name.removeprefix("worker")) for path in workers]
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(is_running, pids))
    assert running.stderr.read().count("interrupted; run it again") == (number != signal.SIGKILL)
    left = {path.name for path in folder.iterdir()} - {path.name for path in workers}
    if number == signal.SIGKILL:  # nobody is left to remove the command's own folder
        assert len(left) == 1
    else:
        assert not left


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
