"""The courses of labelled veins, so that the records of phantoms name them as those of drawn ones."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .anatomy import COARSE, to_index
from .labelled import VEIN, LabelledHead
from .vessel_path import VesselPath
from .vessels import medullary_kind

SINUS_MM = 1.7
"""Labelled veins of this radius and more are sinuses: nobody takes them for a microbleed."""

SURFACE_MM = 2.0
"""Veins less deep in the brain are those of its surface."""

_TOUCHING = np.ones((3, 3, 3), bool)


def vein_paths(head: LabelledHead, from_mni: np.ndarray, brain_distance: np.ndarray) -> tuple[VesselPath, ...]:
    """Middle lines of the labelled veins between their forks, in MNI RAS mm.

    Args:
        head: the labels.
        from_mni: [3, 4] MNI RAS mm -> index in them.
        brain_distance: as ``Atlas.brain_distance``: positive outside the brain.
    """
    from skimage.morphology import skeletonize

    veins = np.array([m.tissue == VEIN for m in head.materials])[head.labels]
    if not veins.any():
        return ()
    box = ndimage.find_objects(veins.astype(np.uint8))[0]
    corner = np.array([b.start - 1 for b in box])
    veins = np.pad(veins[box], 1)  # there is an outside to measure the thickness from
    spacing = np.asarray(head.grid.spacing)
    thickness = ndimage.distance_transform_edt(veins, sampling=spacing)
    line = skeletonize(veins) > 0
    neighbours = line.astype(np.uint8)
    for axis in range(3):
        neighbours = ndimage.convolve1d(neighbours, np.ones(3), axis, mode="constant")
    neighbours -= 1
    pieces, _ = ndimage.label(line & (neighbours <= 2), _TOUCHING)
    index = np.argwhere(pieces)
    order = np.argsort(pieces[tuple(index.T)], kind="stable")
    index = index[order]
    groups = np.split(index, np.flatnonzero(np.diff(pieces[tuple(index.T)])) + 1)
    inverse = np.linalg.inv(np.vstack([from_mni, [0, 0, 0, 1]]))
    paths = []
    for group in groups:
        if len(group) < 3:
            continue
        course = _in_order(group)
        mni = ((course + corner) @ inverse[:3, :3].T) + inverse[:3, 3]
        # The distance map counts to the centre of the next voxel outside.
        radius = float(np.median(thickness[tuple(group.T)])) - 0.25 * float(spacing.min())
        depth = -float(ndimage.map_coordinates(brain_distance, to_index(mni, COARSE), order=1, mode="nearest").mean())
        kind = "sinus" if radius >= SINUS_MM else "pial_vessel" if depth < SURFACE_MM else medullary_kind(mni)
        paths.append(VesselPath(kind, mni[:: max(1, len(mni) // 24)], radius, 0.0, "labelled"))
    return tuple(paths)


def _in_order(points: np.ndarray) -> np.ndarray:
    """The voxels [N, 3] of an unbranched line, from one of its ends to the other."""
    left = points.astype(float)
    far = left[np.argmax(((left - left[0]) ** 2).sum(1))]
    # From the end that is farthest from any: the nearest one left is the next.
    course = [far]
    left = left[(left != far).any(1)]
    while len(left):
        nearest = int(((left - course[-1]) ** 2).sum(1).argmin())
        course.append(left[nearest])
        left = np.delete(left, nearest, axis=0)
    return np.asarray(course)
