"""Region masks on another grid: who covers most of a voxel gets it."""

import numpy as np
import pytest
from scipy.ndimage import find_objects

from cmb_plugin.dataset import Case
from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid, write_image
from cmb_plugin.preparation import Preprocessing, preprocess_case, read_regions, resample_regions

GRID = Grid((8, 8, 8), (1.0, 1.0, 1.0))


def test_in_blocks_of_whole_voxels_the_most_frequent_region_wins():
    mask = np.random.default_rng(0).integers(0, 4, (12, 8, 6))
    coarse = resample_regions(mask, (4, 4, 3))
    for z, y, x in np.ndindex(coarse.shape):
        block = mask[3 * z : 3 * z + 3, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        counts = np.bincount(block.ravel(), minlength=4)
        assert counts[coarse[z, y, x]] == counts.max()


def test_the_same_shape_changes_nothing():
    mask = np.random.default_rng(0).integers(0, 4, (5, 6, 7))
    np.testing.assert_array_equal(resample_regions(mask, (5, 6, 7)), mask)


def test_no_hole_where_three_regions_meet():
    mask = np.ones((9, 9, 9), dtype=int)
    mask[:, 4:, :5], mask[:, 4:, 5:] = 2, 3
    assert resample_regions(mask, (4, 4, 4)).min() == 1


def test_volumes_survive_a_strange_zoom():
    z, y, x = np.indices((60, 60, 60)) - 29.5
    mask = (z**2 + y**2 + x**2 < 25**2).astype(int)
    coarse = resample_regions(mask, (23, 27, 19))
    assert coarse.mean() == pytest.approx(mask.mean(), rel=0.01)


def test_a_prepared_case_holds_its_regions_where_a_lesion_would_be():
    mask = np.zeros(GRID.shape, dtype=np.int32)
    mask[2:6, 2:6, 2:6] = 1
    mask[2:4, 2:6, 2:6] = 2
    mask[7, 7, 7] = 3  # too small for a voxel of twice the side
    image = np.random.default_rng(0).normal(size=(1, *GRID.shape)).astype(np.float32)
    prepared = preprocess_case(image, GRID, mask, Preprocessing((2.0, 2.0, 2.0)), regions=True)
    assert prepared.instances.shape == (4, 4, 4)
    assert sorted(prepared.truth) == [1, 2]
    assert [place is not None for place in find_objects(prepared.instances)] == [True, True]


@pytest.mark.parametrize(("value", "message"), [(4, "holds 4, which has no name"), (0, "is empty")])
def test_a_mask_that_cannot_be_learned_is_one_line(tmp_path, value, message):
    path = tmp_path / "sub-01.nii.gz"
    write_image(path, np.full(GRID.shape, value, dtype=np.uint8), GRID)
    with pytest.raises(UserError, match=message):
        read_regions(Case("sub-01", (tmp_path / "scan.nii.gz",), label=path), 3, GRID)
