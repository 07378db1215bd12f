"""Damaged headers, cut-off files, odd geometry: an array on a grid that can be used, or a ``UserError``."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from damage import damaged_bytes, ends_well
from hypothesis import given, settings
from hypothesis import strategies as st

from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid, read_grid, read_mask, read_scan, write_image

SHAPE = (5, 6, 7)
HEADER = 352  # bytes of a NIfTI-1 header with its extension flag
FIELDS = {  # name -> format and offset, nifti1.h
    "sizeof_hdr": ("<i", 0),
    "dim": ("<8h", 40),
    "datatype": ("<h", 70),
    "bitpix": ("<h", 72),
    "pixdim": ("<8f", 76),
    "vox_offset": ("<f", 108),
    "scl_slope": ("<f", 112),
    "scl_inter": ("<f", 116),
    "xyzt_units": ("<b", 123),
    "qform_code": ("<h", 252),
    "sform_code": ("<h", 254),
    "quatern": ("<3f", 256),
    "qoffset": ("<3f", 268),
    "srow": ("<12f", 280),
}
REALS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, float("nan"), float("inf"), -float("inf"), 7.0])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of a small oblique mask by ending; ``.nii.gz`` unpacked."""
    turn = np.deg2rad(15.0)
    direction = (np.cos(turn), -np.sin(turn), 0.0, np.sin(turn), np.cos(turn), 0.0, 0.0, 0.0, 1.0)
    mask = np.zeros(SHAPE, np.int16)
    mask[2:4, 2:4, 2:4] = 1
    folder = tmp_path_factory.mktemp("good")
    for suffix in (".nii", ".mha", ".nrrd"):
        write_image(folder / f"mask{suffix}", mask, Grid(SHAPE, (2.0, 1.0, 1.5), (-4.0, 5.0, 6.0), direction))
    return {suffix: (folder / f"mask{suffix}").read_bytes() for suffix in (".nii", ".mha", ".nrrd")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def read_all(path: Path) -> None:
    """Reads the file in every way there is, and holds the results against each other."""
    grid = read_grid(path)
    for read in (read_scan, read_mask):
        array, own = read(path)
        assert array.shape == own.shape == grid.shape
        assert own.matches(grid)
    check_grid(grid)


def check_grid(grid: Grid) -> None:
    """A grid that points can be brought to the world with, and back."""
    assert min(grid.shape) > 0
    assert min(grid.spacing) > 0
    corner = np.array([grid.shape], dtype=float)
    np.testing.assert_allclose(grid.from_world(grid.to_world(corner)), corner, rtol=1e-3, atol=1e-3)


@st.composite
def damaged_header(draw: Callable[..., bytes], content: bytes) -> bytes:
    """One to three fields of the header set to values that do not belong there, or overwritten at random."""
    header = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        form, at = FIELDS[draw(st.sampled_from(sorted(FIELDS)))]
        values = list(struct.unpack_from(form, header, at))
        index = draw(st.integers(0, len(values) - 1))
        if form.endswith("f"):
            values[index] = draw(REALS | st.floats(width=32))
        else:
            bits = 8 * struct.calcsize(form[0] + form[-1]) - 1
            edges = [-(2**bits), 2**bits - 1, *(n for n in (16, 64, 128, 512) if n < 2**bits)]
            values[index] = draw(st.integers(-2, 9) | st.sampled_from(edges))
        struct.pack_into(form, header, at, *values)
    return bytes(header)


@settings(max_examples=40)
@given(data=st.data())
def test_a_damaged_nifti_header_is_read_or_named(data: st.DataObject, good: dict[str, bytes], folder: Path) -> None:
    header, voxels = good[".nii"][:HEADER], good[".nii"][HEADER:]
    content = data.draw(damaged_header(header) | damaged_bytes(header)) + voxels
    for name, packed in (("case.nii", content), ("case.nii.gz", gzip.compress(content, 1))):
        (folder / name).write_bytes(packed)
        ends_well(folder / name, lambda path=folder / name: read_all(path))


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@settings(max_examples=40)
@given(data=st.data())
def test_a_damaged_text_header_is_read_or_named(
    suffix: str, data: st.DataObject, good: dict[str, bytes], folder: Path
) -> None:
    path = folder / f"case{suffix}"
    path.write_bytes(data.draw(damaged_bytes(good[suffix])))
    ends_well(path, lambda: read_all(path))


@settings(max_examples=40)
@given(data=st.data())
def test_a_damaged_gz_is_read_or_named(data: st.DataObject, good: dict[str, bytes], folder: Path) -> None:
    path = folder / "packed.nii.gz"
    path.write_bytes(data.draw(damaged_bytes(gzip.compress(good[".nii"], 9))))
    ends_well(path, lambda: read_all(path))


ODD = {
    "a spacing of 0": ("pixdim", 1, 0.0),
    "a spacing that is no number": ("pixdim", 2, float("nan")),
    "an axis without a direction": ("srow", 0, 0.0),
    "no voxel": ("dim", 1, 0),
    "two dimensions": ("dim", 0, 2),
    "negative sides": ("dim", 2, -3),
    "a million voxels more": ("dim", 3, 32767),
    "an unknown kind of number": ("datatype", 0, 77),
    "a kilometre and more away": ("srow", 3, 1e30),
}


@pytest.mark.parametrize("what", ODD)
def test_headers_that_cannot_be_meant(what: str, good: dict[str, bytes], folder: Path) -> None:
    field, index, value = ODD[what]
    header = bytearray(good[".nii"])
    form, at = FIELDS[field]
    values = list(struct.unpack_from(form, header, at))
    values[index] = value
    struct.pack_into(form, header, at, *values)
    struct.pack_into("<h", header, FIELDS["qform_code"][1], 0)  # so that the sform alone says where the scan lies
    path = folder / "odd.nii"
    path.write_bytes(bytes(header))
    assert not ends_well(path, lambda: read_all(path))


def test_axes_that_are_not_perpendicular_are_refused_in_every_format(good: dict[str, bytes], folder: Path) -> None:
    path = folder / "skew.mha"
    path.write_bytes(good[".mha"].replace(b"0.25881904510252074 0 -0.25881904510252074", b"0.9 0 -0.25881904510252074"))
    assert not ends_well(path, lambda: read_all(path))
    with pytest.raises(UserError, match="perpendicular"):
        read_grid(path)
