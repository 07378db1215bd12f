"""What is written down about lesions and mimics, and the label maps of a subject."""

from __future__ import annotations

from typing import Any

import numpy as np

from cmb_plugin.images.grid import Grid

from .anatomy import LOBAR, ORIGIN, REGION_NAMES
from .background import SLAB, Background
from .outline import DEFINITE_CNR, Outline
from .sources import Vessel
from .subject import Subject


def label_maps(subject: Subject, background: Background) -> tuple[np.ndarray, np.ndarray]:
    """Brain and regions, both uint8 [z, y, x], on the scan's grid."""
    grid, regions = subject.grid, subject.atlas.regions
    box = background.scan_box(grid.spacing, grid.shape)
    mm = [np.arange(part.start, part.stop) * s for part, s in zip(box, grid.spacing, strict=True)]
    whole = np.zeros(grid.shape, np.uint8)
    result = whole[box]
    for start in range(0, len(result), SLAB):
        slab = slice(start, start + SLAB)
        mni = background.lattice.interpolate(background.mni, (mm[0][slab], mm[1], mm[2]))
        index = [np.round(mni[i] - o).astype(np.int32) for i, o in zip((2, 1, 0), ORIGIN, strict=True)]
        inside = np.logical_and.reduce([(k >= 0) & (k < n) for k, n in zip(index, regions.shape, strict=True)])
        result[slab][inside] = regions[tuple(k[inside] for k in index)]
    return (whole > 0).astype(np.uint8), whole


def lesion_record(number: int, outline: Outline, grid: Grid, regions: np.ndarray) -> dict[str, Any]:
    """An entry of ``lesionsTr/{case}.json``."""
    volume = np.count_nonzero(outline.voxels) * float(np.prod(grid.spacing))
    return {
        "instance": number,
        "class": outline.blob.kind,
        **_place(outline.blob.centre, grid),
        "diameter_mm": round(outline.blob.diameter, 3),
        "outlined_diameter_mm": round((6 * volume / np.pi) ** (1 / 3), 3),
        "susceptibility_ppm": round(outline.blob.susceptibility, 3),
        "cnr": round(outline.cnr, 2),
        "certainty": "definite" if outline.cnr >= DEFINITE_CNR else "possible",
        "region": REGION_NAMES[_region_at(outline.blob.centre, grid, regions)],
    }


def blob_record(outline: Outline, grid: Grid) -> dict[str, Any]:
    """An entry of ``mimicsTr/{case}.json`` for a compact mimic."""
    return {
        "kind": outline.blob.kind,
        "site": outline.blob.site,
        **_place(outline.blob.centre, grid),
        "box": outline.bounds,
        "diameter_mm": round(outline.blob.diameter, 3),
        "susceptibility_ppm": round(outline.blob.susceptibility, 3),
        "cnr": round(outline.cnr, 2),
    }


def vessel_record(vessel: Vessel, grid: Grid) -> dict[str, Any] | None:
    """An entry of ``mimicsTr/{case}.json`` for a vessel; None when it does not cross the scan.

    ``path`` holds the whole course in voxel-edge coordinates; ``centre`` is its point nearest to the middle of the
    course.
    """
    spacing = np.asarray(grid.spacing)
    edges = vessel.path / spacing + 0.5
    inside = ((edges >= 0) & (edges <= np.asarray(grid.shape))).all(1)
    if inside.sum() < 2:
        return None
    path = edges[inside]
    middle = (len(path) - 1) / 2
    centre = (path[int(middle)] + path[int(np.ceil(middle))]) / 2
    reach = max(vessel.radius, 0.5 * float(spacing.min())) / spacing
    low = np.clip(np.floor(path.min(0) - reach), 0, None)
    high = np.clip(np.ceil(path.max(0) + reach), None, grid.shape)
    along = vessel.path[-1] - vessel.path[0]
    tilt = np.degrees(np.arccos(min(1.0, abs(float(along[0])) / max(float(np.linalg.norm(along)), 1e-6))))
    return {
        "kind": vessel.kind,
        "site": vessel.site,
        **_place((centre - 0.5) * spacing, grid),
        "box": [int(v) for v in (*low, *high)],
        "diameter_mm": round(2 * vessel.radius, 3),
        "susceptibility_ppm": round(vessel.susceptibility, 3),
        "angle_to_slice_normal_deg": round(float(tilt), 1),
        "path": np.round(path, 2).tolist(),
    }


def air_records(subject: Subject, brain: np.ndarray) -> list[dict[str, Any]]:
    """Where the field of the air in the skull darkens the brain: its point nearest to each cavity, if within 15 mm."""
    records = []
    cells = np.argwhere(brain[::2, ::4, ::4]) * (2, 4, 4) * np.asarray(subject.grid.spacing)
    for site, place, radius in subject.atlas.cavities:
        middle = subject.mni_to_mm(place[None])[0]
        distance = np.linalg.norm(cells - middle, axis=1)
        if not len(cells) or distance.min() - radius > 15:
            continue
        centre = cells[int(distance.argmin())]
        edge = centre / np.asarray(subject.grid.spacing) + 0.5
        reach = 4.0 / np.asarray(subject.grid.spacing)
        low, high = np.clip(np.floor(edge - reach), 0, None), np.clip(np.ceil(edge + reach), None, subject.grid.shape)
        record = {"kind": "air_sinus", "site": site, **_place(centre, subject.grid)}
        records.append({**record, "box": [int(v) for v in (*low, *high)]})
    return records


def _place(mm: np.ndarray, grid: Grid) -> dict[str, Any]:
    edge = mm / np.asarray(grid.spacing) + 0.5
    return {"centre": np.round(edge, 3).tolist(), "centre_lps_mm": np.round(grid.to_world(edge[None])[0], 3).tolist()}


def _region_at(mm: np.ndarray, grid: Grid, regions: np.ndarray) -> int:
    index = np.clip(np.round(mm / np.asarray(grid.spacing)).astype(int), 0, np.asarray(grid.shape) - 1)
    if regions[tuple(index)]:
        return int(regions[tuple(index)])
    low, high = np.maximum(index - 3, 0), index + 4  # a cortical lesion's middle may lie just outside
    around = regions[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    found = around[around > 0]
    return int(np.bincount(found).argmax()) if len(found) else LOBAR
