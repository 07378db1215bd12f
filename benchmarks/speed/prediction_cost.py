"""Time and memory that prediction needs besides the network, on a scan as large as the largest that people have.

    python -m benchmarks.speed.prediction_cost [--shape 192,512,512] [--patch 64,96,96] [--tta 1] [--per-tile 20]
    python -m benchmarks.speed.prediction_cost --exact [--shape 104,184,152] [--tile-voxels 1000000] [--levels 3]

The network is a stand-in that returns random boxes at once, so what is measured is reading tiles, merging detections,
averaging the foreground and drawing the instances. Memory is what is needed besides the scan and the network.

``--exact``: a fully convolutional network with batch norm and a halo, of random weights. Reported is the time of
``predict_array``, of one bare forward pass over the scan, and their ratio; both in turn, the quickest of several each.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.images import Grid, Mapping
from cmb_plugin.inference import (
    CoreTiling,
    InferenceConfig,
    PatchDetections,
    PatchDetector,
    instance_mask,
    predict_array,
    restore,
)
from cmb_plugin.networks import FeaturePyramid, build_encoder, retina_unet_halo
from cmb_plugin.planning import Architecture


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


class DenseDetector(nn.Module, PatchDetector):
    """Encoder, pyramid and a head of one convolution at the full resolution; it reports the highest peaks.

    Args:
        levels: stages of the encoder; the first goes down within the slice, the others along all axes.
        width: channels at the full resolution, doubled per stage up to 64.
        peaks: detections of a tile at most.
    """

    mirror_axes = (0, 1, 2)
    patch_size = (1, 1, 1)  # tiles have the size that the halo asks for

    def __init__(self, levels: int, width: int, peaks: int = 100) -> None:
        super().__init__()
        self.architecture = Architecture(
            features=tuple(min(64, width << level) for level in range(levels)),
            strides=((1, 1, 1), (1, 2, 2), *((2, 2, 2),) * (levels - 2))[:levels],
            kernels=((3, 3, 3),) * levels,
            convs_per_stage=(2,) * levels,
            pyramid_channels=width,
            detection_levels=(0,),
        )
        self.peaks = peaks
        self.encoder = build_encoder(1, self.architecture)
        self.pyramid = FeaturePyramid(self.architecture)
        self.head = nn.Conv3d(width, 2, 3, padding=1)
        for module in list(self.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.InstanceNorm3d):
                    setattr(module, name, nn.BatchNorm3d(child.num_features))
        self.eval()
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload] # the stubs lack it

    @property
    def halo(self) -> tuple[int, int, int]:
        """Of the network, and a location more that tells a peak from its neighbours."""
        z, y, x = retina_unet_halo(self.architecture, head_convs=1)
        return z + 1, y + 1, x + 1

    @property
    def divisor(self) -> tuple[int, int, int]:
        """Of the coarsest stage."""
        return self.architecture.divisor

    def forward(self, images: Tensor) -> Tensor:
        """images: [B, 1, Z, Y, X]; returns logits [B, 2, Z, Y, X]."""
        out: Tensor = self.head(self.pyramid(self.encoder(images))[0])
        return out

    def detect(self, patches: Tensor) -> tuple[list[PatchDetections], Tensor]:
        """patches: [B, 1, Z, Y, X]; returns boxes of 3 voxels at the highest peaks, and the foreground [B, Z, Y, X]."""
        with torch.inference_mode():
            logits = self(patches)
        scores = logits[:, 0].sigmoid()
        peaks = scores * (nn.functional.max_pool3d(scores, 3, 1, 1) == scores)
        found = []
        for score in peaks:
            best, flat = score.flatten().topk(self.peaks)
            middles = torch.stack(torch.unravel_index(flat, score.shape), 1) + 0.5
            found.append(PatchDetections(torch.cat([middles - 1.5, middles + 1.5], 1), best, torch.zeros_like(flat)))
        return found, logits[:, 1].sigmoid()


def exact_cost(shape: tuple[int, int, int], levels: int, tile_voxels: int, repeats: int) -> None:
    """Prints what ``predict_array`` takes besides one bare forward pass over the scan.

    Args:
        shape: of the scan.
        levels: stages of the network.
        tile_voxels: setting of that name.
        repeats: how often each is timed.
    """
    torch.manual_seed(0)
    model = DenseDetector(levels, width=16)
    data = np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)
    settings = InferenceConfig(tta=1, tile_voxels=tile_voxels)
    tiling = CoreTiling.of(shape, model.halo, model.divisor, tile_voxels)
    sizes = [math.prod(tiling.size(origin)) for origin in tiling.origins]
    whole = CoreTiling.of(shape, model.halo, model.divisor, 1 << 62).read(data, (0, 0, 0))

    def bare() -> object:
        with torch.inference_mode():
            return model(torch.from_numpy(whole[None]))

    seconds: dict[str, list[float]] = {"bare forward pass": [], "predict_array": []}
    for _ in range(repeats):
        for name, run in (("bare forward pass", bare), ("predict_array", lambda: predict_array(model, data, settings))):
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    print(f"halo {model.halo}, divisor {model.divisor}, {len(sizes)} tiles of at most {max(sizes):,} voxels")
    print(f"voxels computed: {sum(sizes) / math.prod(whole.shape):.2f} x the scan's")
    for name, times in seconds.items():
        print(f"{name}: {min(times):.2f} s of CPU time")
    print(f"ratio: {min(seconds['predict_array']) / min(seconds['bare forward pass']):.2f}")


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
    arguments.add_argument("--shape", help="of the scan, z,y,x (default: 192,512,512, with --exact 104,184,152)")
    arguments.add_argument("--patch", default="64,96,96", help="z,y,x (default: %(default)s)")
    arguments.add_argument("--tta", type=int, default=1, help="mirrorings (default: %(default)s)")
    arguments.add_argument("--per-tile", type=int, default=20, help="boxes of a tile (default: %(default)s)")
    arguments.add_argument("--exact", action="store_true", help="against a bare forward pass, with a network")
    arguments.add_argument("--levels", type=int, default=3, help="stages of that network (default: %(default)s)")
    arguments.add_argument("--tile-voxels", type=int, default=8_000_000, help="at most (default: %(default)s)")
    arguments.add_argument("--repeats", type=int, default=3, help="times that it is timed (default: %(default)s)")
    args = arguments.parse_args(argv)
    args.shape = args.shape or ("104,184,152" if args.exact else "192,512,512")
    shape = tuple(int(n) for n in args.shape.split(","))
    patch = tuple(int(n) for n in args.patch.split(","))
    torch.set_num_threads(1)
    if args.exact:
        print(measured_on("torch", "numpy", threads=1))
        exact_cost((shape[0], shape[1], shape[2]), args.levels, args.tile_voxels, args.repeats)
        return 0
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
