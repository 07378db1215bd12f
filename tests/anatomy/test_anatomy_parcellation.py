"""Parcellations of other programs become regions on the scan's grid, by world coordinates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmb_plugin.anatomy import find_parcellation, load_table, parcellation_regions
from cmb_plugin.anatomy.white_matter import DEEP_WHITE_MATTER, PERIVENTRICULAR_MM, divide_white_matter
from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid, write_image

OBLIQUE = (0.98, -0.199, 0.0, 0.199, 0.98, 0.0, 0.0, 0.0, 1.0)


def head(tmp_path: Path, name: str = "case.nii.gz") -> tuple[Path, np.ndarray, Grid]:
    """A block of brain, 1 mm, in RAS order as FreeSurfer writes it: thalami, cerebellum, cortex, one odd label."""
    labels = np.zeros((40, 50, 40), np.int16)
    labels[5:35, 5:45, 5:20], labels[5:35, 5:45, 20:35] = 2003, 1003  # arrays run to the left here
    labels[18:22, 20:30, 12:18], labels[18:22, 20:30, 22:28] = 49, 10
    labels[5:10, 30:45, 5:35] = 47
    labels[30:32, 10:12, 10:12] = 11101
    grid = Grid((40, 50, 40), (1.0, 1.0, 1.0), (-20.0, -25.0, -20.0))
    write_image(tmp_path / name, labels, grid)
    return tmp_path / name, labels, grid


def test_labels_land_at_their_world_place_on_another_grid(tmp_path: Path) -> None:
    path, labels, grid = head(tmp_path)
    scan = Grid((20, 60, 60), (2.0, 0.7, 0.7), (-18.0, -20.0, -19.2), OBLIQUE)
    regions = parcellation_regions(path, scan)
    index = np.argwhere(np.ones(scan.shape, bool))
    there = grid.from_world(scan.to_world(index + 0.5))
    nearest = np.floor(there).astype(int)
    known = ((nearest >= 0) & (nearest < labels.shape)).all(axis=1)
    clear = (np.abs(there - np.rint(there)) > 0.02).all(axis=1) & known  # no tie between two voxels
    assert clear.sum() > 10000
    np.testing.assert_array_equal(regions.labels[tuple(index[clear].T)], labels[tuple(nearest[clear].T)])
    assert regions.trusted
    assert regions.place(10).side == "left"


def test_unknown_labels_are_reported_and_stay_unknown_tissue(tmp_path: Path) -> None:
    path, _, grid = head(tmp_path)
    regions = parcellation_regions(path, grid)
    assert any("11101 (8 voxels)" in finding for finding in regions.findings)
    assert np.count_nonzero(regions.labels == 11101) == 8
    assert regions.place(11101).group == "unknown"


def test_a_parcellation_beside_the_brain_is_not_trusted(tmp_path: Path) -> None:
    path, labels, grid = head(tmp_path)
    assert parcellation_regions(path, grid, brain=labels > 0).trusted
    shifted = parcellation_regions(path, grid, brain=np.roll(labels > 0, 15, axis=0))
    assert not shifted.trusted
    assert "one space" in shifted.why
    far = Grid((40, 50, 40), (1.0, 1.0, 1.0), (500.0, 0.0, 0.0))
    assert not parcellation_regions(path, far).trusted


def test_the_names_that_programs_give_are_found_in_order(tmp_path: Path) -> None:
    for name in ("case_aseg.nii.gz", "case_aparc+aseg.nii.gz", "case_10.nii.gz"):
        head(tmp_path, name)
    assert find_parcellation(tmp_path, "case").name == "case_aparc+aseg.nii.gz"
    head(tmp_path, "case.nii")
    assert find_parcellation(tmp_path, "case").name == "case.nii"
    with pytest.raises(UserError, match="no parcellation of case_1;"):
        find_parcellation(tmp_path, "case_1")
    with pytest.raises(UserError, match="no such folder"):
        find_parcellation(tmp_path / "none", "case")


def white_brain() -> np.ndarray:
    """2 mm: left white matter with a slit of ventricle, frontal cortex in front and parietal cortex behind."""
    labels = np.full((8, 40, 30), 2, np.uint16)
    labels[:, :, 0] = 4
    labels[:, :3], labels[:, -3:] = 1028, 1029
    labels[:, :, 29] = 15  # the fourth ventricle makes nothing deep
    return labels


def test_white_matter_is_deep_near_the_ventricles_and_takes_the_nearest_lobe_elsewhere() -> None:
    labels = white_brain()
    divided, places = divide_white_matter(labels, (2.0, 2.0, 2.0), load_table("freesurfer"))
    white = labels == 2
    x_mm = np.broadcast_to(np.arange(30) * 2.0, labels.shape)
    y = np.broadcast_to(np.arange(40)[None, :, None], labels.shape)
    deep = np.isin(divided, [v for v, p in places.items() if v >= 60000 and p.region == DEEP_WHITE_MATTER])
    np.testing.assert_array_equal(deep[white], (x_mm <= PERIVENTRICULAR_MM)[white])
    frontal = np.isin(divided, [v for v, p in places.items() if v >= 60000 and p.region == "frontal"])
    clear = white & ~deep & (np.abs(y - 19.5) > 1)
    np.testing.assert_array_equal(frontal[clear], (y < 19.5)[clear])
    assert {places[int(v)].side for v in np.unique(divided[white])} == {"left"}
    np.testing.assert_array_equal(divided[~white], labels[~white])


def test_without_lobes_or_ventricles_white_matter_is_lobar() -> None:
    labels = np.array([[[2, 41, 3, 16]]], np.uint16)
    divided, places = divide_white_matter(labels, (1.0, 1.0, 1.0), load_table("freesurfer"))
    assert [(places[int(v)].group, places[int(v)].region) for v in divided.ravel()[:2]] == [("lobar", "")] * 2
