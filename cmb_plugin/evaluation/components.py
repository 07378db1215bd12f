"""Components of masks, and which of them overlap: the matching that segmentation methods are measured by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmb_plugin.images import label_components

RULE = (
    "components ({connectivity} neighbours) of the masks share at least one voxel: a reference component that any "
    "prediction touches is found, a predicted component that touches no reference is a false positive"
)


@dataclass(frozen=True)
class ComponentCounts:
    """What overlaps in one scan, classes and instance numbers put aside.

    Attributes:
        reference, found: components of the reference, and those of them that a prediction touches.
        predicted, false: components of the prediction, and those of them that touch no reference.
    """

    reference: int
    found: int
    predicted: int
    false: int


def centroids_mm(labels: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """[N, 3] mean place of the voxels of each number 1..N, in mm along z, y, x from the first voxel's corner."""
    from scipy.ndimage import center_of_mass

    count = int(labels.max(initial=0))
    if not count:
        return np.zeros((0, 3))
    places = np.array(center_of_mass(labels > 0, labels, np.arange(1, count + 1)))
    return (places + 0.5) * np.asarray(spacing, dtype=float)


def match_components(predicted: np.ndarray, reference: np.ndarray, connectivity: int = 26) -> ComponentCounts:
    """Counts components of two masks [z, y, x] that share a voxel; values above 0 are foreground."""
    ours, theirs = label_components(predicted, connectivity), label_components(reference, connectivity)
    both = (ours > 0) & (theirs > 0)
    n_ours, n_theirs = int(ours.max(initial=0)), int(theirs.max(initial=0))
    return ComponentCounts(
        reference=n_theirs,
        found=len(np.unique(theirs[both])),
        predicted=n_ours,
        false=n_ours - len(np.unique(ours[both])),
    )
