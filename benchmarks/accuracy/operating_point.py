"""Which rule for the operating point keeps its promise on new scans, when there are few scans to choose it on.

    python -m benchmarks.accuracy.operating_point [--repeats 300]

Simulates detectors of three strengths: the scores of lesions and of false positives are normal (on the logit scale),
each scan with its own shift and its own rate of false positives. The threshold is chosen on a few validation scans and
measured on 8 new ones: mean sensitivity, mean false positives per scan, and how often sensitivity is at least 0.85 at
no more than 1 false positive per scan. Takes about a minute.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from benchmarks.tools.markdown import table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.detections import Detections
from cmb_plugin.evaluation import CaseResult, EvaluationConfig, SweepConfig, find_operating_point, measure

STRENGTHS = {"weak": 1.6, "middling": 1.9, "strong": 2.3}  # half the distance of the two means
N_TEST = 8


def scans(rng: np.random.Generator, count: int, strength: float) -> list[CaseResult]:
    """Scans with 12 candidates that are none on average; 3 in 10 are healthy, the others hold 4 lesions on average."""
    cases = []
    for index in range(count):
        n_lesions = 0 if rng.random() < 0.3 else 1 + int(rng.poisson(3))
        n_false = int(rng.poisson(12 * rng.gamma(1 / 0.8, 0.8)))
        logits = np.concatenate(
            [rng.normal(strength + rng.normal(0, 0.5), 1.0, n_lesions), rng.normal(-strength, 1.2, n_false)]
        )
        corners = np.arange(n_lesions + n_false)[:, None] * [20.0, 0.0, 0.0]  # so far apart that each stands alone
        boxes = np.hstack([corners, corners + 3])
        found = Detections(boxes, 1 / (1 + np.exp(-logits)), np.zeros(len(boxes)))
        cases.append(CaseResult(str(index), found, boxes[:n_lesions], np.zeros(n_lesions), (1.0, 1.0, 1.0)))
    return cases


def strict(cases: list[CaseResult]) -> float:
    """The obvious rule: the score of the last lesion that at most 1 false positive per scan allows."""
    scores = np.unique(np.concatenate([case.detections.scores for case in cases]))
    best = (-1.0, 0.5)
    for score in scores:
        result = [(case.detections.scores >= score, len(case.truth_boxes)) for case in cases]
        right = sum(int(kept[:n].sum()) for kept, n in result)
        wrong = sum(int(kept[n:].sum()) for kept, n in result)
        if wrong <= len(cases):
            best = max(best, (right, float(score)))
    return best[1]


RULES = {
    "strict": strict,
    "fp_per_scan": lambda cases: find_operating_point(cases).score,
    "f1": lambda cases: find_operating_point(cases, SweepConfig("f1")).score,
    "sensitivity": lambda cases: find_operating_point(cases, SweepConfig("sensitivity")).score,
}


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=300, help="simulated detectors (default: %(default)s)")
    args = arguments.parse_args(argv)
    print(measured_on("numpy", "scipy") + "\n")
    print(table_head("detector", "validation scans", *RULES))
    for name, strength in STRENGTHS.items():
        for n_validation in (3, 4, 8, 20):
            rng = np.random.default_rng(0)
            reached: dict[str, list[tuple[float, float]]] = {rule: [] for rule in RULES}
            for _ in range(args.repeats):
                validation, test = scans(rng, n_validation, strength), scans(rng, N_TEST, strength)
                for rule, choose in RULES.items():
                    result = measure(test, ["cmb"], EvaluationConfig(operating_point=choose(validation)))
                    if result["sensitivity"] is not None:
                        reached[rule].append((result["sensitivity"], result["fp_per_scan"]))
            cells = []
            for values in reached.values():
                kept = np.mean([right >= 0.85 and wrong <= 1 for right, wrong in values])
                right, wrong = np.mean(values, axis=0)
                cells.append(f"{right:.2f} at {wrong:.2f}, {kept:.0%}")
            print(table_row(name, n_validation, *cells), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
