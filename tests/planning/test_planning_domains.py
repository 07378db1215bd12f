"""Domains that store phase or QSM in other units than the rest keep them, from the plan to the prepared scan."""

import math
from dataclasses import replace

import numpy as np
import pytest

from cmb_plugin.images import Grid
from cmb_plugin.planning.brain import brain_normalisation, brain_preprocessing
from cmb_plugin.preparation import CaseFingerprint, Fingerprint, Preprocessing, preprocess_case, work_key
from cmb_plugin.preparation.recipe import DomainUnits, Normalisation

RADIANS, THIRTEEN_BITS = (-math.pi, math.pi), (-4096.0, 4095.0)
FILTERED = (-900.0, 900.0)  # phase of 13 bits that a high pass has made smaller


def case(domain, extremes):
    numbers = ((0.0, 1.0, 2.0),) * 2
    extremes = ((0.0, 500.0), extremes)
    return CaseFingerprint(
        "a", (9, 9, 9), (1.0,) * 3, (9, 9, 9), "SPL", (), (), (), numbers, extremes=extremes, domain=domain
    )


def recipe(*cases):
    fingerprint = Fingerprint("Task001_X", ("swi", "phase"), ("cmb",), cases)
    return brain_preprocessing(fingerprint, (1.0,) * 3, (0, 1, 2), 12.0, brain_normalisation(fingerprint))


def test_each_domain_has_the_unit_that_it_would_have_alone():
    made = recipe(case("a", RADIANS), case("b", THIRTEEN_BITS), case("b", FILTERED), case("", RADIANS))
    assert [step.unit for step in made.normalisation] == [None, None]  # what a new scan has: its own
    assert made.domain_units == (DomainUnits("a", (None, "radians")), DomainUnits("b", (None, "-4096..4096")))
    assert made.of_domain("b").normalisation[1] == Normalisation("phase", unit="-4096..4096")
    assert made.of_domain("b").domain_units == ()
    assert made.of_domain("elsewhere") == replace(made, domain_units=())


@pytest.mark.parametrize("domains", [("", ""), ("a", "a"), ("a", "b")])
def test_where_units_agree_the_recipe_is_what_it_was(domains):
    made = recipe(*(case(domain, RADIANS) for domain in domains))
    assert made.domain_units == ()
    assert made.of_domain("a") is made


def test_scans_prepared_before_domains_had_units_stay_current(tmp_path):
    file = tmp_path / "scan.nii.gz"
    file.write_bytes(b"x")
    plain = Preprocessing((1.0,) * 3)
    assert work_key([file], plain) == work_key(
        [file], replace(plain, domain_units=(DomainUnits("a", ("ppm",)),)).of_domain("b")
    )
    units = replace(plain, normalisation=(Normalisation("phase"),), domain_units=(DomainUnits("a", ("radians",)),))
    assert work_key([file], units.of_domain("a")) != work_key([file], units.of_domain("b"))


def test_filtered_phase_of_a_domain_is_read_in_the_domains_unit():
    made = recipe(case("a", RADIANS), case("b", THIRTEEN_BITS), case("b", FILTERED))
    rng = np.random.default_rng(0)
    phase = rng.uniform(-900, 900, (9, 9, 9)).astype(np.float32)
    phase[0, 0, :2] = -900, 900
    images = np.stack([np.full((9, 9, 9), 100, np.float32), phase])
    grid = Grid((9, 9, 9), (1.0, 1.0, 1.0))
    bare = replace(made, brain_channel=None, crop_to_nonzero=False)
    known = preprocess_case(images.copy(), grid, None, bare.of_domain("b")).data[1]
    unknown = preprocess_case(images.copy(), grid, None, bare.of_domain("")).data[1]
    assert np.abs(known).max() == pytest.approx(math.pi * 900 / 4096, rel=1e-3)
    assert np.abs(unknown).max() > 1.5 * np.abs(known).max()  # taken for a smaller unit, as a scan alone is
