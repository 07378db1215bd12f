"""Measures time and memory of one phantom per protocol, each in a process of its own on one core.

    python -m benchmarks.speed.phantom_speed                          every protocol, SWI and phase
    python -m benchmarks.speed.phantom_speed --modalities swi,phase,t2s,qsm,t2 --protocols valdo2
    python -m benchmarks.speed.phantom_speed --figure docs/images/phantom.png --protocols cuhk --index 0

Prints a Markdown table. The first case of a process also loads the atlas; it is timed apart.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.tools.markdown import table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.workers import THREAD_VARIABLES

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
    cells = (f"{seconds:.1f}", f"{cpu:.1f}", f"{peak:.2f}", f"{loaded:.1f}")
    print(table_row(protocol, shape, spacing, *cells), flush=True)
    if figure:
        from cmb_plugin.phantom.figure import phantom_figure

        phantom_figure(case).savefig(figure, dpi=80)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    arguments = parser(__doc__)
    protocols = "demo,cuhk,csiro,ukb,valdo1,valdo2,valdo3"
    arguments.add_argument("--protocols", default=protocols, help="(default: %(default)s)")
    arguments.add_argument("--modalities", default="swi,phase", help="(default: %(default)s)")
    arguments.add_argument("--index", type=int, default=0, help="number of the case")
    arguments.add_argument("--figure", default="", help="draw the (single) protocol's case, with all modalities")
    arguments.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = arguments.parse_args(argv)
    modalities = ALL if args.figure else args.modalities
    if args.child:
        measure(args.protocols, modalities, args.index, args.figure)
        return 0
    print(f"{measured_on('numpy', 'scipy', threads=1)}; modalities {modalities}\n")
    costs = ("seconds", "CPU seconds", "peak memory in GB", "atlas in s")
    print(table_head("protocol", "matrix (x, y, z)", "voxel in mm", *costs), flush=True)
    one_core = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
    for protocol in args.protocols.split(","):
        options = ["--child", "--protocols", protocol, "--modalities", modalities, "--index", str(args.index)]
        options += ["--figure", args.figure] if args.figure else []
        subprocess.run([sys.executable, "-m", "benchmarks.speed.phantom_speed", *options], check=True, env=one_core)
    return 0


if __name__ == "__main__":
    sys.exit(main())
