"""A brain that one looks through: its outline and deep parts from one side, and the lesions in it."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from cmb_plugin.anatomy.regions import CODES, GROUPS
from cmb_plugin.images import Mapping

from .case_content import COLOURS, INK, SOFT, PageContent

GLASS_MM = 1.5  # voxels of the glass brain
MOST_LABELS = 12  # more numbers would hide one another
BESIDE_MM = 7.5  # between a point and the middle of its number
ENOUGH_MM = 9.0  # from a number to what is next to it; farther away is no better
SIDES_DEG = (45, 135, 315, 225, 90, 270, 0, 180)  # of a point, for its number, those first that are taken first


def draw_glass_brain(axes: Axes, content: PageContent, turned: Mapping, down: int, right: int) -> None:
    """The brain as a shadow, its deep and infratentorial parts tinted, the lesions as points."""
    spacing = np.asarray(turned.oriented_spacing)
    steps = [max(1, round(GLASS_MM / side)) for side in spacing]
    thin = tuple(slice(None, None, step) for step in steps)
    across = 3 - down - right
    size = np.asarray(turned.oriented_shape) * spacing
    extent = (0, size[right], size[down], 0)
    low, high = np.zeros(3), size
    if content.brain is not None and content.brain.any():
        brain = turned.orient(content.brain)[thin]
        depth = brain.sum(axis=across)
        shade = np.sqrt(depth / depth.max())
        axes.imshow(shade, extent=extent, cmap="Greys", vmin=0, vmax=3.2, interpolation="bilinear", aspect="equal",
                    alpha=(depth > 0).astype(float))  # fmt: skip
        middles = [
            (np.arange(n) + 0.5) * size[axis] / n for axis, n in ((right, depth.shape[1]), (down, depth.shape[0]))
        ]
        if min(depth.shape) > 1:
            closed = np.pad(depth > 0, 1)  # the outline runs along the edge of a scan that ends within the brain
            around = [np.concatenate([[0.0], places, [end]]) for places, end in zip(middles, extent[1:3], strict=True)]
            axes.contour(*around, closed, levels=[0.5], colors=SOFT, linewidths=0.8)
            codes = turned.orient(content.regions.group_codes())[thin] if content.regions.trusted else None
            for group in GROUPS[1:]:
                part = (codes == CODES[group]).any(axis=across) if codes is not None else np.zeros_like(depth, bool)
                if part.any() and not part.all():
                    axes.contourf(*middles, part, levels=[0.5, 1.5], colors=[COLOURS[group]], alpha=0.10)
        found = [np.flatnonzero(brain.any(axis=tuple(k for k in range(3) if k != axis))) for axis in range(3)]
        low = np.array([a[0] for a in found]) * steps * spacing - 6
        high = (np.array([a[-1] for a in found]) + 1) * steps * spacing + 6
    rows = content.shown
    places = turned.points_to_network(content.predictions.detections.centres[rows]) * spacing
    up = np.array([1, -1 if down == 1 else 1])
    numbers = label_places(places[:, [right, down]] * up) * up if len(rows) <= MOST_LABELS else ()
    for row, lesion, place in reversed(list(zip(rows, content.lesions, places, strict=True))):
        colour, area = COLOURS[lesion.group], 5.0 * content.predictions.diameters_mm[row] ** 1.3
        face = colour if lesion.certainty == "definite" else "none"
        axes.scatter(place[right], place[down], s=area, facecolor=face, edgecolor=colour, linewidth=0.9, alpha=0.85)
        low, high = np.minimum(low, place - BESIDE_MM), np.maximum(high, place + BESIDE_MM)
    for label, (x, y) in enumerate(numbers, start=1):
        axes.text(x, y, str(label), fontsize=6, color=INK, ha="center", va="center")
    axes.set_xlim(low[right], high[right])
    # The turned array's first axis runs up, its second towards the back: down in the axial plane.
    axes.set_ylim(*((high[down], low[down]) if down == 1 else (low[down], high[down])))


def label_places(points: np.ndarray) -> np.ndarray:
    """Where the numbers of points stand: [N, 2] mm to the right and up -> [N, 2], each ``BESIDE_MM`` from its point, on
    that side on which the nearest other point or number is farthest away."""
    sides = np.deg2rad(SIDES_DEG)
    placed: list[np.ndarray] = []
    for index, point in enumerate(points):
        possible = point + BESIDE_MM * np.stack([np.cos(sides), np.sin(sides)], axis=1)
        others = np.array([*np.delete(points, index, axis=0), *placed]).reshape(-1, 2)
        gaps = np.linalg.norm(possible[:, None] - others[None], axis=2).min(axis=1, initial=ENOUGH_MM)
        placed.append(possible[int(gaps.argmax())])
    return np.array(placed).reshape(-1, 2)
