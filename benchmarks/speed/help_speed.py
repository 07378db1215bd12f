"""How long every command takes to answer ``--help``: wanted is at most 0.5 s each.

    python -m benchmarks.speed.help_speed [--repeats 5]

Prints the fastest and the median wall time of each, the time of an empty Python beside it, and ends with exit code 1
when a fastest time is above the limit. Run it on an idle machine.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser

LIMIT_SECONDS = 0.5


def wall_times(command: list[str], repeats: int) -> list[float]:
    """Wall time of each of ``repeats`` runs after one that fills the file cache."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return times[1:]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the times; 1 when a command is too slow."""
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=5, help="of each command (default: %(default)s)")
    repeats = arguments.parse_args(argv).repeats
    scripts = sorted(e.name for e in entry_points(group="console_scripts") if e.value.startswith("cmb_plugin."))
    rows = [("python -c pass", [sys.executable, "-c", "pass"])]
    rows += [(f"{script} --help", [str(Path(sys.executable).parent / script), "--help"]) for script in scripts]
    print(f"{measured_on()}; {repeats} runs")
    print(f"{'command':28s} {'fastest':>8s} {'median':>8s}")
    slow = []
    for name, line in rows:
        times = wall_times(line, repeats)
        print(f"{name:28s} {min(times):7.3f}s {statistics.median(times):7.3f}s")
        if min(times) > LIMIT_SECONDS:
            slow.append(name)
    if slow:
        print(f"slower than {LIMIT_SECONDS} s: {', '.join(slow)}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
