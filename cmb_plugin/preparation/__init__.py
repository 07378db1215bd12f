"""From scans to the arrays that a network sees: fingerprint, preprocessing, storage."""

from .case import PreparedCase, foreground_extent, preprocess_case, target_shape
from .fingerprint import CaseFingerprint, Fingerprint, fingerprint_case, load_piece, save_piece
from .intensities import normalise, replace_nonfinite
from .reading import read_images, read_labels
from .recipe import Normalisation, Preprocessing
from .resampling import resample_images, resample_instances
from .storage import StoredCase, is_current, prepared_cases, save_case, work_key

__all__ = [
    "CaseFingerprint",
    "Fingerprint",
    "Normalisation",
    "PreparedCase",
    "Preprocessing",
    "StoredCase",
    "fingerprint_case",
    "foreground_extent",
    "is_current",
    "load_piece",
    "normalise",
    "prepared_cases",
    "preprocess_case",
    "read_images",
    "read_labels",
    "replace_nonfinite",
    "resample_images",
    "resample_instances",
    "save_case",
    "save_piece",
    "target_shape",
    "work_key",
]
