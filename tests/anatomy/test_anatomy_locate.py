"""The place of each detection: region of most of the volume, side, and distances against SciPy's distance transform."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cmb_plugin.anatomy import Place, RegionMap, locate
from cmb_plugin.anatomy.location import ellipsoid_voxels
from cmb_plugin.anatomy.regions import CODES
from cmb_plugin.detections import Detections
from cmb_plugin.images import Grid

PLACES = {
    0: Place("outside"),
    1: Place("lobar", "frontal"),
    2: Place("deep", "thalamus", "left"),
    3: Place("infratentorial", "cerebellum"),
    4: Place("ventricle"),
    5: Place("lobar", "parietal"),
}
SPACING = (3.0, 0.5, 0.8)


def region_map(labels: np.ndarray, spacing: tuple[float, float, float] = SPACING, **more: object) -> RegionMap:
    shape = (int(labels.shape[0]), int(labels.shape[1]), int(labels.shape[2]))
    grid = Grid(shape, spacing, (-12.0, 30.0, 5.0))
    return RegionMap(labels.astype(np.uint16), grid, PLACES, "test", **more)  # type: ignore[arg-type]


def boxes(*rows: tuple[float, ...]) -> Detections:
    return Detections(np.array(rows), np.ones(len(rows)), np.zeros(len(rows)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_distances_equal_scipys_distance_transform(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 6, (3, 4, 3)), np.ones((2, 3, 3), int))
    regions = region_map(labels)
    voxels = np.argwhere(labels >= 0)[rng.permutation(labels.size)[:20]]
    found = locate(Detections(np.hstack([voxels, voxels + 1]), np.ones(20), np.zeros(20)), regions).columns
    groups = np.array([PLACES[v].group for v in range(6)])[labels]

    def distance(mask: np.ndarray) -> np.ndarray:
        if not mask.any():
            return np.full(len(voxels), np.nan)
        return ndimage.distance_transform_edt(~mask, sampling=SPACING)[tuple(voxels.T)]

    np.testing.assert_allclose(found["csf_mm"], distance(groups == "ventricle"), atol=1e-6)
    brain = groups != "outside"
    inside = brain[tuple(voxels.T)]
    np.testing.assert_allclose(found["surface_mm"], np.where(inside, distance(~brain), -distance(brain)), atol=1e-6)
    assert list(found["region_group"]) == list(groups[tuple(voxels.T)])
    for group in ("lobar", "deep", "infratentorial"):
        others = np.isin(groups, ("lobar", "deep", "infratentorial")) & (groups != group)
        chosen = found["nearest_group"] == group
        np.testing.assert_allclose(found["border_mm"][chosen], distance(others)[chosen], atol=1e-6)


def test_most_of_the_volume_decides_and_not_the_centre() -> None:
    labels = np.ones((10, 20, 20))
    labels[:, 10:, :] = 2
    labels[:, 8, :] = 2  # the centre of the lesion lies in a sliver of the other region
    found = locate(boxes((4, 2, 5, 5, 15, 6), (0, 12, 0, 4, 16, 4)), region_map(labels)).columns
    assert list(found["region_group"]) == ["lobar", "deep"]
    assert list(found["region"]) == ["frontal", "thalamus"]
    assert found["border_mm"][0] == 0


def test_a_group_of_several_sub_regions_outweighs_a_larger_single_one() -> None:
    labels = np.ones((1, 10, 1))
    labels[:, 3:6], labels[:, 6:] = 5, 2  # 3 frontal, 3 parietal, 4 deep
    found = locate(boxes((0, 0, 0, 1, 10, 1)), region_map(labels)).columns
    assert found["region_group"][0] == "lobar"


def test_outlines_are_counted_instead_of_ellipsoids() -> None:
    labels = np.ones((4, 10, 10))
    labels[:, 5:] = 3
    outlines = np.zeros((4, 10, 10), int)
    outlines[1, 4:7, 2] = 1
    detections = boxes((0, 0, 0, 4, 8, 4), (0, 0, 0, 4, 4, 4))
    assert list(locate(detections, region_map(labels), outlines).columns["region_group"]) == ["infratentorial", "lobar"]
    assert list(locate(detections, region_map(labels)).columns["region_group"]) == ["lobar", "lobar"]


def test_a_lesion_beside_the_brain_says_so_and_names_the_nearest_tissue() -> None:
    labels = np.zeros((6, 20, 20))
    labels[:, 10:] = 3
    found = locate(boxes((2, 6, 5, 3, 8, 7)), region_map(labels)).columns
    assert (found["region_group"][0], found["nearest_group"][0]) == ("outside", "infratentorial")
    assert found["surface_mm"][0] == pytest.approx(-np.hypot(3.5 * 0.5, 0.5 * 0.8), abs=1e-6)
    assert np.isnan(found["csf_mm"][0])


def test_the_side_is_the_labels_own_or_that_of_the_midplane() -> None:
    labels = np.ones((4, 8, 20))
    labels[:, :, 15:] = 2  # a label that says left
    detections = boxes((1, 1, 2, 2, 2, 3), (1, 1, 12, 2, 2, 13), (1, 1, 17, 2, 2, 18))
    assert list(locate(detections, region_map(labels)).columns["side"]) == ["right", "left", "left"]
    mirrored = RegionMap(labels.astype(np.uint16), Grid((4, 8, 20), (1, 1, 1), direction=(-1, 0, 0, 0, 1, 0, 0, 0, -1)),
                         PLACES, "test")  # fmt: skip
    assert list(locate(detections, mirrored).columns["side"]) == ["left", "right", "left"]
    plane = (1.0, 0.0, 0.0, 12.0 - 14 * 0.8)  # between x voxels 13 and 14
    assert list(locate(detections, region_map(labels, midplane=plane)).columns["side"]) == ["right", "right", "left"]


def test_a_map_that_is_not_trusted_places_nothing() -> None:
    found = locate(boxes((1, 1, 2, 2, 2, 3)), region_map(np.ones((4, 8, 8)), trusted=False, why="no brain")).columns
    assert (found["region_group"][0], found["nearest_group"][0], found["side"][0]) == ("unknown", "unknown", "")
    assert np.isnan([found[name][0] for name in ("border_mm", "surface_mm", "csf_mm")]).all()


def test_no_detection_gives_empty_columns() -> None:
    found = locate(Detections.empty(), region_map(np.ones((4, 8, 8))))
    assert len(found) == 0
    assert {"region_group", "border_mm"} <= set(found.columns)


def test_a_detection_beyond_the_scan_is_outside() -> None:
    found = locate(boxes((50, 1, 2, 52, 2, 3)), region_map(np.ones((4, 8, 8)))).columns
    assert found["region_group"][0] == "outside"
    assert found["surface_mm"][0] < 0


@given(st.lists(st.floats(1, 15), min_size=3, max_size=3), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_the_ellipsoid_fills_pi_sixths_of_a_large_box_and_never_nothing(sides: list[float], shift: list[float]) -> None:
    box = np.concatenate([shift, np.add(shift, sides)])
    voxels = ellipsoid_voxels(box)
    assert len(voxels)
    assert (voxels + 0.5 >= box[:3] - 0.51).all()
    assert (voxels + 0.5 <= box[3:] + 0.51).all()
    if min(sides) > 8:
        assert len(voxels) == pytest.approx(np.pi / 6 * np.prod(sides), rel=0.15)


def test_group_codes_give_unknown_for_a_label_without_a_place() -> None:
    codes = region_map(np.array([[[0, 1, 4, 9]]])).group_codes()
    assert list(codes.ravel()) == [CODES["outside"], CODES["lobar"], CODES["ventricle"], CODES["unknown"]]


def test_a_lesion_half_in_one_group_and_half_in_another_counts_where_its_centre_lies_or_is_unknown() -> None:
    labels = np.zeros((3, 6, 8))
    labels[:, :, :4], labels[:, :, 4:] = 1, 2
    even, off = (1.0, 2.0, 3.0, 2.0, 3.0, 5.0), (1.0, 2.0, 3.1, 2.0, 3.0, 5.1)
    found = locate(boxes(even, off), region_map(labels)).columns
    assert list(found["region_group"]) == ["unknown", "deep"]
    assert list(found["nearest_group"]) == ["unknown", "deep"]
    swapped = locate(boxes(even), region_map(3 - labels)).columns
    assert list(swapped["region_group"]) == ["unknown"]


def test_tissue_outweighs_as_much_fluid_and_a_group_two_of_its_sub_regions() -> None:
    labels = np.zeros((3, 6, 8))
    labels[:, :, :4], labels[:, :, 4:] = 4, 2
    across = boxes((1, 2, 3, 2, 3, 5))
    assert list(locate(across, region_map(labels)).columns["region_group"]) == ["deep"]
    labels[:, :, :4], labels[:, :, 4:] = 1, 5
    found = locate(across, region_map(labels)).columns
    assert (found["region_group"][0], found["region"][0]) == ("lobar", "")
