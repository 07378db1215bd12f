"""``export``: what a reader decided becomes a Task folder with labels."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cmb_plugin.conversion import grow_points
from cmb_plugin.dataset import CasePredictions, instances_file, write_dataset
from cmb_plugin.errors import UserError
from cmb_plugin.files import write_json
from cmb_plugin.images import image_stem, read_mask, read_scan, write_image
from cmb_plugin.paths import TaskFolder
from cmb_plugin.preparation import modality_polarity

from .session import ReviewSession

MARK = "reviewed.json"
CERTAINTY = {"accept": "definite", "possible": "possible", "unsure": "possible"}


@dataclass
class ExportReport:
    """What became labels.

    Attributes:
        task: the new Task folder.
        lesions: case -> number of lesions.
        left_out: case -> why it is not there.
    """

    task: TaskFolder
    lesions: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def export(session: ReviewSession, target: TaskFolder, *, overwrite: bool = False) -> ExportReport:
    """Writes the scans that the reader has done as training cases of a Task: scans as links, lesions as masks.

    A reported candidate is as the model outlined it; a weaker one, or one that the reader added, grows from its centre,
    and its case is a weak one. Possible and unsure lesions are labelled as possible. Scans that are not done, or in
    which a reported candidate was not judged, are left out: nobody has said what their background is.

    Args:
        session: what was reviewed.
        target: the Task to write.
        overwrite: replace what an earlier export wrote there.

    Raises:
        UserError: no scan is done, or ``target`` holds something else.
    """
    if target.root.exists() and not ((target.root / MARK).is_file() and overwrite):
        remedy = "add --overwrite to replace it" if (target.root / MARK).is_file() else "choose another --export"
        raise UserError(f"{target.root}: exists", remedy=remedy)
    report, weak = ExportReport(target), []
    making = TaskFolder(target.root.with_name(f".{target.name}.exporting"))
    shutil.rmtree(making.root, ignore_errors=True)
    for case_id in session.cases:
        state = session.review(case_id).state()
        if reason := _reason_against(session, case_id, state):
            report.left_out[case_id] = reason
            continue
        report.lesions[case_id], drawn = _write_case(session, case_id, state, making)
        weak += [case_id] if drawn else []
    if not report.lesions:
        raise UserError(
            f"{session.store.folder}: no scan is done", remedy="tick 'looked at the whole scan' on the page for each"
        )
    _define(session, report, weak, making)
    write_json(making.root / MARK, {"task": session.dataset.task.name, "reader": session.store.reader})
    session.store.write_log([session.review(case_id) for case_id in session.cases])
    if target.root.exists():
        shutil.rmtree(target.root)
    making.root.replace(target.root)
    return report


def _reason_against(session: ReviewSession, case_id: str, state: dict[str, Any]) -> str:
    if not state["done"]:
        return "not done"
    predictions = session.cases[case_id].read()
    judged = {name for name, lesion in state["lesions"].items() if "verdict" in lesion}
    open_ones = [str(row + 1) for row in np.flatnonzero(predictions.reported) if str(row + 1) not in judged]
    return f"candidate {open_ones[0]} is not judged" if open_ones else ""


def _write_case(session: ReviewSession, case_id: str, state: dict[str, Any], task: TaskFolder) -> tuple[int, bool]:
    """Writes a case; returns its number of lesions, and whether one was drawn from a point."""
    own, predictions = session.cases[case_id], session.cases[case_id].read()
    kept = {name: lesion for name, lesion in state["lesions"].items() if lesion.get("verdict") in CERTAINTY}
    mask, drawn = _mask(session, case_id, predictions, kept)
    for number, path in session.images(case_id).items():
        ending = path.name.removeprefix(image_stem(path) or "")
        link = task.images("Tr") / f"{case_id}_{number:04d}{ending}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(path.resolve(), link.parent.resolve()))
    lesions, classes = [], {}
    for instance, (name, lesion) in enumerate(kept.items(), start=1):
        row = int(name) - 1 if name.isdecimal() else None
        label = lesion.get("class", 0 if row is None else int(predictions.detections.labels[row]))
        classes[str(instance)] = label
        entry = {"instance": instance, "certainty": CERTAINTY[lesion["verdict"]], "drawn": drawn[instance - 1]}
        if lesion.get("location", "unknown") != "unknown":
            entry["region"] = lesion["location"]
        lesions.append({**entry, "lesion": name, "verdict": lesion["verdict"]})
    write_image(task.labels("Tr") / f"{case_id}.nii.gz", mask, predictions.grid)
    write_json(task.labels("Tr") / f"{case_id}.json", {"instances": classes})
    content = {"reader": session.store.reader, "domain": own.case.domain, "lesions": lesions}
    write_json(task.extra("lesions", "Tr") / f"{case_id}.json", content)
    return len(kept), any(how != "model" for how in drawn)


def _mask(
    session: ReviewSession, case_id: str, predictions: CasePredictions, kept: dict[str, dict[str, Any]]
) -> tuple[np.ndarray, list[str]]:
    """uint16 [z, y, x] with lesion n of ``kept``, from 1, and how each was drawn: ``model``, ``grown`` or ``ball``."""
    mask = np.zeros(predictions.grid.shape, np.uint16)
    path = instances_file(session.cases[case_id].predictions.parent, case_id)
    outlined = read_mask(path)[0] if path.is_file() else np.zeros_like(mask)
    how = {}
    points = {}
    for instance, (name, lesion) in enumerate(kept.items(), start=1):
        own = outlined == int(name) if name.isdecimal() else np.zeros_like(mask, dtype=bool)
        if own.any():
            mask[own] = instance
            how[instance] = "model"
        else:
            points[instance] = lesion["point"] if "point" in lesion else predictions.detections.centres[int(name) - 1]
    if points:
        number, image = next(iter(session.images(case_id).items()))
        array, grid = read_scan(image)
        bright = modality_polarity(session.dataset.modalities[number]) == "bright"
        places = np.array([*points.values()], dtype=float)
        for instance, growth in zip(points, grow_points(array, grid.spacing, places, bright=bright), strict=True):
            z, y, x = growth.voxels[mask[tuple(growth.voxels.T)] == 0].T
            if not len(z):  # inside another lesion: a voxel of its own, so that it is counted
                z, y, x = np.clip(np.floor(points[instance]), 0, np.array(mask.shape) - 1).astype(int)[:, None]
            mask[z, y, x] = instance
            how[instance] = growth.how
    return mask, [how[instance] for instance in range(1, len(kept) + 1)]


def _define(session: ReviewSession, report: ExportReport, weak: list[str], task: TaskFolder) -> None:
    dataset, names = session.dataset, list(report.lesions)
    missing = {
        name: [dataset.modalities[n] for n in dataset.missing[name]] for name in names if name in dataset.missing
    }
    extra: dict[str, Any] = {"missing": missing} if missing else {}
    if weak and len(weak) < len(names):
        extra["weak_cases"] = weak
    write_dataset(
        task,
        name=f"{dataset.name}, reviewed by {session.store.reader}",
        modalities=dataset.modalities,
        classes=dataset.classes,
        target_class=dataset.target_class,
        annotation_style="weak" if weak else "seg",
        session_id={name: dataset.session_id[name] for name in names if name in dataset.session_id},
        domain={name: session.cases[name].case.domain for name in names if session.cases[name].case.domain},
        **extra,
    )
