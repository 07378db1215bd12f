"""Normalisation schemes: how the intensities of one modality become what a network sees. A plugin can add one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.plugins import normalisations, suggest

from .brain import AIR
from .phase import common_unit, to_radians
from .recipe import Normalisation

if TYPE_CHECKING:  # prediction, which normalises too, reads no fingerprint
    from .fingerprint import CaseFingerprint

MAD_TO_DEVIATION = 1.4826  # of a normal distribution: 1 / its 75th percentile
ROBUST_CLIP = 10.0  # voids lie 4 to 9 below the brain's median on SWI and T2*; fat and flow are no more than bright
MICROBLEED_PPM = 0.5  # on a QSM, blurred by its regularisation: a microbleed becomes about 1
QSM_CLIP = 4.0  # 2 ppm: beyond it there are artefacts at air and bone
PPM_LIMIT = 5.0  # no tissue has more; a scan whose bulk has more is stored in ppb
PPM, PPB = "ppm", "ppb"
ANOTHER_UNIT = 10.0  # times the limit: so far on its other side a scan has another unit than its data set
BULK = 99.0  # percentile that counts as bulk: the brightest hundredth are veins, bleeds and artefacts


class NormalisationScheme:
    """Base class of normalisation schemes.

    Make a subclass in a module of your own, register it with ``@register_normalisation``, and name the class as the
    ``scheme`` of a modality in a planner's recipe or in ``plan.json``. It holds no state: what has to be known about
    the whole data set goes into the recipe as ``unit``.

    Attributes:
        circular: values are angles in radians, which are resampled on their circle.
        shows_head: the head stands out against air, so that the brain can be looked for in this modality.

    Example:
        >>> @register_normalisation                                       # doctest: +SKIP
        ... class Percentiles(NormalisationScheme):
        ...     def normalise(self, image, step, brain=None, head=None):
        ...         low, high = np.percentile(image, (1, 99))
        ...         return (image - low) / (high - low)
    """

    circular: ClassVar[bool] = False
    shows_head: ClassVar[bool] = True

    def unit(self, cases: Sequence[CaseFingerprint], channel: int) -> tuple[str | None, str]:
        """What is measured once over a data set and kept in the recipe.

        Args:
            cases: its training cases.
            channel: number of the modality.

        Returns:
            the recipe's ``unit``, None where the scheme needs none; and a sentence for the plan's notes, or "".
        """
        return None, ""

    def normalise(
        self, image: np.ndarray, step: Normalisation, brain: np.ndarray | None = None, head: np.ndarray | None = None
    ) -> np.ndarray:
        """One modality normalised.

        Args:
            image: finite float32 [Z, Y, X]; may be changed in place. All 0 where a case does without the modality, and
                then the result must be 0 too.
            step: the recipe's entry.
            brain: bool [Z, Y, X], True in the brain; None where it is not known.
            head: bool [Z, Y, X], True where any modality is not 0; given only where ``step.masked``.

        Returns:
            float32 [Z, Y, X].
        """
        raise NotImplementedError


class Unchanged(NormalisationScheme):
    """``none``: values as stored."""

    def normalise(
        self, image: np.ndarray, step: Normalisation, brain: np.ndarray | None = None, head: np.ndarray | None = None
    ) -> np.ndarray:
        """The image itself."""
        return image


class ZScore(NormalisationScheme):
    """``zscore``: minus mean, over standard deviation, both in float64; with ``masked`` inside the head only, and 0
    outside. A constant image becomes 0: nnU-Net's own divides its rounding error by 1e-8."""

    def normalise(
        self, image: np.ndarray, step: Normalisation, brain: np.ndarray | None = None, head: np.ndarray | None = None
    ) -> np.ndarray:
        """Mean 0 and standard deviation 1, of the whole image or inside the head."""
        inside = image if head is None else image[head]
        if inside.size == 0:
            return image
        mean, deviation = inside.mean(dtype=np.float64), inside.std(dtype=np.float64)
        scale = 1.0 / deviation if deviation > 1e-6 * abs(mean) and deviation > 0 else 0.0
        image -= np.float32(mean)
        image *= np.float32(scale)
        if head is not None:
            image[~head] = 0
        return image


