"""Whether a registration that went wrong is noticed: phantoms with tilted heads, cut slabs and wrong headers.

    python -m benchmarks.accuracy.registration_trust TASK_FOLDER [--cases case_001 case_005]

For each variant of a scan: the share of the brain's voxels whose group is right by the phantoms' own regions in MNI
space, the measures that the trust rests on, and the reason of mistrust. One core; up to 15 s of CPU time per variant.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from benchmarks.tools.markdown import table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.anatomy.registration import load_template, register
from cmb_plugin.anatomy.resampling import resample_labels
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.images import Grid, read_mask, read_scan
from cmb_plugin.phantom.anatomy import load_atlas
from cmb_plugin.preparation import estimate_brain

TURNS = ((0, 20.0), (0, -25.0), (1, -15.0), (2, 30.0))  # world axis x, y, z and degrees
SLABS = ((0.0, 0.5), (0.35, 0.65), (0.5, 1.0), (0.0, 0.35), (0.7, 1.0))  # of the slices
FLIPS = ((0,), (1,), (0, 1))  # array axes stored the wrong way round
SWAPS = ((1, 0, 2), (0, 2, 1), (1, 2, 0))  # array axes stored in the wrong order
Variant = tuple[str, np.ndarray, Grid, np.ndarray]


def variants(image: np.ndarray, grid: Grid, truth: np.ndarray) -> Iterator[Variant]:
    """Name, image, grid and true regions of what a scan may look like."""
    yield "as it is", image, grid, truth
    for axis, degrees in TURNS:
        yield f"turned {degrees:g} degrees about {'xyz'[axis]}", image, turned(grid, axis, degrees), truth
    for low, high in SLABS:
        part = slice(int(low * len(image)), int(high * len(image)))
        x, y, z = grid.to_world(np.array([[part.start + 0.5, 0.5, 0.5]]))[0]
        cut = Grid((part.stop - part.start, *grid.shape[1:]), grid.spacing, (x, y, z), grid.direction)
        yield f"slices {low:.0%} to {high:.0%}", image[part], cut, truth[part]
    for axes in FLIPS:
        yield f"axes {axes} the wrong way round", np.flip(image, axes), grid, np.flip(truth, axes)
    for order in SWAPS:
        z, y, x = ((grid.shape[k], grid.spacing[k]) for k in order)
        swapped = Grid((z[0], y[0], x[0]), (z[1], y[1], x[1]), grid.origin, grid.direction)
        yield f"axes in the order {order}", image.transpose(order), swapped, truth.transpose(order)


def turned(grid: Grid, axis: int, degrees: float) -> Grid:
    """The grid turned about its middle and moved far away: the head lies in the scanner as it will."""
    middle = grid.to_world(np.array([grid.shape]) / 2)[0]
    i, j = (k for k in range(3) if k != axis)
    turn = np.eye(3)
    turn[i, i] = turn[j, j] = np.cos(np.deg2rad(degrees))
    turn[i, j], turn[j, i] = -np.sin(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    x, y, z = turn @ (np.asarray(grid.origin) - middle) + middle + [40, -60, 300]
    return Grid(grid.shape, grid.spacing, (x, y, z), tuple((turn @ np.reshape(grid.direction, (3, 3))).ravel()))


def row(case: str, name: str, image: np.ndarray, grid: Grid, truth: np.ndarray) -> str:
    """The line of one variant of a scan."""
    brain = estimate_brain(image, grid.spacing)
    if brain is None:
        return table_row(case, name, "", "", "", "", "no brain was found", "")
    begin = time.process_time()
    found = register(np.ascontiguousarray(image), grid, brain)
    seconds = time.process_time() - begin
    regions = resample_labels(load_atlas().regions, load_template()[1], grid, found.transform)
    right = (regions == truth)[truth > 0].mean()
    measures = (f"{found.quality:.2f}", f"{found.overlap:.3f}", f"{found.contrast:.2f}")
    return table_row(case, name, f"{right:.2f}", *measures, found.why_not or "trusted", f"{seconds:.1f}")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    arguments = parser(__doc__)
    arguments.add_argument("task", type=Path, help="Task folder of phantoms")
    arguments.add_argument("--cases", nargs="+", default=["case_001", "case_005"], help="of imagesTr")
    args = arguments.parse_args(argv)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    raw = args.task / "raw_splitted"
    print(measured_on("SimpleITK", "nilearn", threads=1) + "\n")
    print(table_head("case", "variant", "right voxels", "quality", "Dice", "contrast", "trust", "CPU s"))
    for case in args.cases:
        image, grid = read_scan(raw / "imagesTr" / f"{case}_0000.nii.gz")
        truth, _ = read_mask(raw / "regionsTr" / f"{case}.nii.gz")
        for variant in variants(image, grid, truth):
            print(row(case, *variant), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
