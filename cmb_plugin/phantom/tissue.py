"""Tissue of the head: how much of what there is in every place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .anatomy import ORIGIN, Atlas
from .protocols import Protocol
from .subject import Lattice
from .tissue_constants import CHI_FLUID, CHI_GREY, CHI_WHITE, IRON_DECAY, TISSUES, signal_of, tissue

LATTICE_SOFT = 3.0
SKULL_MM = 7.0
HEAD_MM = 12.0


@dataclass(frozen=True)
class Maps:
    """Smooth maps on the lattice, float32 [z, y, x]: MNI points [3, ...], distances in mm, air fraction, field of head
    and air in ppm, texture of bone and scalp."""

    mni: np.ndarray
    head: np.ndarray
    brain: np.ndarray
    air: np.ndarray
    field: np.ndarray
    texture: np.ndarray


@dataclass
class TissueSlab:
    """How much of what there is in a few planes of the fine grid.

    Attributes:
        air, texture, shell, meninges, vein: float32 [z, y, x], parts 0..1 (texture: relative).
        near: bool [z, y, x], in and at the brain; the following hold a number for each of these voxels.
        grey, white, fluid, brain: float32 [N], parts 0..1.
        iron: float32 [N], ppm.
    """

    air: np.ndarray
    texture: np.ndarray
    shell: np.ndarray
    meninges: np.ndarray
    vein: np.ndarray
    near: np.ndarray
    grey: np.ndarray
    white: np.ndarray
    fluid: np.ndarray
    brain: np.ndarray
    iron: np.ndarray

    def magnitude(self, protocol: Protocol) -> np.ndarray:
        """Gradient-echo magnitude float32 [z, y, x] before the field dephases it."""
        echo = protocol.echo_ms * 1e-3
        value = {name: signal_of(name, protocol) for name in TISSUES}
        meninges, shell, near = self.meninges, self.shell, self.near
        # Outside the brain: fluid that surrounds it, bone, scalp, air.
        around = meninges * value["fluid"] + (1 - meninges) * (shell * value["bone"] + (1 - shell) * value["scalp"]) * (
            1 + self.texture
        )
        around *= 1 - self.air
        inside = self.white * value["white"] + self.grey * value["grey"] + self.fluid * value["fluid"]
        inside *= 1 + np.float32(0.07) * self.texture[near]
        inside *= np.exp(-echo * IRON_DECAY * protocol.field_tesla / 3 * self.iron)
        around[near] = around[near] * (1 - self.brain) + inside
        magnitude: np.ndarray = around * (1 - self.vein) + self.vein * value["blood"]
        return magnitude

    def spin_echo(self, protocol: Protocol) -> np.ndarray:
        """A T2-weighted signal float32 [z, y, x]."""
        late = {n: tissue(n, protocol).density * float(np.exp(-90 / tissue(n, protocol).t2)) for n in TISSUES}
        meninges, shell, near = self.meninges, self.shell, self.near
        weighted = meninges * late["fluid"] + (1 - meninges) * (shell * late["bone"] + (1 - shell) * late["scalp"]) * (
            1 + self.texture
        )
        weighted *= 1 - self.air
        iron_t2 = np.exp(-0.09 * 12 * self.iron)
        weighted[near] = (
            weighted[near] * (1 - self.brain)
            + (self.white * late["white"] + self.grey * late["grey"]) * iron_t2
            + self.fluid * late["fluid"]
        )
        result: np.ndarray = weighted * (1 - 0.8 * self.vein)  # flow void
        return result


def tissue_slab(
    atlas: Atlas,
    lattice: Lattice,
    maps: Maps,
    mm: Sequence[np.ndarray],
    susceptibility: np.ndarray,
    venous: float,
) -> TissueSlab:
    """The tissue in planes ``mm``; adds the susceptibility of tissue to that of the vessels, in place.

    Args:
        mm: places of the planes along z, y, x.
        susceptibility: float32 of these planes, which holds the vessels so far.
        venous: ppm of venous blood.
    """
    head, brain_mm, air, texture = (lattice.interpolate(m, mm) for m in (maps.head, maps.brain, maps.air, maps.texture))
    near = brain_mm < 2
    mni = lattice.interpolate(maps.mni, mm)
    index = [mni[i][near] - np.float32(o) for i, o in zip((2, 1, 0), ORIGIN, strict=True)]
    grey, white, brain = (
        ndimage.map_coordinates(m, index, order=1, output=np.float32) for m in (atlas.grey, atlas.white, atlas.brain)
    )
    iron = np.zeros(len(grey), np.float32)
    nuclei = np.logical_and.reduce(
        [(k > b.start) & (k < b.stop - 1) for k, b in zip(index, atlas.iron_box, strict=True)]
    )
    iron[nuclei] = ndimage.map_coordinates(atlas.iron, [k[nuclei] for k in index], order=1, output=np.float32)
    iron *= 1 + np.float32(0.8) * texture[near]  # patchy, as nuclei are
    fluid = np.clip(brain - grey - white, 0, 1)
    shell = np.clip((SKULL_MM - head) + 0.5, 0, 1)  # 1 inside the outer table of the skull
    meninges = np.clip(2.5 - brain_mm, 0, 1)
    vein = susceptibility / np.float32(venous)
    np.clip(vein, 0, 1, out=vein)
    chi = white * CHI_WHITE + grey * CHI_GREY + fluid * CHI_FLUID + iron
    susceptibility[near] += chi * (1 - vein[near])
    return TissueSlab(air, texture, shell, meninges, vein, near, grey, white, fluid, brain, iron)
