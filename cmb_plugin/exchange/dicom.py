"""A predicted DICOM series as DICOM: a segmentation with one segment per lesion, and a structured report (TID 1500)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.dataset import CasePredictions
from cmb_plugin.errors import UserError
from cmb_plugin.files import atomic
from cmb_plugin.images import DicomSeries
from cmb_plugin.images.dicom_headers import import_pydicom

from . import dicom_codes as codes
from .case import ExportedCase, ExportedLesion, reported_lesions
from .dicom_report import report_content

SEGMENTATION_SERIES, REPORT_SERIES = 9001, 9002  # beyond the numbers that scanners give
MAKER, SERIAL = "cmb_plugin", "1"
LABEL = "Cerebral microbleed"

# The standard lets these be empty but not be absent, and highdicom reads them all; who anonymises removes some.
_MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
)  # fmt: skip
# By these the results refer to the series: others in their place would refer to nothing.
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID", "SOPInstanceUID")


def write_dicom(folder: Path, case: ExportedCase) -> list[Path]:
    """Writes ``{case}_seg.dcm`` (where a lesion is reported) and ``{case}_sr.dcm``, which refer to the source series.

    Args:
        folder: where to.
        case: a case that came from a DICOM series.

    Returns:
        the files.

    Raises:
        UserError: highdicom is not installed, the case did not come from DICOM, its series lacks a UID, or a file is
            missing or damaged.
    """
    _import_highdicom()
    series = case.series
    if series is None:
        raise UserError(
            f"{case.scan}: did not come from DICOM, so there is no series to refer to",
            remedy="leave --dicom-out out, or give the DICOM folder as --input",
        )
    predictions = case.predictions()
    lesions = list(reported_lesions(predictions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values of the source that are not as the standard has them
        sources = [_source(file) for file in series.files]
        written = []
        segmentation = None
        segmentation_file, report_file = _files(folder, case.case_id)
        if lesions:
            segmentation = _segmentation(case, predictions, lesions, series, sources)
            written.append(_save(segmentation, segmentation_file))
        else:
            segmentation_file.unlink(missing_ok=True)  # of an earlier run
        written.append(_save(_report(case, predictions, lesions, series, sources, segmentation), report_file))
    return written


def forget_case(folder: Path, case_id: str) -> None:
    """Removes what an earlier run wrote of a case that could not be predicted now: it is no longer true."""
    for path in _files(folder, case_id):
        path.unlink(missing_ok=True)


def _files(folder: Path, case_id: str) -> tuple[Path, Path]:
    return folder / f"{case_id}_seg.dcm", folder / f"{case_id}_sr.dcm"


def _import_highdicom() -> Any:
    try:
        import highdicom
    except ImportError:
        raise UserError("writing DICOM needs highdicom", remedy="pip install 'cmb_plugin[dicom]'") from None
    return highdicom


def _source(file: Path) -> Any:
    """An image of the series, with all that highdicom reads of it.

    Raises:
        UserError: it lacks a UID.
    """
    dataset = import_pydicom().dcmread(file, force=True)
    for name in _UIDS:
        if not dataset.get(name):
            raise UserError(
                f"{file}: has no {name}, by which DICOM objects refer to it",
                remedy="anonymise the series so that UIDs are replaced and not removed, or leave --dicom-out out",
            )
    for name in _MAY_BE_EMPTY:
        if name not in dataset:
            setattr(dataset, name, "")
    if "SliceThickness" not in dataset:
        dataset.SliceThickness = None
    return dataset


def uid_of(predictions: CasePredictions, *parts: str) -> str:
    """A UID that is the same for the same prediction, so that writing it again gives the same object; with other
    places of the lesions it is another one, for an archive keeps the first object of a UID."""
    regions = predictions.regions
    places = [] if regions is None else [f"{name} {regions.get(name, '')}" for name in ("key", "source", "why")]
    entropy = [predictions.case_id, predictions.key, *places, *parts]
    return str(import_pydicom().uid.generate_uid(entropy_srcs=entropy))


def _save(dataset: Any, path: Path) -> Path:
    with atomic(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
    return path


def _segmentation(
    case: ExportedCase,
    predictions: CasePredictions,
    lesions: Sequence[ExportedLesion],
    series: DicomSeries,
    sources: Sequence[Any],
) -> Any:
    """Segment n is the n-th reported lesion, on the grid of the series."""
    import highdicom as hd

    grid = series.grid()
    mask, own = case.mask()
    if not own.same_as(grid):
        raise UserError(f"{case.case_id}: its mask does not lie on its series", remedy="predict it again")
    table = np.zeros(int(mask.max(initial=0)) + 1, dtype=np.uint16)
    for number, lesion in enumerate(lesions, start=1):
        if lesion.instance < len(table):
            table[lesion.instance] = number
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = grid.affine[:3, :3], grid.origin
    reference = str(sources[0].FrameOfReferenceUID)
    volume = hd.Volume(table[mask], affine, coordinate_system="PATIENT", frame_of_reference_uid=reference)
    algorithm = hd.AlgorithmIdentificationSequence(
        name=f"{MAKER} {predictions.model}".strip(),
        family=codes.code(codes.ARTIFICIAL_INTELLIGENCE),
        version=version("cmb_plugin"),
    )
    descriptions = [
        _described(predictions, number, lesion, algorithm) for number, lesion in enumerate(lesions, start=1)
    ]
    segmentation = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=volume,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=uid_of(predictions, "segmentation series"),
        series_number=SEGMENTATION_SERIES,
        sop_instance_uid=uid_of(predictions, "segmentation"),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=predictions.model or MAKER,
        software_versions=version("cmb_plugin"),
        device_serial_number=SERIAL,
        content_description="Cerebral microbleeds, research use only",
        content_label="MICROBLEEDS",
    )
    segmentation.SeriesDescription = "Cerebral microbleeds (research use only)"
    return segmentation


def _described(predictions: CasePredictions, number: int, lesion: ExportedLesion, algorithm: Any) -> Any:
    import highdicom as hd

    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=f"{LABEL} {number}",
        segmented_property_category=codes.code(codes.ABNORMAL),
        segmented_property_type=codes.code(codes.HEMORRHAGE),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=uid_of(predictions, "lesion", str(lesion.instance)),
        tracking_id=f"{LABEL} {number}",
        anatomic_regions=[codes.code(codes.site(lesion.region, lesion.group))],
    )
    if lesion.side in codes.SIDES:
        region = description.AnatomicRegionSequence[0]
        region.AnatomicRegionModifierSequence = [codes.code(codes.SIDES[lesion.side])]
    return description


def _report(
    case: ExportedCase,
    predictions: CasePredictions,
    lesions: Sequence[ExportedLesion],
    series: DicomSeries,
    sources: Sequence[Any],
    segmentation: Any,
) -> Any:
    import highdicom as hd

    # The report may do without a description of its images, the description may not do without their thickness.
    described = sources if all(source.SliceThickness for source in sources) else ()
    content = report_content(predictions, lesions, series, described, segmentation, uid_of)
    report = hd.sr.Comprehensive3DSR(
        evidence=[*sources, *([segmentation] if segmentation is not None else [])],
        content=content,
        series_instance_uid=uid_of(predictions, "report series"),
        series_number=REPORT_SERIES,
        sop_instance_uid=uid_of(predictions, "report"),
        instance_number=1,
        manufacturer=MAKER,
        is_complete=True,
    )
    report.SeriesDescription = "Cerebral microbleeds, report (research use only)"
    return report
