"""Machines give the files that one process gives, whatever becomes of a worker or of the scheduler."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import dask
import pytest
import torch
from distributed import Client, LocalCluster, get_worker
from tiny_task import make_tiny_task

from cmb_plugin import cluster as cluster_module
from cmb_plugin.cluster import Cluster
from cmb_plugin.commands import bids, follow, predict, prep
from cmb_plugin.errors import UserError
from cmb_plugin.paths import TaskFolder
from cmb_plugin.schedulers import open_cluster, slurm_cluster
from cmb_plugin.settings import Overrides
from cmb_plugin.workers import Machines, Outcome, failures, run_cases
from cmb_plugin.workflows.prep import prepare
from cmb_plugin.workflows.prep_report import PrepReport

LATE = 2  # name of the third worker
OTHERS_WAIT_S = 60


@pytest.fixture(autouse=True)
def _coarse_anchor_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmb_plugin.planning.anchors.PLACED_BOXES", 100)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two worker processes; a third one joins in one of the tests."""
    with open_cluster("local:2") as opened:
        yield opened


@pytest.fixture
def task(tmp_path: Path) -> TaskFolder:
    return make_tiny_task(tmp_path, n_train=4, n_test=2, modalities=("swi",), shape=(16, 24, 24))


@dataclass(frozen=True)
class Eventful:
    """Machines on which something happens while cases are preprocessed.

    Attributes:
        machines: that work.
        event: called in the worker before each case.
        meanwhile: called here.
    """

    machines: Machines
    event: Callable[[], None]
    meanwhile: Callable[[], None] = field(default=lambda: None)

    def run(
        self, function: Callable[[Any], Any], items: Sequence[Any], description: str = ""
    ) -> list[Outcome[Any, Any]]:
        if not description.startswith("Preprocessing"):
            return self.machines.run(function, items, description)
        thread = threading.Thread(target=self.meanwhile)
        thread.start()
        outcomes = self.machines.run(partial(_with_event, function=function, event=self.event), items, description)
        thread.join()
        return outcomes


def _with_event(item: Any, function: Callable[[Any], Any], event: Callable[[], None]) -> Any:
    event()
    return function(item)


def killed_once_and_joined_late(folder: Path) -> None:
    """The first case kills its worker; after two cases the others wait until the late worker has begun one."""
    begun = folder / f"{time.time_ns()}_{os.getpid()}"
    begun.touch()
    if get_worker().name == LATE:
        (folder / "late").touch()
    try:
        (folder / "killed").touch(exist_ok=False)
    except FileExistsError:
        pass
    else:
        os.kill(os.getpid(), signal.SIGKILL)
    give_up = time.monotonic() + OTHERS_WAIT_S
    while len(list(folder.glob("*_*"))) > 2 and not (folder / "late").exists() and time.monotonic() < give_up:
        time.sleep(0.05)


def kill_the_scheduler(folder: Path) -> None:
    """At the third case; the process of a scheduler and its worker are one here."""
    (folder / f"{time.time_ns()}_").touch()
    if len(list(folder.glob("*_"))) == 3:
        os.kill(os.getpid(), signal.SIGKILL)


def prepared(task: TaskFolder, workers: int | Machines) -> PrepReport:
    return prepare(task, Overrides.parse(["planner_cfg.gpu_memory_gb=2"]), workers=workers)


def files_of(task: TaskFolder) -> dict[str, bytes]:
    folder = task.preprocessed
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_killed_and_a_late_worker_leave_the_files_of_one_process(
    cluster: Cluster, task: TaskFolder, tmp_path: Path
) -> None:
    report = prepared(task, workers=0)
    alone = files_of(task)
    shutil.rmtree(task.preprocessed)
    events = tmp_path / "events"
    events.mkdir()
    local: Any = cluster._client.cluster
    join = partial(local.scale, LATE + 1)
    together = prepared(task, Eventful(cluster, partial(killed_once_and_joined_late, events), join))
    assert files_of(task) == alone
    assert together.cases == report.cases
    assert (events / "killed").exists()
    assert (events / "late").exists()
    assert len({path.name.split("_")[1] for path in events.glob("*_*")}) >= 3  # processes that worked


