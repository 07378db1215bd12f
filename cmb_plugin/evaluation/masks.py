"""The comparison of two masks of a scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .cases import EvaluationConfig, MaskCounts
from .challenge import valdo_masks
from .components import match_components


def compare_masks(
    predicted: np.ndarray, reference: np.ndarray, spacing: Sequence[float], connectivity: int | None = None
) -> MaskCounts:
    """Components that overlap, and VALDO's counts.

    Args:
        predicted: [z, y, x] mask of any numbers, or a probability, which is foreground from 0.5 on.
        reference: [z, y, x] mask of any numbers.
        spacing: mm along z, y, x.
        connectivity: of the components that overlap; None takes the default of ``EvaluationConfig``. VALDO's are 6.
    """
    inside, lesions = np.asarray(predicted) >= 0.5, np.asarray(reference) > 0
    neighbours = EvaluationConfig.connectivity if connectivity is None else connectivity
    return MaskCounts(match_components(inside, lesions, neighbours), valdo_masks(inside, lesions, spacing))
