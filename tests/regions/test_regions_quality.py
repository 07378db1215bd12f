"""Flags of a scan: each appears for what it is about, and for nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from cmb_plugin.anatomy import Place, RegionMap
from cmb_plugin.images import Grid
from cmb_plugin.regions.ghosts import ghost_strength
from cmb_plugin.regions.quality import GHOSTS, MANY, quality_flags

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


def in_air(ghost: float, masked: bool = False):
    """A head in the middle of much air with noise, a displaced copy of it along y, and its brain."""
    grid = Grid((8, 96, 96), (3.0, 2.0, 2.0))
    y, x = np.meshgrid(np.arange(96) - 47.5, np.arange(96) - 47.5, indexing="ij")
    ball = np.hypot(y, x / 0.8)
    scan = np.repeat(np.where(ball < 24, 100.0, 0.0)[None], 8, axis=0)
    scan += ghost * np.roll(scan, 40, axis=1)
    noise = np.random.default_rng(0).normal(0, 2, (2, *scan.shape))
    scan = np.hypot(scan + noise[0], noise[1]).astype(np.float32)
    brain = np.repeat((ball < 20)[None], 8, axis=0)
    if masked:
        scan[:, ball > 25] = 0
    return scan, grid, brain


def test_ghosts_are_measured_in_the_air_beside_the_head() -> None:
    assert abs(ghost_strength(*in_air(0.0))) < 0.003
    weak, strong = (ghost_strength(*in_air(ghost)) for ghost in (0.05, 0.1))
    assert 0.01 < weak < GHOSTS < strong < 0.1
    scan, grid, brain = in_air(0.1)
    turned = ghost_strength(scan.swapaxes(1, 2), grid, brain.swapaxes(1, 2))
    assert turned == pytest.approx(strong, abs=0.003)


def test_ghosts_are_not_looked_for_where_the_air_was_masked() -> None:
    assert ghost_strength(*in_air(0.1, masked=True)) is None


def test_ghosts_are_told_in_words() -> None:
    scan, grid, brain = in_air(0.1)
    regions = RegionMap(brain.astype(np.uint16), grid, {0: Place("outside"), 1: Place("lobar")}, "test")
    flags = quality_flags((scan, grid), brain, regions, None, 0)
    assert any(flag.startswith("Ghosts beside the head") for flag in flags)
    clean = quality_flags((in_air(0.0)[0], grid), brain, regions, None, 0)
    assert not any(flag.startswith("Ghosts") for flag in clean)
