"""An operating point in a domain that a model was not trained on: carried over, or chosen anew on scans of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from cmb_plugin.dataset import make_splits
from cmb_plugin.evaluation import DEFAULT_OPERATING_POINT, CaseResult, EvaluationConfig, SweepConfig

from .operating_point import OperatingPoint

COMMON = DEFAULT_OPERATING_POINT


def choose_anew(
    cases: Sequence[CaseResult],
    rule: SweepConfig,
    config: EvaluationConfig,
    patients: Mapping[str, str],
    folds: int = 5,
) -> list[CaseResult] | None:
    """The scans as they would be reported had the operating point been chosen on the domain's other patients.

    Each fifth of the patients is reported at the point that the sweep chooses on the other four, so that nothing is
    measured on the scans that it was chosen on.

    Args:
        cases: scans of the domain, with all candidates and the scores that the model gave them.
        rule: what the sweep aims at.
        config: how detections are matched.
        patients: case -> patient.
        folds: parts of the patients; fewer where there are fewer.

    Returns:
        the scans, with scores that are reported from ``COMMON`` on; None where there is one patient only.
    """
    by_name = {case.case_id: case for case in cases}
    if len({patients.get(name, name) for name in by_name}) < 2:
        return None
    reported: list[CaseResult] = []
    lesions = {name: int((~case.possible).sum()) for name, case in by_name.items()}
    for split in make_splits(lesions, patients, folds):
        point = OperatingPoint.choose([by_name[name] for name in split["train"]], rule, config, "anew")
        for name in split["val"]:
            case = by_name[name]
            reported.append(dataclasses.replace(case, detections=point.brought_to(case.detections, COMMON)))
    return reported
