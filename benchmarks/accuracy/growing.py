"""How well lesions grown from points match the truth of phantoms, by protocol.

    nndet_example --task Task110_Mixed --protocol mixed --train 24 --test 0
    python -m benchmarks.accuracy.growing $det_data/Task110_Mixed

Points are the middles of the true boxes, exact and rounded to whole voxels as clicks are. Prints per protocol: lesions,
how many were drawn as a ball, the median and 90th percentile of the error of the volume-equivalent diameter in voxels
(cube root of the voxel's volume), and how many grew into another lesion.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.tools.markdown import table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.conversion import grow_points
from cmb_plugin.dataset import Dataset
from cmb_plugin.files import read_json
from cmb_plugin.images import boxes_of_instances, read_scan
from cmb_plugin.paths import TaskFolder


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    arguments = parser(__doc__)
    arguments.add_argument("task", type=Path, help="Task folder of phantoms whose first image is swi")
    folder = TaskFolder(arguments.parse_args(argv).task)
    measured: dict[tuple[str, str], list[tuple[float, bool, bool]]] = defaultdict(list)
    for split in ("Tr", "Ts"):
        for case in Dataset.load(folder).cases(split):
            lesions = case.extra("lesions")
            if lesions is None or not (boxes := boxes_of_instances((labels := case.read_labels()).mask)):
                continue
            image, grid = read_scan(case.images[0])
            protocol = read_json(lesions)["protocol"]
            corners = np.array(list(boxes.values()))
            exact = (corners[:, :3] + corners[:, 3:]) / 2
            voxel = float(np.prod(grid.spacing)) ** (1 / 3)
            for kind, points in (("exact", exact), ("whole", np.floor(exact) + 0.5)):
                grown = grow_points(image, grid.spacing, points)
                for number, growth in zip(boxes, grown, strict=True):
                    touched = labels.mask[tuple(growth.voxels.T)]
                    counts = len(growth.voxels), np.count_nonzero(labels.mask == number)
                    ours, true = ((6 * n / np.pi) ** (1 / 3) * voxel for n in counts)
                    intrudes = bool(((touched > 0) & (touched != number)).any())
                    row = (abs(ours - true) / voxel, growth.how == "ball", intrudes)
                    measured[protocol, kind] += [row]
                    measured["all", kind] += [row]
    print(measured_on("numpy", "scipy") + "\n")
    errors_of = ("median error, voxels", "90 %", "into another lesion")
    print(table_head("protocol", "points", "lesions", "balls", *errors_of))
    for (protocol, kind), rows in sorted(measured.items()):
        errors = [row[0] for row in rows]
        balls, others = sum(row[1] for row in rows), sum(row[2] for row in rows)
        cells = (f"{np.median(errors):.2f}", f"{np.percentile(errors, 90):.2f}", others)
        print(table_row(protocol, kind, len(rows), balls, *cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
