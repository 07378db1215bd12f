"""Reference masks and scans in folders that are no Task folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cmb_plugin.dataset import Case, Labels, Truth, truth_of_labels
from cmb_plugin.dataset.foreign import split_mask
from cmb_plugin.errors import UserError
from cmb_plugin.images import SUFFIXES, image_stem, read_mask


def find_masks(folder: Path) -> dict[str, Path]:
    """Case -> mask of a folder, sorted by name; empty where there is no such folder."""
    if not folder.is_dir():
        return {}
    paths = (path for path in folder.iterdir() if image_stem(path) and not path.name.startswith("."))
    return dict(sorted((str(image_stem(path)), path) for path in paths))


def find_scans(folder: Path, case_ids: Sequence[str]) -> dict[str, Path]:
    """Case -> ``{case}_0000`` or ``{case}`` with any ending, for the cases that have one."""
    scans = {}
    for case_id in case_ids:
        names = (folder / f"{stem}{suffix}" for stem in (f"{case_id}_0000", case_id) for suffix in SUFFIXES)
        path = next((path for path in names if path.is_file()), None)
        if path is not None:
            scans[case_id] = path
    return scans


def read_loose_truth(case: Case, n_classes: int | None = None) -> Truth:
    """The lesions of a mask that belongs to no Task folder: numbered as its class file lists them, or components.

    Raises:
        UserError: the mask, or its ``{case}.json``, cannot be read.
    """
    if case.classes_file is not None:
        return truth_of_labels(case.read_labels(n_classes))
    assert case.label is not None
    mask, grid = read_mask(case.label)
    if mask.min(initial=0) < 0:
        raise UserError(f"{case.label}: holds negative numbers", remedy="number lesions 1, 2, ... on background 0")
    numbered, _ = split_mask(mask)
    return truth_of_labels(Labels(numbered, dict.fromkeys(sorted({*numbered[numbered > 0].tolist()}), 0), grid))
