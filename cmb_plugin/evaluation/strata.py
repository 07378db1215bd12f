"""Who is found and who is not: sensitivity by kind of lesion, false positives too by kind of scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from cmb_plugin.detections import DEFAULT_OPERATING_POINT, Detections

from .agreement import auc, count_agreement
from .cases import CaseResult, EvaluationConfig
from .challenge import ValdoCounts, summarise_valdo, valdo_points
from .components import RULE as COMPONENT_RULE
from .matching import match_by_distance

DIAMETERS = (2.0, 3.0, 5.0, 10.0)  # mm; microbleeds are 2 to 10 mm
CNRS = (2.0, 4.0, 8.0)


def match_reported(case: CaseResult, detections: Detections, config: EvaluationConfig) -> np.ndarray:
    """Index of the lesion that each detection finds at the operating point, by centre distance; -1 for none.

    Args:
        case: the scan.
        detections: its detections, in any order.
        config: ``operating_point`` and ``match_mm``.

    Returns:
        [len(detections)].
    """
    score = DEFAULT_OPERATING_POINT if config.operating_point is None else config.operating_point
    matched = np.full(len(detections), -1)
    for label in np.unique(detections.labels):
        ours = np.flatnonzero((detections.labels == label) & (detections.scores >= np.float32(score)))
        theirs = np.flatnonzero(case.truth_labels == label)
        pairs = match_by_distance(
            detections.boxes[ours], case.truth_boxes[theirs], case.spacing, config.match_mm, case.possible[theirs]
        )
        matched[ours[pairs >= 0]] = theirs[pairs[pairs >= 0]]
    return matched


def by_scan_and_lesion(cases: Sequence[CaseResult], config: EvaluationConfig) -> dict[str, Any]:
    """The blocks ``valdo``, ``components``, ``patients``, ``counts`` and ``strata`` of metrics.json."""
    score = DEFAULT_OPERATING_POINT if config.operating_point is None else config.operating_point
    lesions_found, right, reported = [], [], []
    for case in cases:
        matched = match_reported(case, case.detections, config)
        hit = np.zeros(len(case.truth_boxes), dtype=bool)
        hit[matched[matched >= 0]] = True
        lesions_found.append(hit)
        right.append(matched)
        reported.append(case.detections.scores >= np.float32(score))
    n_ignored = [int(case.possible[hit].sum()) for case, hit in zip(cases, lesions_found, strict=True)]
    n_reported = [int(shown.sum()) - n for shown, n in zip(reported, n_ignored, strict=True)]
    n_lesions = [int((~case.possible).sum()) for case in cases]
    false = np.array([int((shown & (m < 0)).sum()) for shown, m in zip(reported, right, strict=True)])
    return {
        "valdo": _valdo(cases, reported),
        "components": _components(cases, config),
        "patients": patient_level(cases),
        "counts": count_agreement(n_reported, n_lesions),
        "strata": {
            "diameter_mm": _lesions(
                cases, lesions_found, lambda case: _binned(diameters(case), DIAMETERS), always=_bins(DIAMETERS)
            ),
            "certainty": _lesions(
                cases,
                lesions_found,
                lambda case: case.certainty and [str(word) for word in case.certainty],
                definite_only=False,
            ),
            "cnr": _lesions(cases, lesions_found, lambda case: None if case.cnr is None else _binned(case.cnr, CNRS)),
            "region": _lesions(cases, lesions_found, lambda case: case.regions),
            "domain": _domains(cases, lesions_found, false),
        },
    }


def diameters(case: CaseResult) -> np.ndarray:
    """[N] geometric mean in mm of the sides of each lesion's box."""
    sides = (case.truth_boxes[:, 3:] - case.truth_boxes[:, :3]) * np.asarray(case.spacing, dtype=float)
    return np.cbrt(np.prod(sides, axis=1))


def patient_level(cases: Sequence[CaseResult]) -> dict[str, Any]:
    """How well the highest score of a patient tells whether there is a definite lesion."""
    # Other programs may write logits: a scan without detections has no more than any that has some.
    lowest = min((float(case.detections.scores.min(initial=0.0)) for case in cases), default=0.0)
    highest: dict[str, float] = {}
    burden: dict[str, tuple[int, int]] = {}
    for case in cases:
        name = case.patient or case.case_id
        highest[name] = max(highest.get(name, lowest), float(case.detections.scores.max(initial=lowest)))
        definite, possible = burden.get(name, (0, 0))
        burden[name] = definite + int((~case.possible).sum()), possible + int(case.possible.sum())
    positive = [highest[name] for name, (definite, _) in burden.items() if definite]
    negative = [highest[name] for name, (definite, possible) in burden.items() if not definite and not possible]
    return {
        "n_patients": len(burden),
        "n_positive": len(positive),
        "n_negative": len(negative),
        "auc": auc(positive, negative),
        "rule": "highest score of all scans, 0 without detections; patients with only possible lesions left out",
    }


