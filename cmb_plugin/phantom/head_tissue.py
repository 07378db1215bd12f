"""Tissue of a labelled head on the fine grid: its labels interpolated, so that a voxel may hold several tissues."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .anatomy import COARSE, to_index
from .protocols import Protocol
from .subject import Lattice, Subject
from .subject_head import BLOCK, SubjectHead
from .tissue import HEAD_MM, Maps
from .tissue_constants import signal_of

FAR_MM = 99.0
"""Distance that stands for air outside the head."""

BRAIN_TEXTURE = 0.07
"""Patchiness of the brain, of that of bone and scalp."""


@functools.lru_cache(maxsize=2)
def _signal(head: SubjectHead, protocol: Protocol, spin_echo: bool) -> np.ndarray:
    """The signal on the labels' grid; the planes of a scan ask for the same one after another."""
    return head.spin_echo(protocol) if spin_echo else head.signal(protocol)


@dataclass
class HeadSlab:
    """What there is in a few planes of the fine grid; as ``tissue.TissueSlab``.

    Attributes:
        head: the labels.
        there: bool [z, y, x], where there is anything but air.
        index: float32 [3, N], places of these voxels in the labels.
        texture: float32 [N], relative brightness.
        vein: float32 [z, y, x], part 0..1 of vessels that are drawn into the head.
    """

    head: SubjectHead
    there: np.ndarray
    index: np.ndarray
    texture: np.ndarray
    vein: np.ndarray

    def magnitude(self, protocol: Protocol) -> np.ndarray:
        """Gradient-echo magnitude float32 [z, y, x] before the field dephases it."""
        magnitude = self._sampled(_signal(self.head, protocol, False)) * (1 - self.vein)
        magnitude += self.vein * np.float32(signal_of("blood", protocol))
        return magnitude

    def spin_echo(self, protocol: Protocol) -> np.ndarray:
        """A T2-weighted signal float32 [z, y, x]."""
        return self._sampled(_signal(self.head, protocol, True)) * (1 - np.float32(0.8) * self.vein)

    def _sampled(self, values: np.ndarray) -> np.ndarray:
        sampled = np.zeros(self.there.shape, np.float32)
        sampled[self.there] = _at(values, self.index) * self.texture
        return sampled


def head_slab(
    head: SubjectHead,
    lattice: Lattice,
    maps: Maps,
    mm: Sequence[np.ndarray],
    susceptibility: np.ndarray,
    venous: float,
) -> HeadSlab:
    """The tissue in planes ``mm``; adds its susceptibility to that of the vessels, as ``tissue.tissue_slab``."""
    there = lattice.interpolate(maps.air, mm) < 0.999
    mni = lattice.interpolate(maps.mni, mm)
    index = head.index(mni[:, there])
    depth, texture = (lattice.interpolate(m, mm)[there] for m in (maps.brain, maps.texture))
    part = np.float32(BRAIN_TEXTURE) + np.float32(1 - BRAIN_TEXTURE) * np.clip((depth - 1) / 2, 0, 1)
    vein = susceptibility / np.float32(venous)
    np.clip(vein, 0, 1, out=vein)
    susceptibility[there] += _at(head.susceptibility, index) * (1 - vein[there])
    return HeadSlab(head, there, index, 1 + part * texture, vein)


def _at(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Linear between the voxels; beyond the labels the head goes on as it ends."""
    sampled: np.ndarray = ndimage.map_coordinates(values, index, order=1, mode="nearest", output=np.float32)
    return sampled


def head_maps(
    subject: Subject, lattice: Lattice
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """Smooth maps of a labelled head on the lattice.

    Returns:
        MNI points [N, 3]; then float32 [z, y, x]: distance to the brain's hull in mm (``FAR_MM`` where there is
        nothing but air), distance to the brain, fraction of air, susceptibility of air and bone in ppm; that of air.
    """
    head = subject.atlas.head
    assert head is not None
    mni = subject.mm_to_mni(lattice.points())
    coarse = to_index(mni, COARSE)
    hull, brain = (
        ndimage.map_coordinates(m, coarse, order=1, mode="nearest").reshape(lattice.shape).astype(np.float32)
        for m in (subject.atlas.head_distance, subject.atlas.brain_distance)
    )
    blocks = (head.index(mni.T) - (BLOCK - 1) / 2) / BLOCK
    *volumes, air_ppm = head.cavities
    air, chi = (_at(v, blocks).reshape(lattice.shape) for v in volumes)
    air[brain < -1] = 0
    distance = np.where(air > 0.999, np.float32(FAR_MM), np.minimum(hull, np.float32(HEAD_MM)))
    return mni, distance, brain, air, chi, air_ppm
