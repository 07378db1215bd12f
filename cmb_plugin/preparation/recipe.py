"""``Preprocessing``: the recipe that turns a scan into the array a network sees; a part of every plan."""

from __future__ import annotations

from dataclasses import dataclass, field

SCHEMES = ("zscore", "none")


@dataclass(frozen=True)
class Normalisation:
    """How one modality's intensities are normalised.

    Attributes:
        scheme: a name from ``SCHEMES``. ``zscore``: mean 0 and standard deviation 1 over the (masked) scan; ``none``:
            as stored.
        masked: use non-zero voxels only, and leave the others zero (nnU-Net's rule for scans with a stripped
            background).
    """

    scheme: str = "zscore"
    masked: bool = False


@dataclass(frozen=True)
class Preprocessing:
    """The recipe. Axes of every tuple are those of the network array: first the scan is brought to z, y, x nearest to
    the world axes (S, P, L positive), then transposed by ``transpose``.

    Attributes:
        spacing: target spacing in mm along the network's axes.
        transpose: order in which the oriented z, y, x axes become the network's axes (lowest resolution first).
        normalisation: one entry per modality, in the order of the dataset.
        crop_to_nonzero: cut the empty border away before resampling.
        min_instance_voxels: an instance with fewer voxels after resampling is redrawn at its exact place.
    """

    spacing: tuple[float, float, float]
    transpose: tuple[int, int, int] = (0, 1, 2)
    normalisation: tuple[Normalisation, ...] = field(default=(Normalisation(),))
    crop_to_nonzero: bool = True
    min_instance_voxels: int = 1
