"""``OperatingPoint``: from which score on a detection is reported - chosen, saved, put together, applied."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cmb_plugin.detections import DEFAULT_OPERATING_POINT, RAW_SCORE, Detections, fold_column, stretched
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.paths import FoldFolder

if TYPE_CHECKING:
    from cmb_plugin.anatomy.rules import RemovalRules
    from cmb_plugin.evaluation import CaseResult, EvaluationConfig, SweepConfig, SweepResult

SCHEMA = 1


def found_none(content: Mapping[str, Any]) -> bool:
    """Whether a sweep looked for operating points by rate and found none: another sweep would find as little.

    Args:
        content: of ``operating_point.json``; sweeps before there were rates noted none at all.
    """
    return "rates" in content and not content["rates"]


@dataclass(frozen=True)
class OperatingPoint:
    """The operating point of one fold, or of several that predict together.

    Attributes:
        score: a detection is reported from it on.
        ranking: column of the detections that is compared with it; None for the score that the model gives.
        possible_score: a detection below ``score`` counts as possible from this one on; None where no sweep said so.
        class_scores: thresholds of classes in the model's own scores, where each has its own; ``apply`` brings them to
            ``score``.
        removal: rules for impossible places by kind of region maps, each chosen on validation.
        folds: names of the folds whose sweeps chose it; empty for the default.
        members: of an ensemble the operating point of every fold, in the order in which the folds predict.
        sweep: how it was chosen; None for the default and for several folds together.
        rates: false positives per scan -> the operating point that the sweep keeps for them.
        found_none: whether the sweep looked for such rates and found nothing at any of them.
        rate: false positives per scan that it was chosen for at prediction; None for the sweep's own choice.
        views: mirrorings of each tile in the predictions that it was chosen on, with which it holds; None where nobody
            noted them, or where folds differ.
        why: what the sweep says of its choice; empty for the default, a rate and several folds together.
    """

    score: float = DEFAULT_OPERATING_POINT
    ranking: str | None = None
    possible_score: float | None = None
    class_scores: dict[int, float] = field(default_factory=dict)
    removal: dict[str, RemovalRules] = field(default_factory=dict)
    folds: tuple[str, ...] = ()
    members: tuple[OperatingPoint, ...] = ()
    sweep: SweepResult | None = None
    rates: dict[float, OperatingPoint] = field(default_factory=dict)
    found_none: bool = False
    rate: float | None = None
    views: int | None = None
    why: str = ""

    @property
    def is_default(self) -> bool:
        """Whether no sweep has chosen it."""
        return not self.folds

    @property
    def origin(self) -> str:
        """Where it comes from, as half a sentence."""
        if self.is_default:
            return "the default: nndet_sweep has chosen none yet"
        by = f", of {self.ranking}" if self.ranking else ""
        aim = f", for {self.rate:g} false positives per scan" if self.rate is not None else ""
        why = f" ({self.why})" if self.why else ""
        return f"chosen by nndet_sweep, {', '.join(self.folds)}{by}{aim}{why}"

    @classmethod
    def choose(
        cls,
        cases: Sequence[CaseResult],
        sweep: SweepConfig,
        config: EvaluationConfig,
        fold: str,
        removal: RemovalRules | None = None,
    ) -> OperatingPoint:
        """Chooses score and threshold on a fold's validation scans, as ``find_operating_point`` describes.

        Args:
            cases: scans with all candidates and the scores that the model gave them.
            sweep: the rule.
            config: how detections are matched.
            fold: name of the fold.
            removal: rules for impossible places that were chosen on the same scans.

        Raises:
            UserError: an unknown rule or an impossible target.
        """
        from cmb_plugin.evaluation import find_operating_point  # prediction, which only loads one, measures nothing

        result = find_operating_point(cases, sweep, config)
        rules = {} if removal is None else {removal.source: removal}
        return cls(
            result.score, result.ranking, result.possible_score, result.class_scores, rules, (fold,), sweep=result
        )

    def at_rate(self, rate: float) -> OperatingPoint:
        """That for so many false positives per scan on validation.

        Raises:
            UserError: the sweep kept none for this rate; those that it did are named.
        """
        if rate in self.rates:
            return self.rates[rate]
        if not self.rates:
            remedy = "run nndet_sweep, which keeps some; models that were swept before this version have none"
            if self.found_none:
                remedy = f"leave it out: its sweep finds nothing at any such rate ({self.why})"
            raise UserError(f"--fp-per-scan {rate:g}: the model keeps no operating point for it", remedy=remedy)
        known = ", ".join(f"{known:g}" for known in sorted(self.rates))
        raise UserError(f"--fp-per-scan {rate:g}: the model has no operating point for it", remedy=f"it has {known}")

    def content(self) -> dict[str, Any]:
        """What ``operating_point.json`` of a fold holds."""
        chosen = dataclasses.asdict(self.sweep) if self.sweep else {"score": self.score, "ranking": self.ranking}
        rules = next(iter(self.removal.values()), None)
        further = {"removal": rules, "views": self.views}
        return {"schema": SCHEMA, **chosen, **{key: value for key, value in further.items() if value is not None}}

    def save(self, path: Path) -> None:
        """Writes ``operating_point.json`` of a fold."""
        write_json(path, self.content())

    @classmethod
    def load(cls, path: Path) -> OperatingPoint:
        """Reads ``operating_point.json`` of a fold; the default where there is none.

        Raises:
            UserError: the file holds no score.
        """
        if not path.is_file():
            return cls()
        content = read_json(path)
        try:
            rules = _rules(content["removal"]) if content.get("removal") else None
            possible = content.get("possible_score")
            ranking = content.get("ranking")
            point = cls(
                round(float(content["score"]), 6),
                None if ranking is None else str(ranking),
                None if possible is None else round(float(possible), 6),
                {int(label): round(float(score), 6) for label, score in content.get("class_scores", {}).items()},
                {} if rules is None else {rules.source: rules},
                (path.parent.name,),
                views=int(content["views"])
                if "views" in content
                else views_of_run(FoldFolder(path.parent).predictions("val")),
                why=str(content.get("why") or ""),
                found_none=found_none(content),
            )
            for entry in content.get("rates") or ():
                point.rates[float(entry["target"])] = point._for_rate(entry)
            every = (point, *point.rates.values())
            if not all(0 <= score <= 1 for own in every for score in (own.score, *own.class_scores.values())):
                raise ValueError("a score lies between 0 and 1")
            return point
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise UserError(f"{path}: holds no score", remedy="run nndet_sweep again, or delete the file") from None

    def _for_rate(self, entry: dict[str, Any]) -> OperatingPoint:
        """This operating point with the scores that ``operating_point.json`` keeps for one rate."""
        possible = entry.get("possible_score")
        return dataclasses.replace(
            self,
            score=round(float(entry["score"]), 6),
            possible_score=None if possible is None else round(float(possible), 6),
            class_scores={int(k): round(float(score), 6) for k, score in (entry.get("class_scores") or {}).items()},
            rates={},
            rate=float(entry["target"]),
            why="",
        )

    @classmethod
    def mean(cls, points: Sequence[OperatingPoint]) -> OperatingPoint:
        """The operating point of folds that predict together, or whose scans are measured together.

        Scores are means, to 6 decimals as in the files of predictions. Folds rank by one score together: the one that
        most of them chose, and of the thresholds only theirs count. Of rules for impossible places the widest hold.

        Args:
            points: of every fold, in the order in which they predict; those of folds without a sweep are the default.
        """
        chosen = [point for point in points if not point.is_default]
        if len(points) == 1 or not chosen:
            return points[0]
        rankings = [point.ranking for point in chosen]
        ranking = max(dict.fromkeys(rankings), key=rankings.count)
        agreeing = [point for point in chosen if point.ranking == ranking]
        possible = [point.possible_score for point in agreeing if point.possible_score is not None]
        shared = sorted(set.intersection(*(set(point.class_scores) for point in agreeing)))
        kinds = {kind for point in chosen for kind in point.removal}
        return cls(
            _mean([point.score for point in agreeing]),
            ranking,
            _mean(possible) if len(possible) == len(agreeing) else None,
            {label: _mean([point.class_scores[label] for point in agreeing]) for label in shared},
            {kind: _widest([point.removal[kind] for point in chosen if kind in point.removal]) for kind in kinds},
            tuple(name for point in agreeing for name in point.folds),
            tuple(points),
            rate=agreeing[0].rate,
            views=agreeing[0].views if len({point.views for point in agreeing}) == 1 else None,
        )

    def apply(self, detections: Detections) -> Detections:
        """Detections as a model or its files give them, with the scores that ``score`` is for, highest first.

        The folds of an ensemble vote, each by its own score and threshold: a detection is reported where the median of
        the folds' scores, each brought to the common threshold, reaches it. A mean would not do: where a fold sees
        nothing it is 0 there, so that what three of five folds report at 0.55 has a mean of 0.33, which no threshold
        that was chosen on single folds is for. Among reported and among other detections the order is that of the mean.
        """
        plain = detections.without_thresholds()
        if self.members and all(fold_column(point.ranking) in plain.columns for point in self.members):
            return self._by_vote(plain)
        ranked = plain.ranked_by(self.ranking)
        return ranked.with_thresholds(self.class_scores, self.score) if self.class_scores else ranked

    def brought_to(self, detections: Detections, common: float) -> Detections:
        """Detections as a model gives them, with scores of which those that this operating point, of one fold, reports
        reach ``common``, and no others: so scans with different operating points are measured together."""
        ranked = detections.without_thresholds().ranked_by(self.ranking)
        scores = _calibrated(ranked.scores, ranked.labels, self, common)
        return dataclasses.replace(ranked, scores=scores.astype(np.float32)).by_score()

    def _by_vote(self, detections: Detections) -> Detections:
        common = self.score
        columns = (detections.columns[fold_column(point.ranking)][:, k] for k, point in enumerate(self.members))
        each = [_calibrated(s, detections.labels, p, common) for s, p in zip(columns, self.members, strict=True)]
        calibrated = np.stack(each, axis=1)
        vote, mean = np.median(calibrated, axis=1), calibrated.mean(axis=1)
        possible = 0.0 if self.possible_score is None else min(self.possible_score, common)
        # Scores are float32 and compared with 6 decimals: what just reaches the threshold must do so afterwards.
        reported, is_possible = np.round(vote, 6) >= common, np.round(vote, 6) >= possible
        scores = np.where(
            reported,
            common + (1 - common) * mean,
            np.where(is_possible, possible + (common - possible) * mean * 0.999, possible * mean * 0.999),
        )
        kept = {**detections.columns, RAW_SCORE: detections.scores}
        return Detections(detections.boxes, scores.clip(0, 1), detections.labels, kept).by_score()

    def deciding(self) -> list[Any]:
        """What of it decides what is reported, as plain data for a key."""
        own: list[Any] = [self.score, self.ranking, *sorted(self.class_scores.items())]
        return [*own, *(point.deciding() for point in self.members)]


def _calibrated(scores: np.ndarray, labels: np.ndarray, point: OperatingPoint, common: float) -> np.ndarray:
    """[N] scores of one fold, so that what reached its threshold, and nothing else, reaches ``common``."""
    own = np.array([point.class_scores.get(int(label), point.score) for label in labels], dtype=float)
    return stretched(scores, own, common)


def views_of_run(predictions: Path) -> int | None:
    """Mirrorings of each tile with which a folder of predictions was made; None where it does not say so."""
    run = predictions / "run.json"
    settings = read_json(run).get("settings", {}) if run.is_file() else {}
    return max(settings["tta"], 1) if isinstance(settings.get("tta"), int) else None


def _mean(scores: Sequence[float]) -> float:
    return round(sum(scores) / len(scores), 6)


# Most operating points have no rules about places, and who predicts with them needs no anatomy.


def _rules(content: Any) -> RemovalRules:
    from cmb_plugin.anatomy.rules import RemovalRules

    return RemovalRules.from_json(content)


def _widest(rules: Sequence[RemovalRules]) -> RemovalRules:
    from cmb_plugin.anatomy.rules import widest

    return widest(rules)
