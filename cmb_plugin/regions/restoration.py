"""Plain predictions back from those with places: every prediction begins so, whether it localises or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cmb_plugin.dataset import (
    Case,
    CasePredictions,
    boxes_file,
    instances_file,
    read_case_predictions,
    write_case_predictions,
)
from cmb_plugin.dataset.predictions import REMOVED

COHORT_FILE = "cohort.tsv"


def maps_folder(predictions: Path) -> Path:
    """``{predictions}/regions``: the maps that were made for a folder of predictions."""
    return predictions / "regions"


def report_files(folder: Path, case_id: str) -> tuple[Path, Path, Path, Path]:
    """The JSON of a case, and its page as a picture, as PDF and as HTML."""
    stem = f"{case_id}_report"
    return folder / f"{stem}.json", folder / f"{stem}.png", folder / f"{stem}.pdf", folder / f"{stem}.html"


def drawn_copy(folder: Path, case_id: str) -> Path:
    """The instance mask of a case as it was drawn before lesions were removed."""
    return maps_folder(folder) / f"{case_id}_instances_before_removal.nii.gz"


def restore_cases(folder: Path, cases: Sequence[Case]) -> None:
    """Undoes ``localise_cases``; nothing to do where it was never called."""
    if not maps_folder(folder).is_dir():
        return
    (folder / COHORT_FILE).unlink(missing_ok=True)
    for case in cases:
        restore_case(folder, case.case_id)


def restore_case(folder: Path, case_id: str) -> CasePredictions:
    """Undoes ``localise_case`` and returns the plain predictions; the cached map stays."""
    path = boxes_file(folder, case_id)
    stored = read_case_predictions(path)
    for report in report_files(folder, case_id):  # first: with them the case would count as done if this is killed
        report.unlink(missing_ok=True)
    kept = drawn_copy(folder, case_id)
    if kept.is_file():
        kept.replace(instances_file(folder, case_id))
    if stored.regions is None:
        return stored
    from cmb_plugin.anatomy.location import COLUMNS  # most predictions have no places and need no anatomy

    columns = {n: v for n, v in stored.detections.columns.items() if n not in (*COLUMNS, REMOVED)}
    plain = dataclasses.replace(
        stored, detections=dataclasses.replace(stored.detections, columns=columns), regions=None
    )
    write_case_predictions(folder, plain)
    return plain


def forget_case(folder: Path, case_id: str) -> None:
    """Before a case is predicted anew: what was made from its old predictions is no longer true."""
    for path in (drawn_copy(folder, case_id), *report_files(folder, case_id)):
        path.unlink(missing_ok=True)
