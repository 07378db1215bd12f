"""Atlases are registered to scans and brought there; what cannot be trusted is said to be so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from cmb_plugin.anatomy import GROUPS, Place, atlas_regions, load_table, read_atlas, registration
from cmb_plugin.anatomy.atlas import Atlas
from cmb_plugin.anatomy.regions import CODES
from cmb_plugin.anatomy.registration import MIN_COVERAGE, MIN_QUALITY, Registration, load_template
from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid, write_image

MARS_FILE = Path(__file__).parents[3] / "shared/data/mars_atlas/MARS_scale_parcellation_map_mni.nii.gz"
TURN = np.deg2rad(8.0)
SCALE = np.array([1.06, 0.95, 1.02])  # of the head along x, y, z


@pytest.fixture(scope="module")
def head() -> tuple[np.ndarray, Grid, np.ndarray]:
    """A scan in the contrast of T2* (fluid bright) of a turned, scaled and moved template; 2 x 2 x 4 mm."""
    template, grid = load_template()
    shape, spacing = (36, 96, 96), (4.0, 2.0, 2.0)
    scan = Grid(shape, spacing, (-96.0, -80.0, 900.0))
    index = np.argwhere(np.ones(shape, bool))
    there = grid.from_world(scan.to_world(index + 0.5) @ true_matrix()[:3, :3].T + true_matrix()[:3, 3]) - 0.5
    t1 = ndimage.map_coordinates(template, there.T, order=1).reshape(shape)
    brain = t1 > 0.2
    noise = np.random.default_rng(0).normal(0, 0.02, shape)
    return (np.where(brain, 1.3 - t1, 0) + np.abs(noise)).astype(np.float32) * 1000, scan, brain


def true_matrix() -> np.ndarray:
    """[4, 4], world of the scan -> world of the template."""
    turn = np.array([[np.cos(TURN), -np.sin(TURN), 0], [np.sin(TURN), np.cos(TURN), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag(1 / SCALE) @ turn
    matrix[:3, 3] = np.array([0.0, 17.0, 5.0]) - matrix[:3, :3] @ np.array([0.0, 14.0, 970.0])
    return matrix


@pytest.fixture(scope="module")
def found(head: tuple[np.ndarray, Grid, np.ndarray]) -> Registration:
    return registration.register(*head)


def test_the_registration_finds_a_known_affine(head: tuple[np.ndarray, Grid, np.ndarray], found: Registration) -> None:
    _, grid, brain = head
    points = grid.to_world(np.argwhere(brain)[::50] + 0.5)
    apart = (found.matrix - true_matrix()) @ np.hstack([points, np.ones((len(points), 1))]).T
    assert np.median(np.linalg.norm(apart[:3], axis=0)) < 2.0
    np.testing.assert_allclose(sorted(found.scales), sorted(SCALE), atol=0.03)
    assert found.why_not == ""
    a, b, c, d = found.midplane
    left = grid.to_world(np.array([[18.0, 48.0, 90.0]]))[0]
    assert left @ [a, b, c] + d > 0


def test_the_coarse_map_lands_on_the_scan_and_reaches_its_surface(
    head: tuple[np.ndarray, Grid, np.ndarray], found: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, grid, brain = head
    monkeypatch.setattr("cmb_plugin.anatomy.atlas.register", lambda *_: found)
    regions = atlas_regions(image, grid, read_atlas("builtin"), brain)
    assert regions.trusted
    assert regions.quality is not None
    assert regions.quality > MIN_QUALITY
    assert not (brain & (regions.group_codes() == CODES["outside"])).any()
    # The cerebellum lies at the back and the bottom, the deep nuclei in the middle.
    middle = {g: np.argwhere(regions.group_codes() == CODES[g]).mean(axis=0) for g in GROUPS}
    assert middle["infratentorial"][0] < middle["deep"][0] < middle["lobar"][0] + 2
    assert middle["infratentorial"][1] > middle["deep"][1]


@pytest.mark.parametrize(("axis", "name"), [(0, "top to bottom"), (1, "front to back")])
def test_a_scan_whose_header_has_the_wrong_orientation_is_not_trusted(
    head: tuple[np.ndarray, Grid, np.ndarray], axis: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, grid, brain = head
    monkeypatch.setattr(registration, "TURNS_DEG", ((0, 0, 0),))
    turned = atlas_regions(np.flip(image, axis), grid, read_atlas("builtin"), np.flip(brain, axis))
    assert not turned.trusted, name
    assert "orientation" in turned.why


def test_a_thin_slab_is_not_trusted(head: tuple[np.ndarray, Grid, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    image, grid, brain = head
    monkeypatch.setattr(registration, "TURNS_DEG", ((0, 0, 0),))
    slab = Grid((5, *grid.shape[1:]), grid.spacing, (-96.0, -80.0, 900.0 + 18 * 4))
    regions = atlas_regions(image[18:23], slab, read_atlas("builtin"), brain[18:23])
    assert not regions.trusted
    assert regions.why


def test_a_scan_without_a_brain_is_unknown() -> None:
    noise = np.random.default_rng(1).random((20, 40, 40)).astype(np.float32)
    regions = atlas_regions(noise, Grid((20, 40, 40), (2.0, 2.0, 2.0)), read_atlas("builtin"))
    assert not regions.trusted
    assert regions.why == "no brain was found in the scan"


@pytest.mark.parametrize(
    ("overlap", "contrast", "coverage", "scale", "words"),
    [
        (0.95, 0.8, 0.9, 1.0, ""),
        (0.95, 0.8, MIN_COVERAGE - 0.05, 1.0, "of a brain"),
        (0.95, 0.8, 0.9, 0.6, "stretches"),
        (0.85, 0.8, 0.9, 1.0, "poor"),
        (0.95, 0.2, 0.9, 1.0, "poor"),
        (0.95, -2.0, 0.9, 1.0, "poor"),
    ],
)
def test_the_reason_of_mistrust_is_named(
    overlap: float, contrast: float, coverage: float, scale: float, words: str
) -> None:
    found = Registration(np.diag([1, 1, scale, 1.0]), overlap, contrast, coverage)
    assert words in found.why_not
    assert (found.why_not == "") == (words == "")
    assert 0 <= found.quality <= 1


def test_an_atlas_needs_a_table_and_takes_the_one_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.nii.gz"
    write_image(path, np.arange(8, dtype=np.uint8).reshape(2, 2, 2) % 4, Grid((2, 2, 2), (1.0, 1.0, 1.0)))
    with pytest.raises(UserError, match="nothing says what its labels stand for"):
        read_atlas(str(path))
    assert read_atlas(str(path), "mars").places == load_table("mars").places
    (tmp_path / "mine.tsv").write_text("value\tgroup\n1\tlobar\n2\tdeep\n", encoding="utf-8")
    atlas = read_atlas(str(path))
    assert atlas.places[2] == Place("deep")
    assert "3 (2 voxels)" in atlas.findings[0]


def test_the_mars_atlas_is_known_by_its_squares(tmp_path: Path) -> None:
    values = np.zeros((2, 3, 3))
    values.ravel()[:14] = np.arange(14) ** 2 + 0.001
    write_image(tmp_path / "mars.nii.gz", values, Grid((2, 3, 3), (1.0, 1.0, 1.0)))
    atlas = read_atlas(str(tmp_path / "mars.nii.gz"))
    assert sorted(np.unique(atlas.labels)) == list(range(14))
    assert atlas.places[8].region == "deep and periventricular white matter"


@pytest.mark.skipif(not MARS_FILE.is_file(), reason="the MARS atlas is not part of the project")
def test_the_coarse_map_agrees_with_the_mars_atlas() -> None:
    from cmb_plugin.anatomy.resampling import resample_labels

    mars, coarse = read_atlas(str(MARS_FILE)), read_atlas("builtin")
    ours, theirs = resample_labels(coarse.group_codes(), coarse.grid, mars.grid), mars.group_codes()
    tissue = [CODES[group] for group in GROUPS]
    both = np.isin(ours, tissue) & np.isin(theirs, tissue)
    assert (ours == theirs)[both].mean() > 0.85


def test_the_coarse_map_is_symmetric_small_and_has_every_label() -> None:
    atlas = read_atlas("builtin")
    assert isinstance(atlas, Atlas)
    assert set(np.unique(atlas.labels)) == set(atlas.places)
    assert (Path(registration.__file__).parent / "data/coarse.nii.gz").stat().st_size < 60_000
    group = atlas.group_codes()
    centre = np.argwhere(group != CODES["outside"]).mean(axis=0) + 0.5
    assert abs(atlas.grid.to_world(centre[None])[0, 0]) < 0.5  # mm off the midline