def _valdo(cases: Sequence[CaseResult], reported: Sequence[np.ndarray]) -> dict[str, Any]:
    """From masks where every scan was compared by masks, otherwise from boxes. Every lesion counts, possible or not."""
    masks = [case.masks for case in cases if case.masks is not None]
    if cases and len(masks) == len(cases):
        return summarise_valdo([mask.valdo for mask in masks], "components of the masks (6 neighbours)")
    subjects = []
    for case, shown in zip(cases, reported, strict=True):
        scale = np.asarray(case.spacing, dtype=float)
        counts = [
            valdo_points(
                case.detections.centres[shown & (case.detections.labels == label)] * scale,
                case.truth_centres[case.truth_labels == label] * scale,
            )
            for label in np.union1d(case.detections.labels, case.truth_labels)
        ]
        subjects.append(
            ValdoCounts(sum(c.true for c in counts), sum(c.false for c in counts), sum(c.missed for c in counts))
        )
    return summarise_valdo(subjects, "centres of the reported boxes and centroids of the reference lesions, by class")


def _components(cases: Sequence[CaseResult], config: EvaluationConfig) -> dict[str, Any] | None:
    """Null where no masks were compared."""
    counts = [case.masks.overlap for case in cases if case.masks is not None]
    if not counts:
        return None
    reference, hit, predicted, wrong = (
        sum(getattr(one, name) for one in counts) for name in ("reference", "found", "predicted", "false")
    )
    return {
        "rule": COMPONENT_RULE.format(connectivity=config.connectivity),
        "connectivity": config.connectivity,
        "n_scans": len(counts),
        "n_lesions": reference,
        "true_positives": hit,
        "false_positives": wrong,
        "false_negatives": reference - hit,
        "sensitivity": hit / reference if reference else None,
        "precision": (predicted - wrong) / predicted if predicted else None,
        "f1": 2 * hit / (reference + hit + wrong) if reference else None,
        "fp_per_scan": wrong / len(counts),
    }


def _lesions(
    cases: Sequence[CaseResult],
    lesions_found: Sequence[np.ndarray],
    names_of: Callable[[CaseResult], Sequence[str | None] | None],
    definite_only: bool = True,
    always: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Name -> lesions, found, sensitivity at the operating point; None where no scan says, unless ``always``."""
    counts = {name: [0, 0] for name in always}
    known = bool(always)
    for case, hit in zip(cases, lesions_found, strict=True):
        names = names_of(case)
        if names is None:
            continue
        known = True
        for name, seen, possible in zip(names, hit, case.possible, strict=True):
            if definite_only and possible:
                continue
            entry = counts.setdefault(name or "unknown", [0, 0])
            entry[0] += 1
            entry[1] += bool(seen)
    if not known:
        return None
    return {
        name: {"n_lesions": n, "found": hits, "sensitivity": hits / n if n else None}
        for name, (n, hits) in sorted(counts.items(), key=lambda item: _place(item[0]))
    }


def _domains(
    cases: Sequence[CaseResult], lesions_found: Sequence[np.ndarray], false: np.ndarray
) -> dict[str, Any] | None:
    """Protocol or scanner -> scans, lesions, sensitivity and false positives per scan; None where no scan says."""
    names = sorted({case.domain for case in cases if case.domain})
    if not names:
        return None
    blocks = {}
    for name in names:
        rows = [row for row, case in enumerate(cases) if case.domain == name]
        lesions = sum(int((~cases[row].possible).sum()) for row in rows)
        hits = sum(int(lesions_found[row][~cases[row].possible].sum()) for row in rows)
        wrong = int(false[rows].sum())
        blocks[name] = {
            "n_cases": len(rows),
            "n_lesions": lesions,
            "found": hits,
            "sensitivity": hits / lesions if lesions else None,
            "precision": hits / (hits + wrong) if hits + wrong else None,
            "fp_per_scan": wrong / len(rows),
        }
    return blocks


def _binned(values: np.ndarray, edges: Sequence[float]) -> list[str]:
    names = _bins(edges)
    numbers = np.asarray(values, dtype=float)
    return [
        "unknown" if np.isnan(value) else names[place]
        for value, place in zip(numbers, np.digitize(numbers, edges), strict=True)
    ]


def _bins(edges: Sequence[float]) -> list[str]:
    """Names of the half-open bins between ``edges`` and beyond them."""
    return [f"<{edges[0]:g}", *(f"{a:g}-{b:g}" for a, b in pairwise(edges)), f">={edges[-1]:g}"]


def _place(name: str) -> tuple[float, str]:
    """Bins in the order of their numbers, then names in the order of the alphabet."""
    digits = name.removeprefix("<").removeprefix(">=").partition("-")[0]
    try:
        return float(digits) - (0.5 if name.startswith("<") else 0.0), ""
    except ValueError:
        return float("inf"), name
