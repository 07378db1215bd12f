"""Flags of a scan: each appears for what it is about, and for nothing else."""

from __future__ import annotations

import numpy as np

from cmb_plugin.anatomy import Place, RegionMap
from cmb_plugin.images import Grid
from cmb_plugin.regions.quality import MANY, quality_flags

SHAPE = (20, 24, 24)
FEET_FIRST = (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
HEAD_FIRST = (1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0)


def head(direction: tuple[float, ...] = FEET_FIRST, fluid: float = 120.0):
    """A ball of brain with a ventricle, its map, and a scan in which the brain is 100."""
    grid = Grid(SHAPE, (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), direction)
    places = np.indices(SHAPE).reshape(3, -1).T - np.array([9.5, 11.5, 11.5])
    distance = np.linalg.norm(places, axis=1).reshape(SHAPE)
    labels = np.where(distance < 8, 1, 0).astype(np.uint16)
    labels[distance < 4] = 2
    regions = RegionMap(labels, grid, {0: Place("outside"), 1: Place("lobar"), 2: Place("ventricle")}, "test")
    scan = np.select([labels == 2, labels == 1], [fluid, 100.0], 5.0).astype(np.float32)
    return (scan, grid), labels > 0, regions


def test_a_good_scan_has_none() -> None:
    scan, brain, regions = head()
    assert quality_flags(scan, brain, regions, (2.0, 2.0, 2.0), 3) == []
    assert quality_flags(None, None, regions, None, 0) == []


def test_thick_slices_and_large_pixels_are_told_by_the_training_scans() -> None:
    scan, brain, regions = head()
    assert "Slices of 2.0 mm; the model knows 1.0 mm" in quality_flags(scan, brain, regions, (0.5, 0.5, 1.0), 3)[0]
    assert "Pixels of 2.0 mm; the model knows 0.5 mm" in quality_flags(scan, brain, regions, (0.5, 0.5, 1.5), 3)[0]


def test_a_scan_that_ends_within_the_brain_says_at_which_end() -> None:
    for direction, upper in ((FEET_FIRST, slice(0, 12)), (HEAD_FIRST, slice(8, 20))):
        scan, brain, regions = head(direction)
        grid = Grid((12, *SHAPE[1:]), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), direction)
        cut = RegionMap(regions.labels[upper], grid, regions.places, "test")
        (flag,) = quality_flags((scan[0][upper], grid), brain[upper], cut, (2.0, 2.0, 2.0), 3)
        assert "within the brain above" in flag
    scan, brain, regions = head()
    grid = Grid((12, *SHAPE[1:]), (2.0, 2.0, 2.0))
    cut = RegionMap(regions.labels[8:], grid, regions.places, "test")
    (flag,) = quality_flags((scan[0][8:], grid), brain[8:], cut, (2.0, 2.0, 2.0), 3)
    assert "within the brain below" in flag


def test_dark_ventricles_are_no_t2_star_contrast() -> None:
    scan, brain, regions = head(fluid=30.0)
    (flag,) = quality_flags(scan, brain, regions, None, 3)
    assert "is this a T2*-weighted scan?" in flag
    untrusted = RegionMap(regions.labels, regions.grid, regions.places, "test", trusted=False, why="no overlap")
    assert quality_flags(scan, brain, untrusted, None, 3) == []


def test_very_many_are_doubted() -> None:
    scan, brain, regions = head()
    assert quality_flags(scan, brain, regions, None, MANY) == []
    assert "look at the lowest scores" in quality_flags(scan, brain, regions, None, MANY + 1)[0]
