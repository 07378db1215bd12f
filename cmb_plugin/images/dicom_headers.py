"""What DICOM headers say about the frames of a file: classic images of one slice, and enhanced multi-frame images."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cmb_plugin.errors import UserError

from .contrast import contrast_of_header

_GE_TYPE = (0x0043, 0x102F)
_PREFIX = b"DICM"
_FIRST_GROUPS = (b"\x02\0", b"\x08\0")


@dataclass(frozen=True)
class SeriesFacts:
    """What the frames of a volume have in common.

    Attributes:
        series, study: their UIDs.
        number: of the series, as the scanner counts.
        description: of the series.
        contrast: one of ``contrast.CONTRASTS``.
        modality: ``MR``, ``CT``, ...
        patient, date: PatientID and StudyDate, as they stand there.
        echo_ms: echo time.
        field_t: field strength.
        manufacturer: of the scanner.
        thickness: of a slice in mm.
        time: which point in time, by (TemporalPositionIndex, AcquisitionNumber).
    """

    series: str
    study: str
    number: int
    description: str
    contrast: str
    modality: str
    patient: str = ""
    date: str = ""
    echo_ms: float | None = None
    field_t: float | None = None
    manufacturer: str = ""
    thickness: float | None = None
    time: tuple[int, int] = (0, 0)

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells one volume from others."""
        return (self.study, self.series, self.contrast, self.echo_ms)

    @property
    def name(self) -> str:
        """``series 7 (SWI_Images)``."""
        return f"series {self.number}" + (f" ({self.description})" if self.description else "")


@dataclass(frozen=True)
class Frame:
    """One slice.

    Attributes:
        file: where it lies.
        number: which frame of the file, from 0.
        position: LPS mm of the centre of its first pixel.
        orientation: directions along a row and down a column, 3 numbers each.
        spacing: mm from row to row and from column to column.
        shape: rows and columns.
        thickness: of the slice in mm, None where unknown.
    """

    file: Path
    number: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, float]
    shape: tuple[int, int]
    thickness: float | None = None


