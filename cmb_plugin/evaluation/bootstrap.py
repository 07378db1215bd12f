"""How sure the numbers are: the bootstrap over subjects (Efron & Tibshirani 1993), for one method and between two.

A resample draws as many subjects as there are, with replacement; all scans of a subject come along, and so do all runs
(seeds, folds) over them, whose statistics are averaged. So an interval says what other *patients* would have shown of
the same trained networks, averaged over seeds; it does not say what other seeds would have shown, for which the values
of the runs stand beside it. Detections are matched once: a resample only counts scans anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cmb_plugin.detections import DEFAULT_OPERATING_POINT

from .cases import CaseResult, EvaluationConfig
from .matching import FALSE, TRUE, optimal_status
from .pool import pool_cases

_CHUNK = 200  # resamples at a time, so that thousands of scans and lesions fit into memory


@dataclass(frozen=True)
class SubjectCounts:
    """What is right and wrong in one run, subject by subject: all that a resample needs.

    Between two true positives sensitivity does not change, so the curve is known from its state just before and at
    each of the K score thresholds with a true positive.

    Attributes:
        subjects: [U] names, sorted.
        n_cases, n_lesions: [U] scans, and lesions that count.
        true: [U, K] true positives with at least the score of each such threshold, highest score first.
        false_before, false: [U, K] false positives above that threshold, and from it on.
        true_reported, false_reported: [U] at the operating point.
        further: name -> [U] any other count, such as false positives of one kind.
    """

    subjects: tuple[str, ...]
    n_cases: np.ndarray
    n_lesions: np.ndarray
    true: np.ndarray
    false_before: np.ndarray
    false: np.ndarray
    true_reported: np.ndarray
    false_reported: np.ndarray
    further: dict[str, np.ndarray] = field(default_factory=dict)


def subject_counts(
    cases: Sequence[CaseResult],
    config: EvaluationConfig,
    subjects: Mapping[str, str] | None = None,
    further: Mapping[str, Sequence[float]] | None = None,
) -> SubjectCounts:
    """Matches the detections of a run by centre distance and counts them by subject.

    Args:
        cases: every scan, those without lesions or detections included.
        config: ``match_mm`` and ``operating_point``.
        subjects: case -> patient (``Dataset.patients``); without it every scan is a subject.
        further: name -> a count for each of ``cases``.
    """
    pool = pool_cases(cases, config)
    status = optimal_status(pool.near, len(pool.scores), pool.possible)
    names = [case.case_id if subjects is None else subjects.get(case.case_id, case.case_id) for case in cases]
    unique, index = np.unique(np.array(names, dtype=str), return_inverse=True)
    return count_detections(
        unique.tolist(),
        scores=pool.scores,
        status=status,
        subject=index[pool.case],
        n_cases=np.bincount(index, minlength=len(unique)),
        n_lesions=np.bincount(index[pool.lesion_case[~pool.possible]], minlength=len(unique)),
        operating_point=DEFAULT_OPERATING_POINT if config.operating_point is None else config.operating_point,
        further={
            name: np.bincount(index, weights=np.asarray(values, dtype=float), minlength=len(unique))
            for name, values in (further or {}).items()
        },
    )


def count_detections(
    subjects: Sequence[str],
    *,
    scores: np.ndarray,
    status: np.ndarray,
    subject: np.ndarray,
    n_cases: np.ndarray,
    n_lesions: np.ndarray,
    operating_point: float,
    further: dict[str, np.ndarray] | None = None,
) -> SubjectCounts:
    """``SubjectCounts`` of detections that are matched already.

    Args:
        subjects: [U] names.
        scores: [D] float32, descending.
        status: [D] ``TRUE``, ``FALSE`` or ``IGNORED``.
        subject: [D] index of the subject of each.
        n_cases, n_lesions: [U].
        operating_point: a detection is reported from this score on.
        further: name -> [U].
    """
    n_subjects = len(subjects)
    is_true, is_false = status == TRUE, status == FALSE
    thresholds = np.unique(scores[is_true])[::-1]  # descending
    # A detection counts from the first threshold on that is not above its score; "before" wants it strictly above.
    reached = np.searchsorted(-thresholds, -scores, side="left")
    beyond = np.searchsorted(-thresholds, -scores, side="right")
    reported = scores >= np.float32(operating_point)

    def cumulated(which: np.ndarray, place: np.ndarray) -> np.ndarray:
        """[U, T] detections of each subject among ``which``, each counted from the threshold numbered ``place`` on."""
        counts = np.zeros((n_subjects, len(thresholds) + 1))
        np.add.at(counts, (subject[which], place[which]), 1)
        total: np.ndarray = np.cumsum(counts, axis=1)[:, :-1]
        return total

    return SubjectCounts(
        subjects=tuple(subjects),
        n_cases=np.asarray(n_cases, dtype=float),
        n_lesions=np.asarray(n_lesions, dtype=float),
        true=cumulated(is_true, reached),
        false_before=cumulated(is_false, beyond),
        false=cumulated(is_false, reached),
        true_reported=np.bincount(subject[is_true & reported], minlength=n_subjects).astype(float),
        false_reported=np.bincount(subject[is_false & reported], minlength=n_subjects).astype(float),
        further=dict(further or {}),
    )


@dataclass(frozen=True)
class Estimate:
    """A number and how sure it is.

    Attributes:
        value: of the sample itself; None when undefined.
        low, high: ends of the interval; None when undefined, ``high`` also when it has no bound (more than 2.5 % of the
            resamples never reach the sensitivity asked for, or divide by 0).
        runs: the value in each run; empty for comparisons.
    """

    value: float | None
    low: float | None
    high: float | None
    runs: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Bootstrap:
    """Statistics of one method in the sample and in every resample.

    Attributes:
        subjects: [U] names; only methods on the same subjects can be compared.
        seed: of the resamples; methods with the same seed and number have the same resamples.
        values: name -> [1 + R], first that of the sample, averaged over runs. NaN where undefined, infinity where a
            sensitivity is not reached.
        runs: name -> value of each run in the sample.
    """

    subjects: tuple[str, ...]
    seed: int
    values: dict[str, np.ndarray]
    runs: dict[str, np.ndarray]

    def estimate(self, name: str, level: float = 0.95) -> Estimate:
        """The statistic with its percentile interval."""
        return _estimate(self.values[name], level, tuple(_finite(value) for value in self.runs[name]))

    def difference(self, other: Bootstrap, name: str, level: float = 0.95) -> Estimate:
        """This method's value less the other's, paired: both see the same resamples."""
        with np.errstate(invalid="ignore"):
            return _estimate(self.values[name] - self._paired(other).values[name], level)

    def ratio(self, other: Bootstrap, name: str, level: float = 0.95) -> Estimate:
        """This method's value divided by the other's, paired; resamples with 0 / 0 are left out."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return _estimate(self.values[name] / self._paired(other).values[name], level)

    def _paired(self, other: Bootstrap) -> Bootstrap:
        lengths = {len(next(iter(one.values.values()))) for one in (self, other)}
        if self.subjects != other.subjects or self.seed != other.seed or len(lengths) > 1:
            raise ValueError("only methods with the same subjects and resamples can be compared")
        return other


