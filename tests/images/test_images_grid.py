"""World coordinates agree with SimpleITK's and nibabel's."""

import json

import numpy as np
import pytest
import SimpleITK
from geometry_strategies import grids
from hypothesis import given, settings
from hypothesis import strategies as st

from cmb_plugin.images import Grid

points = st.lists(st.tuples(*[st.floats(-20, 320)] * 3), min_size=1, max_size=5).map(np.array)


def itk_image(grid: Grid) -> SimpleITK.Image:
    image = SimpleITK.Image([1, 1, 1], SimpleITK.sitkUInt8)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image


@given(grids(), points)
@settings(max_examples=60, deadline=None)
def test_world_coordinates_equal_simpleitk(grid, edges):
    image = itk_image(grid)
    # ITK's index is that of the voxel's centre: edge coordinate minus a half, in x, y, z.
    expected = [image.TransformContinuousIndexToPhysicalPoint((edge[::-1] - 0.5).tolist()) for edge in edges]
    np.testing.assert_allclose(grid.to_world(edges), expected, atol=1e-6)
    np.testing.assert_allclose(grid.from_world(np.array(expected)), edges, atol=1e-5)


@given(grids())
@settings(max_examples=30, deadline=None)
def test_grid_survives_json(grid):
    assert Grid.from_json(json.loads(json.dumps(grid.to_json()))) == grid


@pytest.mark.parametrize("codes", ["SPL", "SAR", "LPS", "ARS", "IPR", "PSL"])
def test_axis_codes_equal_itk_orientation(codes):
    image = SimpleITK.DICOMOrient(SimpleITK.Image([3, 4, 5], SimpleITK.sitkUInt8), codes[::-1])
    grid = Grid(image.GetSize()[::-1], image.GetSpacing()[::-1], image.GetOrigin(), image.GetDirection())
    assert grid.axis_codes == codes


def test_corner_distance_is_that_of_the_worst_corner():
    grid = Grid((10, 20, 30), (2.0, 1.0, 1.0))
    assert grid.corner_distance(Grid(grid.shape, grid.spacing, (3.0, 4.0, 0.0))) == pytest.approx(5.0)
    # The corners at voxel 0 move too: the origin is the centre of voxel 0, and its edge lies half a voxel before it.
    longer = Grid(grid.shape, (2.1, 1.0, 1.0))
    assert grid.corner_distance(longer) == pytest.approx(0.1 * 9.5)
    assert grid.matches(Grid(grid.shape, grid.spacing, (0.005, 0.0, 0.0)))
    assert not grid.matches(longer)
    assert not grid.matches(Grid((10, 20, 31), grid.spacing))


def test_voxels_are_the_same_up_to_half_of_the_shortest_side_of_the_reference():
    grid = Grid((10, 20, 30), (2.0, 1.0, 1.0))

    def moved(x, shape=grid.shape):
        return Grid(shape, grid.spacing, (x, 0.0, 0.0))

    assert moved(0.499).same_as(grid)
    assert not moved(0.5).same_as(grid)
    assert moved(0.9).same_as(grid, tolerance=1.0)
    assert not moved(0.0, (10, 20, 31)).same_as(grid)
    # The reference decides: the corners are 0.45 mm apart, and half of its shortest side is 0.4 or 0.5 mm.
    short, long = Grid((1, 1, 1), (1.0, 1.0, 0.8), (0.35, 0.0, 0.0)), Grid((1, 1, 1), (1.0, 1.0, 1.0))
    assert short.same_as(long)
    assert not long.same_as(short)