def import_pydicom() -> Any:
    """pydicom.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pydicom
    except ImportError:
        raise UserError("reading DICOM needs pydicom", remedy="pip install pydicom") from None
    return pydicom


def is_dicom(path: Path) -> bool:
    """Whether a file has the mark of a DICOM file behind its preamble, or, where it has none, begins with an element
    of the groups 2 or 8 as one without a preamble does."""
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[128:] == _PREFIX or (len(head) == 132 and head[:2] in _FIRST_GROUPS and head[3:4] == b"\0")


def frames_of_file(file: Path) -> list[tuple[SeriesFacts, Frame]]:
    """The frames of a file that have a place in space, with their facts; none for a file that is no DICOM image.

    Raises:
        UserError: it is a DICOM file and damaged, or pydicom is not installed.
    """
    pydicom = import_pydicom()
    if not is_dicom(file):
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom tells of every value that is not as the standard has it
            return list(_frames(file, pydicom.dcmread(file, stop_before_pixels=True, force=True)))
    except Exception as error:  # pydicom raises whatever a damaged file makes it stumble over
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{file}: is a damaged DICOM file ({reason})", remedy="copy it again") from None


def _frames(file: Path, dataset: Any) -> Iterator[tuple[SeriesFacts, Frame]]:
    if not dataset.get("Rows") or not dataset.get("Columns"):
        return
    shape = (int(dataset.Rows), int(dataset.Columns))
    shared, per_frame = dataset.get("SharedFunctionalGroupsSequence"), dataset.get("PerFrameFunctionalGroupsSequence")
    if per_frame:
        for number, own in enumerate(per_frame):
            groups = (own, *(shared or ()))
            frame = _frame(file, number, shape, partial(_from_groups, groups))
            if frame is not None:
                yield _facts(dataset, groups, frame), frame
        return
    frame = _frame(file, 0, shape, dataset.get)
    if frame is not None and int(dataset.get("NumberOfFrames") or 1) == 1:
        yield _facts(dataset, (), frame), frame


def _frame(file: Path, number: int, shape: tuple[int, int], get: Any) -> Frame | None:
    try:
        position = tuple(float(v) for v in get("ImagePositionPatient") or ())
        orientation = tuple(float(v) for v in get("ImageOrientationPatient") or ())
        spacing = tuple(float(v) for v in get("PixelSpacing") or ())
        thickness = get("SliceThickness")
    except (TypeError, ValueError):
        return None
    if (len(position), len(orientation), len(spacing)) != (3, 6, 2) or min(spacing) <= 0:
        return None
    return Frame(file, number, position, orientation, spacing, shape, _number(thickness))  # type: ignore[arg-type]


def _from_groups(groups: Sequence[Any], name: str) -> Any:
    """The value of an attribute in the functional groups of a frame, its own before the shared ones."""
    for group in groups:
        for element in group:
            if element.VR == "SQ" and element.value and name in element.value[0]:
                return element.value[0].get(name)
    return None


def _facts(dataset: Any, groups: Sequence[Any], frame: Frame) -> SeriesFacts:
    def get(name: str) -> Any:
        """From the frame, or from the whole file."""
        value = _from_groups(groups, name) if groups else None
        return dataset.get(name) if value in (None, "") else value

    description = str(get("SeriesDescription") or get("ProtocolName") or "")
    contrast = contrast_of_header(
        _texts(get("FrameType") or get("ImageType")),
        description,
        _sequence(dataset, get),
        str(get("ComplexImageComponent") or ""),
        _ge_type(dataset),
    )
    return SeriesFacts(
        series=str(get("SeriesInstanceUID") or ""),
        study=str(get("StudyInstanceUID") or ""),
        number=_whole(get("SeriesNumber")),
        description=description,
        contrast=contrast,
        modality=str(get("Modality") or ""),
        patient=str(get("PatientID") or ""),
        date=str(get("StudyDate") or ""),
        echo_ms=_number(get("EffectiveEchoTime") if groups else None) or _number(get("EchoTime")),
        field_t=_number(get("MagneticFieldStrength")),
        manufacturer=str(get("Manufacturer") or ""),
        thickness=frame.thickness,
        time=(_whole(get("TemporalPositionIndex") or get("TemporalPositionIdentifier")), _acquisition(dataset, get)),
    )


def _sequence(dataset: Any, get: Any) -> list[str]:
    """ScanningSequence; an enhanced image says it in EchoPulseSequence and InversionRecovery."""
    classic = _texts(dataset.get("ScanningSequence"))
    if classic:
        return classic
    pulse = str(get("EchoPulseSequence") or "").upper()
    words = {"GRADIENT": ["GR"], "SPIN": ["SE"], "BOTH": ["GR", "SE"]}.get(pulse, [])
    return [*words, "IR"] if words and str(get("InversionRecovery") or "").upper() == "YES" else words


def _acquisition(dataset: Any, get: Any) -> int:
    return _whole(get("FrameAcquisitionNumber") or dataset.get("AcquisitionNumber"))


def _ge_type(dataset: Any) -> str:
    if not str(dataset.get("Manufacturer") or "").upper().startswith("GE"):
        return ""
    element = dataset.get(_GE_TYPE)
    value: Any = None if element is None else element.value
    if isinstance(value, bytes):
        return str(int.from_bytes(value[:2], "little")) if value else ""
    return next(iter(_texts(value)), "")


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    several = not isinstance(value, str) and hasattr(value, "__iter__")
    return [str(v) for v in value] if several else [str(value)]


def _number(value: Any) -> float | None:
    try:
        return None if value in (None, "") else float(value)
    except (TypeError, ValueError):
        return None


def _whole(value: Any) -> int:
    number = _number(value)
    return 0 if number is None else int(number)
