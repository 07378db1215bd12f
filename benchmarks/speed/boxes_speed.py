"""How much quicker the box operations are than MONAI's on the same boxes, in one run.

    python -m benchmarks.speed.boxes_speed [--threads 1] [--device cpu]

Prints for each operation the median time of both and their ratio. Ratios of one run hold on other machines too; seconds
do not. NMS and ATSS are also compared for equal results.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.tools.measured_on import measured_on
from cmb_plugin.boxes import anchors_for_levels, atss_match, box_iou, nms, paired_giou, weighted_box_clustering
from cmb_plugin.commands.cli import command, parser


def median_seconds(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median wall time of ``function`` after one call that warms up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def spread_boxes(count: int, volume: float, largest: float, device: torch.device) -> Tensor:
    """[count, 6] boxes with sides of 1 to ``largest`` at random places of a cube with side ``volume``."""
    low = torch.rand(count, 3) * volume
    return torch.cat([low, low + 1 + torch.rand(count, 3) * (largest - 1)], dim=1).to(device)


def clustered_boxes(count: int, centres: int, volume: float, device: torch.device) -> Tensor:
    """What tiles, mirrorings and folds give: jittered copies of a few boxes."""
    chosen = spread_boxes(centres, volume, 10, torch.device("cpu"))[torch.randint(0, centres, (count,))]
    return (chosen + torch.randn(count, 3).repeat(1, 2) * 0.3).to(device)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the comparison."""
    options = parser(__doc__)
    options.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    options.add_argument("--device", default="cpu", help="(default: %(default)s)")
    options.add_argument("--repeats", type=int, default=3, help="of each operation (default: %(default)s)")
    arguments = options.parse_args(argv)
    from monai.apps.detection.utils.ATSS_matcher import ATSSMatcher  # importing it takes many seconds
    from monai.data import box_utils as monai_boxes

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    print(measured_on("torch", "monai", gpu=device.type == "cuda", threads=arguments.threads))
    print(f"{'operation':58s} {'ours':>9s} {'MONAI':>9s} {'MONAI/ours':>10s}  result")

    def row(name: str, ours: Callable[[], Tensor], theirs: Callable[[], Any] | None) -> None:
        """Times both, and tells whether they agree."""
        seconds = median_seconds(ours, device, arguments.repeats)
        if theirs is None:
            print(f"{name:58s} {seconds * 1e3:7.1f}ms")
            return
        other = median_seconds(theirs, device, arguments.repeats)
        same = torch.allclose(ours().float(), theirs().float(), atol=1e-5)
        print(
            f"{name:58s} {seconds * 1e3:7.1f}ms {other * 1e3:7.1f}ms {other / seconds:10.1f}  "
            f"{'equal' if same else 'DIFFERENT'}"
        )

    many = spread_boxes(20_000, 200, 10, device)
    dense = spread_boxes(20_000, 100, 20, device)
    clustered = clustered_boxes(20_000, 100, 200, device)
    scores = torch.rand(20_000, device=device)
    for name, boxes in (("spread", many), ("dense", dense), ("clustered", clustered)):
        for threshold in (0.1, 0.5):

            def ours(boxes: Tensor = boxes, threshold: float = threshold) -> Tensor:
                """Our suppression."""
                return nms(boxes, scores, threshold)

            def theirs(boxes: Tensor = boxes, threshold: float = threshold) -> Any:
                """MONAI's."""
                return monai_boxes.non_max_suppression(boxes, scores, threshold)

            row(f"nms, 20,000 {name} boxes, IoU {threshold}", ours, theirs)
    labels = torch.zeros(20_000, dtype=torch.long, device=device)
    row(
        "weighted box clustering, 20,000 clustered boxes",
        lambda: weighted_box_clustering(clustered, scores, labels, None, 0.1, 200).boxes,
        None,
    )

    for per_location, shape in ((27, (20, 20, 18)), (3, (40, 40, 40))):
        sizes = (torch.rand(per_location, 3) * 6 + 2).tolist()
        coarse = [side // 2 for side in shape]
        levels = [sizes, [[2 * side for side in size] for size in sizes]]
        anchors, per_level, _ = anchors_for_levels([shape, coarse], [(2, 2, 2), (4, 4, 4)], levels, device)
        lesions = spread_boxes(10, 30, 6, device)
        matcher = ATSSMatcher(4 * per_location, monai_boxes.box_iou, center_in_gt=False)  # type: ignore[arg-type]
        row(
            f"ATSS, {len(anchors):,} anchors ({per_location} per location) x 10 lesions",
            lambda a=anchors, n=per_level, k=per_location, g=lesions: atss_match(g, a, n, k),  # type: ignore[misc]
            lambda a=anchors, n=per_level, m=matcher, g=lesions: m.compute_matches(g, a, n, 1)[1],  # type: ignore[misc]
        )
    row(
        "box_iou, 2,000 x 2,000",
        lambda: box_iou(many[:2000], many[2000:4000]),
        lambda: monai_boxes.box_iou(many[:2000], many[2000:4000]),
    )
    row("paired_giou, 20,000", lambda: paired_giou(many, clustered), lambda: monai_boxes.box_pair_giou(many, clustered))
    return 0


if __name__ == "__main__":
    sys.exit(main())
