"""Strategies of acquisition: in which order unlabelled scans should be labelled.

A strategy is a function of ``Evidence`` and a random generator that returns a ``Ranking``. Ours stand here; anybody's
is registered with ``register_strategy`` or as an entry point of the group ``cmb_plugin.strategies``, under the name of
the function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from cmb_plugin.dataset import CasePredictions
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import EvaluationConfig

from .evidence import Evidence, around_operating_point, centres_mm

POOL, COMMITTEE, LABELLED = "pool", "committee", "labelled"
"""What a strategy may need: predictions of the pool; those of each member of a committee; those of the scans that are
labelled already."""

Strategy = Callable[[Evidence, np.random.Generator], "Ranking"]
F = TypeVar("F", bound=Strategy)


@dataclass(frozen=True)
class Ranking:
    """The order in which scans should be labelled.

    Attributes:
        order: int64 [N] numbers of the scans, the first to label first.
        values: float64 [N] what decided, by number of the scan; what it means is a matter of the strategy.
    """

    order: np.ndarray
    values: np.ndarray

    @classmethod
    def by(cls, values: Sequence[float] | np.ndarray, rng: np.random.Generator) -> Ranking:
        """The highest value first; among equal ones chance decides."""
        array = np.asarray(values, dtype=float)
        shuffled = rng.permutation(len(array))
        return cls(shuffled[np.argsort(-array[shuffled], kind="stable")], array)


def needs(*what: str) -> Callable[[F], F]:
    """Decorator: notes what a strategy needs; one without needs ``POOL``."""

    def note(strategy: F) -> F:
        """Keeps the needs as an attribute of the strategy."""
        strategy.needs = frozenset(what)  # type: ignore[attr-defined]
        return strategy

    return note


def needs_of(strategy: Strategy) -> frozenset[str]:
    """What a strategy needs of ``POOL``, ``COMMITTEE`` and ``LABELLED``."""
    return getattr(strategy, "needs", frozenset({POOL}))


@needs()
def random(evidence: Evidence, rng: np.random.Generator) -> Ranking:
    """Chance: what every other strategy has to beat. The value is 0."""
    return Ranking.by(np.zeros(len(evidence.scans)), rng)


def uncertainty(evidence: Evidence, rng: np.random.Generator) -> Ranking:
    """Entropy at the operating point (uncertainty sampling, Lewis & Gale 1994; entropy as in Settles 2009), in bits.

    With p = sigmoid(logit(score) - logit(operating point)), so that what is barely reported has 1/2, a scan has
    sum_i -p_i log2 p_i - (1 - p_i) log2 (1 - p_i) over its detections: the joint entropy of answers that do not depend
    on each other.
    """
    found = [(scan.predictions.kept.scores, scan.predictions.operating_point) for scan in evidence.scans]
    return Ranking.by([entropy(around_operating_point(*scan)).sum() for scan in found], rng)


@needs(POOL, COMMITTEE)
def disagreement(evidence: Evidence, rng: np.random.Generator) -> Ranking:
    """How much the members of a committee disagree (query by committee, Seung et al. 1992), in bits.

    Members are the folds, or weights of one training: averaged, last, and best or earlier ones. Their detections of one
    place are put together (``same_places``); one that saw nothing there has p = 0, p being as for ``uncertainty``. A
    place has the Jensen-Shannon divergence H(mean p) - mean H(p) of its members (McCallum & Nigam 1998; the mutual
    information of Houlsby et al. 2011, BALD), a scan the sum over its places.
    """
    return Ranking.by([_divergence(scan.members) for scan in evidence.scans], rng)


def corrections(evidence: Evidence, rng: np.random.Generator) -> Ranking:
    """How many corrections a reader is expected to make (number of user actions, Culotta & McCallum 2005).

    A reported detection is rejected with 1 - p, one below the operating point is a missed lesion with p, p being its
    calibrated probability (``Evidence.probabilities``); a scan has the sum.
    """
    values = []
    for scan in evidence.scans:
        p = evidence.probabilities(scan.predictions)
        reported = scan.predictions.reported[~scan.predictions.removed]
        values.append(float(np.where(reported, 1 - p, p).sum()))
    return Ranking.by(values, rng)


@needs(POOL, LABELLED)
def diversity(evidence: Evidence, rng: np.random.Generator) -> Ranking:
    """What is least like the labelled scans and each other in the trainer's embedding (k-centre greedy, Gonzalez 1985;
    as a core set of active learning Sener & Savarese 2018).

    A scan is described by its detections' nearest prototypes and their distances (``describe``), each feature in
    standard deviations over all scans. Again and again the scan farthest from all that are labelled or chosen is
    chosen; the value is its distance.

    Raises:
        UserError: the trainer has no prototypes.
    """
    every = [scan.predictions for scan in (*evidence.scans, *evidence.labelled)]
    features = describe(every)
    spread = features.std(axis=0)
    features = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    count = len(evidence.scans)
    return k_centre_greedy(features[:count], features[count:], rng)


BUILT_IN: dict[str, Strategy] = {
    strategy.__name__: strategy for strategy in (random, uncertainty, disagreement, corrections, diversity)
}


def strategy_named(name: str) -> Strategy:
    """A strategy of ours or of anybody who has registered one.

    Raises:
        UserError: there is none; those that there are are listed.
    """
    from cmb_plugin.plugins import strategies, suggest

    if name in BUILT_IN:
        return BUILT_IN[name]
    known = [*BUILT_IN, *strategies.names()]
    if name not in known:
        raise UserError(f"no strategy '{name}'", remedy=suggest(name, known))
    found: Strategy = strategies.get(name)
    return found


def entropy(p: np.ndarray) -> np.ndarray:
    """-p log2 p - (1 - p) log2 (1 - p) of each probability, in bits; 0 at 0 and 1."""
    p = np.asarray(p, dtype=float)
    q = 1 - p
    with np.errstate(divide="ignore", invalid="ignore"):
        bits: np.ndarray = -np.where(p > 0, p * np.log2(p), 0) - np.where(q > 0, q * np.log2(q), 0)
    return bits


def same_places(members: Sequence[CasePredictions], within_mm: float = EvaluationConfig.match_mm) -> np.ndarray:
    """Brings together what the members of a committee see at the same places.

    The strongest detection that has no place yet makes one, and takes from each other member its nearest detection of
    the same class within ``within_mm`` that has none; and so on.

    Args:
        members: predictions of one scan.
        within_mm: largest distance between centres.

    Returns:
        float64 [P, members]: p of each member as for ``uncertainty``; 0 where it saw nothing.
    """
    kept = [member.kept for member in members]
    owner = np.concatenate([np.full(len(found), number) for number, found in enumerate(kept)]).astype(int)
    labels = np.concatenate([found.labels for found in kept])
    centres = np.concatenate([centres_mm(found, one.grid.spacing) for found, one in zip(kept, members, strict=True)])
    moved = [around_operating_point(f.scores, one.operating_point) for f, one in zip(kept, members, strict=True)]
    p = np.concatenate(moved)
    free = np.ones(len(p), dtype=bool)
    places = []
    for seed in np.argsort(-p, kind="stable"):
        if not free[seed]:
            continue
        place = np.zeros(len(members))
        place[owner[seed]] = p[seed]
        free[seed] = False
        distance = np.linalg.norm(centres - centres[seed], axis=1)
        near = np.flatnonzero(free & (distance <= within_mm) & (labels == labels[seed]) & (owner != owner[seed]))
        for other in near[np.argsort(distance[near], kind="stable")]:
            if place[owner[other]] == 0:
                place[owner[other]] = p[other]
                free[other] = False
        places.append(place)
    return np.array(places).reshape(-1, len(members))


def _divergence(members: Sequence[CasePredictions]) -> float:
    places = same_places(members)
    return float((entropy(places.mean(axis=1)) - entropy(places).mean(axis=1)).sum()) if len(places) else 0.0


def describe(scans: Sequence[CasePredictions]) -> np.ndarray:
    """Scans as points, by what their detections look like.

    For each prototype the logarithm of 1 + the sum of the scores of the detections that it is nearest to; and the mean
    distance of detections from their prototypes, weighted by score, which is large where a scan shows what no prototype
    stands for. Without detections that is the mean of the other scans.

    Args:
        scans: with the columns ``looks_like`` and ``prototype_distance``.

    Returns:
        float64 [scans, prototypes + 1].

    Raises:
        UserError: detections have no such columns.
    """
    found = [scan.kept for scan in scans]
    for scan, own in zip(scans, found, strict=True):
        if len(own) and not {"looks_like", "prototype_distance"} <= own.columns.keys():
            raise UserError(
                f"{scan.case_id}: its detections have no prototypes, which --strategy diversity compares",
                remedy="choose another strategy, or a model of CMBRetinaUNet with model_cfg.hspl=true",
            )
    names = sorted({str(name) for own in found if len(own) for name in own.columns["looks_like"]})
    features = np.zeros((len(scans), len(names) + 1))
    features[:, -1] = np.nan
    for row, own in zip(features, found, strict=True):
        if not len(own):
            continue
        looks = own.columns["looks_like"].astype(str)
        row[:-1] = [np.log1p(own.scores[looks == name].sum(dtype=float)) for name in names]
        row[-1] = np.average(own.columns["prototype_distance"].astype(float), weights=np.maximum(own.scores, 1e-6))
    known = features[:, -1][~np.isnan(features[:, -1])]
    features[np.isnan(features[:, -1]), -1] = known.mean() if len(known) else 0.0
    return features


def k_centre_greedy(points: np.ndarray, centres: np.ndarray, rng: np.random.Generator) -> Ranking:
    """Orders points so that each is the farthest from the centres and from all before it.

    The first k of them cover all points within at most twice the smallest possible radius (Gonzalez 1985). Without
    centres chance chooses the first.

    Args:
        points: [N, F].
        centres: [M, F]; may be empty.
        rng: decides where nothing else does.

    Returns:
        the order, and each point's distance when it was chosen; infinite for the first without centres.
    """
    count = len(points)
    nearest = np.full(count, np.inf)
    for centre in centres:
        nearest = np.minimum(nearest, np.linalg.norm(points - centre, axis=1))
    order, values = np.empty(count, dtype=np.int64), np.zeros(count)
    chance, left = rng.permutation(count), np.ones(count, dtype=bool)
    for place in range(count):
        candidates = chance[left[chance]]
        chosen = int(candidates[nearest[candidates].argmax()])
        order[place], values[chosen], left[chosen] = chosen, nearest[chosen], False
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen], axis=1))
    return Ranking(order, values)
