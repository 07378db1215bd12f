"""``Volume``: one 3D volume of an input, wherever its voxels stand, and how it becomes a file of its own."""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.files import atomic, read_json
from cmb_plugin.images import DicomSeries, image_stem, read_grid, read_scan, read_series, write_image
from cmb_plugin.images.contrast import MASK, UNKNOWN, contrast_of_header, contrast_of_name

_SPACE = re.compile(r"_space-[^_]+")  # in BIDS, on whose grid an image lies: a T1 may lie on that of a T2*
_LESIONS = re.compile(r"sub-.*_CMB")  # as VALDO names masks beside scans
_DAMAGE = (OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error)  # what reading a damaged file raises
MOST_ECHOES = 16  # more volumes in one file are points in time


@dataclass(frozen=True)
class Volume:
    """One 3D volume.

    Attributes:
        name: how a table names it: path relative to the input, or series.
        case: name of the case that it belongs to.
        session: what volumes share that were acquired at the same visit.
        path: its file, or the first one of a DICOM series.
        contrast: one of ``images.contrast.CONTRASTS``.
        series: its DICOM series; None for an image file.
        index: its place in the fourth dimension of the file; None for a 3D file.
        echo: number of the echo from 1, 0 where there is one only.
        echo_ms: echo time.
        field_t: field strength.
        order: of acquisition, as far as it is known; a later one replaces an earlier one.
        channel: the model's channel that the user named for it; None where it goes by contrast.
        defect: why it cannot be read, "" where nothing is known against it.
        turned: whether its sign is turned when it is written.
        folder: of its DICOM series, relative to the input; "" for the input itself, and for files, whose name tells.
    """

    name: str
    case: str
    session: str
    path: Path
    contrast: str = UNKNOWN
    series: DicomSeries | None = field(default=None, compare=False)
    index: int | None = None
    echo: int = 0
    echo_ms: float | None = None
    field_t: float | None = None
    order: tuple[int, ...] = ()
    channel: int | None = None
    defect: str = ""
    turned: bool = False
    folder: str = ""

    @property
    def where(self) -> str:
        """Folder and name, as the table shows them."""
        return f"{self.folder}/{self.name}" if self.folder else self.name

    @property
    def files(self) -> tuple[Path, ...]:
        """What it is made from."""
        return self.series.files if self.series is not None else (self.path,)

    @property
    def is_file(self) -> bool:
        """Whether it is a file that can be read as it is."""
        return self.series is None and self.index is None and not self.turned

    @property
    def place(self) -> tuple[float, ...]:
        """The same for DICOM volumes on one grid; empty for files."""
        return self.series.place if self.series is not None else ()

    def write(self, target: Path) -> None:
        """Writes it as a 3D image.

        Raises:
            UserError: it cannot be read.
        """
        if self.defect:
            raise UserError(f"{self.name}: {self.defect}", remedy="see inputs.tsv")
        if self.series is not None:
            array, grid = read_series(self.series)
            write_image(target, _negative(array) if self.turned else array, grid)
        elif self.index is None:
            array, grid = read_scan(self.path)
            write_image(target, _negative(array) if self.turned else array, grid)
        else:
            _write_part(self.path, self.index, target, self.turned)


def _part(path: Path, index: int) -> tuple[Any, np.ndarray]:
    """A NIfTI image, and one of the volumes in its fourth dimension.

    A compressed file is read on to its end: only there stands the checksum that tells whether all before is what was
    written.
    """
    from nibabel.loadsave import load

    image: Any = load(path, mmap=False)
    if not path.name.endswith(".gz"):
        return image, np.asarray(image.dataobj[..., index])
    with gzip.open(path) as file:
        voxels = np.asarray(type(image).from_stream(file).dataobj[..., index])
        while file.read(2**20):
            pass
    return image, voxels


def _negative(voxels: np.ndarray) -> np.ndarray:
    """With the sign turned, as float32: stored integers may have none, where 1 would become 65535 and 0 stay below."""
    return 0.0 - voxels.astype(np.float32)


