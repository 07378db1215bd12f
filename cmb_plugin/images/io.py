"""Scans and masks from NIfTI, MHA and NRRD files as array + ``Grid``, and back."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.files import atomic

from .grid import Grid
from .itk import to_itk

SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd")
"""Endings of the files that this package reads and writes; the first is what it writes by default."""

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0])
_SPACINGS = (1e-4, 1e4)  # mm; beyond, a header is damaged
_FARTHEST = 1e6  # mm from the world's origin, 1 km
_PIXDIM = {348: ("3f", 80), 540: ("3d", 112)}  # size of the header of NIfTI-1 and NIfTI-2 -> sides of a voxel in it
_NIFTI_OFFSET = 352  # bytes before the voxels of a NIfTI-1 file without extensions
_TWO_PLACES = (
    "qform and sform of its header place it differently: the qform is followed here, the sform by most viewers, so "
    "that coordinates in mm and masks laid over it do not fit there"
)
_SKEW = 0.01  # cosine between two axes, about half a degree: rounding in a header stays far below


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
        UserError: the file is missing, unreadable, cut off, damaged, not 3D, or holds several values per voxel.
    """
    array, grid = _read(Path(path))
    return array.astype(np.float32, copy=False), grid


def read_stored(path: Path | str) -> tuple[np.ndarray, Grid]:
    """As ``read_scan``, with the numbers in the type that the file has them in, to write them again unchanged."""
    return _read(Path(path))


