"""Scans are read as other libraries read them, and files that are no scans are refused by name."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from geometry_strategies import grids
from hypothesis import HealthCheck, given, settings

from cmb_plugin.errors import UserError
from cmb_plugin.images import SUFFIXES, Grid, image_stem, place_doubt, read_grid, read_mask, read_scan, write_image

OBLIQUE = Grid((5, 6, 7), (3.0, 0.9, 0.8), (12.5, -40.25, 7.0), (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0))
TO_RAS = np.array([-1.0, -1.0, 1.0])


def noise(shape=OBLIQUE.shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read_again_and_nothing_else_is_left(tmp_path, suffix):
    path = tmp_path / f"sub-01.v2_0000{suffix}"
    image = noise()
    write_image(path, image, OBLIQUE)
    array, grid = read_scan(path)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, image)
    assert grid.matches(OBLIQUE, tolerance_mm=1e-4)
    assert read_grid(path) == grid
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert image_stem(path) == "sub-01.v2_0000"


@given(grid=grids(min_side=1, max_side=6))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_voxels_lie_in_the_world_where_nibabel_puts_them(tmp_path, grid):
    path = tmp_path / "a.nii.gz"
    write_image(path, noise(grid.shape), grid)
    _, read = read_scan(path)
    nifti = nibabel.load(path)
    indices = np.argwhere(np.ones(grid.shape))
    expected = nibabel.affines.apply_affine(nifti.affine, indices[:, ::-1])
    np.testing.assert_allclose(read.to_world(indices + 0.5) * TO_RAS, expected, atol=2e-3)
    assert np.linalg.norm(read.to_world(indices) - grid.to_world(indices), axis=1).max() < 2e-3


@pytest.mark.parametrize(("dtype", "back"), [(bool, 1), (np.uint8, 255), (np.int16, -7), (np.int32, 70000)])
def test_masks_keep_their_numbers(tmp_path, dtype, back):
    mask = np.zeros(OBLIQUE.shape, dtype=dtype)
    mask[1, 2, 3] = back
    write_image(tmp_path / "m.nii.gz", mask, OBLIQUE)
    array, _ = read_mask(tmp_path / "m.nii.gz")
    assert array.dtype == np.int32
    assert array[1, 2, 3] == back
    assert np.count_nonzero(array) == 1


def test_a_mask_of_whole_floats_is_accepted_and_of_fractions_refused(tmp_path):
    mask = np.zeros(OBLIQUE.shape, dtype=np.float32)
    mask[1, 2, 3] = 2
    write_image(tmp_path / "whole.nii.gz", mask, OBLIQUE)
    assert read_mask(tmp_path / "whole.nii.gz")[0][1, 2, 3] == 2
    for wrong in (0.5, np.nan):
        mask[0, 0, 0] = wrong
        write_image(tmp_path / "fraction.nii.gz", mask, OBLIQUE)
        with pytest.raises(UserError, match=r"fraction\.nii\.gz: 1 voxels are no whole numbers"):
            read_mask(tmp_path / "fraction.nii.gz")


def test_nan_and_infinity_are_kept(tmp_path):
    image = noise()
    image[0, 0, :2] = np.nan, np.inf
    write_image(tmp_path / "a.nii.gz", image, OBLIQUE)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.nii.gz")[0], image)


def test_a_scan_with_a_last_axis_of_one_is_3d(tmp_path):
    nibabel.save(nibabel.Nifti1Image(noise().T[..., None], np.eye(4)), tmp_path / "a.nii.gz")
    array, grid = read_scan(tmp_path / "a.nii.gz")
    assert array.shape == grid.shape == OBLIQUE.shape


def sheared(path: Path, shear: float) -> nibabel.Nifti1Image:
    affine = np.diag([0.8, 0.9, 3.0, 1.0]) @ np.array([[1, shear, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    affine[:3, 3] = -10, 20, -30
    image = nibabel.Nifti1Image(np.random.default_rng(0).standard_normal((40, 50, 30)).astype(np.float32), None)
    image.set_sform(affine, 1)
    image.header["qform_code"] = 0
    nibabel.save(image, path)
    return image


@pytest.mark.parametrize("shear", [1e-3, 8e-3])
def test_axes_that_are_nearly_perpendicular_are_straightened_by_less_than_half_a_voxel(tmp_path, shear):
    path = tmp_path / "sheared.nii.gz"
    image = sheared(path, shear)
    with pytest.raises(RuntimeError, match="orthonormal"):
        SimpleITK.ReadImage(str(path))
    array, grid = read_scan(path)
    assert read_grid(path) == grid
    np.testing.assert_array_equal(array, image.get_fdata().T)
    indices = np.argwhere(np.ones(grid.shape))
    expected = nibabel.affines.apply_affine(image.affine, indices[:, ::-1])
    off = grid.to_world(indices + 0.5) * TO_RAS - expected
    assert np.linalg.norm(off, axis=1).max() < 0.4
    np.testing.assert_allclose(off.mean(axis=0), 0, atol=1e-4)  # turned about the middle
    direction = np.array(grid.direction).reshape(3, 3)
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-12)
    write_image(tmp_path / "again.nii.gz", array, grid)
    assert read_grid(tmp_path / "again.nii.gz").matches(grid)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_2_is_read_where_nibabel_has_it(tmp_path, suffix):
    affine = nibabel.affines.from_matvec(np.array([[0, -0.7, 0], [0.9, 0, 0], [0, 0, 2.0]]), [-30, 41.5, 12])
    image = nibabel.Nifti2Image(noise((6, 7, 8)), affine)
    nibabel.save(image, tmp_path / f"scan{suffix}")
    array, grid = read_scan(tmp_path / f"scan{suffix}")
    np.testing.assert_array_equal(array, image.get_fdata().T)
    indices = np.argwhere(np.ones(grid.shape))
    expected = nibabel.affines.apply_affine(affine, indices[:, ::-1])
    np.testing.assert_allclose(grid.to_world(indices + 0.5) * TO_RAS, expected, atol=1e-4)
    image.header["pixdim"][1:4] = 0
    (tmp_path / "damaged.nii").write_bytes(image.header.binaryblock + bytes(2000))
    with pytest.raises(UserError, match="its voxels measure 0 x 0 x 0 mm"):
        read_grid(tmp_path / "damaged.nii")


def refusals(folder: Path) -> dict[str, Path]:
    """Files that are not one 3D scan of one number per voxel."""
    files = {
        name: folder / f"{name}.nii.gz" for name in ("missing", "empty", "junk", "4D", "2D", "rgb", "complex", "shear")
    }
    files["empty"].write_bytes(b"")
    files["junk"].write_bytes(b"this is no scan" * 100)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6, 2), np.float32), np.eye(4)), files["4D"])
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5), np.float32), np.eye(4)), files["2D"])
    colours = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), files["rgb"])
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.complex64), np.eye(4)), files["complex"])
    sheared(files["shear"], 0.2)
    for suffix in SUFFIXES:
        files[f"cut off{suffix}"] = folder / f"cut{suffix}"
        write_image(files[f"cut off{suffix}"], noise((20, 20, 20)), Grid((20, 20, 20), (1.0, 1.0, 1.0)))
        whole = files[f"cut off{suffix}"].read_bytes()
        files[f"cut off{suffix}"].write_bytes(whole[: len(whole) * 2 // 3])
    files["text"] = folder / "scan.txt"
    files["text"].write_text("no image")
    return files


def test_what_is_no_scan_is_refused_by_name_with_a_remedy(tmp_path):
    words = {"missing": "no such file", "4D": "is 4D", "2D": "is 2D", "shear": "perpendicular", "text": "not an image"}
    words |= {"rgb": "more than one number per voxel", "complex": "more than one number per voxel"}
    for name, path in refusals(tmp_path).items():
        for read in (read_scan, read_mask):
            with pytest.raises(UserError) as caught:
                read(path)
            assert caught.value.message.startswith(f"{path}: "), name
            assert words.get(name, "cannot be read") in caught.value.message, name
            assert caught.value.remedy, name
            assert "\n" not in str(caught.value), name


def test_odd_headers_are_refused_without_reading_voxels(tmp_path):
    files = refusals(tmp_path)
    for name in ("missing", "junk", "4D", "2D", "rgb", "complex", "shear"):
        with pytest.raises(UserError, match=name):
            read_grid(files[name])


def test_gzip_files_of_several_members_or_with_padding_are_read(tmp_path):
    write_image(tmp_path / "a.nii", noise((20, 20, 20)), Grid((20, 20, 20), (1.0, 1.0, 1.0)))
    whole = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "members.nii.gz").write_bytes(gzip.compress(whole[:9000]) + gzip.compress(whole[9000:]))
    (tmp_path / "padded.nii.gz").write_bytes(gzip.compress(whole) + b"\0" * 512)
    for name in ("members", "padded"):
        np.testing.assert_array_equal(read_scan(tmp_path / f"{name}.nii.gz")[0], noise((20, 20, 20)))


@pytest.mark.parametrize("damage", ["last byte", "checksum", "voxels"])
def test_a_compressed_file_that_is_not_what_was_written_is_refused(tmp_path, damage):
    path = tmp_path / "a.nii.gz"
    content = nibabel.Nifti1Image(noise((20, 20, 20)), np.eye(4)).to_bytes()
    whole = bytearray(gzip.compress(content, compresslevel=0))  # stored as it is, so that any voxel can be hit
    if damage == "last byte":
        del whole[-1]
    else:
        whole[-8 if damage == "checksum" else -100] ^= 1
    path.write_bytes(whole)
    assert nibabel.load(path).get_fdata().shape == (20, 20, 20)  # which does not notice
    for read in (read_scan, read_mask):
        with pytest.raises(UserError, match=r"a\.nii\.gz: cannot be read as an image .* damaged: copy or convert"):
            read(path)


@pytest.mark.parametrize("scale", [(1.0, 0.0), (0.5, -100.0)])
def test_stored_scale_is_applied_as_itk_applies_it(tmp_path, scale):
    image = nibabel.Nifti1Image(np.arange(4 * 5 * 6, dtype=np.int16).reshape(6, 5, 4), np.diag([-1.0, -1.0, 2.0, 1.0]))
    raw = bytearray(image.to_bytes())
    raw[112:120] = np.array(scale, "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(raw)
    expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "a.nii")))
    assert np.ptp(expected) == pytest.approx(119 * scale[0])
    np.testing.assert_allclose(read_scan(tmp_path / "a.nii")[0], expected)


def test_a_failed_write_leaves_the_old_file_and_nothing_half_written(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_image(path, noise(), OBLIQUE)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="does not fit"):
        write_image(path, noise((1, 2, 3)), OBLIQUE)
    with pytest.raises(Exception, match=r"."):
        write_image(path, np.full(OBLIQUE.shape, "text", dtype=object), OBLIQUE)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.nii.gz"]
    with pytest.raises(UserError, match="unknown image format"):
        write_image(tmp_path / "a.png", noise(), OBLIQUE)


@pytest.mark.parametrize("limit", [0, 2, 300, 30_000])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_a_mask_that_fits_only_in_part_is_no_success_as_itk_has_it(tmp_path, suffix, limit):
    resource = pytest.importorskip("resource", reason="limits of file sizes are POSIX")
    path = tmp_path / f"a{suffix}"
    write_image(path, noise(), OBLIQUE)
    before, grid, usual = (
        path.read_bytes(),
        Grid((40, 50, 60), (1.0, 1.0, 1.0)),
        resource.getrlimit(resource.RLIMIT_FSIZE),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))
    try:
        with pytest.raises((UserError, RuntimeError), match="could not be written whole" if limit > 300 else "."):
            write_image(path, noise(grid.shape), grid)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("code", "moved", "doubted"), [(1, 20, False), (2, 0, False), (2, 20, True), (4, 20, True)])
def test_a_header_that_places_a_scan_twice_is_told(tmp_path, code, moved, doubted):
    """ITK follows the sform where its code is 1, as nibabel does; otherwise the qform."""
    affine = np.diag([1.5, -1.2, 2.0, 1.0])
    image = nibabel.Nifti1Image(np.zeros((6, 7, 8), np.int16), affine)
    image.set_qform(affine, 1)
    affine[0, 3] = moved
    image.set_sform(affine, code)
    image.to_filename(path := tmp_path / "scan.nii.gz")
    grid = read_grid(path)
    assert bool(place_doubt(path, grid)) == doubted
    seen = nibabel.load(path).affine[:3, 3]
    ours = grid.to_world(np.full((1, 3), 0.5))[0] * (-1, -1, 1)
    assert np.allclose(ours, seen, atol=1e-4) != doubted
    write_image(plain := tmp_path / "scan.mha", np.zeros(grid.shape, np.int16), grid)
    assert place_doubt(plain, grid) == ""
