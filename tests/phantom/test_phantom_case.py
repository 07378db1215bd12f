"""Whole phantoms, on the small protocol ``tiny``."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from cmb_plugin.phantom import MODALITIES, PhantomCase, PhantomConfig, healthy_cases, make_case
from cmb_plugin.phantom.outline import DEFINITE_CNR

KINDS = {"vein_straight", "vein_curved", "calcification", "iron", "pial_vessel", "air_sinus"}
CONFIG = PhantomConfig(("tiny",), MODALITIES, ("cmb",))


@pytest.fixture(scope="module")
def case() -> PhantomCase:
    return make_case(0, 5, CONFIG)


def test_every_modality_has_the_scans_shape_and_finite_values(case: PhantomCase) -> None:
    assert set(case.images) == set(MODALITIES)
    for image in case.images.values():
        assert image.shape == case.grid.shape
        assert np.isfinite(image).all()
    assert np.abs(case.images["phase"]).max() <= np.pi + 1e-3


def test_instances_are_numbered_without_gaps_and_in_one_piece(case: PhantomCase) -> None:
    assert len(case.lesions) >= 4
    assert sorted(set(np.unique(case.mask)) - {0}) == list(range(1, len(case.lesions) + 1))
    assert [lesion["instance"] for lesion in case.lesions] == sorted(case.classes)
    for number in case.classes:
        assert ndimage.label(case.mask == number, structure=np.ones((3, 3, 3)))[1] == 1


def test_lesions_record_lies_inside_the_outline(case: PhantomCase) -> None:
    for lesion in case.lesions:
        voxel = tuple(np.floor(lesion["centre"]).astype(int))
        assert case.mask[voxel] == lesion["instance"]
        np.testing.assert_allclose(
            case.grid.to_world(np.array([lesion["centre"]]))[0], lesion["centre_lps_mm"], atol=0.01
        )
        volume = np.count_nonzero(case.mask == lesion["instance"]) * np.prod(case.grid.spacing)
        assert lesion["outlined_diameter_mm"] == pytest.approx((6 * volume / np.pi) ** (1 / 3), abs=1e-3)
        assert lesion["region"] in ("lobar", "deep", "infratentorial")


def test_certainty_follows_the_contrast_to_noise_ratio(case: PhantomCase) -> None:
    for lesion in case.lesions:
        assert (lesion["certainty"] == "definite") == (lesion["cnr"] >= DEFINITE_CNR)


def test_definite_lesions_are_darker_than_their_surroundings(case: PhantomCase) -> None:
    swi = case.images["swi"].astype(float)
    definite = [lesion for lesion in case.lesions if lesion["certainty"] == "definite"]
    assert definite
    for lesion in definite:
        own = case.mask == lesion["instance"]
        around = ndimage.binary_dilation(own, iterations=3) & (case.mask == 0) & (case.brain > 0)
        assert swi[own].mean() < np.median(swi[around])


def test_every_kind_of_mimic_is_there_and_lies_in_the_scan(case: PhantomCase) -> None:
    assert {mimic["kind"] for mimic in case.mimics} == KINDS
    for mimic in case.mimics:
        low, high = np.array(mimic["box"][:3]), np.array(mimic["box"][3:])
        assert (low >= 0).all()
        assert (high <= case.grid.shape).all()
        assert (high > low).all()
        np.testing.assert_allclose(
            case.grid.to_world(np.array([mimic["centre"]]))[0], mimic["centre_lps_mm"], atol=0.01
        )
        if "path" in mimic:
            path = np.array(mimic["path"])
            along = np.linspace(0, len(path) - 1, 50 * len(path))
            dense = np.stack([np.interp(along, np.arange(len(path)), column) for column in path.T], axis=1)
            assert np.linalg.norm((dense - mimic["centre"]) * case.grid.spacing, axis=1).min() < 0.5
            assert ((path >= low - 1) & (path <= high + 1)).all()


def test_veins_and_iron_are_dark_on_swi_and_bright_on_qsm(case: PhantomCase) -> None:
    tissue = case.brain > 0
    for side in [m for m in case.mimics if m["kind"] == "iron"]:
        voxel = tuple(np.floor(side["centre"]).astype(int))
        assert case.images["t2s"][voxel] < 0.85 * np.median(case.images["t2s"][tissue])
        assert case.images["qsm"][voxel] > 0.1


def test_calcification_and_microbleed_differ_in_the_sign_of_qsm(case: PhantomCase) -> None:
    def strongest(centre: list[float]) -> float:
        z, y, x = np.floor(centre).astype(int)
        around = case.images["qsm"][z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2]
        return float(around.ravel()[np.abs(around).argmax()])

    calcium = [strongest(m["centre"]) for m in case.mimics if m["kind"] == "calcification"]
    bleeds = [strongest(m["centre"]) for m in case.lesions if m["certainty"] == "definite"]
    assert np.median(calcium) < -0.1
    assert np.median(bleeds) > 0.05  # the phantom's QSM is blurred, and small bleeds fill part of a voxel


def test_background_is_noise_and_brain_is_not(case: PhantomCase) -> None:
    corner = case.images["t2s"][:, :8, :8].astype(float)
    assert corner.std() > 0  # a scan's background is not zero
    assert corner.mean() < 0.15 * np.median(case.images["t2s"][case.brain > 0])


def test_regions_fill_the_brain(case: PhantomCase) -> None:
    assert ((case.regions > 0) == (case.brain > 0)).all()
    volumes = np.bincount(case.regions.ravel(), minlength=4) * np.prod(case.grid.spacing) / 1000
    assert 1000 < volumes[1:].sum() < 2200  # ml
    assert volumes[1] > volumes[3] > 60
    assert volumes[2] > 60


def test_same_arguments_give_the_same_arrays(case: PhantomCase) -> None:
    again = make_case(0, 5, CONFIG)
    assert again.grid == case.grid
    assert again.lesions == case.lesions
    assert again.mimics == case.mimics
    for name, image in case.images.items():
        assert (again.images[name] == image).all()


def test_a_case_holds_as_many_lesions_as_are_asked_for_and_a_healthy_one_none() -> None:
    config = PhantomConfig(("tiny",), ("swi",), lesions=30)
    counts = [len(make_case(0, index, config).lesions) for index in range(2)]
    assert all(13 <= count <= 45 for count in counts)  # a few lie in the outlines of others
    assert len(set(counts)) > 1
    assert not make_case(0, 0, config, healthy=True).lesions


def test_healthy_case_with_iron_as_a_class_has_iron_alone(case: PhantomCase) -> None:
    other, case = case, make_case(0, 2, PhantomConfig(("tiny",), ("qsm",), ("cmb", "iron")), healthy=True)
    assert case.grid != other.grid
    assert [lesion["class"] for lesion in case.lesions] == ["iron", "iron"]
    assert case.classes == {1: 1, 2: 1}
    assert "iron" not in {mimic["kind"] for mimic in case.mimics}
    for lesion in case.lesions:
        assert lesion["region"] == "deep"
        assert lesion["outlined_diameter_mm"] > 3


def test_iron_that_shows_by_two_poles_on_swi_is_outlined_with_both() -> None:
    case = make_case(0, 2, PhantomConfig(("tiny",), ("swi",), ("cmb", "iron")), healthy=True)
    assert case.lesions
    for lesion in case.lesions:
        slices = np.flatnonzero((case.mask == lesion["instance"]).any(axis=(1, 2)))
        middle = lesion["centre"][0]
        assert middle - slices[0] > 1.5, "below the middle"
        assert slices[-1] + 1 - middle > 1.5, "above the middle"


@pytest.mark.parametrize(("cases", "share"), [(16, 0.3), (8, 0.3), (5, 0.0), (5, 1.0), (3, 0.5), (1, 0.3), (100, 0.33)])
@pytest.mark.parametrize("kinds", [1, 2, 6, 12])
def test_healthy_share_is_exact_and_spread_over_the_set_and_over_its_protocols(
    cases: int, share: float, kinds: int
) -> None:
    chosen = healthy_cases(cases, share, kinds)
    expected = int(share * cases + 0.5)
    assert len(chosen) == expected
    assert chosen <= set(range(cases))
    for k in range(0, cases, kinds):  # at no full turn of the protocols many more or fewer than the share
        assert abs(len(chosen & set(range(k))) - k * expected / cases) <= 1
    of_kind = [len(chosen & set(range(k, cases, kinds))) for k in range(min(kinds, cases))]
    assert max(of_kind) - min(of_kind) <= 1
