"""``nndet_env``: what this installation consists of, for bug reports."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .cli import command, parser

PACKAGES = (
    "cmb_plugin",
    "torch",
    "torchvision",
    "lightning",
    "nnunetv2",
    "batchgeneratorsv2",
    "dynamic_network_architectures",
    "numpy",
    "scipy",
    "SimpleITK",
    "blosc2",
    "nilearn",
)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print versions, devices and folders: what a bug report should begin with.

    Examples:
        nndet_env
        det_data=/data/tasks nndet_env
    """
    parser(main.__doc__).parse_args(argv)
    groups = (_versions(), _devices(), _folders(), _environment())
    width = max(len(name) for group in groups for name, _ in group)
    print("\n\n".join("\n".join(f"{name:{width}}  {value}" for name, value in group) for group in groups))
    return 0


def _versions() -> list[tuple[str, str]]:
    rows = [("Python", f"{platform.python_version()} on {platform.platform()}")]
    for package in PACKAGES:
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:
            rows.append((package, "not installed"))
    return rows


def _devices() -> list[tuple[str, str]]:
    from cmb_plugin.workers import default_workers

    rows = [("CPU cores", f"{default_workers()} of {os.cpu_count()}")]
    try:
        import torch
    except ImportError as error:
        return [*rows, ("torch", f"cannot be imported: {error}")]
    from cmb_plugin.networks import resolve_precision

    devices = [torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))]
    for device in devices:
        name = f"{torch.get_num_threads()} threads"
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            name = f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB"
        rows.append((str(device), f"{name}, trains at {resolve_precision('auto', device)}"))
    if torch.version.cuda is None:
        rows.append(("CUDA", "this torch is built without it"))
    elif len(devices) == 1:
        rows.append(("CUDA", f"torch is built for {torch.version.cuda}, but finds no device"))
    return rows


def _folders() -> list[tuple[str, str]]:
    from cmb_plugin.paths import data_root, models_root

    return [("det_data", _folder(data_root(), "det_data")), ("det_models", _folder(models_root(), "det_models"))]


def _folder(path: Path, variable: str) -> str:
    notes = [] if os.environ.get(variable) else [f"{variable} is not set"]
    notes += [] if path.is_dir() else ["does not exist"]
    return f"{path} ({', '.join(notes)})" if notes else str(path)


def _environment() -> list[tuple[str, str]]:
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    return [(name, os.environ.get(name, "not set")) for name in names]