class Robust(NormalisationScheme):
    """``robust``: minus the brain's median, over 1.4826 times its median absolute deviation, clipped.

    Mean and standard deviation follow whatever the head holds besides brain: air, fat, sinuses. Median and MAD do not
    move for a tenth of foreign voxels, so the same tissue gets the same number on every scanner.
    """

    def normalise(
        self, image: np.ndarray, step: Normalisation, brain: np.ndarray | None = None, head: np.ndarray | None = None
    ) -> np.ndarray:
        """Median 0 and robust standard deviation 1 inside the brain, clipped."""
        inside = brain_values(image, brain)
        median = np.median(inside)
        deviation = MAD_TO_DEVIATION * np.median(np.abs(inside - median))
        if not deviation > 1e-6 * abs(median):  # more than half of the brain has one value: a mask, not a scan
            deviation = inside.std()
        image -= np.float32(median)
        image *= np.float32(1.0 / deviation if deviation > 1e-6 * abs(median) and deviation > 0 else 0.0)
        return np.clip(image, -ROBUST_CLIP, ROBUST_CLIP, out=image)


class Phase(NormalisationScheme):
    """``phase``: radians in (-pi, pi]; ``unit`` is the stored values' (``phase.to_radians``)."""

    circular = True
    shows_head = False

    def unit(self, cases: Sequence[CaseFingerprint], channel: int) -> tuple[str | None, str]:
        """The one unit that holds the extreme values of all scans."""
        return common_unit([case.extremes[channel] for case in cases if case.extremes])

    def normalise(
        self, image: np.ndarray, step: Normalisation, brain: np.ndarray | None = None, head: np.ndarray | None = None
    ) -> np.ndarray:
        """Radians in (-pi, pi]."""
        return to_radians(image, step.unit)


class Susceptibility(NormalisationScheme):
    """``qsm``: against the brain's median, over that of a microbleed, clipped; ``unit`` is ``ppm`` or ``ppb``.

    QSM knows differences only; what it calls 0 is a choice of the reconstruction, so the median of the brain is 0 here.
    """

    shows_head = False

    def unit(self, cases: Sequence[CaseFingerprint], channel: int) -> tuple[str | None, str]:
        """``ppm`` or ``ppb``, by the bulk of the brain's values in most scans."""
        bulks = [case.bulks[channel] for case in cases if case.bulks and case.bulks[channel] > 0]
        if not bulks:
            return None, ""
        unit = _ppm_or_ppb(float(np.median(bulks)))
        if any(_ppm_or_ppb(bulk, unit) != unit for bulk in bulks):
            return None, "its scans are stored in ppm and in ppb, so each scan's unit is told by its own values."
        return unit, ""

    def normalise(
        self, image: np.ndarray, step: Normalisation, brain: np.ndarray | None = None, head: np.ndarray | None = None
    ) -> np.ndarray:
        """Against the brain's median, a microbleed about 1, clipped."""
        if step.unit not in (None, PPM, PPB):
            raise UserError(f"plan: '{step.unit}' is no unit of QSM", remedy=f"give {PPM} or {PPB}")
        inside = brain_values(image, brain)
        scale = 1e-3 if _ppm_or_ppb(bulk(inside), step.unit) == PPB else 1.0
        image -= np.float32(np.median(inside))
        image *= np.float32(scale / MICROBLEED_PPM)
        return np.clip(image, -QSM_CLIP, QSM_CLIP, out=image)


_BUILT_IN: dict[str, NormalisationScheme] = {
    "zscore": ZScore(),
    "none": Unchanged(),
    "robust": Robust(),
    "phase": Phase(),
    "qsm": Susceptibility(),
}


def find_scheme(name: str) -> NormalisationScheme:
    """The scheme of this name: a built-in one, or a plugin's.

    Raises:
        UserError: there is none; the known ones are named.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if name not in normalisations.names():
        known = suggest(name, [*_BUILT_IN, *normalisations.names()])
        raise UserError(
            f"plan: unknown normalisation scheme '{name}'",
            remedy=f"{known}; a scheme of your own needs -o additional_imports=[its_module]",
        )
    scheme: NormalisationScheme = normalisations.get(name)()
    return scheme


def brain_values(image: np.ndarray, brain: np.ndarray | None) -> np.ndarray:
    """float64 [N] values of the brain; without one of all that is not air: not 0, and in a magnitude not dark noise."""
    if brain is not None and brain.any():
        return np.asarray(image[brain], dtype=np.float64)
    values = image[image != 0] if image.min() < 0 else image[image > AIR * np.percentile(image, 98.0)]
    return np.asarray(values if values.size else image.ravel(), dtype=np.float64)


def bulk(values: np.ndarray) -> float:
    """The size that all but the largest hundredth of the values stay below."""
    return float(np.percentile(np.abs(values), BULK))


def _ppm_or_ppb(size: float, expected: str | None = None) -> str:
    """The unit of a QSM whose bulk has this size. Where one is expected, only what is far beyond the limit has the
    other one."""
    limit = {None: PPM_LIMIT, PPM: PPM_LIMIT * ANOTHER_UNIT, PPB: PPM_LIMIT / ANOTHER_UNIT}[expected]
    return PPB if size > limit else PPM
