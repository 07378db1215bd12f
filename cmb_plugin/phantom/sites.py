"""Places in a measured scan where a microbleed may lie: in tissue, at the depths where they occur, not on a vessel."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .anatomy import DEEP, INFRATENTORIAL, LOBAR
from .measured import MeasuredScan

SHARES = {LOBAR: 194, DEEP: 42, INFRATENTORIAL: 17}
"""Of the 253 microbleeds of VALDO (docs/phantom.md): cortex and white matter; basal ganglia and thalamus;
cerebellum and brainstem."""

JUNCTION_MM = (3.0, 9.0)
"""Depths below the surface of the brain between which the cortex borders on the white matter."""

JUNCTION_SHARE = 0.5
"""Of the lobar ones lie near the border of cortex and white matter, about; the others deeper in the white matter."""

DEEP_MM = 25.0
"""From this depth on, a place counts as deep where nobody knows the regions."""

EVEN_MM, AROUND_MM = 1.6, 6.0
DARKEST, BRIGHTEST = 0.75, 1.3
"""Within ``EVEN_MM`` a place is nowhere darker or brighter than these parts of the median within ``AROUND_MM``: no
vessel, no fluid. The median itself must be tissue's: within ``TISSUE`` of the brain's."""
TISSUE = (0.6, 1.4)

TRIES = 400


def draw_sites(rng: np.random.Generator, scan: MeasuredScan, count: int, apart_mm: float = 7.0) -> list[np.ndarray]:
    """Up to ``count`` places [3], z, y, x in mm from the centre of voxel 0, at least ``apart_mm`` apart.

    Fewer where the scan has no more: a thin slab, or a scan full of vessels.
    """
    groups = _groups(scan)
    spacing = np.asarray(scan.grid.spacing)
    smooth = ndimage.gaussian_filter(scan.magnitude, 0.35 / spacing)
    typical = float(np.median(smooth[scan.brain])) if scan.brain.any() else float(np.median(smooth))
    voxels = {name: np.flatnonzero(mask) for name, mask in groups.items()}
    known = [name for name, places in voxels.items() if len(places)]
    if not known:
        return []
    weights = np.array([_weight(name) for name in known], float)
    weights /= weights.sum()
    sites: list[np.ndarray] = []
    for _ in range(TRIES * max(count, 1)):
        if len(sites) == count:
            break
        places = voxels[known[int(rng.choice(len(known), p=weights))]]
        index = np.array(np.unravel_index(places[rng.integers(len(places))], scan.grid.shape))
        site = (index + rng.uniform(-0.5, 0.5, 3)) * spacing
        if any(np.linalg.norm(site - other) < apart_mm for other in sites):
            continue
        if _is_even(smooth, index, spacing, typical):
            sites.append(site)
    return sites


def _weight(name: tuple[int, str]) -> float:
    group, layer = name
    within = {"junction": JUNCTION_SHARE, "below": 1 - JUNCTION_SHARE}.get(layer, 1.0)
    return SHARES[group] * within


def _groups(scan: MeasuredScan) -> dict[tuple[int, str], np.ndarray]:
    """Bool masks by group and layer."""
    spacing = scan.grid.spacing
    padded = np.pad(scan.brain, 1, mode="edge")  # a scan may end within the brain: its edge is no surface
    depth = ndimage.distance_transform_edt(padded, sampling=spacing)[1:-1, 1:-1, 1:-1].astype(np.float32)
    inside = depth >= JUNCTION_MM[0]
    for axis, side in enumerate(spacing):  # room for a lesion on the scan
        edge = [slice(None)] * 3
        for part in (slice(0, max(1, round(3 / side))), slice(-max(1, round(3 / side)), None)):
            edge[axis] = part
            inside[tuple(edge)] = False
    if scan.regions is None or not scan.regions.any():
        lobar, deep, below = inside & (depth < DEEP_MM), inside & (depth >= DEEP_MM), np.zeros_like(inside)
    else:
        lobar, deep, below = (inside & (scan.regions == code) for code in (LOBAR, DEEP, INFRATENTORIAL))
    junction = depth < JUNCTION_MM[1]
    return {
        (LOBAR, "junction"): lobar & junction,
        (LOBAR, "below"): lobar & ~junction,
        (DEEP, ""): deep,
        (INFRATENTORIAL, ""): below,
    }


def _is_even(smooth: np.ndarray, index: np.ndarray, spacing: np.ndarray, typical: float) -> bool:
    """Whether a voxel lies in tissue and nothing dark or bright is near it."""

    def around(reach_mm: float) -> np.ndarray:
        """The voxels of a cube of twice this side."""
        reach = np.maximum(np.round(reach_mm / spacing).astype(int), 1)
        low, high = np.maximum(index - reach, 0), index + reach + 1
        return smooth[low[0] : high[0], low[1] : high[1], low[2] : high[2]]

    median = float(np.median(around(AROUND_MM)))
    near = around(EVEN_MM)
    return (
        TISSUE[0] * typical < median < TISSUE[1] * typical
        and float(near.min()) > DARKEST * median
        and float(near.max()) < BRIGHTEST * median
    )
