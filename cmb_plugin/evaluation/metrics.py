"""``measure``: detections and lesions in, the content of ``metrics.json`` out (keys: docs/evaluation.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmb_plugin.detections import DEFAULT_OPERATING_POINT

from .cases import CaseResult, EvaluationConfig
from .froc import Curve, fp_at_sensitivity, froc_curve, sensitivity_at, thin
from .matching import FALSE, greedy_status, optimal_status
from .mimics import false_positive_kinds
from .pool import Pool, pool_cases
from .precision import average_precision
from .strata import by_scan_and_lesion

SCHEMA = 1
MAP_IOUS = np.linspace(0.1, 0.5, 9)  # nnDetection's range
HEADLINE = (
    *("sensitivity", "precision", "f1", "fp_per_scan", "sensitivity_all"),
    *("froc", "froc_score", "fp_at_sensitivity"),
)

DISTANCE_RULE = (
    "box centres at most {mm:g} mm apart, one-to-one, within a class; of all such matchings the one with most pairs, "
    "then the smallest sum of distances (optimal assignment); further detections of a lesion are false positives"
)
IOU_RULE = (
    "IoU of the boxes at least {iou:g}, within a class; detections choose in descending score, each takes the free "
    "lesion of highest IoU (greedy, as COCO and nnDetection); further detections of a lesion are false positives"
)
INSIDE_RULE = (
    "the centre of the detection's box lies in the lesion's box, one-to-one, within a class; of all such matchings the "
    "one with most pairs; further detections of a lesion are false positives"
)
POSSIBLE_RULE = (
    "lesions marked possible: neither a miss when not found nor right or wrong when found; sensitivity_all counts them"
)


def measure(
    cases: Sequence[CaseResult], classes: Sequence[str], config: EvaluationConfig | None = None
) -> dict[str, Any]:
    """Measures detections against reference lesions.

    Args:
        cases: every scan, those without lesions or detections included.
        classes: class names by index, at least one.
        config: matching rules and operating point.

    Returns:
        plain data for JSON; what is undefined is None. The keys are described in docs/evaluation.md; those of the
        headline (``sensitivity``, ``precision``, ``f1``, ``fp_per_scan``, ``froc``, ``froc_score``,
        ``fp_at_sensitivity``) are matching by distance over all classes.
    """
    config = config or EvaluationConfig()
    score = DEFAULT_OPERATING_POINT if config.operating_point is None else config.operating_point
    pool = pool_cases(cases, config)
    distance = optimal_status(pool.near, len(pool.scores), pool.possible)
    inside = optimal_status(pool.inside, len(pool.scores), pool.possible)
    ious = np.union1d(config.iou, MAP_IOUS[config.iou <= MAP_IOUS])
    by_iou = {float(iou): greedy_status(pool.overlapping, len(pool.scores), pool.possible, float(iou)) for iou in ious}

    per_class = {}
    for index, name in enumerate(classes):
        of_class = _Selection(pool, index)
        per_class[name] = {
            "distance": _precision_block(of_class, distance, score, config, f"distance_{config.match_mm:g}mm"),
            "iou": _iou_block(of_class, by_iou, score, config),
            "centre_inside": _precision_block(of_class, inside, score, config, "centre_inside"),
        }
    everything = _Selection(pool, None)
    overall = {
        "distance": _block(everything, distance, score, config),
        "iou": _block(everything, by_iou[float(config.iou)], score, config),
        "centre_inside": _block(everything, inside, score, config),
    }
    for matching, block in overall.items():  # average precision is the mean over the classes that are there (COCO)
        blocks_of_classes = [blocks[matching] for blocks in per_class.values()]
        for key in (key for key in blocks_of_classes[0] if "AP_" in key):
            block[key] = _mean([of_class[key] for of_class in blocks_of_classes])
    return {
        "schema": SCHEMA,
        "n_cases": pool.n_cases,
        "n_healthy": int(pool.healthy.sum()),
        "n_lesions": int((~pool.possible).sum()),
        "n_possible": int(pool.possible.sum()),
        "operating_point": {"score": float(score)},
        "matching": {
            "match_mm": float(config.match_mm),
            "iou": float(config.iou),
            "max_detections": config.max_detections,
            "distance_rule": DISTANCE_RULE.format(mm=config.match_mm),
            "iou_rule": IOU_RULE.format(iou=config.iou),
            "centre_inside_rule": INSIDE_RULE,
            "possible_rule": POSSIBLE_RULE,
        },
        **{key: overall["distance"][key] for key in HEADLINE},
        "healthy": {"n_cases": int(pool.healthy.sum()), "fp_per_scan": _healthy_false(pool, distance, score)},
        "false_positive_kinds": _kinds(cases, config),
        **by_scan_and_lesion(cases, config),
        "overall": overall,
        "per_class": per_class,
    }


def nndetection_results(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of ``results_boxes.json`` under nnDetection's names, of IoU matching.

    Args:
        metrics: from ``measure``.

    Returns:
        ``AP_IoU_0.10_MaxDet_100``, ``mAP_IoU_0.10_0.50_0.05_MaxDet_100``, ``FROC_score_IoU_0.10`` and the same for each
        class with its name before them. What is undefined is None, where nnDetection writes -1 or NaN.
    """
    iou, most = f"{metrics['matching']['iou']:.2f}", f"_MaxDet_{metrics['matching']['max_detections']}"
    blocks = {"": metrics["overall"]["iou"], **{f"{name}_": own["iou"] for name, own in metrics["per_class"].items()}}
    results: dict[str, float | None] = {}
    for prefix, block in blocks.items():
        precisions = {key: value for key, value in block.items() if "AP_IoU" in key}
        results |= {f"{prefix}{key.removesuffix(most)}{most}": value for key, value in precisions.items()}
        results[f"{prefix}FROC_score_IoU_{iou}"] = block["froc_score"]
    return results


