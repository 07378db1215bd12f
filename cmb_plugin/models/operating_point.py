"""What the sweeps of a model's folds chose, read back for prediction and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cmb_plugin.anatomy.rules import RemovalRules, widest
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json
from cmb_plugin.paths import FoldFolder


@dataclass(frozen=True)
class Swept:
    """The operating point of one fold, or of several together.

    Attributes:
        score: a detection is reported from it on.
        ranking: column of the detections that is compared with it; None for the score that the model gives.
        folds: names of the folds that chose it.
        possible: a detection below ``score`` counts as possible from this one on; None where no sweep said so.
        removal: rules for impossible places by kind of region maps, each chosen on validation.
        class_scores: thresholds of classes in the model's own scores, where each has its own; ``apply`` brings them to
            ``score``.
    """

    score: float
    ranking: str | None
    folds: tuple[str, ...]
    possible: float | None = None
    removal: dict[str, RemovalRules] = field(default_factory=dict)
    class_scores: dict[int, float] = field(default_factory=dict)

    def apply(self, found: Detections) -> Detections:
        """Detections as a model or its files give them, with the scores that ``score`` is for, highest first."""
        ranked = found.without_thresholds().ranked_by(self.ranking)
        return ranked.with_thresholds(self.class_scores, self.score) if self.class_scores else ranked


def swept_point(folds: Sequence[FoldFolder]) -> Swept | None:
    """Mean of the scores that sweeps chose for the folds, to 6 decimals as in the files of predictions; None where
    there was no sweep.

    Folds rank by one score together: the one that most of them chose, and of the thresholds only theirs count.

    Raises:
        UserError: a file holds no score.
    """
    chosen: dict[str, _Chosen] = {}
    for fold in folds:
        path = fold.operating_point
        if not path.is_file():
            continue
        content = read_json(path)
        try:
            chosen[fold.root.name] = _Chosen(
                float(content["score"]),
                content.get("ranking"),
                content.get("possible_score"),
                RemovalRules.from_json(content["removal"]) if content.get("removal") else None,
                {int(label): float(score) for label, score in content.get("class_scores", {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(f"{path}: holds no score", remedy="run nndet_sweep again, or delete the file") from None
    if not chosen:
        return None
    rankings = [one.ranking for one in chosen.values()]
    ranking = max(dict.fromkeys(rankings), key=rankings.count)
    agreeing = {name: one for name, one in chosen.items() if one.ranking == ranking}
    possible = [one.possible for one in agreeing.values() if one.possible is not None]
    rules = [one.removal for one in chosen.values() if one.removal is not None]
    return Swept(
        _mean([one.score for one in agreeing.values()]),
        ranking,
        tuple(agreeing),
        _mean(possible) if len(possible) == len(agreeing) else None,
        {kind: widest([rule for rule in rules if rule.source == kind]) for kind in {rule.source for rule in rules}},
        {label: _mean([one.class_scores[label] for one in agreeing.values()]) for label in _labels_of_all(agreeing)},
    )


@dataclass(frozen=True)
class _Chosen:
    score: float
    ranking: str | None
    possible: float | None
    removal: RemovalRules | None
    class_scores: dict[int, float]


def _labels_of_all(chosen: Mapping[str, _Chosen]) -> list[int]:
    """The classes for which every fold chose a threshold."""
    return sorted(set.intersection(*(set(one.class_scores) for one in chosen.values())))


def _mean(scores: Sequence[float]) -> float:
    return round(sum(scores) / len(scores), 6)
