"""Cross-validation splits: balanced, the same every time, and never through a patient."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json

Split = dict[str, list[str]]


@dataclass
class _Fold:
    cases: list[str] = field(default_factory=list)
    positive: int = 0
    lesions: int = 0
    positive_of: Counter[str] = field(default_factory=Counter)
    healthy_of: Counter[str] = field(default_factory=Counter)

    @property
    def healthy(self) -> int:
        """Number of cases without a lesion."""
        return len(self.cases) - self.positive

    def filled(self, domains: set[str], with_lesions: bool) -> tuple[int, ...]:
        """How much it holds already of what a patient of these domains, with or without lesions, would bring."""
        if with_lesions:
            return sum(self.positive_of[d] for d in domains), self.positive, self.lesions, len(self.cases)
        return sum(self.healthy_of[d] for d in domains), self.healthy, len(self.cases)

    def add(self, case_ids: Sequence[str], lesions: Mapping[str, int], domains: Mapping[str, str]) -> None:
        """Takes all cases of a patient; ``lesions`` and ``domains`` are those of every case."""
        self.cases += case_ids
        self.lesions += sum(lesions[case] for case in case_ids)
        for case in case_ids:
            self.positive += lesions[case] > 0
            counts = self.positive_of if lesions[case] else self.healthy_of
            counts[domains.get(case, "")] += 1


def read_splits(path: Path) -> list[Split]:
    """Reads splits.json.

    Returns:
        for each fold ``{"train": [...], "val": [...]}``.

    Raises:
        UserError: the file is missing, damaged, or no list of folds with their cases.
    """
    splits = read_json(path)
    remedy = 'write [{"train": ["case", ...], "val": ["case", ...]}, ...], or delete it: nndet_prep makes it anew'
    if not isinstance(splits, list) or not splits:
        raise UserError(f"{path}: is no list of folds", remedy=remedy)
    for number, fold in enumerate(splits):
        for part in ("train", "val"):
            cases = fold.get(part) if isinstance(fold, dict) else None
            if not isinstance(cases, list) or not all(isinstance(case, str) for case in cases):
                raise UserError(f"{path}: fold {number} has no list of cases under {part}", remedy=remedy)
    return splits


def make_splits(
    cases: Mapping[str, int],
    groups: Mapping[str, str] | None = None,
    folds: int = 5,
    seed: int = 12345,
    domains: Mapping[str, str] | None = None,
) -> list[Split]:
    """Splits cases for cross-validation; each patient is in the validation set of exactly one fold.

    Validation sets have alike numbers of healthy cases, of positive cases and, as far as these allow, of lesions:
    patients are dealt out from the one with most lesions to the one with fewest, each to the fold that has least so
    far. Domain after domain is dealt so, each patient to the fold that has least of the domain. With fewer patients
    than ``folds`` there are as many folds as patients; a single patient is trained and validated on.

    Args:
        cases: case -> number of its lesions.
        groups: case -> patient; a case that is not named is a patient of its own.
        folds: number of folds wanted.
        seed: decides among equals; the order of ``cases`` does not.
        domains: case -> site, scanner or protocol. With one domain, or none, the splits are those without it.

    Returns:
        for each fold ``{"train": [...], "val": [...]}``, both sorted.

    Raises:
        UserError: there is no case.
    """
    if not cases:
        raise UserError("no training case to split", remedy="put images and labels into imagesTr and labelsTr")
    patients: dict[str, list[str]] = {}
    for case in sorted(cases):
        patients.setdefault((groups or {}).get(case, case), []).append(case)
    if len(patients) == 1:
        warnings.warn("a single patient: training and validation use the same cases", stacklevel=2)
        everything = sorted(cases)
        return [{"train": everything, "val": list(everything)}]

    def burden(patient: str) -> tuple[int, int, int]:
        """Cases with lesions, lesions and cases of a patient: who has most is dealt first."""
        own = [cases[case] for case in patients[patient]]
        return sum(n > 0 for n in own), sum(own), len(own)

    names = sorted(patients)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    order.sort(key=burden, reverse=True)  # stable: equals stay shuffled
    domains = domains or {}
    of_patient = {name: {domains.get(case, "") for case in patients[name]} for name in names}
    order.sort(key=lambda patient: sorted(of_patient[patient]))  # a whole domain, then the next: both stay even
    dealt = [_Fold() for _ in range(min(folds, len(patients)))]
    for patient in order:
        fold = min(dealt, key=partial(_Fold.filled, domains=of_patient[patient], with_lesions=burden(patient)[0] > 0))
        fold.add(patients[patient], cases, domains)
    return [
        {
            "train": sorted(case for other in dealt if other is not fold for case in other.cases),
            "val": sorted(fold.cases),
        }
        for fold in dealt
    ]


def splits_around(
    judged: Set[str],
    cases: Mapping[str, int],
    groups: Mapping[str, str],
    domains: Mapping[str, str] | None = None,
) -> list[Split]:
    """``make_splits`` of which no fold validates on cases that were judged in places only: what is found in them
    elsewhere is neither right nor wrong. Each fold trains on those of patients that it does not validate on.

    Args:
        judged: cases that were judged in places only.
        cases, groups, domains: as for ``make_splits``.

    Returns:
        the folds; one without validation cases where all cases are such.

    Raises:
        UserError: there is no case.
    """
    whole = {case: count for case, count in cases.items() if case not in judged}
    if not whole and cases:
        return [{"train": sorted(cases), "val": []}]
    splits = make_splits(whole, groups, domains=domains)
    for split in splits if len(whole) < len(cases) else []:
        held_out = {groups.get(case, case) for case in split["val"]}
        further = [case for case in cases if case in judged and groups.get(case, case) not in held_out]
        split["train"] = sorted([*split["train"], *further])
    return splits


def validation_of_domains(splits: Sequence[Split], domains: Mapping[str, str]) -> list[str]:
    """The cases that models without a domain validate on, so far as these have seen their domain: the validation cases
    of fold 0, and of a domain that has none there those of the first fold that has some.

    Args:
        splits: the folds.
        domains: case -> domain.

    Returns:
        names, sorted; at least one of every domain.
    """
    chosen: list[str] = []
    for domain in sorted({domains.get(case, "") for split in splits for case in split["val"]}):
        own = ([case for case in split["val"] if domains.get(case, "") == domain] for split in splits)
        chosen += next(cases for cases in own if cases)
    return sorted(chosen)


def without_domain(
    splits: Sequence[Split], domain: str, domains: Mapping[str, str], patients: Mapping[str, str]
) -> Split:
    """A fold that has never seen a domain.

    It validates on ``validation_of_domains`` and trains on all else, both without the cases of the domain and without
    the other cases of patients who have one there; nobody is trained on and validated.

    Args:
        splits: the folds of the data set.
        domain: the one to leave out.
        domains: case -> domain.
        patients: case -> patient.
    """

    def of(cases: Iterable[str]) -> set[str]:
        """Their patients."""
        return {patients.get(case, case) for case in cases}

    everybody = sorted({case for split in splits for part in ("train", "val") for case in split[part]})
    gone = of(case for case in {*domains, *everybody} if domains.get(case, "") == domain)
    val = [case for case in validation_of_domains(splits, domains) if not of([case]) & gone]
    train = [case for case in everybody if not of([case]) & (gone | of(val))]
    return {"train": train, "val": val}
