"""What numbers were measured with: processor, GPU, versions, state of the code."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cmb_plugin.documents import counted
from cmb_plugin.workers import commit_of_code, first_line

PACKAGES = ("cmb_plugin", "torch", "lightning", "numpy", "nnunetv2")


def machine() -> dict[str, Any]:
    """The facts, as they stand in the records of a benchmark."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": first_line(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "commit": commit_of_code(),
    }


def made_with(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the networks of these records were made with: a sentence for each machine and way of working, which ends in
    the commits of the code, of which a long study may have several."""
    commits: dict[str, list[str]] = {}
    for record in records:
        if "machine" in record:
            commits.setdefault(_in_words(record), []).append(record["machine"]["commit"] or "unknown")
    return [f"{text}; code {', '.join(dict.fromkeys(known))}" for text, known in commits.items()]


def _in_words(record: Mapping[str, Any]) -> str:
    facts, threads = record["machine"], record["threads"]
    versions = ", ".join(f"{name} {facts[name]}" for name in ("python", *PACKAGES) if facts.get(name))
    share = f"{record['jobs']} at a time with {counted(threads, 'thread')} each"
    return f"{facts['processor']}, {facts['cores']} cores, {facts['gpu'] or 'no GPU'}; {share}; {versions}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
