"""Random scans for property tests: sizes, spacings, origins, oblique directions, and ways to the network array."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cmb_plugin.images import Grid, Mapping


@st.composite
def directions(draw: st.DrawFn, max_tilt: float = 180.0) -> tuple[float, ...]:
    """Axes permuted and flipped at will, then turned by up to ``max_tilt`` degrees about a random axis."""
    matrix = np.eye(3)[:, draw(st.permutations(range(3)))] * np.array(
        draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    )
    about = np.array(draw(st.tuples(*[st.floats(-1, 1)] * 3)))
    norm = np.linalg.norm(about)
    if norm > 1e-3:
        angle = np.deg2rad(draw(st.floats(0, max_tilt)))
        matrix = Rotation.from_rotvec(about / norm * angle).as_matrix() @ matrix
    return tuple(matrix.ravel().tolist())


@st.composite
def grids(draw: st.DrawFn, min_side: int = 1, max_side: int = 300, max_tilt: float = 180.0) -> Grid:
    shape = draw(st.tuples(*[st.integers(min_side, max_side)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.2, 6)] * 3))
    origin = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    return Grid(shape, spacing, origin, draw(directions(max_tilt)))


@st.composite
def mappings(draw: st.DrawFn) -> Mapping:
    whole = Mapping.plan(draw(grids()), draw(st.permutations(range(3))))
    start = [draw(st.integers(0, side - 1)) for side in whole.oriented_shape]
    stop = [draw(st.integers(a + 1, side)) for a, side in zip(start, whole.oriented_shape, strict=True)]
    shape = draw(st.tuples(*[st.integers(1, 300)] * 3))
    return Mapping(whole.source, whole.axes, whole.flips, tuple(start), tuple(stop), shape)