def bootstrap(
    runs: Sequence[SubjectCounts],
    *,
    sensitivities: Sequence[float] = (),
    fp_rates: Sequence[float] = EvaluationConfig.fp_rates,
    resamples: int = 2000,
    seed: int = 0,
) -> Bootstrap:
    """Statistics of the runs of one method, resampled over subjects.

    Args:
        runs: at least one; all over the same subjects.
        sensitivities: ``fp_per_scan@0.9`` and so on are the false positives per scan at these.
        fp_rates: ``sensitivity@1`` and so on are the sensitivities at these; their mean is ``froc_score``.
        resamples: how many.
        seed: the same seed, number and subjects give the same resamples.

    Returns:
        ``sensitivity``, ``fp_per_scan``, ``precision`` and ``f1`` at the operating point, those above, and
        ``{name}_per_scan`` of each of ``SubjectCounts.further``.

    Raises:
        ValueError: no run, or runs over different subjects.
    """
    if not runs or len({run.subjects for run in runs}) > 1:
        raise ValueError("runs must be over the same subjects")
    subjects = runs[0].subjects
    weights = draw_weights(len(subjects), resamples, seed)
    parts = [
        [_statistics(run, weights[start : start + _CHUNK], sensitivities, fp_rates) for run in runs]
        for start in range(0, len(weights), _CHUNK)
    ]
    by_run = {
        name: np.stack([np.concatenate([part[i][name] for part in parts]) for i in range(len(runs))])
        for name in parts[0][0]
    }
    return Bootstrap(
        subjects=subjects,
        seed=seed,
        values={name: values.mean(axis=0) for name, values in by_run.items()},
        runs={name: values[:, 0] for name, values in by_run.items()},
    )


