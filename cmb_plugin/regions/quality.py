"""What about a scan makes its counts doubtful, in words for its page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmb_plugin.anatomy.regions import CODES, NOT_TISSUE, RegionMap
from cmb_plugin.images import Grid, Mapping

from .ghosts import ghost_strength

COARSE = 1.5  # so many times the spacing of the training scans
CUT_ABOVE, CUT_BELOW = 0.25, 0.35  # area of the brain in the last slice, as a share of its largest; below lies the stem
DARK_VENTRICLES = 0.6  # of the brain's brightness: fluid is bright in T2*-weighted images, dark in T1 and FLAIR
FEWEST_VOXELS = 200
GHOSTS = 0.02  # of the brain's signal; phantoms without motion have at most 0.005
MANY = 50


def quality_flags(
    scan: tuple[np.ndarray, Grid] | None,
    brain: np.ndarray | None,
    regions: RegionMap,
    spacing: Sequence[float] | None,
    reported: int,
) -> list[str]:
    """Sentences on coverage, contrast, motion, and what lies outside of the range of the training scans; none is good.

    Args:
        scan: voxels [z, y, x] and grid; None where it cannot be read.
        brain: bool [z, y, x] on the grid of ``regions``; None where nobody knows.
        regions: of the scan.
        spacing: mm of the scans that the model sees, in any order; None where nobody knows.
        reported: number of microbleeds.
    """
    flags = []
    if spacing is not None:
        flags += _coarse(regions.grid, spacing)
    if brain is not None and brain.any():
        flags += _cut(brain, regions.grid)
    if scan is not None and regions.trusted and scan[0].shape == regions.labels.shape:
        flags += _contrast(scan[0], regions)
    if scan is not None and brain is not None and brain.shape == scan[0].shape and brain.any():
        flags += _ghosts(scan[0], regions.grid, brain)
    if reported > MANY:
        flags.append(f"{reported} reported: veins or noise may be among them, look at the lowest scores.")
    return flags


def _coarse(grid: Grid, spacing: Sequence[float]) -> list[str]:
    ours, theirs = sorted(grid.spacing), sorted(spacing)
    if ours[2] > COARSE * theirs[2]:
        return [f"Slices of {ours[2]:.1f} mm; the model knows {theirs[2]:.1f} mm: small lesions may be missed."]
    if ours[1] > COARSE * theirs[1]:
        return [f"Pixels of {ours[1]:.1f} mm; the model knows {theirs[1]:.1f} mm: small lesions may be missed."]
    return []


def _cut(brain: np.ndarray, grid: Grid) -> list[str]:
    """Whether the scan ends within the brain, towards the top of the head or the neck."""
    areas = Mapping.plan(grid).orient(brain).sum(axis=(1, 2)) / 1.0  # its first axis runs up
    largest = float(areas.max())
    flags = []
    if areas[-1] > CUT_ABOVE * largest:
        flags.append("The scan ends within the brain above: lesions there are not counted.")
    if areas[0] > CUT_BELOW * largest:
        flags.append("The scan ends within the brain below: cerebellum and brainstem are not whole.")
    return flags


def _ghosts(scan: np.ndarray, grid: Grid, brain: np.ndarray) -> list[str]:
    strength = ghost_strength(scan, grid, brain)
    if strength is None or strength < GHOSTS:
        return []
    return [
        f"Ghosts beside the head have {100 * strength:.0f} % of the brain's signal, as motion leaves them: within the "
        "brain they may hide microbleeds or look like them."
    ]


def _contrast(scan: np.ndarray, regions: RegionMap) -> list[str]:
    codes = regions.group_codes()
    fluid = codes == CODES["ventricle"]
    tissue = np.isin(codes, [CODES[name] for name in NOT_TISSUE], invert=True)
    if min(np.count_nonzero(fluid), np.count_nonzero(tissue)) < FEWEST_VOXELS:
        return []
    brightness = float(np.nanmedian(scan[fluid])) / max(float(np.nanmedian(scan[tissue])), 1e-9)
    if brightness >= DARK_VENTRICLES:
        return []
    return ["The ventricles are much darker than the brain, as in T1 or FLAIR: is this a T2*-weighted scan?"]
