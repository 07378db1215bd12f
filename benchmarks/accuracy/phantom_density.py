"""Counts what looks like a microbleed in phantoms without one, to compare with healthy brains.

Counted are 26-connected pieces of 4 to 250 mm3 darker than 0.65 of the median within 9 mm, deeper than 20 mm under the
surface, on 1.2 x 1.2 x 1.5 mm: real healthy brains have 230 to 326 per litre, and 1.2 to 2.2 % of their voxels so dark.

    python -m benchmarks.accuracy.phantom_density --cases 4
    python -m benchmarks.accuracy.phantom_density --scans SWI.nii.gz [SWI.nii.gz ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from benchmarks.tools.markdown import table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.errors import UserError
from cmb_plugin.images import read_scan
from cmb_plugin.phantom import PhantomConfig, make_case

PROTOCOLS = ("demo", "cuhk", "csiro", "ukb", "valdo1", "valdo2", "valdo3")
GRID_MM = np.array([1.5, 1.2, 1.2])
DARK, DEPTH_MM, AROUND_MM, VOLUMES_MM3 = 0.65, 20.0, 9.0, (4.0, 250.0)


@dataclass(frozen=True)
class Density:
    """Pieces per litre, percent of dark voxels, and the litres in which they were counted."""

    per_litre: float
    percent: float
    litres: float


def dark_density(scan: np.ndarray, spacing: Sequence[float]) -> Density:
    """Density of small dark pieces in a scan [z, y, x] on which microbleeds are dark; ``spacing`` in mm."""
    step = np.asarray(spacing, float)
    blurred = ndimage.gaussian_filter(scan.astype(np.float32), np.maximum(0, (GRID_MM / step - 1) / 2))
    image = ndimage.zoom(blurred, step / GRID_MM, order=1)
    bright = ndimage.binary_opening(image > 0.35 * np.percentile(image[image > 0], 90), iterations=2)
    pieces, _ = ndimage.label(ndimage.binary_fill_holes(bright))
    head = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    deep = ndimage.distance_transform_edt(head, sampling=GRID_MM) > DEPTH_MM
    if not deep.any():
        return Density(np.nan, np.nan, 0.0)
    window = [max(3, round(AROUND_MM / s) | 1) for s in GRID_MM]
    (inside,) = ndimage.find_objects(deep.astype(np.uint8))
    # The median is what takes long: only what it needs is given to it.
    needed = tuple(slice(max(0, s.start - w // 2), s.stop + w // 2) for s, w in zip(inside, window, strict=True))
    dark = np.zeros_like(deep)
    around = ndimage.median_filter(image[needed], window)
    dark[needed] = deep[needed] & (image[needed] < DARK * np.maximum(around, 1e-6))
    labels, _ = ndimage.label(dark, np.ones((3, 3, 3)))
    voxel = float(GRID_MM.prod())
    volumes, litres = np.bincount(labels.ravel())[1:] * voxel, deep.sum() * voxel / 1e6
    small = ((volumes > VOLUMES_MM3[0]) & (volumes < VOLUMES_MM3[1])).sum()
    return Density(float(small / litres), 100 * float(dark.sum() / deep.sum()), float(litres))


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--cases", type=int, default=4, help="phantoms per protocol (default: %(default)s)")
    arguments.add_argument("--protocols", nargs="+", default=PROTOCOLS, metavar="NAME", help="default: all seven")
    arguments.add_argument("--seed", type=int, default=900, help="(default: %(default)s)")
    arguments.add_argument("--scans", nargs="+", type=Path, default=[], metavar="FILE", help="count in these instead")
    args = arguments.parse_args(argv)
    if args.cases < 1:
        raise UserError(f"--cases {args.cases}: there is nothing to measure", remedy="give 1 or more")
    print(measured_on("numpy", "scipy") + "\n")
    print(table_head("scans", "per litre", "of each", "% dark", "litres"))
    for path in args.scans:
        array, grid = read_scan(path)
        _row(path.name, [dark_density(array, grid.spacing)])
    for name in () if args.scans else args.protocols:
        made = (make_case(args.seed, i, PhantomConfig((name,), ("swi",)), healthy=True) for i in range(args.cases))
        _row(name, [dark_density(case.images["swi"], case.grid.spacing) for case in made])
    return 0


def _row(name: str, found: Sequence[Density]) -> None:
    """One line of the table: means, and the single densities."""
    mean = (np.mean([getattr(d, key) for d in found]) for key in ("per_litre", "percent", "litres"))
    per_litre, percent, litres = (float(m) for m in mean)
    each = " ".join(f"{d.per_litre:.0f}" for d in found)
    print(table_row(name, f"{per_litre:.0f}", each, f"{percent:.2f}", f"{litres:.2f}"), flush=True)


if __name__ == "__main__":
    sys.exit(main())
