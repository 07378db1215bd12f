"""Detections in, numbers and figures out. Knows numpy, scipy and matplotlib; no torch."""

from .bootstrap import Bootstrap, Estimate, SubjectCounts, bootstrap, subject_counts
from .cases import DEFAULT_OPERATING_POINT, CaseResult, EvaluationConfig
from .froc import Curve, fp_at_sensitivity, froc_curve, sensitivity_at
from .matching import match_by_distance, match_by_iou, pair_distance, pair_iou
from .metrics import evaluate
from .mimics import false_positive_kinds, mimic_distances, mimic_kinds
from .operating import OperatingPoint, SweepConfig, find_operating_point
from .precision import average_precision

__all__ = [
    "DEFAULT_OPERATING_POINT",
    "Bootstrap",
    "CaseResult",
    "Curve",
    "Estimate",
    "EvaluationConfig",
    "OperatingPoint",
    "SubjectCounts",
    "SweepConfig",
    "average_precision",
    "bootstrap",
    "evaluate",
    "false_positive_kinds",
    "find_operating_point",
    "fp_at_sensitivity",
    "froc_curve",
    "match_by_distance",
    "match_by_iou",
    "mimic_distances",
    "mimic_kinds",
    "pair_distance",
    "pair_iou",
    "sensitivity_at",
    "subject_counts",
]
