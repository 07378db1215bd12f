"""The line that stands above every table: the machine and the versions that it was measured with."""

from __future__ import annotations

import os
from importlib.metadata import version

from cmb_plugin.benchmark.machine import machine
from cmb_plugin.documents import counted


def measured_on(*packages: str, gpu: bool = False, threads: int | None = None) -> str:
    """Processor or GPU, load, versions and the state of the code in one line.

    Args:
        packages: whose versions count, besides Python's.
        gpu: the work was done by the GPU.
        threads: of the processor, where they are fewer than its cores.
    """
    facts = machine()
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    share = "" if threads is None else f", {counted(threads, 'thread')}"
    where = str(facts["gpu"]) if gpu else f"{facts['processor']}, {facts['cores']} cores{share}, {load}"
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{where}; Python {facts['python']}{f', {versions}' if versions else ''}; code {facts['commit'] or 'unknown'}"
    )
