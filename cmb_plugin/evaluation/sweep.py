"""The sweep: the score and the threshold from which on a detection is reported, chosen on validation scans."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cmb_plugin.detections import DEFAULT_OPERATING_POINT
from cmb_plugin.errors import UserError
from cmb_plugin.plugins import suggest

from .cases import CaseResult, EvaluationConfig
from .froc import Curve, froc_curve, sensitivity_at
from .matching import optimal_status
from .metrics import at_score
from .pool import pool_cases

RULES = {"fp_per_scan": 1.0, "sensitivity": 0.9, "f1": None}  # rule -> its default target
RATES = (0.25, 0.5, 1.0, 2.0)  # false positives per scan for which a sweep keeps an operating point beside its choice
POSSIBLE_FP = 1.0  # further false positives per scan at which a detection still counts as possible


@dataclass
class SweepConfig:
    """How the operating point is chosen (``-o sweep_cfg.rule=f1``).

    Attributes:
        rule: ``fp_per_scan``: as many lesions as can be found with at most ``target`` false positives per scan;
            ``sensitivity``: as few detections as find the share ``target`` of the lesions; ``f1``: the highest F1.
            Where there are several classes it is applied to each.
        target: what the rule aims at; None means 1 false positive per scan, or a sensitivity of 0.9.
        ranking: score that the detections are ranked by, where a model gives several (a column ``score_*``); None takes
            the one with the highest FROC score on validation.
    """

    rule: str = "fp_per_scan"
    target: float | None = None
    ranking: str | None = None


@dataclass(frozen=True)
class RatePoint:
    """The operating point for one rate of false positives, and how it did on the scans that it was chosen on.

    Attributes:
        target: false positives per scan that are allowed.
        score, possible_score, class_scores: as in ``SweepResult``.
        sensitivity, fp_per_scan: what was reached; None without lesions, or without scans.
    """

    target: float
    score: float
    possible_score: float | None = None
    class_scores: dict[int, float] = field(default_factory=dict)
    sensitivity: float | None = None
    fp_per_scan: float | None = None


@dataclass(frozen=True)
class SweepResult:
    """What a sweep chose, and how it did on the scans that it was chosen on.

    ``ranking`` names the score where the model gives several; ``froc_scores`` holds the FROC score of each of them.
    From ``possible_score`` on a detection that is not reported counts as possible (MARS): the lowest score with at most
    ``POSSIBLE_FP`` more false positives per scan; None where nothing could be chosen. ``class_scores`` holds, where the
    scans have lesions of several classes, the threshold of each class that could be chosen; ``score`` is then the first
    of them, and serves all after ``Detections.with_thresholds``. ``rates`` holds the operating points for ``RATES``, of
    those at which anything is found.

    Those numbers are better than what new scans will show, the more so the fewer the scans.
    """

    score: float
    rule: str
    target: float | None
    why: str
    match_mm: float
    n_cases: int
    n_lesions: int
    sensitivity: float | None
    precision: float | None
    f1: float | None
    fp_per_scan: float | None
    ranking: str | None = None
    froc_scores: dict[str, float | None] = field(default_factory=dict)
    possible_score: float | None = None
    class_scores: dict[int, float] = field(default_factory=dict)
    rates: tuple[RatePoint, ...] = ()


@dataclass(frozen=True)
class _Chosen:
    """A threshold, why it was chosen, and the curve that it stands on; None where there is nothing to choose by."""

    score: float | None
    why: str
    class_scores: dict[int, float]
    curve: Curve


@dataclass(frozen=True)
class _RankedScans:
    """Scans ranked by one score, with their curve and, where they have lesions of several classes, that of each."""

    cases: list[CaseResult]
    config: EvaluationConfig
    curve: Curve
    of_classes: dict[int, Curve]

    @classmethod
    def of(cls, cases: list[CaseResult], config: EvaluationConfig) -> _RankedScans:
        """Matches them once, for every rule and rate."""
        labels = sorted({int(label) for case in cases for label in case.truth_labels})
        several = labels if len(labels) > 1 else []
        classes = {label: _curve([case.of_class(label) for case in cases], config) for label in several}
        return cls(cases, config, _curve(cases, config), classes)

    def choose(self, rule: str, target: float | None) -> _Chosen:
        """The threshold by a rule, where there are several classes one for each for which there is something to choose
        by; ``score`` is then the first of them."""
        own = {label: _choose(curve, rule, target) for label, curve in self.of_classes.items()}
        class_scores = {label: score for label, (score, _) in own.items() if score is not None}
        if not class_scores:
            return _Chosen(*_choose(self.curve, rule, target), {}, self.curve)
        first, score = next(iter(class_scores.items()))
        stretched = [
            dataclasses.replace(case, detections=case.detections.with_thresholds(class_scores, score))
            for case in self.cases
        ]
        return _Chosen(score, own[first][1], class_scores, _curve(stretched, self.config))

    def rate_points(self) -> Iterator[RatePoint]:
        """The operating points for ``RATES``, of those at which anything is found."""
        for rate in RATES:
            chosen = self.choose("fp_per_scan", rate)
            if chosen.score is not None:
                reached: dict[str, Any] = at_score(chosen.curve, chosen.score)
                own = {key: reached[key] for key in ("sensitivity", "fp_per_scan")}
                yield RatePoint(rate, chosen.score, _possible(chosen.curve, chosen.score), chosen.class_scores, **own)


def find_operating_point(
    cases: Sequence[CaseResult], sweep: SweepConfig | None = None, config: EvaluationConfig | None = None
) -> SweepResult:
    """Chooses the score and its threshold on validation scans, matching by centre distance.

    Lesions of several classes have a threshold each, because one kind is told from its mimics more easily than another:
    with one threshold for all, what the harder kind lets through would cost the easier one its lesions.

    No detection is ever dropped for its size. The threshold is set between scores, as far from the neighbours as the
    rule allows: a threshold at the score of a found lesion would lose the next one that scores a hair less.

    Raises:
        UserError: an unknown rule or an impossible target.
    """
    sweep, config = sweep or SweepConfig(), config or EvaluationConfig()
    target = _target(sweep)
    ranking, froc_scores = _choose_ranking(cases, sweep.ranking, config)
    scans = _RankedScans.of(_ranked(cases, ranking), config)
    chosen = scans.choose(sweep.rule, target)
    curve = chosen.curve
    score, why = _instead(curve, chosen.why) if chosen.score is None else (chosen.score, chosen.why)
    reached: dict[str, Any] = at_score(curve, score)
    return SweepResult(
        score=score,
        rule=sweep.rule,
        target=target,
        why=why,
        match_mm=config.match_mm,
        n_cases=curve.n_cases,
        n_lesions=curve.n_lesions,
        **{key: reached[key] for key in ("sensitivity", "precision", "f1", "fp_per_scan")},
        ranking=ranking,
        froc_scores=froc_scores,
        possible_score=_possible(curve, score),
        class_scores=chosen.class_scores,
        rates=tuple(scans.rate_points()),
    )


def _ranked(cases: Sequence[CaseResult], ranking: str | None) -> list[CaseResult]:
    return [dataclasses.replace(case, detections=case.detections.ranked_by(ranking)) for case in cases]


def _curve(cases: Sequence[CaseResult], config: EvaluationConfig) -> Curve:
    pool = pool_cases(cases, config)
    status = optimal_status(pool.near, len(pool.scores), pool.possible)
    return froc_curve(pool.scores, status, int((~pool.possible).sum()), pool.n_cases)


def _choose_ranking(
    cases: Sequence[CaseResult], asked_for: str | None, config: EvaluationConfig
) -> tuple[str | None, dict[str, float | None]]:
    """The score to rank by, and the FROC score of each that the model gives; of equal ones the first counts."""
    filled = [case.detections for case in cases if len(case.detections)]
    known = [name for name in (filled[0].rankings if filled else []) if all(name in d.columns for d in filled)]
    if asked_for is not None and asked_for not in known:
        remedy = suggest(asked_for, known) if known else "leave sweep_cfg.ranking out: the model gives one score only"
        raise UserError(f"sweep_cfg.ranking: the detections have no score '{asked_for}'", remedy=remedy)
    quality = {}
    for name in known:
        rates = [r for r in sensitivity_at(_curve(_ranked(cases, name), config), config.fp_rates) if r is not None]
        quality[name] = float(np.mean(rates)) if rates else None
    if asked_for is not None or not known:
        return asked_for, quality
    return max(known, key=lambda name: quality[name] or 0.0), quality


def _target(sweep: SweepConfig) -> float | None:
    if sweep.rule not in RULES:
        raise UserError(f"sweep_cfg.rule: unknown rule '{sweep.rule}'", remedy=suggest(sweep.rule, RULES))
    target = RULES[sweep.rule] if sweep.target is None else sweep.target
    if sweep.rule == "fp_per_scan" and target is not None and target < 0:
        raise UserError(f"sweep_cfg.target: {target:g} false positives per scan", remedy="give 0 or more")
    if sweep.rule == "sensitivity" and target is not None and not 0 < target <= 1:
        raise UserError(f"sweep_cfg.target: a sensitivity of {target:g}", remedy="give more than 0 and at most 1")
    return target


def _choose(curve: Curve, rule: str, target: float | None) -> tuple[float | None, str]:
    """The threshold, None where there is nothing to choose by, and words that say why."""
    if not curve.n_lesions:
        return None, "the validation scans hold no lesion to choose by"
    if not curve.true.any():
        return None, "no lesion of the validation scans was found"
    last = len(curve.thresholds) - 1
    if rule == "fp_per_scan":
        assert target is not None
        # One false positive more than was seen is allowed for: with few scans the best-looking threshold is the one
        # that was lucky (benchmarks/accuracy/operating_point.py). With many scans it makes no difference.
        allowed = np.flatnonzero(curve.false <= max(target * curve.n_cases - 1, 0))
        if not len(allowed) or not curve.true[allowed[-1]]:
            return None, f"no lesion is found within {target:g} FP per scan"
        last = int(allowed[-1])
        first = int(np.argmax(curve.true[: last + 1]))
        why = f"most lesions found at no more than {target:g} FP per scan; middle of the range that does so"
    elif rule == "sensitivity":
        assert target is not None
        enough = np.flatnonzero(curve.true >= target * curve.n_lesions - 1e-9)
        first = last = int(enough[0]) if len(enough) else int(np.argmax(curve.true))
        why = f"highest threshold with a sensitivity of at least {target:g}"
        if not len(enough):
            why = f"a sensitivity of {target:g} is not reached; highest threshold with the highest sensitivity"
    else:
        first = last = int(np.argmax(curve.true / (curve.n_lesions + curve.true + curve.false)))
        why = "highest F1"
    return _between(curve.thresholds, first, last), why


def _instead(curve: Curve, why: str) -> tuple[float, str]:
    """The threshold where none could be chosen, and why: the default, but of a network that is sure of everything the
    highest at which it finds any lesion, since the default would report everything."""
    if curve.true.any():
        first = int(np.argmax(curve.true > 0))
        strictest = _between(curve.thresholds, first, first)
        if strictest > DEFAULT_OPERATING_POINT:
            return strictest, f"{why}; fewest with which any is found"
    return DEFAULT_OPERATING_POINT, f"default: {why}"


def _possible(curve: Curve, score: float) -> float | None:
    """The lowest threshold with at most ``POSSIBLE_FP`` false positives per scan more than ``score`` has."""
    if not curve.true.any():
        return None
    allowed = np.flatnonzero(curve.false <= curve.counts_at(score)[1] + POSSIBLE_FP * curve.n_cases)
    return min(score, _between(curve.thresholds, allowed[-1], allowed[-1])) if len(allowed) else score


def _between(thresholds: np.ndarray, first: int, last: int) -> float:
    """The middle of the range of thresholds that report everything up to ``first`` and nothing beyond ``last``."""
    upper = thresholds[first]
    lower = thresholds[last + 1] if last + 1 < len(thresholds) else thresholds.dtype.type(0)
    middle = round((float(upper) + float(lower)) / 2, 6)  # files of predictions have 6 decimals too
    return middle if lower < thresholds.dtype.type(middle) <= upper else float(upper)
