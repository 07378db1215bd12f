"""``VesselPath``: a vessel in the space of the atlas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class VesselPath:
    """A vessel in MNI space: ``kind`` as in ``sources.Vessel``, ``path`` [N, 3] MNI RAS mm, ``radius`` mm, ``ppm``."""

    kind: str
    path: np.ndarray
    radius: float
    ppm: float
    site: str
