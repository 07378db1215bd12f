"""Scans and masks from NIfTI, MHA and NRRD files as array + ``Grid``, and back."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.files import atomic

from .grid import Grid

SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd")
"""Endings of the files that this room reads and writes; the first is what it writes by default."""

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0])
_TRUNCATED_REMEDY = "the file was cut off while it was written or copied: copy it again"


def image_stem(path: Path) -> str | None:
    """The name without its image ending (``sub-01.a_0000.nii.gz`` -> ``sub-01.a_0000``), None when it is no image."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return None


def read_scan(path: Path | str) -> tuple[np.ndarray, Grid]:
    """Reads one 3D scan.

    Returns:
        float32 [z, y, x] and its grid. NaN and infinity are kept as they are.

    Raises:
        UserError: the file is missing, unreadable, cut off, not 3D, or holds several values per voxel.
    """
    array, grid = _read(Path(path))
    return array.astype(np.float32, copy=False), grid


def read_mask(path: Path | str) -> tuple[np.ndarray, Grid]:
    """Reads an instance or label mask. Whole numbers stored as floating point are accepted.

    Returns:
        int32 [z, y, x] and its grid.

    Raises:
        UserError: as ``read_scan``, or a voxel that is not a whole number.
    """
    path = Path(path)
    array, grid = _read(path)
    whole = array.astype(np.int32)
    wrong = whole != array
    if wrong.any():
        raise UserError(
            f"{path}: {np.count_nonzero(wrong)} voxels are no whole numbers, for instance {array[wrong][0]}",
            remedy="a mask holds 0 for background and 1, 2, ... for the lesions: was it resampled with interpolation?",
        )
    return whole, grid


def read_grid(path: Path | str) -> Grid:
    """Reads shape and place of a scan from its header alone.

    Raises:
        UserError: as ``read_scan``.
    """
    path = Path(path)
    sitk = _checked(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        nifti = _read_oblique_nifti(path, error)
        return _grid_of_oblique(path, nifti)
    size = reader.GetSize()
    _refuse_odd(path, size, reader.GetNumberOfComponents(), sitk.GetPixelIDValueAsString(reader.GetPixelID()))
    return _grid(size, reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())


def write_image(path: Path | str, array: np.ndarray, grid: Grid) -> None:
    """Writes ``array`` [z, y, x] with the place of ``grid``, atomically and compressed; the ending chooses the format.

    Booleans are stored as uint8 and float16 as float32, which the formats lack.

    Raises:
        ValueError: ``array`` has not the grid's shape.
        UserError: the ending is none of ``SUFFIXES``.
    """
    path = Path(path)
    if tuple(array.shape) != tuple(grid.shape):
        raise ValueError(f"array {array.shape} does not fit the grid {grid.shape}")
    if image_stem(path) is None:
        raise UserError(f"{path}: unknown image format", remedy=f"end the name with one of {', '.join(SUFFIXES)}")
    import SimpleITK as sitk  # noqa: N813

    stored = {np.dtype(bool): np.uint8, np.dtype(np.float16): np.float32}.get(array.dtype, array.dtype)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array, dtype=stored))
    image.SetSpacing([float(v) for v in grid.spacing[::-1]])
    image.SetOrigin([float(v) for v in grid.origin])
    image.SetDirection([float(v) for v in grid.direction])
    with atomic(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)


def _checked(path: Path) -> Any:
    """SimpleITK, after the checks that need no reader."""
    if not path.is_file():
        raise UserError(f"{path}: no such file", remedy="check the path")
    if image_stem(path) is None:
        raise UserError(
            f"{path}: not an image this program reads", remedy=f"convert it to one of {', '.join(SUFFIXES)}"
        )
    if path.name.endswith((".nii", ".nii.gz")):
        _refuse_truncated_nifti(path)
    try:
        import SimpleITK as sitk  # noqa: N813
    except ImportError:
        raise UserError(f"{path}: reading scans needs SimpleITK", remedy="pip install SimpleITK") from None
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # it writes many lines to stderr for harmless header quirks
    return sitk


