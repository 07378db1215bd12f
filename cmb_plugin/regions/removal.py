"""Rules for impossible places, chosen on validation scans that ``nndet_predict --test_split --regions`` has placed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmb_plugin.anatomy import locate
from cmb_plugin.anatomy.rules import RemovalRules, choose_rules, source_kind
from cmb_plugin.anatomy.storage import load_map
from cmb_plugin.detections import Detections
from cmb_plugin.evaluation import CaseResult, EvaluationConfig, pair_distance

from .restoration import maps_folder


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
    placed: dict[str, list[tuple[CaseResult, Detections]]] = {}
    for case in cases:
        regions = load_map(maps_folder(predictions), case.case_id)
        if regions is not None and regions.trusted:
            boxes = lesion_boxes(case, config)
            located = locate(Detections(boxes, np.ones(len(boxes)), np.zeros(len(boxes))), regions)
            placed.setdefault(source_kind(regions.source), []).append((case, located))
    if not placed:
        return None
    kind = max(placed, key=lambda name: len(placed[name]))  # maps of two kinds err in two ways
    count = sum(len(case.truth_boxes) for case, _ in placed[kind])
    return choose_rules([located for _, located in placed[kind]], kind, count)


def lesion_boxes(case: CaseResult, config: EvaluationConfig) -> np.ndarray:
    """[M, 6] where the lesions of a scan lie: their own boxes, and of each the best detection that is close enough."""
    boxes = case.truth_boxes
    if not len(boxes) or not len(case.detections):
        return boxes
    distance = pair_distance(case.detections.boxes, boxes, case.spacing)
    near = (distance <= config.match_mm) & (case.detections.labels[:, None] == case.truth_labels[None])
    best = np.where(near, case.detections.scores[:, None], -1).argmax(axis=0)[near.any(axis=0)]
    return np.concatenate([boxes, case.detections.boxes[best]])
