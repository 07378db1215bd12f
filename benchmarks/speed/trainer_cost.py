"""What the CMB trainer costs beside its form with anchors and the baseline: parameters, time of a training step, time
to predict a scan, and that beside one bare pass of its network over the scan.

    python -m benchmarks.speed.trainer_cost Task110_Mixed                        all on the same plan, in one run
    ONEDNN_MAX_CPU_ISA=AVX2 python -m benchmarks.speed.trainer_cost Task110_Mixed      as on a processor without AMX
    python -m benchmarks.speed.trainer_cost Task110_Mixed --models RetinaUNetV001_D3CMB_3d_baseline_seed0 \
        CMBRetinaUNet_D3CMB_3d_both_seed0 ...                              prediction with trained weights
    python -m benchmarks.speed.trainer_cost Task110_Mixed --device cuda --threads 8

The trainers take turns, so that whatever else the machine does meets both; ratios are those of neighbouring turns.
On a busy machine --clock cpu counts the seconds that the cores worked for this process instead of those that went by.
Steps are forward, losses, backward and optimiser on real patches, the same for all, with mining under way from the
first step. Untrained networks score nothing high: unless --models are given, every box passes the score threshold, so
that each tile gives as many detections as it may, which is the most that merging and prototypes can cost. Reading and
writing files is not part of the prediction time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from cmb_plugin.trainers.cmb.replay import MimicPatches

from benchmarks.tools.markdown import table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.commands.names import find_model, find_task
from cmb_plugin.errors import UserError
from cmb_plugin.inference import InferenceConfig, predict_array
from cmb_plugin.networks import autocast
from cmb_plugin.paths import ModelFolder, TaskFolder
from cmb_plugin.plugins import trainers
from cmb_plugin.preparation import StoredCase, prepared_cases
from cmb_plugin.settings import Overrides, read_settings
from cmb_plugin.training import Batch, DetectionModule, PreparedCases, TrainingModule
from cmb_plugin.training.patches import collate
from cmb_plugin.workflows.training_run import resolve

ROWS = {
    "CMBRetinaUNet with anchors": [
        "module=CMBRetinaUNet",
        "model_cfg.hspl_start=0",
        "model_cfg.assignment=atss",
        "model_cfg.widths=plan",
        "model_cfg.norm=instance",
    ],
    "RetinaUNetV001": ["module=RetinaUNetV001"],
    "CMBRetinaUNet": ["module=CMBRetinaUNet", "model_cfg.hspl_start=0"],
}


BARE = "one bare pass over the scan"


@dataclass
class Timing:
    """Seconds of each turn, by row."""

    seconds: dict[str, list[float]]

    def cells(self, row: str, reference: str) -> list[str]:
        """Median with the range of the middle half, and the median ratio to ``reference`` with its own."""
        ours = self.seconds[row]
        ratios = [a / b for a, b in zip(ours, self.seconds[reference], strict=True)]
        return [_spread(ours, 3), "1" if row == reference else _spread(ratios, 2)]


def _spread(values: Sequence[float], decimals: int) -> str:
    if len(values) < 4:
        low, high = min(values), max(values)
    else:
        low, _, high = statistics.quantiles(values, n=4)
    return f"{statistics.median(values):.{decimals}f} ({low:.{decimals}f}-{high:.{decimals}f})"


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def take_turns(work: dict[str, Callable[[int], Any]], turns: int, device: torch.device, clock: str) -> Timing:
    """Times each entry of ``work`` in every turn, after one turn that is not counted; who begins changes."""
    seconds: dict[str, list[float]] = {row: [] for row in work}
    for turn in range(-1, turns):
        for row in list(work) if turn % 2 else reversed(list(work)):
            _wait(device)
            start = CLOCKS[clock]()
            work[row](turn)
            _wait(device)
            if turn >= 0:
                seconds[row].append(CLOCKS[clock]() - start)
    return Timing(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def training_step(module: TrainingModule, batches: Sequence[Batch], device: torch.device) -> Callable[[int], None]:
    """A step of training as a function of its number."""
    module.to(device, memory_format=torch.channels_last_3d).train()
    optimizer: torch.optim.Optimizer = cast(dict[str, Any], module.configure_optimizers())["optimizer"]

    def step(number: int) -> None:
        """Forward, backward and update."""
        with autocast(device, module.trainer_cfg.precision):
            loss = torch.stack(list(module.losses(batches[number % len(batches)]).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), module.trainer_cfg.gradient_clip)
        optimizer.step()

    return step


def real_batches(folder: TaskFolder, module: TrainingModule, count: int, device: torch.device) -> list[Batch]:
    """Patches as training draws them, without augmentation; half of each batch holds a lesion, the others none."""
    plan = module.plan
    prepared = folder.prepared(plan.name, "Tr")
    size = module.trainer_cfg.batch_size or plan.batch_size
    dataset = MimicPatches(
        PreparedCases(prepared, tuple(prepared_cases(prepared))),
        batch_size=size,
        foreground_fraction=0.5,
        augmentation=None,
        patch_size=plan.patch_size,
        seed=0,
    )
    batches = [collate([dataset[index] for index in range(i * size, (i + 1) * size)]) for i in range(count)]
    return [
        Batch(
            b.images.to(device),
            [x.to(device) for x in b.boxes],
            [x.to(device) for x in b.labels],
            b.foreground.to(device),
        )
        for b in batches
    ]


def bare_pass(module: TrainingModule, data: Any, device: torch.device) -> Callable[[int], None]:
    """One call of the network for the whole scan [C, Z, Y, X], padded to what it takes, as a function of its number."""
    sides = zip(data.shape[1:], module.divisor, strict=True)
    z, y, x = ((0, -side % step) for side, step in sides)
    image = torch.from_numpy(np.pad(data, ((0, 0), z, y, x)))[None].to(device)

    def forward(_: int) -> None:
        """The pass."""
        with torch.inference_mode(), autocast(device, module.trainer_cfg.precision):
            module.network(image)

    return forward


def choose_scan(folder: TaskFolder, plan_name: str, case_id: str | None) -> StoredCase:
    """The named prepared test scan, or the one of median size."""
    prepared = folder.prepared(plan_name, "Ts")
    names = prepared_cases(prepared)
    if not names or (case_id and case_id not in names):
        raise UserError(f"{prepared}: has no case {case_id or 'at all'}", remedy=f"known: {', '.join(names) or 'none'}")
    if case_id:
        return StoredCase.open(prepared, case_id)
    scans = sorted((StoredCase.open(prepared, name) for name in names), key=lambda scan: _voxels(scan.data.shape))
    return scans[len(scans) // 2]


def _voxels(shape: Sequence[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def trained(model: ModelFolder, fold: int, device: torch.device) -> TrainingModule:
    """The module of a trained fold."""
    module = trainers.get(read_settings(model.fold(fold).settings)["module"])
    loaded: TrainingModule = module.load(model.fold(fold), device)
    return loaded


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    arguments = parser(__doc__)
    arguments.add_argument("task", help="number, name or path of a prepared Task folder")
    arguments.add_argument("--plan", default="D3CMB_3d", help="(default: %(default)s)")
    arguments.add_argument("--steps", type=int, default=10, metavar="N", help="per trainer (default: %(default)s)")
    arguments.add_argument("--scans", type=int, default=3, metavar="N", help="predictions (default: %(default)s)")
    arguments.add_argument("--case", help="prepared test scan to predict; default: the one of median size")
    arguments.add_argument("--overlap", type=float, default=0.25, help="of tiles (default: %(default)s)")
    arguments.add_argument(
        "--models", nargs="+", metavar="NAME", help="trained models to predict with, one per trainer"
    )
    arguments.add_argument("--fold", type=int, default=0, help="of --models (default: %(default)s)")
    arguments.add_argument("--overrides", nargs="*", default=[], metavar="KEY=VALUE", help="of all trainings")
    arguments.add_argument("--device", default="cpu", help="(default: %(default)s)")
    arguments.add_argument("--clock", choices=CLOCKS, default="wall", help="(default: %(default)s)")
    arguments.add_argument("--threads", type=int, metavar="N", help="of the CPU; default: every core")
    args = arguments.parse_args(argv)
    if args.models and len(args.models) != len(ROWS):
        raise UserError(f"--models: {len(args.models)} named", remedy=f"name one for each of {', '.join(ROWS)}")
    if args.threads:
        torch.set_num_threads(args.threads)
    folder, device = find_task(args.task), torch.device(args.device)
    everything = [] if args.models else ["model_cfg.score_threshold=0"]
    shared = [f"plan={args.plan}", "train=demo", *everything, *args.overrides]
    modules = {row: resolve(folder, Overrides.parse([*own, *shared])).module() for row, own in ROWS.items()}
    measure(args, folder, modules, device)
    return 0


def measure(
    args: argparse.Namespace, folder: TaskFolder, modules: dict[str, TrainingModule], device: torch.device
) -> None:
    """Prints one Markdown table."""
    first = next(iter(modules))
    parameters = {row: sum(p.numel() for p in module.network.parameters()) for row, module in modules.items()}
    batches = real_batches(folder, modules[first], min(args.steps, 4), device)
    steps = {row: training_step(module, batches, device) for row, module in modules.items()}
    training = take_turns(steps, args.steps, device, args.clock)
    found: dict[str, int] = {}

    def predictor(row: str, module: TrainingModule, data: Any) -> Callable[[int], None]:
        """A prediction as a function of its number."""
        module.to(device).eval()

        def predict(_: int) -> None:
            """One prediction of the scan."""
            settings = InferenceConfig(overlap=args.overlap, tta=1, min_score=0.02 if args.models else 0.0)
            found[row] = len(predict_array(cast(DetectionModule, module), data, settings, device).detections)

        return predict

    if args.models:
        named = zip(modules, args.models, strict=True)
        modules = {row: trained(find_model(folder, name), args.fold, device) for row, name in named}
    scan = choose_scan(folder, args.plan, args.case)
    data = scan.data[:]
    work = {row: predictor(row, module, data) for row, module in modules.items()}
    last = list(modules)[-1]
    work[BARE] = bare_pass(modules[last], data, device)
    prediction = take_turns(work, args.scans, device, args.clock)

    plan, where = modules[first].plan, measured_on("torch", gpu=device.type == "cuda", threads=torch.get_num_threads())
    print(
        f"{where}; plan {plan.name}, patch {_by(plan.patch_size)}, batch {len(batches[0].boxes)}; "
        f"scan {_by(data.shape[1:])} voxels, overlap {args.overlap:g}, no mirroring; "
        f"{args.steps} steps, {args.scans} predictions; {args.clock} seconds: median (middle half)\n"
    )
    costs = ("parameters", "s per training step", "s per scan")
    print(table_head("trainer", *(name for cost in costs for name in (cost, "ratio")), "detections"))
    for row in modules:
        size = [f"{parameters[row] / 1e6:.2f} M", f"{parameters[row] / parameters[first]:.2f}"]
        cells = [row, *size, *training.cells(row, first), *prediction.cells(row, first), str(found[row])]
        print(table_row(*cells))
    print(f"\n{BARE}: {prediction.cells(BARE, first)[0]} s; {last} beside it: {prediction.cells(last, BARE)[1]}")


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


if __name__ == "__main__":
    sys.exit(main())