SCHEDULER = """
import asyncio, sys
from distributed import Scheduler, Worker

async def main():
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address=None) as scheduler:
        async with Worker(scheduler.address, nthreads=1, local_directory=sys.argv[1]):
            print(scheduler.address, flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


def test_after_the_scheduler_was_killed_the_same_command_goes_on(
    cluster: Cluster, task: TaskFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = prepared(task, workers=0)
    files = files_of(task)
    shutil.rmtree(task.preprocessed)
    events = tmp_path / "events"
    events.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCHEDULER, str(tmp_path / "scratch")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        address = running.stdout.readline().strip()
        try:
            with (
                pytest.raises(UserError, match=f"{address}: the scheduler is gone - start it and its workers again"),
                open_cluster(address) as doomed,
            ):
                prepared(task, Eventful(doomed, partial(kill_the_scheduler, events)))
        finally:
            running.kill()
    monkeypatch.setattr("cmb_plugin.schedulers.CONNECT_S", 0.5)
    with pytest.raises(UserError, match="no scheduler answers"), open_cluster(address):
        pass
    again = prepared(task, cluster)
    assert [case.fresh for case in again.cases].count(False) == 2  # those before the third
    assert len(again.cases) == len(alone.cases)
    assert files_of(task) == files


def treat(item: int) -> int:
    if item == 1:
        raise UserError("case 1: broken", remedy="mend it")
    if item == 2:
        raise ZeroDivisionError("a bug")
    if item == 3:
        os._exit(9)
    return item * 10


def test_outcomes_keep_their_order_and_only_the_item_that_always_kills_is_given_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    local: Any = cluster._client.cluster
    monkeypatch.setattr(local.scheduler, "allowed_failures", 0)  # quicker; others on that worker are suspected too
    outcomes = run_cases(treat, [4, 1, 3, 2, 5, 6], workers=cluster)
    assert [outcome.item for outcome in outcomes] == [4, 1, 3, 2, 5, 6]
    assert [outcome.result for outcome in outcomes] == [40, None, None, None, 50, 60]
    user, killed, bug = failures(outcomes)
    assert (user.error, user.is_bug) == ("case 1: broken - mend it", False)
    assert "its process was killed even while it was the only one" in killed.error
    assert bug.is_bug
    assert "ZeroDivisionError" in bug.details


def where(_: int) -> tuple[str, str | None, bool, int]:
    loaded = "plugin_of_mine" in sys.modules
    return str(Path.cwd()), os.environ.get("det_data"), loaded, torch.get_num_threads()  # noqa: SIM112


def test_workers_stand_where_the_command_stands(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugin_of_mine.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("det_data", "elsewhere")
    monkeypatch.setattr(cluster_module, "additional_imports", lambda: ["plugin_of_mine"])
    before = torch.get_num_threads()
    torch.set_num_threads(3)  # in float32 the last bits of a convolution depend on it
    try:
        assert run_cases(where, [1], workers=cluster)[0].result == (str(tmp_path), "elsewhere", True, 3)
    finally:
        torch.set_num_threads(before)


def test_a_worker_with_other_packages_or_files_says_so(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    here = cluster_module.Setting.here()
    for change, expected in (
        ({"versions": {**here.versions, "torch": "1.0"}}, "the command 1.0 - install the same versions"),
        ({"folder": "/no/such/folder"}, "/no/such/folder is not there - let all machines see the same files"),
    ):
        changed = cluster_module.Setting(**{**vars(here), **change})  # type: ignore[arg-type]
        monkeypatch.setattr(cluster_module.Setting, "here", lambda changed=changed: changed)
        (outcome,) = run_cases(treat, [4], workers=cluster)
        assert expected in outcome.error
        assert not outcome.is_bug


def test_a_worker_with_several_threads_is_refused() -> None:
    with (
        LocalCluster(1, threads_per_worker=2, processes=False, dashboard_address=None) as local,
        Client(local) as client,
        pytest.raises(UserError, match=r"has 2 threads, .* - start the worker with --nthreads 1 --nworkers 2"),
    ):
        Cluster(client, "there", print).run(treat, [4])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("local:none", "--scheduler local:none: is no scheduler - known: tcp://"),
        ("somewhere", "--scheduler somewhere: is no scheduler"),
        ("tcp://127.0.0.1:1", "--scheduler tcp://127.0.0.1:1: no scheduler answers"),
        ("slurm", "--scheduler slurm: there is no sbatch here"),
    ],
)
def test_what_names_no_machines_is_one_line(
    text: str, complaint: str, task: TaskFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cmb_plugin.schedulers.CONNECT_S", 0.5)
    monkeypatch.setenv("PATH", "")
    assert prep.main([str(task.root), "--scheduler", text]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {complaint}")
    assert error.count("\n") == 1


def test_a_command_says_itself_what_dask_would_log() -> None:
    """In a process of its own: Dask sets the levels of its loggers when it is first imported."""
    names = ("distributed", "distributed.client", "distributed.core")
    code = f"""
import logging, sys
from cmb_plugin.schedulers import open_cluster
assert "distributed" not in sys.modules
with open_cluster("local:1"):
    print(*{{logging.getLogger(name).level for name in {names}}})
"""
    done = subprocess.run([sys.executable, "-c", f"if __name__ == '__main__':\n{textwrap.indent(code, '    ')}"],
                          capture_output=True, text=True, check=True, timeout=120)  # fmt: skip
    assert done.stdout.split() == [str(logging.CRITICAL)]


def test_without_dask_the_command_says_what_to_install(
    task: TaskFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert prep.main([str(task.root), "--scheduler", "local:2"]) == 2
    assert capsys.readouterr().err == "error: --scheduler needs distributed - pip install 'cmb_plugin[cluster]'\n"


def test_a_slurm_job_has_the_users_settings_and_one_thread_for_each_worker() -> None:
    with pytest.raises(UserError, match=r"--scheduler slurm: .* - give cores, processes and memory"):
        slurm_cluster()
    slurm = {"cores": 4, "processes": 4, "memory": "16GB", "queue": "short", "worker-extra-args": ["--lifetime", "25m"]}
    with dask.config.set({f"jobqueue.slurm.{key}": value for key, value in slurm.items()}), slurm_cluster() as jobs:
        script = jobs.job_script()
    assert "#SBATCH -p short" in script
    assert "#SBATCH --cpus-per-task=4" in script
    assert script.rstrip().endswith("--lifetime 25m --nthreads 1")
    assert "--nworkers 4" in script


@pytest.mark.parametrize("command", [prep, predict, follow, bids])
def test_every_command_of_a_cohort_has_it(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert "--scheduler WHERE" in capsys.readouterr().out
