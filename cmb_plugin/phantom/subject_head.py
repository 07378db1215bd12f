"""``SubjectHead``: a labelled head with the traits of a subject, as the tissue of a phantom."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from .labelled import AIR, BONE, HeadTraits, LabelledHead
from .protocols import Protocol

BLOCK = 3  # voxels along each side of what air and bone are averaged over: their field is computed on a coarse lattice
SOFTENING = 0.45  # voxels of a Gaussian that takes the steps off the borders of the labels


@dataclass(frozen=True, eq=False)
class SubjectHead:
    """A labelled head as that of a subject: what ``Atlas.head`` is.

    Attributes:
        head: the labels.
        traits: of the subject.
        from_mni: [3, 4] MNI RAS mm -> z, y, x index in ``head.labels``.
    """

    head: LabelledHead
    traits: HeadTraits
    from_mni: np.ndarray

    @functools.cached_property
    def susceptibility(self) -> np.ndarray:
        """float32 ppm on the labels' grid, without air and bone (``cavities``)."""
        values = [self.traits.susceptibility(m) if m.tissue not in (AIR, BONE) else 0.0 for m in self.head.materials]
        return self._softened(self.head.of(values))

    @functools.cached_property
    def cavities(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Fraction of air and susceptibility of air and bone in ppm, float32 on blocks of ``BLOCK`` voxels; ppm of
        air."""
        materials = self.head.materials
        far = next((m.chi for m in materials if m.tissue == AIR), 9.4)
        chi = self.head.of([m.chi if m.tissue in (AIR, BONE) else 0.0 for m in materials])
        return _blocks(self.head.share(AIR)), _blocks(chi), far

    def record(self) -> dict[str, Any]:
        """Which head this is, for the file of a case."""
        return {**self.head.source, **asdict(self.traits)}

    def signal(self, protocol: Protocol) -> np.ndarray:
        """Gradient-echo magnitude float32 on the labels' grid."""
        return self._softened(self.head.of([self.traits.signal(m, protocol) for m in self.head.materials]))

    def spin_echo(self, protocol: Protocol) -> np.ndarray:
        """T2-weighted signal float32 on the labels' grid."""
        return self._softened(self.head.of([self.traits.spin_echo(m, protocol) for m in self.head.materials]))

    def index(self, mni: np.ndarray) -> np.ndarray:
        """[3, ...] MNI RAS x, y, z in mm -> [3, ...] z, y, x index on the labels' grid."""
        matrix = self.from_mni.astype(mni.dtype)
        return np.stack([sum(matrix[i, j] * mni[j] for j in range(3)) + matrix[i, 3] for i in range(3)])

    @staticmethod
    def _softened(values: np.ndarray) -> np.ndarray:
        # Linear, so that a vein one voxel wide keeps its amount.
        return ndimage.gaussian_filter(values, SOFTENING, truncate=3.0, mode="nearest")


def _blocks(values: np.ndarray) -> np.ndarray:
    """Means over blocks of ``BLOCK`` voxels a side; the middle of block i is voxel i * BLOCK + (BLOCK - 1) / 2."""
    pad = [(0, -n % BLOCK) for n in values.shape]
    padded = np.pad(values, pad, mode="edge")
    z, y, x = (n // BLOCK for n in padded.shape)
    mean: np.ndarray = padded.reshape(z, BLOCK, y, BLOCK, x, BLOCK).mean((1, 3, 5), dtype=np.float32)
    return mean
