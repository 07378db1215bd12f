"""Draws a slice of each of many scans side by side, to see how much they differ.

    nndet_example --task Task151_Wide --protocol wide --scans-per-subject 3 --train 4 --modalities swi --seed 1151
    python -m benchmarks.accuracy.scans_figure Task151_Wide --output docs/images/random_scans.png

The slice lies a little above the middle of each scan.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from cmb_plugin.commands.cli import command, parser
from cmb_plugin.commands.names import find_task
from cmb_plugin.dataset import Dataset
from cmb_plugin.files import read_json
from cmb_plugin.images import read_scan

COLUMNS = 4


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the figure."""
    arguments = parser(__doc__)
    arguments.add_argument("task", help="name or number of the Task")
    arguments.add_argument("--output", default="scans.png", help="(default: %(default)s)")
    arguments.add_argument("--scans", type=int, default=12, help="of the first cases (default: %(default)s)")
    args = arguments.parse_args(argv)
    from matplotlib.figure import Figure

    cases = Dataset.load(find_task(args.task)).cases("Tr")[: args.scans]
    rows = -(-len(cases) // COLUMNS)
    figure = Figure(figsize=(10, 3.2 * rows), facecolor="white")
    panels = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes in panels.ravel():
        axes.set_axis_off()
    for axes, case in zip(panels.ravel(), cases, strict=False):
        image, grid = read_scan(case.images[0])
        plane = image[int(0.55 * len(image))]
        low, high = 0.0, float(np.percentile(plane[plane > 0], 99.3))
        axes.imshow(plane, cmap="gray", vmin=low, vmax=high, aspect=grid.spacing[1] / grid.spacing[2])
        record = case.extra("lesions")
        scanner = read_json(record).get("scanner", {}) if record else {}
        power = scanner.get("mask_power")
        what = "" if power is None else f", {'T2*' if power == 0 else f'SWI^{power}'} {scanner['field_tesla']:g} T"
        axes.set_title(" x ".join(f"{s:.2g}" for s in grid.spacing[::-1]) + " mm" + what, fontsize=8)
    figure.tight_layout(pad=0.4)
    figure.savefig(args.output, dpi=70)
    return 0


if __name__ == "__main__":
    sys.exit(main())
