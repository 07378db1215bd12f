"""Compares how well the anchors of two planners fit the lesions of each phantom protocol, by size of lesion.

Reads a Task folder of phantoms (labels, brain masks and the protocol of each case; no scan), plans every protocol and
the mixture of all of them with both planners, and prints mean and least best-anchor IoU side by side. With --budgets
also D3CMB's plans of the mixture for budgets from 2 to 140 GB.

    nndet_example --task Task110_Mixed --protocol mixed --train 42 --test 42
    python -m benchmarks.accuracy.anchor_fit Task110_Mixed --budgets
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence

import numpy as np

from benchmarks.tools.markdown import table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.commands.names import find_task
from cmb_plugin.dataset import Case, Dataset
from cmb_plugin.files import read_json
from cmb_plugin.images import read_mask
from cmb_plugin.planning import Plan, fit_by_size
from cmb_plugin.plugins import planners
from cmb_plugin.preparation import CaseFingerprint, Fingerprint, fingerprint_case

BUDGETS = (2, 4, 8, 11, 16, 24, 40, 80, 140)
PLANNERS = ("D3V001", "D3CMB")
FOR_ANCHORS_GB = 24.0


def fingerprints(dataset: Dataset) -> dict[str, list[CaseFingerprint]]:
    """The cases of each protocol, from their masks alone."""
    found: dict[str, list[CaseFingerprint]] = {}
    for split in ("Tr", "Ts"):
        for case in dataset.cases(split):
            lesions = case.extra("lesions")
            if lesions is not None:
                found.setdefault(read_json(lesions)["protocol"], []).append(fingerprint(case))
    return found


def fingerprint(case: Case) -> CaseFingerprint:
    """One phantom, as if its scan were 1 everywhere."""
    labels = case.read_labels()
    path = case.extra("brain")
    brain = None if path is None else read_mask(path)[0]
    filled = np.broadcast_to(np.float32(1), (len(case.images), *labels.mask.shape))
    return fingerprint_case(case.case_id, filled, labels.grid, labels.mask, labels.classes, ("swi",), brain)


def plan(name: str, modalities: Sequence[str], cases: Iterable[CaseFingerprint], budget: float) -> Plan:
    """The plan of the planner ``name`` for a budget in GB."""
    planner = planners.get(name)
    config = planner.config_class(gpu_memory_gb=budget)
    made: Plan = planner(config).plan(Fingerprint("Task", tuple(modalities), ("cmb",), tuple(cases)))
    return made


def by(values: Sequence[float]) -> str:
    """``0.5x0.5x2``."""
    return "x".join(f"{value:g}" for value in values)


def compare(protocol: str, modalities: Sequence[str], cases: list[CaseFingerprint]) -> None:
    """One row per planner and size of lesion."""
    for name in PLANNERS:
        begun = time.perf_counter()
        made = plan(name, modalities, cases, FOR_ANCHORS_GB)
        seconds = time.perf_counter() - begun
        recipe, anchors = made.preprocessing, made.anchors
        strides = [made.architecture.stride_of(level) for level in made.architecture.detection_levels]
        sizes = Fingerprint("", (), (), tuple(cases)).sizes_mm[:, recipe.transpose] / recipe.spacing
        fits = fit_by_size(anchors, sizes, strides, recipe.spacing, seed=7)
        bins = [
            "-" if fit.mean_best_iou is None else f"{fit.mean_best_iou:.2f} / {fit.min_best_iou:.2f} ({fit.lesions})"
            for fit in fits
        ]
        overall = f"{anchors.mean_best_iou:.2f} / {anchors.min_best_iou:.2f}"
        plan_cells = (by(recipe.spacing), by(strides[0]), len(anchors.sizes[0]))
        print(table_row(protocol, name, *plan_cells, overall, *bins, f"{seconds:.1f}"), flush=True)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("task", help="number, name or path of a Task folder of phantoms")
    arguments.add_argument("--budgets", action="store_true", help="also print D3CMB's plans for several budgets")
    args = arguments.parse_args(argv)
    dataset = Dataset.load(find_task(args.task))
    cases = fingerprints(dataset)
    everything = [case for found in cases.values() for case in found]
    print(measured_on("numpy", "scipy") + "\n")
    sizes = ("all", "< 2 mm", "2-3 mm", "3-5 mm", ">= 5 mm")
    print(table_head("protocol", "planner", "spacing, mm", "stride", "anchors", *sizes, "s"))
    for protocol in sorted(cases):
        compare(protocol, dataset.modalities, cases[protocol])
    compare("mixed", dataset.modalities, everything)
    if args.budgets:
        print("\n" + table_head("budget, GB", "patch", "batch", "widths", "pyramid", "estimate, GB"))
        for budget in BUDGETS:
            made = plan("D3CMB", dataset.modalities, everything, budget)
            net = made.architecture
            widths = f"{net.features[0]} to {net.features[-1]}"
            cells = (by(made.patch_size), made.batch_size, widths, net.pyramid_channels)
            print(table_row(budget, *cells, f"{made.memory_estimate_gb:.2f}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
