"""Regions from a parcellation that another program made of the subject: FreeSurfer, FastSurfer, SynthSeg."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.images import SUFFIXES, Grid, image_stem, read_stored

from .label_tables import LabelTable, as_labels, load_table, unknown_labels
from .regions import CODES, RegionMap
from .resampling import resample_labels
from .white_matter import divide_white_matter

ENDINGS = ("", "_aparc+aseg", "_aparc.DKTatlas+aseg.deep", "_aparc.DKTatlas+aseg", "_wmparc", "_synthseg", "_aseg")
"""A parcellation of a case is ``{case}{ending}`` and an image ending; the first that exists is taken."""

MIN_OVERLAP = (
    0.75  # of a parcellation and the brain in the scan (Dice); two brains laid over each other anyhow reach 0.7
)


def find_parcellation(folder: Path, case_id: str) -> Path:
    """The file of a case.

    Raises:
        UserError: no such folder or file.
    """
    for ending in ENDINGS:
        for suffix in SUFFIXES:
            path = folder / f"{case_id}{ending}{suffix}"
            if path.is_file():
                return path
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder", remedy="name the folder that holds the parcellations")
    others = sorted(path.name for path in folder.iterdir() if image_stem(path))[:3]
    seen = f"; the folder holds {', '.join(others)}, ..." if others else ""
    raise UserError(
        f"{folder}: no parcellation of {case_id}{seen}",
        remedy=f"name it {case_id}.nii.gz or {case_id}_aseg.nii.gz (mri_convert turns .mgz into .nii.gz)",
    )


def parcellation_regions(
    path: Path, grid: Grid, table: LabelTable | None = None, brain: np.ndarray | None = None
) -> RegionMap:
    """The regions of a scan from a parcellation that lies at its place in the world.

    Args:
        path: label file in the world coordinates of the scan (its own space, or that of a registered T1).
        grid: the scan's.
        table: what the labels stand for; FreeSurfer's by default, whose values FastSurfer and SynthSeg use too.
        brain: bool [z, y, x], the brain as estimated from the scan itself; a parcellation that lies beside it is not
            trusted.

    Raises:
        UserError: the file cannot be read or holds no labels.
    """
    table = table or load_table("freesurfer")
    values, source = read_stored(path)
    labels, squares = as_labels(values, table, path.name)
    findings = (*squares, *unknown_labels(labels, table, path.name))
    labels, places = divide_white_matter(labels, source.spacing, table)
    regions = RegionMap(
        resample_labels(labels, source, grid), grid, places, f"parcellation:{path.name}", findings=findings
    )
    why = _misplaced(regions, brain)
    if not why:
        return regions
    return RegionMap(regions.labels, grid, places, regions.source, trusted=False, why=why, findings=findings)


def _misplaced(regions: RegionMap, brain: np.ndarray | None) -> str:
    codes = regions.group_codes()
    parcellated = (codes != CODES["outside"]) & (codes != CODES["csf"])
    if not parcellated.any():
        return "the parcellation has no label within the scan: do both lie in one space?"
    if brain is None:
        return ""
    overlap = 2 * np.count_nonzero(parcellated & brain) / (np.count_nonzero(parcellated) + np.count_nonzero(brain))
    if overlap >= MIN_OVERLAP:
        return ""
    return (
        f"the parcellation and the brain in the scan overlap by a Dice of only {overlap:.2f}: do both lie in one space?"
    )