def _write_part(path: Path, index: int, target: Path, turned: bool) -> None:
    import nibabel

    try:
        image, voxels = _part(path, index)
        if turned:
            voxels = _negative(voxels)
        elif voxels.dtype == np.float64:
            voxels = voxels.astype(np.float32)
        header = image.header.copy()
        header.set_data_dtype(voxels.dtype)
        header.set_slope_inter(1, 0)
        with atomic(target) as temporary:
            nibabel.save(type(image)(voxels, image.affine, header), temporary)
    except (*_DAMAGE, IndexError, nibabel.filebasedimages.ImageFileError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: volume {index + 1} cannot be read ({reason})", remedy="copy it again") from None


def volumes_of_file(path: Path, name: str, case: str, session: str = "", **known: Any) -> list[Volume]:
    """The volumes of an image file: one, or the echoes in the fourth dimension of a NIfTI file.

    Args:
        path: the file.
        name, case, session: as in ``Volume``.
        known: further attributes; where no ``contrast`` is given, the JSON beside the file or its name tells.
    """
    facts = sidecar(path)
    if "contrast" not in known:
        known["contrast"] = _contrast(path, facts)
    known.setdefault("field_t", _number(facts.get("MagneticFieldStrength")))
    times = facts.get("EchoTime")
    times = [_number(time) for time in times] if isinstance(times, list) else [_number(times)]
    millis = [None if time is None else round(time * 1000, 3) for time in times]
    shape = _nifti_shape(path)
    volume = Volume(name, case, session or case, path, **known)
    if len(shape) != 4:
        own = volume.echo_ms if volume.echo_ms is not None else millis[0]
        return [replace(volume, echo_ms=own, defect=_unreadable(path))]
    count = shape[3]
    if count > MOST_ECHOES:
        return [replace(volume, index=0, defect=f"it holds {count} volumes: points in time, not echoes")]
    if len(millis) != count:
        millis = [None] * count if count > 1 else millis[:1]
    return [
        replace(
            volume,
            name=f"{name} #{index + 1}" if count > 1 else name,
            index=index,
            echo=index + 1 if count > 1 else volume.echo,
            echo_ms=millis[index],
        )
        for index in range(count)
    ]


def _unreadable(path: Path) -> str:
    """Why an image file holds no 3D volume, as far as its header tells; "" where nothing is known against it."""
    if path.is_symlink() and not path.exists():
        return "is a link to a file that is not here: fetch it, for instance by datalad get"
    try:
        read_grid(path)
    except UserError as error:
        return f"{error.message.removeprefix(f'{path}: ')}: {error.remedy}"
    return ""


def sidecar(path: Path) -> dict[str, Any]:
    """The JSON beside a scan, as dcm2niix and BIDS write it; empty where there is none or it cannot be read."""
    file = path.with_name(f"{image_stem(path)}.json")
    try:
        content = read_json(file) if file.is_file() else {}
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}


def safe_case(*parts: str) -> str:
    """A case's name from parts, with characters that file names may have."""
    texts = (re.sub(r"[^A-Za-z0-9.+-]+", "_", part).strip("_.") for part in parts)
    return "_".join(text for text in texts if text)


def _contrast(path: Path, facts: dict[str, Any]) -> str:
    stem = image_stem(path) or path.name
    if _LESIONS.fullmatch(stem):
        return MASK
    named = contrast_of_name(_SPACE.sub("", stem))
    types = facts.get("ImageType")
    if named == UNKNOWN and isinstance(types, list):
        sequence = str(facts.get("ScanningSequence") or "").replace("_", "\\").split("\\")
        described = str(facts.get("SeriesDescription") or facts.get("ProtocolName") or "")
        component = str(facts.get("ComplexImageComponent") or "")
        return contrast_of_header([str(t) for t in types], described, [s for s in sequence if s], component)
    return named


def _nifti_shape(path: Path) -> tuple[int, ...]:
    """Shape of a NIfTI file; empty for other files, and where the header cannot be read: whoever reads it will say."""
    if not path.name.endswith((".nii", ".nii.gz")):
        return ()
    from nibabel.loadsave import load

    try:
        image: Any = load(path)
        shape = tuple(image.shape)
    except Exception:  # nibabel raises whatever a damaged header makes it stumble over
        return ()
    return shape[:4] if all(side == 1 for side in shape[4:]) else shape


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
