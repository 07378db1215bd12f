"""From scans to the arrays that a network sees: fingerprint, preprocessing, storage."""

from .case import PreparedCase, foreground_extent, preprocess_case, target_shape
from .intensities import normalise, replace_nonfinite
from .recipe import Normalisation, Preprocessing
from .resampling import resample_images, resample_instances
from .storage import StoredCase, is_current, prepared_cases, recipe_key, save_case

__all__ = [
    "Normalisation",
    "Preprocessing",
    "PreparedCase",
    "StoredCase",
    "foreground_extent",
    "is_current",
    "normalise",
    "prepared_cases",
    "preprocess_case",
    "recipe_key",
    "replace_nonfinite",
    "resample_images",
    "resample_instances",
    "save_case",
    "target_shape",
]
