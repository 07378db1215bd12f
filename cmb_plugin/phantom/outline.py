"""Where a careful rater would draw the border of a source, and how well it can be seen at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .measure import Patch, appearance
from .sources import Blob

DEFINITE_CNR = 5.0
"""Contrast-to-noise ratio from which a lesion is "definite" (Rose's criterion for seeing a detail); below it is
"possible"."""

VISIBLE_SHARE = 0.35
"""Share of a source's largest effect down to which its outline reaches."""

SURROUNDINGS_MM = 4.0
"""Radius within which the image is compared with a lesion to tell how well it can be seen; 2.5 radii of a large one."""

DARK_KINDS = ("cmb", "iron", "calcification", "air_sinus", "vein_straight")
"""Compact sources that make an image darker at their middle; the others may make it brighter."""

_TOUCHING = np.ones((3, 3, 3))


@dataclass
class Outline:
    """The outline of one source.

    Attributes:
        blob: the source.
        box: slices z, y, x of the scan.
        voxels: bool, the outlined voxels inside ``box``; at least one.
        cnr: mean effect inside the outline over the spread of small structure and noise around it.
    """

    blob: Blob
    box: tuple[slice, slice, slice]
    voxels: np.ndarray
    cnr: float

    @property
    def bounds(self) -> list[int]:
        """``z0, y0, x0, z1, y1, x1`` of the outlined voxels in the scan, half-open."""
        where = ndimage.find_objects(self.voxels.astype(np.uint8))[0]
        starts = [b.start + w.start for b, w in zip(self.box, where, strict=True)]
        return starts + [b.start + w.stop for b, w in zip(self.box, where, strict=True)]


def outline(patch: Patch, modality: str, spacing: tuple[float, float, float]) -> Outline:
    """Outlines a source on one modality.

    The effect of the source is the noise-free image without it minus the one with it (``swi``, ``t2s``, ``t2``), the
    other way round on ``qsm``, the absolute difference on ``phase``; blooming is part of it. The outline holds the
    voxels near the source whose effect exceeds ``VISIBLE_SHARE`` of its maximum and that are connected to the source's
    middle, with holes filled. Where the middle itself shows little (between the dark poles of a dipole), it is joined
    to the darkest part. What is wider than a microbleed, iron in a nucleus, shows by its poles alone: its outline is
    the source itself with all dark parts, for one of two equal poles would be half a lesion, and nothing would tell
    which.

    The contrast-to-noise ratio is what an observer has to go by: the mean effect inside the outline over the standard
    deviation of what a 3 x 3 x 3 median leaves of the measured image around it. So besides the thermal noise the
    anatomy of a lesion's own size hides it too (at the edge of the skull, among vessels), but a step between two even
    tissues, on which an eye sees a lesion as well as anywhere, does not.
    """
    effect = _effect(patch, modality)
    middle = tuple(
        int(np.clip(round(c / s) - b.start, 0, n - 1))
        for c, s, b, n in zip(patch.insertion.blob.centre, spacing, patch.insertion.box, effect.shape, strict=True)
    )
    # Only near the source: farther off the phase may wrap, and other sources lie there.
    offsets = np.meshgrid(
        *((np.arange(n) - m) * s for n, m, s in zip(effect.shape, middle, spacing, strict=True)), indexing="ij"
    )
    squared = np.asarray(sum(o**2 for o in offsets))
    near = squared <= (3.5 * float(np.max(patch.insertion.blob.axes)) + max(spacing)) ** 2
    if patch.insertion.blob.kind not in DARK_KINDS:  # bright or dark: what it changes is what can be seen of it
        effect = np.abs(effect)
    total, effect = np.abs(effect), np.where(near, effect, 0)
    labels, count = ndimage.label(effect > VISIBLE_SHARE * effect.max(), structure=_TOUCHING)
    body = np.zeros(effect.shape, dtype=bool)
    if labels[middle]:
        voxels = labels == labels[middle]
    else:
        small = patch.insertion.blob.kind == "cmb"
        dark = [int(labels.flat[effect.argmax()])] if small else range(1, count + 1)
        voxels = np.isin(labels, dark) & (labels > 0)
        if not small:
            body = near & (patch.insertion.coverage > 0.5)
        for peak in ndimage.maximum_position(effect, labels, dark):
            steps = np.linspace(0, 1, 2 * int(np.abs(np.subtract(peak, middle)).max()) + 2)[:, None]
            voxels[tuple(np.round(middle + steps * np.subtract(peak, middle)).astype(int).T)] = True
    if not voxels.any():  # a source of no effect at all
        voxels[middle] = True
    voxels = ndimage.binary_fill_holes(voxels)
    widest = float(np.max(patch.insertion.blob.axes))
    around = (squared <= max(SURROUNDINGS_MM, 2.5 * widest) ** 2) & (total < 0.1 * total.max())
    detail = patch.measured - ndimage.median_filter(patch.measured, 3)
    deviation = float(detail[around if around.any() else ~voxels].std())
    cnr = float(max(effect[voxels].mean(), 0)) / max(deviation, 1e-9)
    return Outline(patch.insertion.blob, patch.insertion.box, ndimage.binary_fill_holes(voxels | body), cnr)


def largest_piece(voxels: np.ndarray) -> np.ndarray:
    """The largest connected piece of a bool array (26-connectivity)."""
    labels, count = ndimage.label(voxels, structure=_TOUCHING)
    return voxels if count < 2 else labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())


def _effect(patch: Patch, modality: str) -> np.ndarray:
    """What the source does to the image: positive where it makes it darker (``qsm``: further from 0)."""
    insertion = patch.insertion
    if modality == "qsm":
        sign = 1 if insertion.blob.susceptibility > 0 else -1
        return sign * ndimage.gaussian_filter(insertion.susceptibility, 0.5)
    if modality == "t2":
        assert patch.spin_echo is not None
        return patch.spin_echo * np.clip(insertion.coverage, 0, 1) * (1 - 0.5 * insertion.blob.density)
    present = appearance(modality, patch.signal, patch.reference, patch.mask_power, patch.mask_side)
    without = patch.signal - insertion.change
    absent = appearance(modality, without, patch.reference, patch.mask_power, patch.mask_side)
    return np.abs(np.angle(np.exp(1j * (present - absent)))) if modality == "phase" else absent - present