def draw_weights(n_subjects: int, resamples: int, seed: int) -> np.ndarray:
    """How often each subject is in the sample (1) and in each resample: [1 + resamples, n_subjects], rows sum to
    ``n_subjects``."""
    rng = np.random.default_rng(seed)
    drawn = (
        rng.multinomial(n_subjects, np.full(n_subjects, 1 / n_subjects), size=resamples)
        if n_subjects
        else np.zeros((resamples, 0))
    )
    return np.concatenate([np.ones((1, n_subjects)), drawn])


def _statistics(
    run: SubjectCounts, weights: np.ndarray, sensitivities: Sequence[float], fp_rates: Sequence[float]
) -> dict[str, np.ndarray]:
    """Name -> [R] for each row of ``weights``."""
    n_cases, n_lesions = weights @ run.n_cases, weights @ run.n_lesions
    true, before, false = weights @ run.true, weights @ run.false_before, weights @ run.false
    right, wrong = weights @ run.true_reported, weights @ run.false_reported
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {
            "sensitivity": right / n_lesions,
            "fp_per_scan": wrong / n_cases,
            "precision": right / (right + wrong),
            "f1": np.where(n_lesions > 0, 2 * right / (n_lesions + right + wrong), np.nan),
        }
        for name, counts in run.further.items():
            values[f"{name}_per_scan"] = weights @ counts / n_cases
        for target in sensitivities:
            values[f"fp_per_scan@{target:g}"] = _fp_at(true, false, n_lesions, target) / n_cases
        at_rates = _sensitivity_at(
            true / n_lesions[:, None], before / n_cases[:, None], false / n_cases[:, None], fp_rates
        )
    at_rates[n_lesions == 0] = np.nan
    values |= {f"sensitivity@{rate:g}": at_rates[:, i] for i, rate in enumerate(fp_rates)}
    values["froc_score"] = at_rates.mean(axis=1) if len(fp_rates) else np.full(len(weights), np.nan)
    return values


def _fp_at(true: np.ndarray, false: np.ndarray, n_lesions: np.ndarray, target: float) -> np.ndarray:
    """[R] false positives at the first threshold that finds the share ``target``; infinity where none does."""
    enough = true >= (target * n_lesions - 1e-9)[:, None]
    lowest = np.full(len(true), np.inf)
    some = np.flatnonzero(enough.any(axis=1))
    if len(some):
        lowest[some] = false[some, enough[some].argmax(axis=1)]
    lowest[n_lesions * target <= 0] = 0.0  # nothing needs to be found
    lowest[n_lesions == 0] = np.nan
    return lowest


def _sensitivity_at(
    sensitivity: np.ndarray, before: np.ndarray, after: np.ndarray, rates: Sequence[float]
) -> np.ndarray:
    """[R, len(rates)]: the curve read as ``froc.sensitivity_at`` does, linear between thresholds, level at the end."""
    n, k = sensitivity.shape
    x, y = np.zeros((2, n, 2 * k + 1))
    x[:, 1::2], x[:, 2::2] = before, after
    y[:, 3::2], y[:, 2::2] = sensitivity[:, :-1], sensitivity
    return np.array([np.interp(rates, a, b) for a, b in zip(x, y, strict=True)]).reshape(n, len(rates))


def _estimate(values: np.ndarray, level: float, runs: tuple[float | None, ...] = ()) -> Estimate:
    """Percentile interval of ``values[1:]`` without interpolation, because some may be infinite."""
    resampled = np.sort(values[1:][~np.isnan(values[1:])])
    if not len(resampled) or np.isnan(values[0]):
        return Estimate(_finite(values[0]), None, None, runs)
    tail = (1 - level) / 2
    low = resampled[int(np.floor(tail * (len(resampled) - 1)))]
    high = resampled[int(np.ceil((1 - tail) * (len(resampled) - 1)))]
    return Estimate(_finite(values[0]), _finite(low), _finite(high), runs)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