def _read(path: Path) -> tuple[np.ndarray, Grid]:
    sitk = _checked(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        nifti = _read_oblique_nifti(path, error)
        return np.ascontiguousarray(np.asanyarray(nifti.dataobj).squeeze().T), _grid_of_oblique(path, nifti)
    _refuse_odd(path, image.GetSize(), image.GetNumberOfComponentsPerPixel(), image.GetPixelIDTypeAsString())
    grid = _grid(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return sitk.GetArrayFromImage(image), grid


def _refuse_odd(path: Path, size: tuple[int, ...], components: int, kind: str) -> None:
    if len(size) != 3:
        sides = " x ".join(str(n) for n in size)
        remedy = "save one 3D volume per file" + (", one file per echo or time point" if len(size) == 4 else "")
        raise UserError(f"{path}: is {len(size)}D ({sides} voxels), expected 3D", remedy=remedy)
    if components != 1 or "complex" in kind:
        raise UserError(
            f"{path}: holds more than one number per voxel ({kind})",
            remedy="save magnitude, phase or each channel as a file of its own",
        )


def _grid(size: Any, spacing: Any, origin: Any, direction: Any) -> Grid:
    z, y, x = (int(n) for n in size[::-1])
    (dz, dy, dx), (ox, oy, oz) = (float(v) for v in spacing[::-1]), (float(v) for v in origin)
    return Grid((z, y, x), (dz, dy, dx), (ox, oy, oz), tuple(float(v) for v in direction))


def _refuse_truncated_nifti(path: Path) -> None:
    """ITK fills what is missing at the end of a NIfTI file with zeros or noise and says nothing: we look ourselves."""
    expected = _nifti_bytes(path)
    if expected is None:
        return  # not a NIfTI-1/2 file at all: the reader says so
    if path.suffix != ".gz":
        if path.stat().st_size < expected:
            raise UserError(f"{path}: holds {path.stat().st_size} of {expected} bytes", remedy=_TRUNCATED_REMEDY)
        return
    with path.open("rb") as file:
        file.seek(-4, 2)
        # A whole gzip file ends with the number of bytes it unpacks to (modulo 2^32). Files of several gzip members
        # or with padding do not: those few are unpacked to count.
        if struct.unpack("<I", file.read(4))[0] == expected % 2**32:
            return
    found = _unpacked_bytes(path)
    if found < expected:
        raise UserError(f"{path}: unpacks to {found} of {expected} bytes", remedy=_TRUNCATED_REMEDY)


def _nifti_bytes(path: Path) -> int | None:
    """Length of header and voxels together according to the header, None when the header is not NIfTI's."""
    with path.open("rb") as file:
        head = file.read(4096)
    if path.suffix == ".gz":
        try:
            head = zlib.decompressobj(31).decompress(head)
        except zlib.error:
            return None
    for order in "<>":
        if len(head) >= 352 and struct.unpack_from(f"{order}i", head)[0] == 348:
            dims, bits = struct.unpack_from(f"{order}8h", head, 40), struct.unpack_from(f"{order}h", head, 72)[0]
            offset = int(struct.unpack_from(f"{order}f", head, 108)[0])
        elif len(head) >= 540 and struct.unpack_from(f"{order}i", head)[0] == 540:
            dims, bits = struct.unpack_from(f"{order}8q", head, 16), struct.unpack_from(f"{order}h", head, 14)[0]
            offset = struct.unpack_from(f"{order}q", head, 168)[0]
        else:
            continue
        return offset + math.prod(max(1, n) for n in dims[1 : 1 + max(0, min(7, dims[0]))]) * bits // 8
    return None


def _unpacked_bytes(path: Path) -> int:
    """Number of bytes that the readable part of a gzip file unpacks to."""
    total = 0
    unpacker = zlib.decompressobj(31)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            while block:
                try:
                    total += len(unpacker.decompress(block))
                except zlib.error:
                    return total
                block = unpacker.unused_data  # the next member, or padding
                if block:
                    unpacker = zlib.decompressobj(31)
    return total


def _read_oblique_nifti(path: Path, error: RuntimeError) -> Any:
    """The file through nibabel, when ITK refused it only because its axes are not exactly perpendicular.

    Raises:
        UserError: anything else that ITK refuses.
    """
    text = str(error)
    if "orthonormal" in text and path.name.endswith((".nii", ".nii.gz")):
        from nibabel.loadsave import load

        nifti: Any = load(path)
        shape = nifti.shape[:3] if all(n == 1 for n in nifti.shape[3:]) else nifti.shape
        _refuse_odd(path, shape, 1, str(nifti.get_data_dtype()))
        return nifti
    # ITK's last line says most, but its "Reason" is the system's last error, which need not have to do with this one.
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("Reason:")]
    reason = lines[-1].split("ERROR:")[-1].strip().replace(str(path), path.name) if lines else "unknown reason"
    raise UserError(f"{path}: cannot be read as an image ({reason})", remedy="convert or copy the scan again") from None


def _grid_of_oblique(path: Path, nifti: Any) -> Grid:
    """The nearest grid with perpendicular axes, turned about the middle of the volume.

    Scanners' and converters' rounding makes axes that miss 90 degrees by a little; no corner may move by half a voxel.
    """
    matrix = _LPS_FROM_RAS @ nifti.affine[:3, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    left, _, right = np.linalg.svd(matrix / spacing)
    direction = left @ right
    size = np.array(nifti.shape[:3])
    shift = matrix - direction * spacing
    corners = np.array(np.meshgrid(*[(-0.5, 0.5)] * 3)).reshape(3, -1)
    moved = float(np.linalg.norm(shift @ (corners * size[:, None]), axis=0).max())
    if not moved < spacing.min() / 2:
        raise UserError(
            f"{path}: its axes are not perpendicular (a corner would move by {moved:.2f} mm)",
            remedy="resample it to a grid with perpendicular axes, for instance with nilearn.image.resample_img",
        )
    origin = _LPS_FROM_RAS @ nifti.affine[:3, 3] + shift @ ((size - 1) / 2)
    return _grid(tuple(int(n) for n in size), tuple(spacing), tuple(origin), tuple(direction.ravel()))
