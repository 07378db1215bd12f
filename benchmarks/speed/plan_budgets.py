"""What D3CMB plans for several memory budgets, and the seconds of the processor that a training step then takes.

The data sets are made up: scans of a phantom protocol's voxel with a brain of 170 x 180 x 140 mm and lesions of its
sizes, so nothing is read. Steps are those of CMBRetinaUNet in float32 on random patches with one lesion each; time is
the process's own (so that a busy machine does not count), of one thread, the median of --steps after one not counted.

    python -m benchmarks.speed.plan_budgets --protocols demo --budgets 2 4 8 11 --steps 1
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.tools.markdown import table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.phantom import PROTOCOLS
from cmb_plugin.planning import Plan
from cmb_plugin.plugins import planners, trainers
from cmb_plugin.preparation import CaseFingerprint, Fingerprint
from cmb_plugin.training import Batch

BUDGETS = (2.0, 4.0, 6.0, 8.0, 11.0, 24.0)
BRAIN_MM = (140.0, 180.0, 170.0)


def fingerprint(protocol: str, modalities: tuple[str, ...], lesions: int = 40) -> Fingerprint:
    """A data set of one scan with the protocol's voxel, matrix and lesions."""
    known = PROTOCOLS[protocol]
    diameters = [known.lesions.diameter((i + 0.5) / lesions) for i in range(lesions)]
    dz, dy, dx = known.spacing
    voxels = [[max(1, round(diameter / side)) for side in known.spacing] for diameter in diameters]
    sizes = tuple((z * dz, y * dy, x * dx) for z, y, x in voxels)
    z, y, x = (
        min(whole, round(mm / side)) for mm, whole, side in zip(BRAIN_MM, known.shape, known.spacing, strict=True)
    )
    case = CaseFingerprint(
        "a", known.shape, known.spacing, known.shape, "SPL", sizes, (10,) * lesions, (0,) * lesions,
        ((0.0, 0.0, 0.0),) * len(modalities), (z, y, x),
    )  # fmt: skip
    return Fingerprint("Task", modalities, ("cmb",), (case,))


def plan(known: Fingerprint, budget: float) -> Plan:
    """D3CMB's plan for a budget in GB."""
    planner = planners.get("D3CMB")
    made: Plan = planner(planner.config_class(gpu_memory_gb=budget)).plan(known)
    return made


def seconds_per_step(plan: Plan, steps: int) -> tuple[float, float]:
    """Median seconds of a step, and the network's millions of weights."""
    module = trainers.get("CMBRetinaUNet")(plan).train()
    rng = torch.Generator().manual_seed(0)
    shape, batch = plan.patch_size, plan.batch_size
    images = torch.randn(batch, len(plan.modalities), *shape, generator=rng)
    foreground = torch.zeros(batch, *shape, dtype=torch.uint8)
    low = [side // 2 - 1 for side in shape]
    foreground[:, low[0] : low[0] + 3, low[1] : low[1] + 4, low[2] : low[2] + 4] = 1
    box = torch.tensor([[*low, low[0] + 3, low[1] + 4, low[2] + 4]], dtype=torch.float32)
    data = Batch(images, [box] * batch, [torch.zeros(1, dtype=torch.int64)] * batch, foreground)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)
    taken = []
    for _ in range(steps + 1):
        begun = time.process_time()
        optimizer.zero_grad()
        torch.stack(list(module.losses(data).values())).sum().backward()
        optimizer.step()
        taken.append(time.process_time() - begun)
    return statistics.median(taken[1:]), sum(p.numel() for p in module.parameters()) / 1e6


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--protocols", nargs="+", default=["demo", "csiro", "cuhk"], metavar="NAME")
    arguments.add_argument("--budgets", nargs="+", type=float, default=BUDGETS, metavar="GB")
    arguments.add_argument("--modalities", nargs="+", default=["SWI"], metavar="NAME")
    arguments.add_argument(
        "--steps", type=int, default=0, metavar="N", help="timed per plan; 0, the default, only plans"
    )
    args = arguments.parse_args(argv)
    torch.set_num_threads(1)
    print(measured_on("torch", threads=1) + "\n")
    sizes = ("patch", "side, mm", "batch", "widths", "pyramid", "estimate, GB")
    print(table_head("protocol", "budget, GB", *sizes, "weights, M", "s per step"))
    for protocol in args.protocols:
        known = fingerprint(protocol, tuple(args.modalities))
        for budget in args.budgets:
            made = plan(known, budget)
            net = made.architecture
            side = math.prod(np.multiply(made.patch_size, made.preprocessing.spacing)) ** (1 / 3)
            widths = f"{net.features[0]} to {net.features[-1]}"
            cells = ("x".join(map(str, made.patch_size)), f"{side:.0f}", made.batch_size, widths, net.pyramid_channels)
            seconds, weights = seconds_per_step(made, args.steps) if args.steps else (math.nan, math.nan)
            numbers = (f"{made.memory_estimate_gb:.2f}", f"{weights:.1f}", f"{seconds:.1f}")
            print(table_row(protocol, f"{budget:g}", *cells, *numbers), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
