from .brain import estimate_brain
from .case import PreparedCase, brain_extent, find_brain, foreground_extent, preprocess_case, target_shape
from .fingerprint import CaseFingerprint, Fingerprint, load_piece, save_piece
from .intensities import normalise, replace_nonfinite
from .measurement import fingerprint_case
from .modalities import brain_channel, modality_kind, modality_polarity
from .phase import to_radians, wrap
from .reading import read_brain, read_images, read_judged, read_labels, read_regions, scan_files, source_files
from .recipe import DomainUnits, Normalisation, Preprocessing
from .resampling import resample_images, resample_instances, resample_phase, resample_regions
from .scans import Scan, ScanSource, input_cases, prepared_scans
from .schemes import NormalisationScheme, find_scheme
from .storage import StoredCase, is_current, keep_only, prepared_cases, save_case, work_key

__all__ = [
    "CaseFingerprint",
    "DomainUnits",
    "Fingerprint",
    "Normalisation",
    "NormalisationScheme",
    "PreparedCase",
    "Preprocessing",
    "Scan",
    "ScanSource",
    "StoredCase",
    "brain_channel",
    "brain_extent",
    "estimate_brain",
    "find_brain",
    "find_scheme",
    "fingerprint_case",
    "foreground_extent",
    "input_cases",
    "is_current",
    "keep_only",
    "load_piece",
    "modality_kind",
    "modality_polarity",
    "normalise",
    "prepared_cases",
    "prepared_scans",
    "preprocess_case",
    "read_brain",
    "read_images",
    "read_judged",
    "read_labels",
    "read_regions",
    "replace_nonfinite",
    "resample_images",
    "resample_instances",
    "resample_phase",
    "resample_regions",
    "save_case",
    "save_piece",
    "scan_files",
    "source_files",
    "target_shape",
    "to_radians",
    "work_key",
    "wrap",
]