def read_mask(path: Path | str) -> tuple[np.ndarray, Grid]:
    """Reads an instance or label mask. Whole numbers stored as floating point are accepted.

    Returns:
        int32 [z, y, x] and its grid.

    Raises:
        UserError: as ``read_scan``, or a voxel that is not a whole number.
    """
    path = Path(path)
    array, grid = _read(path)
    with np.errstate(invalid="ignore"):
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
        UserError: as ``read_scan``, but for voxels that are cut off or damaged.
    """
    path = Path(path)
    sitk = _itk_for(path)
    if _is_nifti(path):
        _check_nifti_spacing(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if "orthonormal" in str(error) or _is_nifti2(path):
            return _straightened_grid(path)
        raise _unreadable(path, error) from None
    size = reader.GetSize()
    _refuse_odd(path, size, reader.GetNumberOfComponents(), sitk.GetPixelIDValueAsString(reader.GetPixelID()))
    return _grid(path, size, reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())


def place_doubt(path: Path | str, grid: Grid) -> str:
    """A sentence where the sform of a NIfTI file places it elsewhere than ``grid``, its grid as it is read; else "".

    ITK follows the qform where the sform has a code of another world than the scanner's, most viewers the sform.
    """
    path = Path(path)
    if not _is_nifti(path) or not path.is_file():
        return ""
    matrix, code = _load_nifti(path).get_sform(coded=True)
    if not code:
        return ""
    corners = np.array(np.meshgrid(*[(0.0, 1.0)] * 3)).reshape(3, -1).T * np.asarray(grid.shape)
    theirs = (corners[:, ::-1] - 0.5) @ matrix[:3, :3].T + matrix[:3, 3]
    distance = np.linalg.norm(theirs @ _LPS_FROM_RAS - grid.to_world(corners), axis=1).max()
    return "" if distance < min(grid.spacing) / 2 else _TWO_PLACES


def write_image(path: Path | str, array: np.ndarray, grid: Grid) -> None:
    """Writes ``array`` [z, y, x] with the place of ``grid``, atomically and compressed; the ending chooses the format.

    Booleans are stored as uint8 and float16 as float32, which the formats lack.

    Raises:
        ValueError: ``array`` has not the grid's shape.
        UserError: the ending is none of ``SUFFIXES``, or the file was written only in part.
    """
    path = Path(path)
    if tuple(array.shape) != tuple(grid.shape):
        raise ValueError(f"array {array.shape} does not fit the grid {grid.shape}")
    if image_stem(path) is None:
        raise UserError(f"{path}: unknown image format", remedy=f"end the name with one of {', '.join(SUFFIXES)}")
    import SimpleITK as sitk

    stored = {np.dtype(bool): np.uint8, np.dtype(np.float16): np.float32}.get(array.dtype, array.dtype)
    voxels = np.asarray(array, dtype=stored)
    image = to_itk(voxels, grid)
    with atomic(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)
        if _is_nifti(path) and not _is_whole(temporary, voxels.nbytes):
            raise UserError(f"{path}: could not be written whole", remedy="free space there, then run it again")


def _is_whole(path: Path, voxel_bytes: int) -> bool:
    """Whether a NIfTI-1 file that ITK wrote has all its voxels: of a full disk ITK says nothing."""
    expected, size = _NIFTI_OFFSET + voxel_bytes, path.stat().st_size
    if path.suffix != ".gz":
        return size == expected
    with path.open("rb") as file:
        file.seek(max(size - 4, 0))
        return file.read() == (expected % 2**32).to_bytes(4, "little")  # the last field of a gzip member (RFC 1952)


def _itk_for(path: Path) -> Any:
    """SimpleITK, after the checks that need no reader."""
    if not path.is_file():
        raise UserError(f"{path}: no such file", remedy="check the path")
    if image_stem(path) is None:
        raise UserError(
            f"{path}: not an image this program reads", remedy=f"convert it to one of {', '.join(SUFFIXES)}"
        )
    try:
        import SimpleITK as sitk
    except ImportError:
        raise UserError(f"{path}: reading scans needs SimpleITK", remedy="pip install SimpleITK") from None
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # it writes many lines to stderr for harmless header quirks
    return sitk


def _read(path: Path) -> tuple[np.ndarray, Grid]:
    """The voxels as stored [z, y, x] and the grid.

    Voxels of NIfTI files come through nibabel: ITK turns NaN and infinity in them to 0, and fills what a cut-off file
    lacks with zeros, both without a word.
    """
    grid = read_grid(path)
    try:
        if _is_nifti(path):
            array = _nifti_voxels(path)
            return np.ascontiguousarray(array.reshape(grid.shape[::-1], order="F").T), grid
        sitk = _itk_for(path)
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path))), grid
    except (RuntimeError, OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error) as error:
        raise _unreadable(path, error) from None


def _is_nifti(path: Path) -> bool:
    return path.name.endswith((".nii", ".nii.gz"))


def _nifti_voxels(path: Path) -> np.ndarray:
    """The voxels [x, y, z, ...] as stored.

    A compressed file is read on to its end, a few bytes behind the last voxel: only there stands the checksum that
    tells whether all before is what was written.
    """
    nifti = _load_nifti(path)
    if not path.name.endswith(".gz"):
        return np.asanyarray(nifti.dataobj)
    with gzip.open(path) as file:
        array = np.asanyarray(type(nifti).from_stream(file).dataobj)
        while file.read(2**20):
            pass
    return array


def _load_nifti(path: Path) -> Any:
    from nibabel.filebasedimages import ImageFileError
    from nibabel.loadsave import load
    from nibabel.spatialimages import HeaderDataError

    try:
        return load(path, mmap=False)
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, OverflowError, zlib.error) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    # ITK's last line says most, but its "Reason" is the system's last error, which need not have to do with this one.
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Reason:")]
    reason = lines[-1].split("ERROR:")[-1].strip().replace(str(path), path.name) if lines else type(error).__name__
    return UserError(
        f"{path}: cannot be read as an image ({reason})",
        remedy="it may be cut off or damaged: copy or convert it again",
    )


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


def _check_spacing(path: Path, spacing: Any) -> None:
    if not (np.isfinite(spacing).all() and _SPACINGS[0] <= min(spacing) and max(spacing) <= _SPACINGS[1]):
        sides = " x ".join(f"{side:g}" for side in spacing)
        raise UserError(f"{path}: its voxels measure {sides} mm", remedy="repair its header, or convert it again")


def _nifti_head(path: Path) -> bytes:
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            return file.read(136)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from None


def _is_nifti2(path: Path) -> bool:
    return _is_nifti(path) and _nifti_head(path)[4:7] == b"n+2"


def _check_nifti_spacing(path: Path) -> None:
    """Refuses a header whose ``pixdim`` holds 0 or no number: every reader would take the voxel for 1 mm."""
    head = _nifti_head(path)
    for order in "<>" if len(head) == 136 else "":
        version = struct.unpack_from(f"{order}i", head)[0]
        if version in _PIXDIM:
            form, offset = _PIXDIM[version]
            _check_spacing(path, np.abs(struct.unpack_from(order + form, head, offset)))


def _grid(path: Path, size: Any, spacing: Any, origin: Any, direction: Any) -> Grid:
    axes = np.asarray(direction, dtype=float).reshape(3, 3)
    _check_spacing(path, spacing)
    if min(size) < 1:
        raise UserError(f"{path}: has no voxel", remedy="convert it again")
    if not (np.isfinite(origin).all() and np.abs(origin).max() <= _FARTHEST):
        place = ", ".join(f"{value:g}" for value in origin)
        raise UserError(f"{path}: begins at {place} mm", remedy="repair its header, or convert it again")
    if not np.abs(axes.T @ axes - np.eye(3)).max() <= _SKEW:
        raise UserError(f"{path}: its axes are not perpendicular", remedy="resample it to a grid whose axes are")
    z, y, x = (int(n) for n in size[::-1])
    (dz, dy, dx), (ox, oy, oz) = (float(v) for v in spacing[::-1]), (float(v) for v in origin)
    return Grid((z, y, x), (dz, dy, dx), (ox, oy, oz), tuple(float(v) for v in direction))


def _straightened_grid(path: Path) -> Grid:
    """The nearest grid with perpendicular axes, turned about the middle of the volume, where ITK refuses a NIfTI file.

    Scanners' and converters' rounding makes axes that miss 90 degrees by a little; no corner may move by half a voxel.
    ITK also refuses NIfTI-2, whatever its axes.
    """
    nifti = _load_nifti(path)
    shape = nifti.shape[:3] if all(n == 1 for n in nifti.shape[3:]) else nifti.shape
    _refuse_odd(path, shape, 1, str(nifti.get_data_dtype()))
    matrix = _LPS_FROM_RAS @ nifti.affine[:3, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    _check_spacing(path, spacing)
    left, _, right = np.linalg.svd(matrix / spacing)
    direction = left @ right
    shift = matrix - direction * spacing
    corners = np.array(np.meshgrid(*[(-0.5, 0.5)] * 3)).reshape(3, -1)
    moved = float(np.linalg.norm(shift @ (corners * np.array(shape)[:, None]), axis=0).max())
    if not moved < spacing.min() / 2:
        raise UserError(
            f"{path}: its axes are not perpendicular (a corner would move by {moved:.2f} mm)",
            remedy="resample it to a grid with perpendicular axes, for instance with nilearn.image.resample_img",
        )
    origin = _LPS_FROM_RAS @ nifti.affine[:3, 3] + shift @ ((np.array(shape) - 1) / 2)
    return _grid(path, shape, spacing, origin, direction.ravel())
