from .checks import Report, check_case, check_dataset
from .dataset import Case, Dataset, Labels, find_cases, image_files, split_modality, write_dataset
from .domains import geometry_domains
from .findings import Finding
from .lesions import LesionFacts, read_lesion_facts
from .mimics import Mimic, read_mimics
from .predicted_scans import read_scans, write_scans
from .predictions import (
    CasePredictions,
    StoredPredictions,
    boxes_file,
    instances_file,
    predicted_cases,
    read_case_predictions,
    write_case_predictions,
    write_lesions,
    write_summary,
)
from .splits import make_splits, read_splits, splits_around, validation_of_domains, without_domain
from .truth import Truth, read_truth, truth_of_labels

__all__ = [
    "Case",
    "CasePredictions",
    "Dataset",
    "Finding",
    "Labels",
    "LesionFacts",
    "Mimic",
    "Report",
    "StoredPredictions",
    "Truth",
    "boxes_file",
    "check_case",
    "check_dataset",
    "find_cases",
    "geometry_domains",
    "image_files",
    "instances_file",
    "make_splits",
    "predicted_cases",
    "read_case_predictions",
    "read_lesion_facts",
    "read_mimics",
    "read_scans",
    "read_splits",
    "read_truth",
    "split_modality",
    "splits_around",
    "truth_of_labels",
    "validation_of_domains",
    "without_domain",
    "write_case_predictions",
    "write_dataset",
    "write_lesions",
    "write_scans",
    "write_summary",
]
