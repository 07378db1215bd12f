"""Domains: from dataset.json or from voxel sizes; folds balance them, and a fold can do without one."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_task import make_tiny_task

from cmb_plugin.dataset import Dataset, geometry_domains, make_splits, validation_of_domains, without_domain
from cmb_plugin.dataset.domains import TOLERANCE, slug
from cmb_plugin.errors import UserError
from cmb_plugin.workflows.domains import settle_domains

voxels = st.tuples(*[st.floats(0.3, 6.0)] * 3)


def named(task, domains):
    path = task.root / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "domain": domains}))


def test_a_case_knows_the_domain_that_dataset_json_names(tmp_path):
    task = make_tiny_task(tmp_path, n_train=3)
    named(task, {"sub-01": "ukb", "sub-51": "cuhk"})
    dataset = Dataset.load(task)
    assert [case.domain for case in dataset.cases("Tr")] == ["ukb", "", ""]
    assert [case.domain for case in dataset.cases("Ts")] == ["cuhk", ""]


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=3), voxels, min_size=1, max_size=12), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_voxels_of_one_domain_are_alike_and_names_do_not_hang_on_the_order(spacings, seed):
    domains = geometry_domains(spacings)
    assert set(domains) == set(spacings)
    for one in spacings:
        for other in spacings:
            if domains[one] == domains[other]:
                ratios = [max(a, b) / min(a, b) for a, b in zip(spacings[one], spacings[other], strict=True)]
                assert max(ratios) <= TOLERANCE * 1.01  # spacings are compared to a thousandth of a mm
    shuffled = list(spacings.items())
    random.Random(seed).shuffle(shuffled)
    assert geometry_domains(dict(shuffled)) == domains


def test_scanners_of_the_public_data_sets_are_told_apart_by_their_voxels():
    known = {"cuhk": (1.0, 0.45, 0.45), "ukb": (3.0, 0.8, 0.8), "valdo2": (0.8, 0.49, 0.49), "valdo3": (3.5, 1.0, 1.0)}
    spacings = {f"{name}{i}": tuple(s * (1 + 0.01 * i) for s in voxel) for name, voxel in known.items() for i in (0, 2)}
    domains = geometry_domains(spacings)
    assert len(set(domains.values())) == 4
    assert domains["cuhk0"] == domains["cuhk2"]
    assert domains["ukb0"] == "3.03x0.808x0.808mm"


def test_domains_of_the_geometry_are_kept_and_forgotten_again(tmp_path):
    task = make_tiny_task(tmp_path, n_train=2, n_test=1)
    other = make_tiny_task(tmp_path, n_train=1, n_test=0, spacing=(3, 1.2, 1.2), name="Task901_Other")
    for folder, end in (("images", "_0000.nii.gz"), ("images", "_0001.nii.gz"), ("labels", ".nii.gz")):
        (other.raw / f"{folder}Tr" / f"sub-01{end}").replace(task.raw / f"{folder}Tr" / f"sub-02{end}")
    named(task, {"sub-01": "site"})
    settled = settle_domains(Dataset.load(task), "geometry")
    assert settled.domain == {"sub-01": "1.5x1.2x1.2mm", "sub-02": "3x1.2x1.2mm", "sub-51": "1.5x1.2x1.2mm"}
    assert Dataset.load(task).domain == settled.domain  # for every command from now on
    assert settle_domains(Dataset.load(task), None).domain == settled.domain
    assert settle_domains(Dataset.load(task), "dataset").domain == {"sub-01": "site"}
    assert not task.domains.exists()
    with pytest.raises(UserError, match=r"domains=geomtry: unknown.*geometry"):
        settle_domains(Dataset.load(task), "geomtry")


cases = st.dictionaries(st.integers(0, 60).map("{:02d}".format), st.sampled_from([0, 0, 1, 2, 9]), min_size=5)


@given(cases, st.integers(1, 4), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_folds_balance_domains_and_everything_else_as_before(lesions, n_domains, seed):
    domains = {case: f"d{int(case) % n_domains}" for case in lesions}
    splits = make_splits(lesions, seed=seed, domains=domains)
    assert sorted(case for split in splits for case in split["val"]) == sorted(lesions)
    for kind in (True, False):
        for domain in set(domains.values()):
            own = [sum(domains[c] == domain and (lesions[c] > 0) == kind for c in split["val"]) for split in splits]
            assert max(own) - min(own) <= 1
        both = [sum((lesions[c] > 0) == kind for c in split["val"]) for split in splits]
        assert max(both) - min(both) <= 1
    if n_domains == 1:
        assert splits == make_splits(lesions, seed=seed)


def test_a_fold_without_a_domain_has_no_patient_of_it():
    splits = [
        {"train": ["a1", "a2", "b1", "c1"], "val": ["a3", "b2"]},
        {"train": ["a3", "b2"], "val": ["c1", "c2", "a1"]},
    ]
    domains = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "b2": "b", "c1": "c", "c2": "c"}
    patients = {"a3": "anna", "c1": "anna"}  # scanned on both scanners
    assert validation_of_domains(splits, domains) == ["a3", "b2", "c1", "c2"]  # of c fold 0 validates nothing
    assert without_domain(splits, "a", domains, patients) == {"train": ["b1"], "val": ["b2", "c2"]}
    assert without_domain(splits, "b", domains, patients) == {"train": ["a1", "a2"], "val": ["a3", "c1", "c2"]}
    divided = {**patients, "a2": "bert", "b2": "bert"}
    assert without_domain(splits, "c", domains, divided) == {"train": ["a1", "b1"], "val": ["b2"]}


def test_a_domain_names_files():
    assert slug("Site 1/3T") == "Site_1_3T"
    assert slug("0.8x0.49x0.49mm") == "0.8x0.49x0.49mm"
