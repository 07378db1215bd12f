"""Lesions grown from points, measured against the phantoms' truth and on blobs of known size."""

from __future__ import annotations

import numpy as np
import pytest
from miniatures import phantom_scans

from cmb_plugin.conversion import grow_points
from cmb_plugin.images import boxes_of_instances

SPACING = (1.0, 0.5, 0.5)


def ellipsoids(centres: list[tuple[float, ...]], radii: list[float], shape=(30, 60, 60)) -> np.ndarray:
    """Distance in radii to the nearest centre, mm; below 1 inside."""
    places = (np.indices(shape).transpose(1, 2, 3, 0) + 0.5) * SPACING
    return np.min([np.linalg.norm(places - np.array(c) * SPACING, axis=-1) / r for c, r in zip(centres, radii)], axis=0)  # noqa: B905


def diameter(voxels: int, spacing=SPACING) -> float:
    return (6 * voxels * np.prod(spacing) / np.pi) ** (1 / 3)


def test_phantom_lesions_are_grown_to_their_size_and_never_into_a_neighbour() -> None:
    errors, intrusions = [], 0
    for scan in phantom_scans(4):
        voxel = np.prod(scan.grid.spacing) ** (1 / 3)
        grown = grow_points(scan.images["swi"].astype(float), scan.grid.spacing, scan.centres)
        for number, growth in zip(boxes_of_instances(scan.mask), grown, strict=True):
            true = diameter(np.count_nonzero(scan.mask == number), scan.grid.spacing)
            errors.append(abs(diameter(len(growth.voxels), scan.grid.spacing) - true) / voxel)
            touched = scan.mask[tuple(growth.voxels.T)]
            intrusions += bool(((touched > 0) & (touched != number)).any())
    assert np.median(errors) <= 1.0
    assert intrusions == 0


@pytest.mark.parametrize("bright", [False, True])
@pytest.mark.parametrize("radius", [1.2, 2.0, 4.0])
def test_a_blob_is_grown_to_half_its_depth(bright: bool, radius: float) -> None:
    rng = np.random.default_rng(0)
    image = 100 + rng.normal(0, 2, (30, 60, 60))
    blob = ellipsoids([(15.0, 30.5, 30.5)], [radius]) <= 1
    image[blob] += 60 if bright else -60
    growth = grow_points(image, SPACING, np.array([[15.0, 30.5, 30.5]]), bright=bright)[0]
    assert growth.how == "grown"
    np.testing.assert_array_equal(growth.voxels, np.argwhere(blob))


def test_touching_lesions_share_no_voxel() -> None:
    centres, radii = [(15.5, 25.0, 30.0), (15.5, 33.0, 30.0)], [2.0, 1.5]
    rng = np.random.default_rng(0)
    image = 100 - 60 * np.clip(1.3 - ellipsoids(centres, radii), 0, 1) + rng.normal(0, 1, (30, 60, 60))
    first, second = grow_points(image, SPACING, np.array(centres))
    assert not set(map(tuple, first.voxels.tolist())) & set(map(tuple, second.voxels.tolist()))
    assert tuple(np.floor(centres[1]).astype(int)) in set(map(tuple, second.voxels.tolist()))


def test_nothing_dark_gives_a_ball_of_three_millimetres() -> None:
    image = np.random.default_rng(0).normal(100, 5, (30, 60, 60))
    image[:, :, :] = np.sort(image, axis=2)  # a slope, no lesion
    growth = grow_points(image, SPACING, np.array([[15.5, 30.5, 30.5]]))[0]
    assert growth.how == "ball"
    assert diameter(len(growth.voxels)) == pytest.approx(3.0, rel=0.1)


def test_a_vessel_is_not_followed() -> None:
    image = np.random.default_rng(0).normal(100, 2, (30, 60, 60))
    image[14:17, 29:32, :] -= 60
    growth = grow_points(image, SPACING, np.array([[15.5, 30.5, 30.5]]))[0]
    assert np.ptp(growth.voxels[:, 2]) * SPACING[2] <= 10.0
    assert growth.how == "ball"


def test_the_cut_off_outside_of_the_brain_is_no_lesion() -> None:
    image = np.random.default_rng(0).normal(100, 2, (30, 60, 60))
    image[:, :28] = 0
    image[14:17, 29:32, 29:32] -= 60
    growth = grow_points(image, SPACING, np.array([[15.5, 30.5, 30.5]]))[0]
    assert growth.how == "grown"
    assert growth.voxels[:, 1].min() >= 28


def test_a_point_between_two_thick_slices_is_grown_too() -> None:
    image = np.random.default_rng(0).normal(100, 2, (12, 60, 60))
    image[5:7, 29:32, 29:32] -= 60
    growth = grow_points(image, (4.0, 0.5, 0.5), np.array([[6.0, 30.5, 30.5]]))[0]
    assert growth.how == "grown"
    assert len(growth.voxels) == 18
