"""Measures the peak memory of real training steps on the CPU and compares the planner's estimate.

Each network runs two optimisation steps (AdamW, float32) in a process of its own; the peak is the process's largest
resident size. Prints a table; the constants in cmb_plugin/planning/memory.py come from it.

    python -m benchmarks.speed.training_memory
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.planning import Anchors, Architecture, Plan, build_architecture, estimate_training_gb, plan_topology
from cmb_plugin.planning.anchors import default_anchors
from cmb_plugin.preparation import Preprocessing


@dataclass
class Setting:
    """One network to measure."""

    spacing: tuple[float, float, float]
    patch: tuple[int, int, int]
    batch: int
    base: int
    pyramid: int
    finest: int
    modalities: int = 1
    per_axis: int = 3

    def plan(self) -> Plan:
        """The plan of this network; nothing is read."""
        strides, kernels, patch = plan_topology(self.spacing, self.patch)
        architecture = build_architecture(
            strides,
            kernels,
            base_features=self.base,
            max_features=320,
            pyramid_channels=self.pyramid,
            finest_level=self.finest,
            levels=4,
        )
        levels = [architecture.stride_of(level) for level in architecture.detection_levels]
        anchors: Anchors = default_anchors(self.spacing, levels, self.per_axis)
        names = tuple(f"m{i}" for i in range(self.modalities))
        recipe = Preprocessing(self.spacing)
        return Plan("x", "x", "x", names, ("cmb",), recipe, patch, self.batch, architecture, anchors, 0.0, 0.0)


SETTINGS = (
    Setting((1.5, 1.2, 1.2), (32, 48, 48), 2, 8, 16, 1),
    Setting((1.5, 1.2, 1.2), (64, 64, 64), 4, 8, 32, 2),
    Setting((1.5, 1.2, 1.2), (64, 64, 64), 4, 8, 32, 1),
    Setting((1.5, 1.2, 1.2), (48, 64, 64), 4, 16, 64, 1, 2),
    Setting((1.5, 1.2, 1.2), (48, 64, 64), 4, 32, 128, 2),
    Setting((1.0, 0.45, 0.45), (32, 96, 96), 2, 32, 128, 2),
    Setting((4.0, 0.45, 0.45), (8, 128, 128), 2, 32, 128, 2, 2),
    Setting((1.5, 1.2, 1.2), (80, 96, 96), 4, 32, 128, 2),
    Setting((1.5, 1.2, 1.2), (64, 64, 64), 2, 32, 128, 0, 1, 2),
)


def estimate(architecture: Architecture, setting: Setting) -> float:
    """GB that the planner expects."""
    return estimate_training_gb(
        architecture, setting.plan().patch_size, setting.batch, setting.modalities, 1, setting.per_axis**3
    )


def measure(setting: Setting) -> dict[str, float]:
    """Runs two steps in this process and reports its peak in GB."""
    import torch

    from cmb_plugin.plugins import trainers
    from cmb_plugin.training import Batch, TrainerConfig

    plan = setting.plan()
    module = trainers.get("RetinaUNetV001")(plan, None, TrainerConfig(optimizer="adamw"))
    module.step_generator = lambda: torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(module.network.parameters(), lr=1e-4)
    average = [p.detach().clone() for p in module.network.parameters()]
    box = torch.tensor([[2.0, 10, 10, 5, 13, 13]])
    seconds = 0.0
    for _ in range(2):
        begun = time.perf_counter()
        images = torch.randn(setting.batch, setting.modalities, *plan.patch_size)
        foreground = torch.zeros(setting.batch, *plan.patch_size, dtype=torch.uint8)
        batch = Batch(images, [box] * setting.batch, [torch.zeros(1, dtype=torch.long)] * setting.batch, foreground)
        loss = torch.stack(list(module.losses(batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds = time.perf_counter() - begun
    weights = sum(p.numel() for p in average)
    return {"peak": _peak_gb(), "weights": weights, "seconds": seconds}


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--child", metavar="JSON", help=argparse.SUPPRESS)
    child = arguments.parse_args(argv).child
    if child:
        print(json.dumps(measure(Setting(**json.loads(child)))))
        return 0
    print(measured_on("torch"))
    print(f"{'patch':>12} batch base pyramid finest | {'measured':>8} {'estimate':>8} ratio | weights  s/step")
    for setting in SETTINGS:
        line = [sys.executable, "-m", "benchmarks.speed.training_memory", "--child", json.dumps(asdict(setting))]
        result = subprocess.run(line, capture_output=True, encoding="utf-8", check=True)
        got = json.loads(result.stdout.splitlines()[-1])
        plan = setting.plan()
        expected = estimate(plan.architecture, setting)
        patch = "x".join(map(str, plan.patch_size))
        print(
            f"{patch:>12} {setting.batch:5} {setting.base:4} {setting.pyramid:7} {setting.finest:6} | "
            f"{got['peak']:8.2f} {expected:8.2f} {expected / got['peak']:5.2f} | "
            f"{got['weights'] / 1e6:6.2f}M {got['seconds']:6.1f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
