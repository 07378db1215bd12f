"""Anatomy, the deformation of a subject, and the tables that lesions are drawn from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from cmb_plugin.phantom import PROTOCOLS
from cmb_plugin.phantom.anatomy import CMB_PLACES, DEEP, INFRATENTORIAL, LOBAR, load_atlas, to_index, to_mni
from cmb_plugin.phantom.deposits import draw_calcifications, draw_iron, draw_microbleeds
from cmb_plugin.phantom.protocols import CSIRO, CUHK, VALDO
from cmb_plugin.phantom.subject import Lattice, draw_subject, interpolate_axis


@pytest.mark.parametrize(
    ("place", "region"),
    [
        ((30, 40, 25), LOBAR),  # middle frontal gyrus
        ((-50, -20, -15), LOBAR),  # temporal
        ((10, -92, 5), LOBAR),  # occipital
        ((11, -18, 8), DEEP),  # thalamus
        ((-26, 4, 1), DEEP),  # putamen
        ((0, 22, 12), DEEP),  # genu of the corpus callosum
        ((18, -8, 24), DEEP),  # periventricular white matter
        ((0, -25, -32), INFRATENTORIAL),  # pons
        ((-30, -65, -38), INFRATENTORIAL),  # cerebellum
        ((0, -20, -15), INFRATENTORIAL),  # midbrain
        ((0, 95, 0), 0),  # outside the head
    ],
)
def test_regions_of_known_mni_places(place: tuple[int, int, int], region: int) -> None:
    index = to_index(np.array([place], float)).round().astype(int)
    assert load_atlas().regions[tuple(index)][0] == region


def test_tissue_fractions_add_up_to_no_more_than_one() -> None:
    atlas = load_atlas()
    total = atlas.grey + atlas.white
    assert total.min() >= 0
    assert total.max() <= 1.001
    assert 1.2e6 < (total > 0.5).sum() < 2.0e6  # mm^3 of brain tissue


def test_lattice_index_and_mni_point_are_inverse() -> None:
    points = np.random.default_rng(0).uniform(-60, 60, (20, 3))
    np.testing.assert_allclose(to_mni(to_index(points).T), points)


@pytest.mark.parametrize("seed", range(6))
def test_deformation_has_an_inverse_and_folds_nowhere(seed: int) -> None:
    subject = draw_subject(np.random.default_rng(seed), PROTOCOLS["tiny"], load_atlas())
    points = np.random.default_rng(seed).uniform((-55, -85, -45), (55, 55, 60), (300, 3))
    mm = subject.mni_to_mm(points)
    np.testing.assert_allclose(subject.mm_to_mni(mm), points, atol=0.02)
    step = 0.5
    columns = [(subject.mm_to_mni(mm + d) - subject.mm_to_mni(mm - d)) / (2 * step) for d in step * np.eye(3)]
    # z, y, x to x, y, z is a reflection, so the determinant of a map without folds is negative.
    assert np.linalg.det(np.stack(columns, axis=-1)).max() < -0.2


def test_scan_lies_obliquely_over_the_head_and_holds_the_brain() -> None:
    for seed in range(5):
        subject = draw_subject(np.random.default_rng(seed), PROTOCOLS["demo"], load_atlas())
        direction = np.array(subject.grid.direction).reshape(3, 3)
        np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-9)
        assert np.abs(direction - np.eye(3)).max() > 0.01
        assert subject.grid.axis_codes == "SPL"
        places = np.concatenate(list(load_atlas().places.values()))[::5000]
        voxels = subject.mni_to_mm(places) / np.array(subject.grid.spacing)
        inside = ((voxels > 0) & (voxels < np.array(subject.grid.shape) - 1)).all(axis=1)
        assert inside.mean() > 0.93


def test_interpolation_equals_scipys() -> None:
    values = np.random.default_rng(1).normal(size=(9, 8)).astype(np.float32)
    places = np.array([-0.5, 0.0, 0.3, 4.9, 7.999, 8.0, 9.5])
    expected = ndimage.map_coordinates(
        values, np.stack(np.meshgrid(places, np.arange(8.0), indexing="ij")), order=1, mode="nearest"
    )
    np.testing.assert_allclose(interpolate_axis(values, places, -2), expected, atol=1e-6)


def test_smooth_interpolation_passes_through_the_values_and_is_exact_for_parabolas() -> None:
    lattice = Lattice(tuple(np.arange(0.0, 31.0, 3.0) for _ in range(3)))  # type: ignore[arg-type]
    z, y, x = np.meshgrid(*lattice.mm, indexing="ij")
    mm = [np.array([6.0, 7.3, 13.9]), np.array([9.0, 10.1]), np.array([12.0, 16.2])]
    fine = np.meshgrid(*mm, indexing="ij")
    result = lattice.interpolate((z**2 - 2 * y * x).astype(np.float32), mm, smooth=True)
    np.testing.assert_allclose(result, fine[0] ** 2 - 2 * fine[1] * fine[2], atol=1e-3)


@pytest.mark.parametrize("lesions", [VALDO, CUHK, CSIRO])
def test_diameters_and_counts_follow_the_table(lesions: object) -> None:
    quantiles = [lesions.diameter(u) for u in (0.05, 0.25, 0.5, 0.75, 0.95)]  # type: ignore[attr-defined]
    assert quantiles == list(lesions.diameters)  # type: ignore[attr-defined]
    counts = [lesions.count(u) for u in (0.0, 0.5, 0.9, 1.0)]  # type: ignore[attr-defined]
    assert counts == [1, *lesions.counts]  # type: ignore[attr-defined]


def test_large_microbleeds_reach_from_4_to_10_mm_and_leave_the_others_as_they_are() -> None:
    lesions = dataclasses.replace(VALDO, large=0.2)
    assert [lesions.diameter(0.8 * u) for u in (0.05, 0.5, 0.95)] == pytest.approx(
        [VALDO.diameter(u) for u in (0.05, 0.5, 0.95)]
    )
    assert [lesions.diameter(u) for u in (0.8001, 0.9, 1.0)] == pytest.approx([4.0, 7.0, 10.0], abs=0.01)


def test_microbleeds_lie_in_the_tissue_they_are_named_for_and_apart() -> None:
    atlas = load_atlas()
    drawn = draw_microbleeds(np.random.default_rng(2), atlas, PROTOCOLS["valdo2"], 83, lambda _: True)
    centres = np.stack([d.centre for d in drawn])
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)[~np.eye(83, dtype=bool)]
    assert apart.min() >= 7
    assert all(0.4 <= d.ppm <= 3 for d in drawn)
    regions = atlas.regions[tuple(to_index(centres).round().astype(int))]
    assert (regions > 0).mean() > 0.97
    # VALDO: 31 + 11 of 253 in ganglia and thalamus and some of the 98 in white matter are deep; 17 infratentorial.
    assert 0.1 < (regions == DEEP).mean() < 0.5
    assert (regions == LOBAR).mean() > 0.45
    assert set(atlas.places) == set(CMB_PLACES)


def test_iron_lies_in_both_pallida_and_calcium_is_diamagnetic() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        assert sorted(d.site for d in draw_iron(rng, load_atlas())) == ["pallidum_left", "pallidum_right"]
        calcium = draw_calcifications(rng, load_atlas())
        assert calcium
        assert all(d.ppm < -0.5 for d in calcium)
