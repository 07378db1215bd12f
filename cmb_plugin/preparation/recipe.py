"""``Preprocessing``: the recipe that turns a scan into the array a network sees; a part of every plan."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Normalisation:
    """How one modality's intensities are normalised.

    Attributes:
        scheme: name of a scheme. ``zscore``: mean 0 and standard deviation 1 over the (masked) scan; ``none``: as
            stored; ``robust``: median 0 and robust standard deviation 1 inside the brain, clipped; ``phase``: radians
            in (-pi, pi], resampled on the circle; ``qsm``: against the brain's median, in units of a typical
            microbleed, clipped; or a ``NormalisationScheme`` of a plugin.
        masked: use non-zero voxels only, and leave the others zero (nnU-Net's rule for scans with a stripped
            background). Of the built-in schemes ``zscore`` alone heeds it.
        unit: how values are stored, measured over the training scans: of phase ``radians`` or the values between which
            a turn lies, ``-4096..4096``; of QSM ``ppm`` or ``ppb``. None tells it by each scan's own values.
    """

    scheme: str = "zscore"
    masked: bool = False
    unit: str | None = None


@dataclass(frozen=True)
class DomainUnits:
    """How a domain (site, scanner or protocol) stores its values, where others store them otherwise.

    Attributes:
        domain: its name.
        units: ``Normalisation.unit`` of each modality.
    """

    domain: str
    units: tuple[str | None, ...]


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
        brain_channel: modality in which the brain is looked for where no mask of it is given; the scan is cropped to
            the brain, and ``robust`` and ``qsm`` take their statistics there. None leaves the brain alone.
        brain_margin_mm: kept around the brain in a crop.
        domain_units: for domains whose scans are stored in units of their own; see ``of_domain``.
    """

    spacing: tuple[float, float, float]
    transpose: tuple[int, int, int] = (0, 1, 2)
    normalisation: tuple[Normalisation, ...] = field(default=(Normalisation(),))
    crop_to_nonzero: bool = True
    min_instance_voxels: int = 1
    brain_channel: int | None = None
    brain_margin_mm: float = 12.0
    domain_units: tuple[DomainUnits, ...] = ()

    def of_domain(self, domain: str) -> Preprocessing:
        """The recipe for scans of one domain: with its own units where it has such, else as it is. A scan whose domain
        nobody knows, or which is not among those of training, has the units of ``normalisation``."""
        own = next((entry.units for entry in self.domain_units if entry.domain == domain), None)
        if own is None:
            return replace(self, domain_units=()) if self.domain_units else self
        steps = tuple(replace(step, unit=unit) for step, unit in zip(self.normalisation, own, strict=True))
        return replace(self, normalisation=steps, domain_units=())
