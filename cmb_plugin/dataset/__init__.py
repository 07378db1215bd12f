"""The Task folder as an object: dataset.json, cases, labels, splits, checks."""

from .dataset import Case, Dataset, Labels, find_cases, write_dataset
from .splits import make_splits
from .truth import Truth, read_truth, truth_of_labels

__all__ = [
    "Case",
    "Dataset",
    "Labels",
    "Truth",
    "find_cases",
    "make_splits",
    "read_truth",
    "truth_of_labels",
    "write_dataset",
]