@dataclass(frozen=True)
class _Selection:
    """The detections and lesions of one class, or of all."""

    pool: Pool
    label: int | None

    @property
    def detections(self) -> np.ndarray | slice:
        """[D] True for the detections of the class; everything for all classes."""
        return slice(None) if self.label is None else self.pool.labels == self.label

    @property
    def possible(self) -> np.ndarray:
        """[M] True for the lesions of the class that experts only held for possible."""
        chosen = slice(None) if self.label is None else self.pool.lesion_labels == self.label
        return self.pool.possible[chosen]

    def curve(self, status: np.ndarray, within: np.ndarray | None = None) -> Curve:
        """``within``: [D] True for the detections that are looked at."""
        chosen = self.detections
        scores, status = self.pool.scores[chosen], status[chosen]
        if within is not None:
            scores, status = scores[within[chosen]], status[within[chosen]]
        return froc_curve(scores, status, int((~self.possible).sum()), self.pool.n_cases)


def _block(selection: _Selection, status: np.ndarray, score: float, config: EvaluationConfig) -> dict[str, Any]:
    """The numbers of one matching and one class."""
    curve = selection.curve(status)
    numbers = at_score(curve, score)
    reported = int((selection.pool.scores[selection.detections] >= np.float32(score)).sum())
    ignored = reported - numbers["true_positives"] - numbers["false_positives"]
    n_possible = int(selection.possible.sum())
    rates = sensitivity_at(curve, config.fp_rates)
    kept = thin(curve)
    return {
        "n_lesions": curve.n_lesions,
        "n_possible": n_possible,
        "n_reported": reported,
        **numbers,
        "ignored": ignored,
        "sensitivity_possible": _ratio(ignored, n_possible),
        "sensitivity_all": _ratio(numbers["true_positives"] + ignored, curve.n_lesions + n_possible),
        "froc": {f"{rate:g}": value for rate, value in zip(config.fp_rates, rates, strict=True)},
        "froc_score": _mean(rates),
        "fp_at_sensitivity": {f"{share:g}": fp_at_sensitivity(curve, share) for share in config.sensitivities},
        "curve": {
            "score": [float(value) for value in kept.thresholds],
            "fp_per_scan": [_ratio(int(value), curve.n_cases) for value in kept.false],
            "sensitivity": [_ratio(int(value), curve.n_lesions) for value in kept.true],
        },
    }


def _precision_block(
    selection: _Selection, status: np.ndarray, score: float, config: EvaluationConfig, name: str
) -> dict[str, Any]:
    """The numbers of one matching, and its average precision under ``AP_{name}``."""
    within = selection.pool.rank < config.max_detections
    precision = average_precision(selection.curve(status, within))
    return {**_block(selection, status, score, config), f"AP_{name}": precision}


def _iou_block(
    selection: _Selection, by_iou: dict[float, np.ndarray], score: float, config: EvaluationConfig
) -> dict[str, Any]:
    within = selection.pool.rank < config.max_detections
    block = _block(selection, by_iou[float(config.iou)], score, config)
    precision = {iou: average_precision(selection.curve(status, within)) for iou, status in by_iou.items()}
    block[f"AP_IoU_{config.iou:.2f}"] = precision[float(config.iou)]
    if config.iou <= MAP_IOUS[0]:
        block[f"mAP_IoU_0.10_0.50_0.05_MaxDet_{config.max_detections}"] = _mean(
            [precision[float(iou)] for iou in MAP_IOUS]
        )
    return block


def at_score(curve: Curve, score: float) -> dict[str, Any]:
    """Counts, sensitivity, precision, F1 and false positives per scan when detections from ``score`` on are reported.

    F1 and sensitivity are None without lesions, precision without detections that count, ``fp_per_scan`` without scans.
    """
    true, false = curve.counts_at(score)
    return {
        "true_positives": true,
        "false_positives": false,
        "false_negatives": curve.n_lesions - true,
        "sensitivity": _ratio(true, curve.n_lesions),
        "precision": _ratio(true, true + false),
        "f1": _ratio(2 * true, curve.n_lesions + true + false) if curve.n_lesions else None,
        "fp_per_scan": _ratio(false, curve.n_cases),
    }


def _healthy_false(pool: Pool, status: np.ndarray, score: float) -> float | None:
    wrong = (status == FALSE) & (pool.scores >= np.float32(score)) & pool.healthy[pool.case]
    return _ratio(int(wrong.sum()), int(pool.healthy.sum()))


def _kinds(cases: Sequence[CaseResult], config: EvaluationConfig) -> dict[str, Any] | None:
    """False positives per scan by what they lie on, over the scans whose mimics are listed; None without any."""
    listed = [case for case in cases if case.mimics is not None]
    if not listed:
        return None
    counts = false_positive_kinds(listed, config)
    return {
        "mimic_mm": float(config.mimic_mm),
        "n_cases": len(listed),
        "per_scan": {kind: float(values.mean()) for kind, values in counts.items()},
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean of those that are defined; None when none is."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
