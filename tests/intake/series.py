"""DICOM series for tests, written by pydicom: classic files of one slice, and enhanced multi-frame files."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from cmb_plugin.images import Grid

STUDY = "1.2.826.0.1.3680043.8.498.1"
REFERENCE = "1.2.826.0.1.3680043.8.498.2"


def write_series(
    folder: Path,
    array: np.ndarray,
    grid: Grid,
    *,
    number: int = 1,
    description: str = "SWI_Images",
    image_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "M", "SWI", "ND"),
    echo_ms: float = 20.0,
    slope: float = 1.0,
    intercept: float = 0.0,
    series: str = "",
    **attributes: object,
) -> list[Path]:
    """One file per slice, [z, y, x] integers as stored, named so that their order says nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    uid = series or f"1.2.826.0.1.3680043.8.498.9.{number}.{zlib.crc32(str(folder).encode())}"
    files = []
    for z in range(grid.shape[0]):
        dataset = _dataset(MRImageStorage, uid, number, description, grid)
        dataset.SOPInstanceUID = f"{uid}.{round(echo_ms * 10)}.{z + 1}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.ImageType, dataset.ScanningSequence, dataset.SequenceVariant = list(image_type), "GR", "SP"
        dataset.ScanOptions, dataset.MRAcquisitionType, dataset.RepetitionTime = "", "3D", 28.0
        dataset.EchoTime, dataset.InstanceNumber, dataset.AcquisitionNumber = echo_ms, z + 1, 1
        dataset.EchoTrainLength = 1
        dataset.ImagePositionPatient = _position(grid, z)
        dataset.ImageOrientationPatient = _orientation(grid)
        dataset.PixelSpacing, dataset.SliceThickness = list(grid.spacing[1:]), grid.spacing[0]
        dataset.PixelData = array[z].astype(np.uint16).tobytes()
        if (slope, intercept) != (1.0, 0.0):
            dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = slope, intercept, "US"
        for name, value in attributes.items():
            setattr(dataset, name, value)
        path = folder / f"{number:02d}_{echo_ms:g}_{(z * 7) % grid.shape[0]:03d}_{z}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        files.append(path)
    return files


def write_enhanced(
    path: Path,
    arrays: Sequence[np.ndarray],
    grid: Grid,
    echoes_ms: Sequence[float],
    *,
    number: int = 5,
    description: str = "multi-echo",
    component: str = "MAGNITUDE",
) -> Path:
    """All slices of all echoes as frames of one file, slice by slice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = _dataset(EnhancedMRImageStorage, generate_uid(entropy_srcs=[str(path)]), number, description, grid)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path), "1"])
    dataset.ImageType, dataset.InstanceNumber = ["ORIGINAL", "PRIMARY", "M", "NONE"], 1
    dataset.NumberOfFrames = grid.shape[0] * len(arrays)
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(grid.spacing[1:]), grid.spacing[0]
    orientation.ImageOrientationPatient = _orientation(grid)
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([orientation])
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    frames, pixels = [], []
    for z in range(grid.shape[0]):
        for echo, (array, time) in enumerate(zip(arrays, echoes_ms, strict=True), start=1):
            place, timing, kind, content = Dataset(), Dataset(), Dataset(), Dataset()
            place.ImagePositionPatient = _position(grid, z)
            timing.EffectiveEchoTime = time
            kind.FrameType, kind.ComplexImageComponent = ["ORIGINAL", "PRIMARY", "M", "NONE"], component
            content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", z + 1, [z + 1, echo]
            frame = Dataset()
            frame.PlanePositionSequence, frame.MREchoSequence = Items([place]), Items([timing])
            frame.MRImageFrameTypeSequence, frame.FrameContentSequence = Items([kind]), Items([content])
            frames.append(frame)
            pixels.append(array[z].astype(np.uint16))
    dataset.PerFrameFunctionalGroupsSequence = Items(frames)
    dataset.PixelData = np.stack(pixels).tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


def _dataset(kind: str, series: str, number: int, description: str, grid: Grid) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = kind, ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.Modality, dataset.SpecificCharacterSet = kind, "MR", "ISO_IR 192"
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate, dataset.PatientSex = "P 7", "Test^Anna", "", "F"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, series
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = REFERENCE, ""
    dataset.StudyID, dataset.StudyDate, dataset.StudyTime = "1", "20240131", "101500"
    dataset.AccessionNumber, dataset.ReferringPhysicianName = "", ""
    dataset.SeriesNumber, dataset.SeriesDescription, dataset.Manufacturer = number, description, "Test"
    dataset.MagneticFieldStrength = 3.0
    dataset.Rows, dataset.Columns = grid.shape[1:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    return dataset


def _position(grid: Grid, z: int) -> list[float]:
    return np.round(grid.to_world(np.array([[z + 0.5, 0.5, 0.5]]))[0], 6).tolist()


def _orientation(grid: Grid) -> list[float]:
    matrix = np.asarray(grid.direction).reshape(3, 3)
    return np.round([*matrix[:, 0], *matrix[:, 1]], 8).tolist()
