"""Time and memory that prediction needs besides the network, on a scan as large as the largest that people have.

    python -m benchmarks.speed.prediction_cost [--shape 192,512,512] [--patch 64,96,96] [--tta 1] [--per-tile 20]

The network is a stand-in that returns random boxes at once, so what is measured is reading tiles, merging detections,
averaging the foreground and drawing the instances. Memory is what is needed besides the scan and the network.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.images import Grid, Mapping
from cmb_plugin.inference import (
    InferenceConfig,
    PatchDetections,
    PatchDetector,
    instance_mask,
    predict_array,
    restore,
)


class RandomDetector(PatchDetector):
    """Finds ``per_tile`` boxes of 3 voxels at random places of every tile."""

    mirror_axes = (0, 1, 2)

    def __init__(self, patch_size: tuple[int, int, int], per_tile: int) -> None:
        self.patch_size = patch_size
        self.per_tile = per_tile
        self.generator = torch.Generator().manual_seed(0)

    def detect(self, patches: Tensor) -> tuple[list[PatchDetections], Tensor]:
        """patches: [B, C, Z, Y, X]; returns the boxes of each and foreground [B, Z, Y, X] of 0.6 everywhere."""
        found = []
        for _ in patches:
            low = torch.rand(self.per_tile, 3, generator=self.generator) * torch.tensor(self.patch_size)
            scores = torch.rand(self.per_tile, generator=self.generator)
            found.append(PatchDetections(torch.cat([low, low + 3], 1), scores, torch.zeros(self.per_tile).long()))
        return found, torch.full((len(patches), *self.patch_size), 0.6)


def own_memory() -> float:
    """GB that belong to the process alone, without files mapped into it (Linux); elsewhere its largest size so far."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1e6
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints seconds and memory."""
    arguments = parser(__doc__)
    arguments.add_argument("--shape", default="192,512,512", help="of the scan, z,y,x (default: %(default)s)")
    arguments.add_argument("--patch", default="64,96,96", help="z,y,x (default: %(default)s)")
    arguments.add_argument("--tta", type=int, default=1, help="mirrorings (default: %(default)s)")
    arguments.add_argument("--per-tile", type=int, default=20, help="boxes of a tile (default: %(default)s)")
    args = arguments.parse_args(argv)
    shape = tuple(int(n) for n in args.shape.split(","))
    patch = tuple(int(n) for n in args.patch.split(","))
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    data = rng.standard_normal((1, *shape), dtype=np.float32)
    highest = before = own_memory()

    def watch(done: int, total: int) -> None:
        """Notes the largest memory so far, in GB."""
        nonlocal highest
        highest = max(highest, own_memory())

    wall, cpu = time.perf_counter(), time.process_time()
    detector = RandomDetector((patch[0], patch[1], patch[2]), args.per_tile)
    prediction = predict_array(detector, data, InferenceConfig(tta=args.tta), progress=watch)
    watch(1, 1)
    print(measured_on("torch", "numpy", threads=1))
    print(f"scan {args.shape}, patch {args.patch}, {max(args.tta, 1)} mirrorings, {args.per_tile} boxes per tile")
    print(f"predict_array: {time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} s of CPU time")
    print(f"memory: {highest - before:.2f} GB besides the scan's {data.nbytes / 1e9:.2f} GB")
    wall = time.perf_counter()
    mapping = Mapping.plan(Grid((shape[0], shape[1], shape[2]), (0.8, 0.49, 0.49)))
    mask = instance_mask(restore(prediction.detections, mapping), prediction.foreground, mapping)
    print(f"restore and draw {mask.max()} lesions: {time.perf_counter() - wall:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
