"""Detections and lesions in, numbers out. Knows numpy and scipy; no torch, no figures."""

from cmb_plugin.detections import DEFAULT_OPERATING_POINT

from .agreement import auc, bland_altman, count_agreement, icc, kappa
from .bootstrap import Bootstrap, Estimate, SubjectCounts, bootstrap, subject_counts
from .cases import CaseResult, EvaluationConfig, MaskCounts
from .challenge import ValdoCounts, summarise_valdo, valdo_masks, valdo_pairs, valdo_points
from .components import ComponentCounts, match_components
from .dice import dice_intervals, dice_scores, mean_dice
from .froc import Curve, fp_at_sensitivity, froc_curve, sensitivity_at
from .intervals import headline_intervals
from .matching import match_by_distance, match_by_iou, pair_distance, pair_inside, pair_iou
from .metrics import measure, nndetection_results
from .mimics import false_positive_kinds, mimic_distances, mimic_kinds
from .precision import average_precision
from .sweep import SweepConfig, SweepResult, find_operating_point

__all__ = [
    "DEFAULT_OPERATING_POINT",
    "Bootstrap",
    "CaseResult",
    "ComponentCounts",
    "Curve",
    "Estimate",
    "EvaluationConfig",
    "MaskCounts",
    "SubjectCounts",
    "SweepConfig",
    "SweepResult",
    "ValdoCounts",
    "auc",
    "average_precision",
    "bland_altman",
    "bootstrap",
    "count_agreement",
    "dice_intervals",
    "dice_scores",
    "false_positive_kinds",
    "find_operating_point",
    "fp_at_sensitivity",
    "froc_curve",
    "headline_intervals",
    "icc",
    "kappa",
    "match_by_distance",
    "match_by_iou",
    "match_components",
    "mean_dice",
    "measure",
    "mimic_distances",
    "mimic_kinds",
    "nndetection_results",
    "pair_distance",
    "pair_inside",
    "pair_iou",
    "sensitivity_at",
    "subject_counts",
    "summarise_valdo",
    "valdo_masks",
    "valdo_pairs",
    "valdo_points",
]
