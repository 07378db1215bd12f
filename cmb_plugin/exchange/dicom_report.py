"""The content of the structured report: TID 1500, a group for the counts, one per region, one per lesion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from cmb_plugin.anatomy.counts import Lesion, burden, number, pattern
from cmb_plugin.anatomy.regions import GROUPS, UNKNOWN
from cmb_plugin.dataset import CasePredictions
from cmb_plugin.images import DicomSeries

from . import dicom_codes as codes
from .case import ExportedLesion


def report_content(
    predictions: CasePredictions,
    lesions: Sequence[ExportedLesion],
    series: DicomSeries,
    sources: Sequence[Any],
    segmentation: Any,
    uid_of: Callable[..., str],
) -> Any:
    """A ``MeasurementReport``.

    Args:
        predictions: of the case.
        lesions: the reported ones, in the order of the segments.
        series: that was predicted.
        sources: its images.
        segmentation: of the lesions; None without any.
        uid_of: makes the UID of a part of the prediction.
    """
    import highdicom as hd

    device = hd.sr.ObserverContext(
        observer_type=codes.code(("121007", "DCM", "Device")),
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=uid_of(predictions, "device"), name="cmb_plugin", manufacturer_name="cmb_plugin",
            model_name=f"{predictions.model} {version('cmb_plugin')}".strip(),
        ),
    )  # fmt: skip
    groups = [_total(predictions, lesions, uid_of)]
    groups += _by_region(predictions, lesions, uid_of)
    groups += [
        _lesion(predictions, segment, lesion, series, segmentation, uid_of)
        for segment, lesion in enumerate(lesions, start=1)
    ]
    return hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=device),
        procedure_reported=codes.code(codes.BRAIN_MRI),
        imaging_measurements=groups,
        title=codes.code(("126000", "DCM", "Imaging Measurement Report")),
        # highdicom describes images of one slice in the library of images, and stumbles over enhanced ones.
        referenced_images=None if len(sources) < len(series.frames) else list(sources),
    )


def _count(value: int) -> Any:
    import highdicom as hd

    return hd.sr.Measurement(name=codes.code(codes.QUANTITY), value=float(value), unit=codes.code(codes.NO_UNIT))


def _counted(lesions: Sequence[ExportedLesion]) -> list[Lesion]:
    return [Lesion(x.group if x.group in GROUPS else UNKNOWN, x.region, x.side) for x in lesions]


def _total(predictions: CasePredictions, lesions: Sequence[ExportedLesion], uid_of: Callable[..., str]) -> Any:
    """Number of all microbleeds, the burden category and, where places are known, the pattern."""
    import highdicom as hd

    evaluations = [hd.sr.QualitativeEvaluation(codes.code(codes.BURDEN), codes.code(codes.own(burden(len(lesions)))))]
    if (predictions.regions or {}).get("trusted"):
        name, _ = pattern(_counted(lesions))
        evaluations.append(hd.sr.QualitativeEvaluation(codes.code(codes.PATTERN), codes.code(codes.own(name))))
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid_of(predictions, "all"), "All cerebral microbleeds"),
        finding_type=codes.code(codes.MICROBLEED),
        finding_sites=[hd.sr.FindingSite(codes.code(codes.BRAIN))],
        measurements=[_count(len(lesions))],
        qualitative_evaluations=evaluations,
    )


def _by_region(
    predictions: CasePredictions, lesions: Sequence[ExportedLesion], uid_of: Callable[..., str]
) -> list[Any]:
    """A group for lobar, deep and infratentorial, also where there are none; nothing where places are not known."""
    import highdicom as hd

    if not (predictions.regions or {}).get("trusted"):
        return []
    counted = _counted(lesions)
    return [
        hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(
                uid_of(predictions, "group", group), f"{group.capitalize()} cerebral microbleeds"
            ),
            finding_type=codes.code(codes.MICROBLEED),
            finding_sites=[hd.sr.FindingSite(codes.code(codes.BRAIN))],
            measurements=[_count(number(counted, group))],
            qualitative_evaluations=[
                hd.sr.QualitativeEvaluation(codes.code(codes.GROUP), codes.code(codes.own(group)))
            ],
        )
        for group in GROUPS
    ]


def _lesion(
    predictions: CasePredictions,
    segment: int,
    lesion: ExportedLesion,
    series: DicomSeries,
    segmentation: Any,
    uid_of: Callable[..., str],
) -> Any:
    """Diameter, score, centre and volume of one lesion, and its segment."""
    import highdicom as hd

    millimetre, no_unit = codes.code(codes.MILLIMETRE), codes.code(codes.NO_UNIT)
    measurements = [
        hd.sr.Measurement(codes.code(codes.DIAMETER), round(lesion.diameter_mm, 3), millimetre),
        hd.sr.Measurement(codes.code(codes.SCORE), round(lesion.score, 6), no_unit),
        *(
            hd.sr.Measurement(codes.code(name), round(value, 3), millimetre)
            for name, value in zip(codes.CENTRE, lesion.centre_lps_mm, strict=True)
        ),
    ]
    if lesion.volume_mm3 is not None:
        unit = codes.code(codes.CUBIC_MILLIMETRE)
        measurements.append(hd.sr.Measurement(codes.code(codes.VOLUME), round(lesion.volume_mm3, 3), unit))
    side = codes.code(codes.SIDES[lesion.side]) if lesion.side in codes.SIDES else None
    groups = [lesion.group] if lesion.group in GROUPS else []
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid_of(predictions, "lesion", str(lesion.instance)), f"Cerebral microbleed {segment}"
        ),
        referenced_segment=hd.sr.ReferencedSegment(
            segmentation.SOPClassUID,
            segmentation.SOPInstanceUID,
            segment,
            source_series=hd.sr.SourceSeriesForSegmentation(series.facts.series),
        ),
        finding_type=codes.code(codes.MICROBLEED),
        finding_sites=[hd.sr.FindingSite(codes.code(codes.site(lesion.region, lesion.group)), laterality=side)],
        measurements=measurements,
        qualitative_evaluations=[
            hd.sr.QualitativeEvaluation(codes.code(codes.GROUP), codes.code(codes.own(group))) for group in groups
        ],
    )
