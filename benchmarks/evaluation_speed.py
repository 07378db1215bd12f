"""How long evaluation takes: random scans with crowded detections.

    python benchmarks/evaluation_speed.py [--cases 2000] [--detections 500] [--classes 1]

Prints processor seconds, which other programs on the machine disturb less than wall time, and peak memory.
"""

from __future__ import annotations

import argparse
import platform
import resource
import time

import numpy as np

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


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cases", type=int, default=2000)
    arguments.add_argument("--detections", type=int, default=500)
    arguments.add_argument("--classes", type=int, default=1)
    args = arguments.parse_args()
    rng = np.random.default_rng(0)
    cases = [random_case(rng, index, args.detections, args.classes) for index in range(args.cases)]
    print(
        f"{args.cases} cases x {args.detections} detections, {args.classes} classes; "
        f"{platform.machine()}, numpy {np.__version__}"
    )
    for name, work in (
        ("measure", lambda: measure(cases, [f"class {i}" for i in range(args.classes)])),
        ("headline_intervals", lambda: headline_intervals(cases, EvaluationConfig(operating_point=0.5))),
        ("find_operating_point", lambda: find_operating_point(cases)),
    ):
        start = time.process_time()
        work()
        print(f"{name}: {time.process_time() - start:.2f} s")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
