"""Rules for impossible places, chosen on validation scans that ``nndet_predict --test_split --regions`` has placed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmb_plugin.anatomy import RegionMap, locate
from cmb_plugin.anatomy.rules import RemovalRules, choose_rules, source_kind
from cmb_plugin.anatomy.storage import load_map
from cmb_plugin.detections import Detections
from cmb_plugin.evaluation import CaseResult, EvaluationConfig, pair_distance

from .regions import maps_folder


def choose_removal(
    cases: Sequence[CaseResult], predictions: Path, config: EvaluationConfig | None = None
) -> RemovalRules | None:
    """The narrowest rules that remove no true lesion of the scans; None where no scan has a map of its regions.

    Args:
        cases: scans with all their candidates, those that rules removed before included.
        predictions: their folder, with the maps beside it.
        config: ``match_mm``.
    """
    config = config or EvaluationConfig()
    lesions: dict[str, list[Detections]] = {}
    for case in cases:
        regions = load_map(maps_folder(predictions), case.case_id)
        if regions is not None and regions.trusted:
            lesions.setdefault(source_kind(regions.source), []).append(true_lesions(case, regions, config))
    if not lesions:
        return None
    kind = max(lesions, key=lambda name: len(lesions[name]))  # maps of two kinds err in two ways
    return choose_rules(lesions[kind], kind)


def true_lesions(case: CaseResult, regions: RegionMap, config: EvaluationConfig) -> Detections:
    """The lesions of a scan, located: their own boxes, and of each the best detection that is close enough to be it."""
    boxes = case.truth_boxes
    if len(boxes) and len(case.detections):
        distance = pair_distance(case.detections.boxes, boxes, case.spacing)
        near = (distance <= config.match_mm) & (case.detections.labels[:, None] == case.truth_labels[None])
        best = np.where(near, case.detections.scores[:, None], -1).argmax(axis=0)[near.any(axis=0)]
        boxes = np.concatenate([boxes, case.detections.boxes[best]])
    return locate(Detections(boxes, np.ones(len(boxes)), np.zeros(len(boxes))), regions)
