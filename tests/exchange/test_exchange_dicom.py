"""DICOM out: the same voxels in the same place, coded, referring to the source series; a report that can be read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from placed_case import write_prediction
from pydicom.sr._concepts_dict import concepts

pytest.importorskip("highdicom")
sys.path.insert(0, str(Path(__file__).parents[1] / "intake"))
from series import write_enhanced, write_series
from test_intake_dicom import GRID, voxels

from cmb_plugin.errors import UserError
from cmb_plugin.exchange import dicom_codes
from cmb_plugin.exchange.case import ExportedCase
from cmb_plugin.exchange.dicom import forget_case, write_dicom
from cmb_plugin.intake import Channels, list_input


def exported(tmp_path: Path, **kwargs: bool) -> tuple[ExportedCase, np.ndarray]:
    (case,) = list_input(tmp_path / "in", Channels(("swi",))).cases
    mask = write_prediction(tmp_path / "work", case.case_id, GRID, **kwargs)
    return ExportedCase(tmp_path / "work", case.case_id, tmp_path, case), mask


def voxels_of(path: Path) -> dict[int, np.ndarray]:
    """Segment -> [N, 3] LPS mm of its voxels, read frame by frame with nothing of the library that wrote them."""
    dataset = pydicom.dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, dtype=float)
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    found: dict[int, list[np.ndarray]] = {}
    for pixels, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        number = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        rows, columns = np.nonzero(pixels)
        steps = np.outer(columns * spacing[1], orientation[:3]) + np.outer(rows * spacing[0], orientation[3:])
        found.setdefault(number, []).append(position + steps)
    return {number: np.concatenate(parts) for number, parts in found.items()}


def in_order(points: np.ndarray) -> np.ndarray:
    rounded = np.round(points, 2) + 0.0
    return rounded[np.lexsort(rounded.T)]


@pytest.mark.parametrize("enhanced", [False, True])
def test_segments_hold_the_same_voxels_in_the_same_place(tmp_path: Path, enhanced: bool) -> None:
    if enhanced:
        write_enhanced(tmp_path / "in" / "one.dcm", [voxels(1), voxels(2)], GRID, [7.5, 22.5])
    else:
        write_series(tmp_path / "in", voxels(), GRID, number=4)
    case, mask = exported(tmp_path)
    segmentation, _ = write_dicom(tmp_path / "out", case)
    found = voxels_of(segmentation)
    assert sorted(found) == [1, 2]
    for number, points in found.items():
        expected = GRID.to_world(np.argwhere(mask == number) + 0.5)
        np.testing.assert_allclose(in_order(points), in_order(expected), atol=0.02)


def test_segments_are_coded_and_refer_to_the_source(tmp_path: Path) -> None:
    files = write_series(tmp_path / "in", voxels(), GRID, number=4)
    case, _ = exported(tmp_path)
    segmentation = pydicom.dcmread(write_dicom(tmp_path / "out", case)[0])
    source = pydicom.dcmread(files[0])
    assert segmentation.PatientID == source.PatientID
    assert segmentation.StudyInstanceUID == source.StudyInstanceUID
    assert segmentation.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    first, second = segmentation.SegmentSequence
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "50960005"
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    region = first.AnatomicRegionSequence[0]
    assert (region.CodeMeaning, region.AnatomicRegionModifierSequence[0].CodeMeaning) == ("Frontal lobe", "Left")
    assert second.AnatomicRegionSequence[0].CodeMeaning == "Thalamus"


def items(node: pydicom.Dataset) -> list[tuple[str, str]]:
    """Concept name and value of all content items."""
    found = []
    for item in node.get("ContentSequence", []):
        name = item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
        value = ""
        if item.ValueType == "NUM":
            value = str(float(item.MeasuredValueSequence[0].NumericValue))
        elif item.ValueType == "CODE":
            value = item.ConceptCodeSequence[0].CodeMeaning
        elif item.ValueType in ("TEXT", "UIDREF"):
            value = item.get("TextValue") or item.get("UID")
        found += [(name, str(value)), *items(item)]
    return found


def test_the_report_counts_and_places_every_lesion(tmp_path: Path) -> None:
    write_series(tmp_path / "in", voxels(), GRID, number=4)
    case, _ = exported(tmp_path)
    segmentation, path = write_dicom(tmp_path / "out", case)
    report = pydicom.dcmread(path)
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    told = items(report)
    assert [value for name, value in told if name == "Quantity"] == ["2.0", "1.0", "1.0", "0.0"]
    assert ("Microbleed burden category", "2-4") in told
    assert ("Microbleed distribution pattern", "mixed") in told
    assert [value for name, value in told if name == "Finding Site"][-2:] == ["Frontal lobe", "Thalamus"]
    diameters = [float(value) for name, value in told if name == "Diameter"]
    np.testing.assert_allclose(diameters, case.predictions().diameters_mm[:2], atol=1e-3)
    places = [float(value) for name, value in told if name.startswith("Centre ")]
    expected = GRID.to_world(case.predictions().detections.centres)[:2]
    np.testing.assert_allclose(np.reshape(places, (2, 3)), expected, atol=1e-3)
    references = [
        i for group in report.CurrentRequestedProcedureEvidenceSequence for i in group.ReferencedSeriesSequence
    ]
    assert {item.SeriesInstanceUID for item in references} >= {pydicom.dcmread(segmentation).SeriesInstanceUID}


TYPE_2 = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
          "StudyTime", "SliceThickness")  # fmt: skip


def without(files: list[Path], *names: str) -> None:
    for file in files:
        dataset = pydicom.dcmread(file)
        for name in names:
            delattr(dataset, name)
        dataset.save_as(file)


@pytest.mark.parametrize("names", [*((name,) for name in TYPE_2), TYPE_2])
def test_what_an_anonymised_series_lacks_is_empty_in_its_results(tmp_path: Path, names: tuple[str, ...]) -> None:
    without(write_series(tmp_path / "in", voxels(), GRID, number=4), *names)
    case, mask = exported(tmp_path)
    written = write_dicom(tmp_path / "out", case)
    for path in written:
        dataset = pydicom.dcmread(path)
        assert not any(dataset[name].value for name in names if name != "SliceThickness")
    expected = GRID.to_world(np.argwhere(mask == 1) + 0.5)
    np.testing.assert_allclose(in_order(voxels_of(written[0])[1]), in_order(expected), atol=0.02)
    assert ("Microbleed burden category", "2-4") in items(pydicom.dcmread(written[1]))


@pytest.mark.parametrize("name", ["StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"])
def test_a_missing_uid_is_named(tmp_path: Path, name: str) -> None:
    without(write_series(tmp_path / "in", voxels(), GRID, number=4), name)
    case, _ = exported(tmp_path)
    with pytest.raises(UserError, match=f"has no {name}"):
        write_dicom(tmp_path / "out", case)


def test_a_healthy_scan_has_a_report_without_a_segmentation(tmp_path: Path) -> None:
    write_series(tmp_path / "in", voxels(), GRID, number=4)
    case, _ = exported(tmp_path, empty=True)
    (path,) = write_dicom(tmp_path / "out", case)
    assert path.name.endswith("_sr.dcm")
    assert ("Microbleed burden category", "0") in items(pydicom.dcmread(path))


def test_written_again_it_is_the_same_object(tmp_path: Path) -> None:
    write_series(tmp_path / "in", voxels(), GRID, number=4)
    case, _ = exported(tmp_path)
    first = [pydicom.dcmread(path).SOPInstanceUID for path in write_dicom(tmp_path / "out", case)]
    again = [pydicom.dcmread(path).SOPInstanceUID for path in write_dicom(tmp_path / "out", case)]
    assert first == again


def test_other_places_of_the_lesions_are_another_object(tmp_path: Path) -> None:
    """The report names regions and sides, and rules about them remove segments; an archive keeps what came first."""
    write_series(tmp_path / "in", voxels(), GRID)
    uids = set()
    for regions in (True, False):
        case, _ = exported(tmp_path, regions=regions)
        uids |= {pydicom.dcmread(path).SOPInstanceUID for path in write_dicom(tmp_path / "out", case)}
    assert len(uids) == 4


def test_of_a_case_that_is_gone_nothing_stays(tmp_path: Path) -> None:
    write_series(tmp_path / "in", voxels(), GRID)
    case, _ = exported(tmp_path)
    write_dicom(tmp_path / "out", case)
    forget_case(tmp_path / "out", case.case_id)
    forget_case(tmp_path / "out", case.case_id)
    assert not list((tmp_path / "out").iterdir())


def test_a_case_that_is_no_dicom_is_told_so(tmp_path: Path) -> None:
    write_prediction(tmp_path, "a", GRID)
    with pytest.raises(UserError, match="did not come from DICOM"):
        write_dicom(tmp_path / "out", ExportedCase(tmp_path, "a", tmp_path))


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not here: apt install dicom3tools")
@pytest.mark.parametrize("enhanced", [False, True])
def test_dciodvfy_complains_of_nothing_but_our_own_codes(tmp_path: Path, enhanced: bool) -> None:
    if enhanced:
        write_enhanced(tmp_path / "in" / "one.dcm", [voxels(1), voxels(2)], GRID, [7.5, 22.5])
    else:
        write_series(tmp_path / "in", voxels(), GRID, number=4)
    for path in write_dicom(tmp_path / "out", exported(tmp_path)[0]):
        checked = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=True)
        complaints = [line for line in checked.stderr.splitlines() if line.startswith(("Error", "Warning"))]
        assert not [line for line in complaints if "Unrecognized defined term = <99CMBPLUGIN>" not in line]


NOT_IN_DICOM = {  # of SNOMED CT, but in no context group of the standard
    "723857007": "Silent micro-hemorrhage of brain",
    "816077007": "Magnetic resonance imaging of brain",
}


def test_codes_mean_what_the_standard_says() -> None:
    """Every code of SNOMED CT, DICOM and UCUM is in pydicom's copy of the context groups, with the same meaning."""
    values = [value for name, value in vars(dicom_codes).items() if name.isupper() and not isinstance(value, str)]
    triples = [t for value in values for t in (value.values() if isinstance(value, dict) else [value])]
    triples = [t for value in triples for t in (value if isinstance(value[0], tuple) else [value])]
    known = {
        (code, scheme): {
            meaning.lower() for entries in words.values() for c, (meaning, *_) in entries.items() if c == code
        }
        for code, scheme, _ in triples
        if (words := concepts.get(scheme)) is not None
    }
    wrong = {code: meaning for code, scheme, meaning in triples
             if (code, scheme) in known and meaning.lower() not in known[code, scheme]}  # fmt: skip
    assert wrong.pop("mm") == "millimeter", "pydicom shortens it to mm; the standard does not"
    assert wrong == NOT_IN_DICOM
    assert len(known) == 27
    assert {scheme for code, scheme, _ in triples if (code, scheme) not in known} == {dicom_codes.OWN_SCHEME}
