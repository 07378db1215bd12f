"""Every kind of label becomes an instance mask: numbers 1..N, a class for each, and how each was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from cmb_plugin.documents import some_of
from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid, pieces_of_instances

from .growing import ball_voxels, grow_points
from .source import BoxLabel, ConvertConfig, PointLabel

CONNECTIVITIES = {6: 1, 18: 2, 26: 3}


@dataclass
class Drawn:
    """The lesions of a case on its reference grid.

    Attributes:
        mask: int32 [z, y, x], instances 1..N without gaps.
        classes: instance -> class index.
        how: instance -> ``mask``, ``grown``, ``ball``, ``diameter`` or ``box``.
        certainty: instance -> ``definite`` or ``possible``, where the source says so.
        warnings: sentences.
        readings: of points, see ``score_readings``.
    """

    mask: np.ndarray
    classes: dict[int, int] = field(default_factory=dict)
    how: dict[int, str] = field(default_factory=dict)
    certainty: dict[int, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    readings: dict[str, list[float | None]] = field(default_factory=dict)


def instances_of_mask(
    mask: np.ndarray, instances: bool = False, connectivity: int = 26, classes: dict[int, int] | None = None
) -> Drawn:
    """Numbers the lesions of a mask 1..N, by their number in the mask and then by place.

    Args:
        mask: whole numbers [z, y, x], 0 for background.
        instances: each number is one lesion, whatever pieces it has; otherwise each connected piece of a number is, so
            that lesions which touch stay apart where the mask gives them different numbers.
        connectivity: 6, 18 or 26.
        classes: number in the mask -> class index; others have class 0.

    Raises:
        UserError: another connectivity, or a negative number.
    """
    if connectivity not in CONNECTIVITIES:
        remedy = "give 6 (faces), 18 (and edges) or 26 (and corners)"
        raise UserError(f"connectivity={connectivity}: not a neighbourhood", remedy=remedy)
    if mask.min(initial=0) < 0:
        raise UserError("holds negative numbers", remedy="lesions are positive numbers on background 0")
    structure = ndimage.generate_binary_structure(3, CONNECTIVITIES[connectivity])
    drawn = Drawn(np.zeros(mask.shape, np.int32))
    values = np.unique(mask[mask > 0]).tolist()
    for value in values:
        pieces, count = (mask == value, 1) if instances else ndimage.label(mask == value, structure=structure)
        inside = pieces > 0
        drawn.mask[inside] = pieces[inside] + len(drawn.classes)
        for _ in range(count):
            number = len(drawn.classes) + 1
            drawn.classes[number] = (classes or {}).get(value, 0)
            drawn.how[number] = "mask"
    if instances:
        split = [values[number - 1] for number, n in pieces_of_instances(drawn.mask).items() if n > 1]
        if split:
            drawn.warnings.append(f"lesions {some_of(split)} of the mask are in several pieces; each was kept as one")
    elif len(values) > 1:
        _, merged = ndimage.label(mask > 0, structure=structure)
        if merged < len(drawn.classes):
            apart = len(drawn.classes) - merged
            drawn.warnings.append(f"numbers {some_of(values)} touch in {apart} places and were kept apart")
    return drawn


def draw_points(image: np.ndarray, grid: Grid, label: PointLabel, config: ConvertConfig, bright: bool = False) -> Drawn:
    """Draws a lesion at every point: a ball where the diameter is known, else grown (docs/conversion.md).

    Args:
        image: [z, y, x] of the reference.
        grid: its grid.
        label: the points.
        config: how to grow.
        bright: lesions are brighter than their surroundings.

    Raises:
        UserError: a point outside the image.
    """
    edges = edges_of(label.points, label.space, grid)
    _refuse_outside(edges, label, grid)
    keep, doubles = _without_doubles(edges)
    drawn = Drawn(np.zeros(grid.shape, np.int32))
    if doubles:
        drawn.warnings.append(f"{label.file.name}: {doubles} points stand there twice and were taken once")
    known = [label.diameters[i] if label.diameters else 0.0 for i in keep]
    points = edges[keep]
    shapes: list[tuple[np.ndarray, str]] = []
    if config.growth == "ball":
        grown = [(ball_voxels(p, config.ball_mm, grid.spacing, grid.shape), "ball") for p in points]
    else:
        found = grow_points(image, grid.spacing, points, bright=bright, most_mm=config.most_mm, ball_mm=config.ball_mm)
        grown = [(growth.voxels, growth.how) for growth in found]
    for point, diameter, shape in zip(points, known, grown, strict=True):
        ball = (ball_voxels(point, diameter, grid.spacing, grid.shape), "diameter")
        shapes.append(ball if diameter > 0 else shape)
    _paint(drawn, shapes, points, grid)
    _describe(drawn, label, keep)
    return drawn


def draw_boxes(grid: Grid, label: BoxLabel) -> Drawn:
    """Draws an ellipsoid into every box, so that the box around the drawn voxels is the given one.

    Raises:
        UserError: a box that is empty or not inside the image.
    """
    drawn = Drawn(np.zeros(grid.shape, np.int32))
    boxes = []
    for number, box in enumerate(label.boxes, start=1):
        corners = edges_of([box[:3], box[3:]], label.space, grid, boxes=True)
        lower = np.round(corners.min(axis=0)).astype(int)
        upper = np.maximum(np.round(corners.max(axis=0)).astype(int), lower + 1)
        if (lower < 0).any() or (upper > np.asarray(grid.shape)).any():
            sides = " x ".join(str(n) for n in grid.shape[::-1])
            raise UserError(
                f"{label.file}: box {number} {_numbers(box)} is not inside the image of {sides} voxels",
                remedy=_space_remedy(label.space),
            )
        boxes.append((lower, upper))
    keep, doubles = _without_doubles(np.asarray(boxes).reshape(-1, 6))
    if doubles:
        drawn.warnings.append(f"{label.file.name}: {doubles} boxes stand there twice and were taken once")
    shapes = [(_ellipsoid(*boxes[index]), "box") for index in keep]
    centres = [(lower + upper) / 2 for lower, upper in (boxes[index] for index in keep)]
    _paint(drawn, shapes, np.asarray(centres).reshape(-1, 3), grid)
    _describe(drawn, label, keep)
    return drawn


def edges_of(points: Sequence[Sequence[float]], space: str, grid: Grid, boxes: bool = False) -> np.ndarray:
    """Coordinates x, y, z of a file -> [N, 3] voxel-edge coordinates z, y, x.

    Args:
        points: x, y, z of each.
        space: one of ``SPACES``.
        grid: of the reference image.
        boxes: they are corners of boxes, which are edges already where they count voxels.
    """
    array = np.asarray(points, dtype=float).reshape(-1, 3)
    if space in ("ras", "lps"):
        return grid.from_world(array * (-1, -1, 1) if space == "ras" else array)
    first = 1 if space == "voxel1" else 0
    return array[:, ::-1] - first + (0.0 if boxes else 0.5)


def _refuse_outside(edges: np.ndarray, label: PointLabel, grid: Grid) -> None:
    shape = np.asarray(grid.shape)
    outside = np.flatnonzero(((edges < 0) | (edges > shape)).any(axis=1))
    if not len(outside):
        return
    first = int(outside[0])
    sides = " x ".join(str(n) for n in grid.shape[::-1])
    values = np.asarray(label.points, dtype=float).reshape(-1, 3)
    from_zero = (values[outside] >= 0).all() and (values[outside] < 0.5).any() and (edges[outside] <= shape).all()
    if label.space == "voxel1" and from_zero:
        raise UserError(
            f"{label.file}: point {first + 1} {_numbers(label.points[first])} has a 0, but voxels count from 1",
            remedy="if the file counts from 0, say so: -o convert_cfg.space=voxel0",
        )
    reversed_fits = ((edges[:, ::-1] >= 0) & (edges[:, ::-1] <= shape)).all()
    remedy = _space_remedy(label.space)
    if reversed_fits and label.space.startswith("voxel"):
        remedy = "the axes look swapped: give x, y, z in this order, x being the first axis of the file"
    raise UserError(
        f"{label.file}: point {first + 1} {_numbers(label.points[first])} lies outside the image of {sides} voxels"
        + (f", as do {len(outside) - 1} more" if len(outside) > 1 else ""),
        remedy=remedy,
    )


def _space_remedy(space: str) -> str:
    meant = {"voxel0": "voxels from 0", "voxel1": "voxels from 1", "ras": "RAS mm", "lps": "LPS mm"}[space]
    return f"they were read as {meant}: correct the file, or say what they are (docs/conversion.md)"


def _without_doubles(edges: np.ndarray) -> tuple[list[int], int]:
    """Indices of the points or boxes without those that name the same voxels once more, and how many those are.

    Args:
        edges: [N, 3] points or [N, 6] boxes, in voxel-edge coordinates.
    """
    seen: set[tuple[int, ...]] = set()
    keep = []
    for index, voxel in enumerate(map(tuple, np.floor(edges).astype(int).tolist())):
        if voxel not in seen:
            seen.add(voxel)
            keep.append(index)
    return keep, len(edges) - len(keep)


def _ellipsoid(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    side = upper - lower
    index = np.indices(side).reshape(3, -1).T
    inside = (((index + 0.5 - side / 2) / (side / 2)) ** 2).sum(axis=1) <= 1
    middle = (index == (side - 1) // 2) | (index == side // 2)
    on_axis = np.stack([np.delete(middle, axis, axis=1).all(axis=1) for axis in range(3)]).any(axis=0)
    kept: np.ndarray = index[inside | on_axis] + lower
    return kept


def _paint(drawn: Drawn, shapes: Sequence[tuple[np.ndarray, str]], centres: np.ndarray, grid: Grid) -> None:
    """Numbers the shapes 1..N; a voxel of two belongs to the one whose centre is nearer, and none goes empty."""
    spacing = np.asarray(grid.spacing)
    nearest: dict[tuple[int, ...], tuple[float, int]] = {}
    for number, ((voxels, how), centre) in enumerate(zip(shapes, centres, strict=True), start=1):
        for voxel in map(tuple, voxels.tolist()):
            distance = float(np.linalg.norm((np.asarray(voxel) + 0.5 - centre) * spacing))
            nearest[voxel] = min(nearest.get(voxel, (np.inf, number)), (distance, number))
        drawn.how[number] = how
    for voxel, (_, number) in nearest.items():
        drawn.mask[voxel] = number
    for number, centre in enumerate(centres, start=1):
        if not (drawn.mask == number).any():
            own = np.clip(np.floor(centre).astype(int), 0, np.asarray(grid.shape) - 1)
            drawn.mask[tuple(own)] = number


def _describe(drawn: Drawn, label: PointLabel | BoxLabel, keep: Sequence[int]) -> None:
    for number, index in enumerate(keep, start=1):
        drawn.classes[number] = label.classes[index] if label.classes else 0
        if label.certainty and label.certainty[index]:
            drawn.certainty[number] = label.certainty[index]


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def file_error(file: Path, error: UserError) -> UserError:
    """The same error with the file in front."""
    if error.message.startswith(str(file)):
        return error
    return UserError(f"{file}: {error.message}", remedy=error.remedy)
