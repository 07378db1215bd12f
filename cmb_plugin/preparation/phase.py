"""Phase images: units that scanners use, and the circle on which phase lives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmb_plugin.errors import UserError

TURN = 2 * np.pi
RADIANS = "radians"
LEAST_RADIANS = 0.1  # smaller numbers are no radians, not even of filtered phase
WRAP, WRAPS = 1.5, 1e-3  # neighbours this many half turns apart are a wrap; a wrapped scan has such a share of them
MOST_RADIANS = 64.0  # larger numbers are no radians, not even unwrapped over ten turns
SLACK = 1.002  # rounding of stored values, and the one number that a scanner leaves out
BACKGROUND_SHARE = 0.1  # so many zeros are a masked background, not phases
ONE_UNIT = 8.0  # filtered phase may stay this many times below half a turn; still smaller numbers have another unit

# What stands for half a turn where phase is signed, and for a whole one where it is not: degrees, 12 bits,
# milliradians, 13 and 16 bits. The smallest that holds the largest value is taken.
HALF_TURNS = (180.0, 2048.0, 1000 * np.pi, 4096.0, 8192.0, 32768.0)
WHOLE_TURNS = (360.0, 4096.0, 2000 * np.pi, 8192.0, 16384.0, 65536.0)
FROM_ZERO = (WHOLE_TURNS[0], WHOLE_TURNS[2])  # 0 to 360 degrees begin at 0, bits at -pi


def to_radians(phase: np.ndarray, unit: str | None = None) -> np.ndarray:
    """Phase as a scanner stores it -> float32 radians in (-pi, pi]. Zeros around a masked brain stay 0.

    Args:
        phase: finite values.
        unit: ``radians``, wrapped or not; ``-4096..4096``: from minus to plus half a turn; ``0..4096``: a whole turn,
            from -pi, but 0..360 and milliradians from 0. A scan that cannot have this unit (``fits``), and every scan
            where it is None, is told by its own extreme values, see ``unit_of``. Numbers too small for radians are
            told by their wraps.

    Raises:
        UserError: no such unit, or numbers too small for radians in which no wrap shows what half a turn is.
    """
    largest, smallest = float(phase.max()), float(phase.min())
    if unit is None or not fits(unit, smallest, largest):
        unit = unit_of(smallest, largest)
    if unit == RADIANS:
        return wrap(phase * _small_unit(phase, max(largest, -smallest)))
    low, high = _range(unit)
    if low < 0:
        return wrap(phase * (np.pi / high))
    radians = phase.astype(np.float64) * (TURN / high)
    if high not in FROM_ZERO:
        radians -= np.pi
        background = phase == 0
        if background.mean() > BACKGROUND_SHARE:
            radians[background] = 0
    return wrap(radians)


def _small_unit(phase: np.ndarray, reach: float) -> float:
    """Radians per unit of phase whose values reach ``reach``: 1; where that is too small for radians and the scan is
    wrapped, half a turn divided by it."""
    if reach == 0 or reach >= LEAST_RADIANS:
        return 1.0
    steps = [np.abs(np.diff(phase, axis=axis)) > WRAP * reach for axis in range(phase.ndim)]
    share = max((float(step.mean()) for step in steps if step.size), default=0.0)
    if share < WRAPS:
        raise UserError(
            f"phase between -{reach:.3g} and {reach:.3g} is in no known unit, and no wrap shows what half a turn is",
            remedy="store it in radians, or as the scanner's integers",
        )
    return float(np.pi / reach)


def unit_of(smallest: float, largest: float) -> str:
    """The unit of phase whose extreme values are these.

    Up to 64 in size they are radians. Larger ones reach half a turn (signed) or a whole one (not signed) as long as the
    scan holds air or noise, so the smallest of the scanners' units that holds them is taken.
    """
    if max(largest, -smallest) <= MOST_RADIANS:
        return RADIANS
    if smallest < 0:
        half = _smallest(max(largest, -smallest), HALF_TURNS)
        return f"-{half}..{half}"
    return f"0..{_smallest(largest, WHOLE_TURNS)}"


def fits(unit: str, smallest: float, largest: float) -> bool:
    """Whether a scan with these extreme values can be stored in ``unit``: neither beyond it, nor of another sign, nor
    so far below it that it must have another."""
    own = unit_of(smallest, largest)
    if RADIANS in (unit, own):
        return unit == own or (unit != RADIANS and _range(unit)[1] <= MOST_RADIANS)
    (low, high), (own_low, _) = _range(unit), _range(own)
    reach = max(largest, -smallest)
    return (low < 0) == (own_low < 0) and reach <= high * SLACK and reach * ONE_UNIT >= high


def common_unit(extremes: Sequence[tuple[float, float]]) -> tuple[str | None, str]:
    """The unit in which all scans of a data set are stored.

    A scan whose phase was filtered does not reach half a turn and would be taken for one of a smaller unit; among the
    others it is not.

    Args:
        extremes: smallest and largest value of each scan; scans without this modality, of two zeros, do not count.

    Returns:
        the unit, None where scans differ in it; and a sentence for the plan's notes, or an empty one.
    """
    known = [pair for pair in extremes if pair != (0.0, 0.0)]
    if not known:
        return None, ""
    unit = unit_of(min(low for low, _ in known), max(high for _, high in known))
    if not all(fits(unit, *pair) for pair in known):
        return None, "its scans are stored in different units, so each scan's is told by its own values."
    alone = sum(unit_of(*pair) != unit for pair in known)
    if not alone:
        return unit, ""
    low, high = _range(unit)
    return unit, (
        f"{low:g} to {high:g} is taken for a turn in all {len(known)} scans; {alone} of them do not reach that far."
    )


def wrap(radians: np.ndarray) -> np.ndarray:
    """Angles -> the same angles in (-pi, pi], float32."""
    exact = np.asarray(radians, dtype=np.float64)
    turned = (exact - TURN * np.ceil((exact - np.pi) / TURN)).astype(np.float32)
    # float32's pi is larger than pi, and a rounding below -pi would be on the wrong side of the cut.
    pi = np.float32(np.pi)
    return np.where(turned <= -pi, pi, np.minimum(turned, pi))


def _range(unit: str) -> tuple[float, float]:
    """First and last value of a turn, of a unit that is not ``radians``."""
    try:
        low, high = (float(end) for end in unit.split(".."))
    except ValueError:
        low, high = 0.0, 0.0
    if high <= 0 or low not in (0.0, -high):
        raise UserError(
            f"plan: '{unit}' is no unit of phase", remedy="give for instance radians, -4096..4096 or 0..4096"
        )
    return low, high


def _smallest(largest: float, units: tuple[float, ...]) -> str:
    unit = next((unit for unit in units if largest <= unit * SLACK), largest)
    return repr(unit).removesuffix(".0")
