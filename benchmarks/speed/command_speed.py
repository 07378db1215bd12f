"""Time and memory that ``nndet_predict`` takes besides the network, as shares of one run.

    python -m benchmarks.speed.command_speed [--scans 20] [--shape 192,512,512] [--model pretrained] [--workers 1]

Makes scans of noise with a head in it, and predicts them with the whole command in a process of its own. There each
forward pass of the network is timed, and afterwards its tiles pass through the bare network again. Reported are

- the share of the whole that is not the network, in wall time: what overlaps with it costs nothing;
- the whole over the bare forward passes of the same tiles, in wall time and in CPU time of all processes;
- where the CPU time goes: the network, the rest of the process, and the processes that prepare scans;
- the largest resident memory of the process, and of the largest of those that prepare.

The loading of Python and of the weights, once per run, is left out. Wall times say something on a quiet machine only.
"""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser

SPACINGS = {(192, 512, 512): (0.8, 0.45, 0.45), (48, 256, 256): (3.0, 0.9, 0.9)}


def make_scan(path: Path, shape: tuple[int, int, int], seed: int) -> None:
    """An ellipsoid of tissue with noise, as integers, in a background of noise."""
    from cmb_plugin.images import Grid, write_image

    rng = np.random.default_rng(seed)
    axes = [((np.arange(n) + 0.5) / n - 0.5) / 0.42 for n in shape]
    inside = axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2 < 1
    values = rng.standard_normal(shape, dtype=np.float32) * 15 + np.where(inside, 300, 20).astype(np.float32)
    spacing = SPACINGS.get(shape, (1.0, 1.0, 1.0))
    write_image(path, np.clip(values, 0, 4095).astype(np.int16), Grid(shape, spacing))


