"""``Evidence``: what a model says about scans that nobody has labelled, all that a strategy looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmb_plugin.dataset import CasePredictions
from cmb_plugin.detections import Detections
from cmb_plugin.evaluation import CaseResult, EvaluationConfig
from cmb_plugin.evaluation.matching import FALSE, TRUE, optimal_status
from cmb_plugin.evaluation.pool import pool_cases
from cmb_plugin.images import Grid

FLOOR = 1e-6  # scores are kept so far from 0 and 1 that their logits are finite


@dataclass(frozen=True)
class Calibration:
    """How often a detection of a score is a lesion: a rising step function that was fitted on labelled scans.

    Attributes:
        scores: [K] ascending.
        probabilities: [K] at these, ascending; between them linear, beyond them level.
    """

    scores: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def fit(cls, cases: Sequence[CaseResult], match_mm: float = EvaluationConfig.match_mm) -> Calibration | None:
        """Isotonic regression (Zadrozny & Elkan 2002) of right and wrong detections on their scores.

        Args:
            cases: labelled scans with what a model detected in them that was not trained on them.
            match_mm: largest distance of a detection's centre from its lesion's.

        Returns:
            None where there is no right or no wrong detection to learn from.
        """
        from sklearn.isotonic import IsotonicRegression

        pool = pool_cases(cases, EvaluationConfig(match_mm=match_mm))
        status = optimal_status(pool.near, len(pool.scores), pool.possible)
        right, wrong = status == TRUE, status == FALSE
        if not right.any() or not wrong.any():
            return None
        used = right | wrong
        curve = IsotonicRegression(y_min=0.0, y_max=1.0).fit(pool.scores[used].astype(float), right[used].astype(float))
        return cls(np.asarray(curve.X_thresholds_, dtype=float), np.asarray(curve.y_thresholds_, dtype=float))

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """[N] scores -> [N] probabilities."""
        probabilities: np.ndarray = np.interp(np.asarray(scores, dtype=float), self.scores, self.probabilities)
        return probabilities


@dataclass(frozen=True)
class ScanEvidence:
    """One scan as a model sees it.

    Attributes:
        predictions: of all folds together.
        members: predictions of the members of a committee, each alone; empty where no strategy asked for them.
        domain: site, scanner or protocol; empty where nobody says.
    """

    predictions: CasePredictions
    members: tuple[CasePredictions, ...] = ()
    domain: str = ""

    @property
    def case_id(self) -> str:
        """Name of the scan."""
        return self.predictions.case_id


@dataclass(frozen=True)
class Evidence:
    """Everything that a strategy may look at.

    Attributes:
        scans: those to choose from.
        labelled: those that are labelled already; empty where no strategy asked for them.
        calibration: of the model's scores; None where there is nothing to learn it from.
    """

    scans: tuple[ScanEvidence, ...]
    labelled: tuple[ScanEvidence, ...] = ()
    calibration: Calibration | None = None

    def probabilities(self, predictions: CasePredictions) -> np.ndarray:
        """[N] how likely each detection of a scan, removed ones left out, is a lesion: by the calibration, or else by
        ``around_operating_point``."""
        scores = predictions.kept.scores
        if self.calibration is not None:
            return self.calibration(scores)
        return around_operating_point(scores, predictions.operating_point)


def unseen(case_id: str) -> ScanEvidence:
    """A scan of which no strategy asked what a model says."""
    grid = Grid((1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    return ScanEvidence(CasePredictions(case_id, Detections.empty(), grid, (), 0.5))


def around_operating_point(scores: np.ndarray, operating_point: float) -> np.ndarray:
    """Scores moved so that the operating point lies at 1/2: sigmoid(logit(s) - logit(t)).

    Args:
        scores: [N], 0..1.
        operating_point: t.

    Returns:
        float64 [N].
    """
    scores = np.clip(np.asarray(scores, dtype=float), FLOOR, 1 - FLOOR)
    point = min(max(operating_point, FLOOR), 1 - FLOOR)
    odds = scores / (1 - scores) * (1 - point) / point
    moved: np.ndarray = odds / (1 + odds)
    return moved


def centres_mm(detections: Detections, spacing: Sequence[float]) -> np.ndarray:
    """float64 [N, 3] centres in mm along the scan's own axes."""
    return detections.centres.astype(float) * np.asarray(spacing, dtype=float)
