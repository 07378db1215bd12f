"""Phase images: units that scanners use, and the circle on which phase lives."""

from __future__ import annotations

import numpy as np

TURN = 2 * np.pi
MOST_RADIANS = 64.0  # larger numbers are no radians, not even unwrapped over ten turns
SLACK = 1.002  # rounding of stored values, and the one number that a scanner leaves out
BACKGROUND_SHARE = 0.1  # so many zeros are a masked background, not phases

# What stands for half a turn where phase is signed, and for a whole one where it is not: degrees, 12 bits,
# milliradians, 13 and 16 bits. The smallest that holds the largest value is taken.
HALF_TURNS = (180.0, 2048.0, 1000 * np.pi, 4096.0, 8192.0, 32768.0)
WHOLE_TURNS = (360.0, 4096.0, 2000 * np.pi, 8192.0, 16384.0, 65536.0)


def to_radians(phase: np.ndarray) -> np.ndarray:
    """Phase in any unit a scanner writes -> float32 radians in (-pi, pi].

    Up to 64 in size they are radians already, wrapped or not. Larger ones are told by their extreme values, which a
    scan reaches as long as it holds air or noise: signed ones run to half a turn (-4096..4095, -2048..2047,
    milliradians, degrees), others to a whole turn, beginning at -pi where their unit is bits (0..4095: 2048 is no
    phase) and at 0 otherwise. Zeros around a masked brain stay 0.

    Args:
        phase: finite values.
    """
    largest, smallest = float(phase.max()), float(phase.min())
    if max(largest, -smallest) <= MOST_RADIANS:
        return wrap(phase)
    if smallest < 0:
        half = _unit(max(largest, -smallest), HALF_TURNS)
        return wrap(phase * (np.pi / half))
    whole = _unit(largest, WHOLE_TURNS)
    radians = phase.astype(np.float64) * (TURN / whole)
    if whole not in (WHOLE_TURNS[0], WHOLE_TURNS[2]):
        radians -= np.pi
        background = phase == 0
        if background.mean() > BACKGROUND_SHARE:
            radians[background] = 0
    return wrap(radians)


def wrap(radians: np.ndarray) -> np.ndarray:
    """Angles -> the same angles in (-pi, pi], float32."""
    exact = np.asarray(radians, dtype=np.float64)
    turned = (exact - TURN * np.ceil((exact - np.pi) / TURN)).astype(np.float32)
    # float32's pi is larger than pi, and a rounding below -pi would be on the wrong side of the cut.
    pi = np.float32(np.pi)
    return np.where(turned <= -pi, pi, np.minimum(turned, pi))


def _unit(largest: float, units: tuple[float, ...]) -> float:
    return next((unit for unit in units if largest <= unit * SLACK), largest)
