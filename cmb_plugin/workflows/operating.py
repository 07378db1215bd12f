"""What the sweeps of a model's folds chose, read back for prediction and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """

    score: float
    ranking: str | None
    folds: tuple[str, ...]


def swept_point(folds: Sequence[FoldFolder]) -> Swept | None:
    """Mean of the scores that sweeps chose for the folds, to 6 decimals as in the files of predictions; None where
    there was no sweep.

    Folds rank by one score together: the one that most of them chose, and of the thresholds only theirs count.

    Raises:
        UserError: a file holds no score.
    """
    chosen: dict[str, tuple[float, str | None]] = {}
    for fold in folds:
        path = fold.operating_point
        if not path.is_file():
            continue
        content = read_json(path)
        try:
            chosen[fold.root.name] = float(content["score"]), content.get("ranking")
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path}: holds no score", remedy="run nndet_sweep again, or delete the file") from None
    if not chosen:
        return None
    rankings = [ranking for _, ranking in chosen.values()]
    ranking = max(dict.fromkeys(rankings), key=rankings.count)
    agreeing = {name: score for name, (score, its) in chosen.items() if its == ranking}
    return Swept(round(sum(agreeing.values()) / len(agreeing), 6), ranking, tuple(agreeing))
