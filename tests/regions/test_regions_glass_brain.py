"""Numbers in the glass brain stand beside their points and apart from all others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from cmb_plugin.regions.glass_brain import BESIDE_MM, ENOUGH_MM, label_places

POINTS = st.integers(0, 12).flatmap(lambda n: arrays(float, (n, 2), elements=st.floats(0, 180)))


@given(POINTS)
def test_every_number_stands_beside_its_point(points: np.ndarray) -> None:
    places = label_places(points)
    assert places.shape == points.shape
    assert np.linalg.norm(places - points, axis=1) == pytest.approx(BESIDE_MM)


def test_a_lonely_point_has_its_number_to_the_upper_right() -> None:
    assert np.all(label_places(np.array([[50.0, 60.0]])) > (50, 60))


def test_a_number_moves_out_of_the_way_of_another_point() -> None:
    taken = np.array([50.0, 60.0]) + BESIDE_MM * np.sqrt(0.5)
    places = label_places(np.array([[50.0, 60.0], taken]))
    assert cdist(places[:1], [taken]) >= ENOUGH_MM


def test_numbers_of_points_at_one_place_stand_apart() -> None:
    places = label_places(np.full((4, 2), 30.0))
    assert cdist(places, places)[~np.eye(4, dtype=bool)].min() > BESIDE_MM
