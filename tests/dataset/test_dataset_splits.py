"""Splits are balanced, reproducible, and keep patients whole; small data sets work too."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmb_plugin.dataset import make_splits
from cmb_plugin.errors import UserError

counts = st.dictionaries(
    st.text("abcdefghij0123456789._-", min_size=1, max_size=6), st.sampled_from([0, 0, 0, 1, 1, 2, 5, 40]), min_size=2
)


def spread(values):
    return max(values) - min(values)


@given(counts, st.integers(2, 7), st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_every_case_is_validated_once_and_folds_are_balanced(cases, folds, seed):
    splits = make_splits(cases, folds=folds, seed=seed)
    assert len(splits) == min(folds, len(cases))
    validated = [case for split in splits for case in split["val"]]
    assert sorted(validated) == sorted(cases)
    for split in splits:
        assert split["val"]
        assert split["train"]
        assert sorted(split["train"] + split["val"]) == sorted(cases)
        assert split["train"] == sorted(split["train"])
    assert spread([len(split["val"]) for split in splits]) <= 1
    assert spread([sum(cases[case] > 0 for case in split["val"]) for split in splits]) <= 1
    assert spread([sum(cases[case] == 0 for case in split["val"]) for split in splits]) <= 1
    shuffled = list(cases.items())
    random.Random(seed).shuffle(shuffled)
    assert make_splits(dict(shuffled), folds=folds, seed=seed) == splits


@given(counts, st.integers(2, 5), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_patients_are_never_split(cases, folds, n_patients, seed):
    patients = {case: f"p{index % n_patients}" for index, case in enumerate(sorted(cases)) if index % 4}
    if len({patients.get(case, case) for case in cases}) < 2:
        return
    splits = make_splits(cases, patients, folds, seed)
    for split in splits:
        train, val = ({patients.get(case, case) for case in split[part]} for part in ("train", "val"))
        assert not train & val
        assert val
        assert train
    assert sorted(case for split in splits for case in split["val"]) == sorted(cases)


def test_lesions_are_shared_out_and_not_only_cases():
    rng = random.Random(0)
    cases = {f"case-{i:03d}": rng.choice([0, 1, 1, 2, 3, 8, 20]) for i in range(200)}
    lesions = [sum(cases[case] for case in split["val"]) for split in make_splits(cases)]
    assert spread(lesions) <= 0.05 * sum(cases.values()) / 5


def test_the_seed_changes_the_splits():
    cases = {f"case-{i:02d}": i % 3 for i in range(30)}
    assert make_splits(cases, seed=1) != make_splits(cases, seed=2)


@pytest.mark.parametrize("cases", [{"a": 3}, {"a_1": 0, "a_2": 1}])
def test_a_single_patient_is_trained_and_validated_on_with_a_warning(cases):
    groups = dict.fromkeys(cases, "a")
    with pytest.warns(UserWarning, match="a single patient"):
        assert make_splits(cases, groups) == [{"train": sorted(cases), "val": sorted(cases)}]


def test_no_case_is_an_error():
    with pytest.raises(UserError, match="no training case"):
        make_splits({})
