"""``--scheduler``: which machines make up a cluster. A Dask scheduler that runs, processes here, or jobs of Slurm."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cluster import Cluster, Setting
from .errors import UserError
from .workers import THREAD_VARIABLES, default_workers

if TYPE_CHECKING:
    from distributed import Client

INSTALL = "pip install 'cmb_plugin[cluster]'"
LOCAL, SLURM = "local", "slurm"
FORMS = "tcp://HOST:8786, a scheduler file, local:N, slurm, slurm:JOBS"
SLURM_JOBS = 4
CONNECT_S = 10.0


@contextmanager
def open_cluster(text: str, log: Callable[[str], None] = lambda _: None) -> Iterator[Cluster]:
    """The machines that ``--scheduler`` names.

    Args:
        text: ``tcp://HOST:PORT`` or the path of a scheduler file for one that runs; ``local:N`` for N processes on this
            machine; ``slurm`` or ``slurm:JOBS`` for jobs as jobqueue.yaml describes them.
        log: is given sentences about workers that are waited for.

    Raises:
        UserError: Dask is not installed, the text is none of these, or no scheduler answers.
    """
    kind, _, number = text.partition(":")
    if (kind == SLURM and text != SLURM and not _is_count(number)) or (kind == LOCAL and not _is_count(number)):
        raise UserError(f"--scheduler {text}: is no scheduler", remedy=f"known: {FORMS}")
    needed = "dask_jobqueue" if kind == SLURM else "distributed"
    if importlib.util.find_spec(needed) is None:
        raise UserError(f"--scheduler needs {needed.replace('_', '-')}", remedy=INSTALL)
    with _quiet():
        if kind == LOCAL:
            opened = _local(int(number), log)
        elif kind == SLURM:
            opened = _slurm(int(number or SLURM_JOBS))
        else:
            opened = _running(text)
        with opened as client:
            yield Cluster(client, text if kind != LOCAL else f"local:{number}", log)


@contextmanager
def _local(processes: int, log: Callable[[str], None]) -> Iterator[Client]:
    from distributed import Client, LocalCluster

    threads = Setting.here().threads or 1
    if threads > 1 and threads * processes > default_workers():
        log(
            f"Note: {processes} workers compute with {threads} threads each, as this command alone would; "
            "OMP_NUM_THREADS=1 before the command gives each one"
        )
    workers = LocalCluster(
        n_workers=processes,
        threads_per_worker=1,
        memory_limit=None,  # as for the processes of -np: the system decides
        dashboard_address=None,
        silence_logs=logging.CRITICAL,
        env=dict.fromkeys(THREAD_VARIABLES, "1"),
    )
    with workers, Client(workers) as client:
        yield client


@contextmanager
def _slurm(jobs: int) -> Iterator[Client]:
    from distributed import Client

    if shutil.which("sbatch") is None:
        raise UserError(f"--scheduler {SLURM}: there is no sbatch here", remedy="run it on a login node of the cluster")
    with slurm_cluster() as workers:
        workers.scale(jobs=jobs)
        with Client(workers) as client:
            yield client


def slurm_cluster() -> Any:
    """``dask_jobqueue.SLURMCluster`` with the settings of the user's jobqueue.yaml; no job is submitted yet.

    Raises:
        UserError: they do not suffice.
    """
    import dask
    from dask_jobqueue import SLURMCluster

    extra = dask.config.get("jobqueue.slurm.worker-extra-args")
    try:  # a worker computes one case at a time, whatever the number of cores that a job has for it
        return SLURMCluster(worker_extra_args=[*extra, "--nthreads", "1"])
    except ValueError as error:
        reason = " ".join(str(error).split())
        remedy = "give cores, processes and memory under jobqueue: slurm: in ~/.config/dask/jobqueue.yaml"
        raise UserError(f"--scheduler {SLURM}: {reason}", remedy=f"{remedy} (docs/cluster.md)") from None


@contextmanager
def _running(text: str) -> Iterator[Client]:
    from distributed import Client

    is_file = Path(text).is_file()
    if not is_file and "://" not in text:
        raise UserError(f"--scheduler {text}: is no scheduler", remedy=f"known: {FORMS}")
    try:
        client = Client(scheduler_file=text, timeout=CONNECT_S) if is_file else Client(text, timeout=CONNECT_S)
    except (OSError, ValueError) as error:  # a timeout is an OSError
        remedy = "start it on one of the machines with: dask scheduler"
        raise UserError(f"--scheduler {text}: no scheduler answers ({str(error).splitlines()[0]})", remedy) from None
    with client:
        yield client


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Dask logs when workers and schedulers go: outcomes tell it."""
    import distributed  # noqa: F401 - sets levels of its own when it is first imported

    logger = logging.getLogger("distributed")
    before, names = logger.level, ("distributed", "distributed.client", "distributed.core")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _is_count(text: str) -> bool:
    return text.isdecimal() and int(text) > 0
