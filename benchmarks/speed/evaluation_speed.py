"""How long evaluation takes: random scans with crowded detections.

    python -m benchmarks.speed.evaluation_speed [--cases 2000] [--detections 500] [--classes 1]

Prints processor seconds, which other programs on the machine disturb less than wall time, and peak memory.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.detections import Detections
from cmb_plugin.evaluation import CaseResult, EvaluationConfig, find_operating_point, headline_intervals, measure


def random_case(rng: np.random.Generator, index: int, n_detections: int, n_classes: int) -> CaseResult:
    """About 5 lesions; up to a third of the detections lie within a few mm of one."""
    n_lesions = int(rng.poisson(5))
    lesions = rng.uniform(20, 200, (n_lesions, 3))
    centres = rng.uniform(20, 200, (n_detections, 3))
    if n_lesions:
        near = min(n_detections // 3, 15 * n_lesions)
        centres[:near] = lesions[rng.integers(0, n_lesions, near)] + rng.normal(0, 2, (near, 3))
    boxes, truth = (np.hstack([c - h, c + h]) for c in (centres, lesions) for h in [rng.uniform(1, 4, c.shape)])
    found = Detections(boxes, rng.random(n_detections), rng.integers(0, n_classes, n_detections))
    return CaseResult(f"case_{index}", found, truth, rng.integers(0, n_classes, n_lesions), (1.0, 1.0, 1.0))


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints seconds and memory."""
    arguments = parser(__doc__)
    arguments.add_argument("--cases", type=int, default=2000, help="(default: %(default)s)")
    arguments.add_argument("--detections", type=int, default=500, help="of each case (default: %(default)s)")
    arguments.add_argument("--classes", type=int, default=1, help="(default: %(default)s)")
    args = arguments.parse_args(argv)
    rng = np.random.default_rng(0)
    cases = [random_case(rng, index, args.detections, args.classes) for index in range(args.cases)]
    print(measured_on("numpy", "scipy"))
    print(f"{args.cases} cases x {args.detections} detections, {args.classes} classes")
    for name, work in (
        ("measure", lambda: measure(cases, [f"class {i}" for i in range(args.classes)])),
        ("headline_intervals", lambda: headline_intervals(cases, EvaluationConfig(operating_point=0.5))),
        ("find_operating_point", lambda: find_operating_point(cases)),
    ):
        start = time.process_time()
        work()
        print(f"{name}: {time.process_time() - start:.2f} s")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
