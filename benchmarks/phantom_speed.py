"""Measures time and memory of one phantom per protocol, each in a process of its own on one core.

    python benchmarks/phantom_speed.py                          every protocol, SWI and phase
    python benchmarks/phantom_speed.py --modalities swi,phase,t2s,qsm,t2 --protocols valdo2
    python benchmarks/phantom_speed.py --figure docs/images/phantom.png --protocols cuhk --index 0

Prints a Markdown table. The first case of a process also loads the atlas; it is timed apart.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

ALL = "swi,phase,t2s,qsm,t2"


def measure(protocol: str, modalities: str, index: int, figure: str) -> None:
    """Makes one case and prints seconds and peak memory; with ``figure`` draws it instead."""
    from cmb_plugin.phantom import PhantomConfig, make_case
    from cmb_plugin.phantom.anatomy import load_atlas

    start = time.perf_counter()
    load_atlas()
    loaded = time.perf_counter() - start
    start, used = time.perf_counter(), time.process_time()
    case = make_case(0, index, PhantomConfig((protocol,), tuple(modalities.split(","))))
    seconds, cpu = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    shape = " x ".join(str(n) for n in case.grid.shape[::-1])
    spacing = " x ".join(f"{s:g}" for s in case.grid.spacing[::-1])
    print(f"| {protocol} | {shape} | {spacing} | {seconds:.1f} | {cpu:.1f} | {peak:.2f} | {loaded:.1f} |", flush=True)
    if figure:
        from cmb_plugin.phantom.figure import phantom_figure

        phantom_figure(case).savefig(figure, dpi=80)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--protocols", default="demo,cuhk,csiro,ukb,valdo1,valdo2,valdo3")
    arguments.add_argument("--modalities", default="swi,phase")
    arguments.add_argument("--index", type=int, default=0, help="number of the case")
    arguments.add_argument("--figure", default="", help="draw the (single) protocol's case, with all modalities")
    arguments.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = arguments.parse_args()
    modalities = ALL if args.figure else args.modalities
    if args.child:
        measure(args.protocols, modalities, args.index, args.figure)
        return
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, numpy {version('numpy')}, scipy {version('scipy')}; "
        f"modalities {modalities}\n"
    )
    print("| protocol | matrix (x, y, z) | voxel in mm | seconds | CPU seconds | peak memory in GB | atlas in s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    one_core = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")}
    for protocol in args.protocols.split(","):
        words = ["--child", "--protocols", protocol, "--modalities", modalities, "--index", str(args.index)]
        words += ["--figure", args.figure] if args.figure else []
        subprocess.run([sys.executable, str(Path(__file__)), *words], check=True, env=one_core)


if __name__ == "__main__":
    main()