def measured_run(arguments: Sequence[str]) -> dict[str, Any]:
    """Runs the command here and measures it.

    Returns:
        seconds of wall and CPU time of the whole, of the network within it, and of its bare passes; memory in GB.
    """
    import torch

    from cmb_plugin.commands.predict import main as predict
    from cmb_plugin.models.ensemble import Ensemble
    from cmb_plugin.networks.precision import autocast
    from cmb_plugin.workflows import predict as workflow

    tiles: list[tuple[Any, tuple[int, ...]]] = []
    network = {"wall": 0.0, "cpu": 0.0}
    began: dict[str, float] = {}
    ensembles: list[Ensemble] = []
    hooks: list[Any] = []

    def before(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """A forward pass begins."""
        tiles.append((module, tuple(inputs[0].shape)))
        began.update(wall=time.perf_counter(), cpu=time.thread_time())

    def after(module: torch.nn.Module, inputs: object, output: object) -> None:
        """It ends; the CPU time is that of this thread, which is all where torch has one."""
        network["wall"] += time.perf_counter() - began["wall"]
        network["cpu"] += time.thread_time() - began["cpu"]

    load = workflow.load_ensemble

    def watched(*args: Any) -> Ensemble:
        """Loads, and listens to the networks; what was before it is the start of the command."""
        ensemble = load(*args)
        for member in ensemble.members:
            hooks.append(member.network.register_forward_pre_hook(before))  # type: ignore[attr-defined]
            hooks.append(member.network.register_forward_hook(after))  # type: ignore[attr-defined]
        ensembles.append(ensemble)
        began.update(loaded=time.perf_counter(), loaded_cpu=time.process_time())
        return ensemble

    workflow.load_ensemble = watched  # type: ignore[assignment] # with any arguments: it only listens
    code = predict(arguments)
    wall, cpu = time.perf_counter() - began["loaded"], time.process_time() - began["loaded_cpu"]
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bare = {"wall": 0.0, "cpu": 0.0}
    (ensemble,) = ensembles
    for hook in hooks:
        hook.remove()
    for module, shape in tiles:
        images = torch.randn(shape, device=ensemble.device)
        member = next(member for member in ensemble.members if member.network is module)  # type: ignore[attr-defined]
        start, start_cpu = time.perf_counter(), time.thread_time()
        with torch.inference_mode(), autocast(ensemble.device, member.trainer_cfg.precision):  # type: ignore[attr-defined]
            module(images)
        bare["wall"] += time.perf_counter() - start
        bare["cpu"] += time.thread_time() - start_cpu
    return {
        "code": code,
        "whole": {"wall": wall, "cpu": cpu + children.ru_utime + children.ru_stime},
        "process_cpu": cpu,
        "network": network,
        "bare": bare,
        "passes": len(tiles),
        "voxels": sum(math.prod(shape) for _, shape in tiles),
        "memory_gb": peak / 1e6,
        "memory_of_a_child_gb": children.ru_maxrss / 1e6,
    }


def report(result: dict[str, Any], scans: int) -> None:
    """Prints the numbers of a run."""
    whole, network, bare = result["whole"], result["network"], result["bare"]
    print(f"{result['passes']} forward passes over {result['voxels'] / 1e6:.0f} million voxels, {scans} scans")
    print("| | wall | CPU |\n|---|---|---|")
    for name, row in (("whole, without the start", whole), ("network in it", network), ("bare passes", bare)):
        print(f"| {name} | {row['wall'] / scans:.1f} s per scan | {row['cpu'] / scans:.1f} s per scan |")
    for kind in ("wall", "cpu"):
        outside, ratio = 1 - network[kind] / whole[kind], whole[kind] / bare[kind]
        print(f"{kind}: {100 * outside:.0f} % outside the network; {ratio:.2f} x the bare forward passes")
    children = whole["cpu"] - result["process_cpu"]
    print(
        f"CPU per scan: network {network['cpu'] / scans:.1f} s, the rest of its process "
        f"{(result['process_cpu'] - network['cpu']) / scans:.1f} s, preparing processes {children / scans:.1f} s"
    )
    print(f"memory: {result['memory_gb']:.2f} GB, a preparing process {result['memory_of_a_child_gb']:.2f} GB")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Makes scans, predicts them and prints the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--scans", type=int, default=20, help="how many (default: %(default)s)")
    arguments.add_argument("--shape", default="192,512,512", help="z,y,x (default: %(default)s)")
    arguments.add_argument("--model", default="pretrained", help="packed model of one modality (default: %(default)s)")
    arguments.add_argument("--workers", type=int, default=1, help="processes that prepare (default: %(default)s)")
    arguments.add_argument("--threads", type=int, default=1, help="of torch on a CPU (default: %(default)s)")
    arguments.add_argument("--run", nargs="+", help="used by the script itself: arguments of the command")
    args, further = arguments.parse_known_args(argv)
    if args.run:
        result = measured_run([*args.run, *further])
        print(json.dumps(result), file=sys.stderr)
        return int(result["code"])
    if further:
        arguments.error(f"unknown: {' '.join(further)}")
    shape = tuple(int(n) for n in args.shape.split(","))
    print(measured_on("torch", "numpy", "SimpleITK", threads=args.threads))
    with tempfile.TemporaryDirectory() as folder:
        scans = Path(folder) / "scans"
        for number in range(args.scans):
            make_scan(scans / f"scan{number:03d}.nii.gz", (shape[0], shape[1], shape[2]), number)
        words = [args.model, "--input", str(scans), "--output", f"{folder}/out", "-npp", str(args.workers)]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.speed.command_speed", "--run", *words],
            env={**os.environ, "OMP_NUM_THREADS": str(args.threads)},
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
    last = done.stderr.strip().splitlines()[-1:] or [""]
    if not last[0].startswith("{"):
        print(done.stderr, file=sys.stderr)
        return 1
    report(json.loads(last[0]), args.scans)
    return 0


if __name__ == "__main__":
    sys.exit(main())
