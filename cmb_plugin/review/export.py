"""``export``: what a reader decided becomes a Task folder with labels."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cmb_plugin.conversion import grow_points
from cmb_plugin.dataset import CasePredictions, Dataset, instances_file, write_dataset
from cmb_plugin.dataset.dataset import definition_file
from cmb_plugin.errors import UserError
from cmb_plugin.files import write_json
from cmb_plugin.images import boxes_of_instances, image_stem, read_mask, read_scan, write_image
from cmb_plugin.paths import TaskFolder
from cmb_plugin.preparation import modality_polarity

from .session import ReviewSession

MARK = "reviewed.json"
CERTAINTY = {"accept": "definite", "possible": "possible", "unsure": "possible"}
AROUND_MM = 2.0
"""How far around a candidate its verdict reaches: who judges it has seen that no other lesion lies so near."""


@dataclass
class ExportReport:
    """What became labels.

    Attributes:
        task: the new Task folder.
        lesions: case -> number of lesions.
        in_places: cases that were judged in places only.
        left_out: case -> why it is not there.
    """

    task: TaskFolder
    lesions: dict[str, int] = field(default_factory=dict)
    in_places: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def export(
    session: ReviewSession, target: TaskFolder, *, overwrite: bool = False, done_only: bool = False
) -> ExportReport:
    """Writes the scans that the reader has judged as training cases of a Task: scans as links, lesions as masks.

    A reported candidate is as the model outlined it; a weaker one, or one that the reader added, grows from its centre,
    and its case is a weak one. Possible and unsure lesions are labelled as possible.

    In a scan that is not done, or in which a reported candidate was not judged, nobody has said what the background is.
    It becomes a weak case that was judged in places only: ``judgedTr/{case}.nii.gz`` is 1 up to ``AROUND_MM`` around
    what was accepted, rejected or called possible, and an unsure candidate is neither lesion nor background. A scan of
    which nothing was judged is left out.

    Args:
        session: what was reviewed.
        target: the Task to write.
        overwrite: replace what an earlier export wrote there, its training cases and dataset.json, and nothing else.
        done_only: leave out what was judged in places only.

    Raises:
        UserError: nothing is judged, or ``target`` holds something else.
    """
    _check_target(session, target, overwrite)
    report, weak = ExportReport(target), []
    making = TaskFolder(target.root.with_name(f".{target.name}.exporting"))
    shutil.rmtree(making.root, ignore_errors=True)
    for case_id in session.cases:
        try:
            state = session.review(case_id).state()
            reason = _reason_against(session, case_id, state)
        except UserError as error:  # predictions or decisions that cannot be read stop no other case
            report.left_out[case_id] = str(error)
            continue
        in_places = bool(reason) and not done_only and any(_is_judged(own) for own in state["lesions"].values())
        if reason and not in_places:
            report.left_out[case_id] = reason if done_only else "nothing is judged"
            continue
        report.lesions[case_id], drawn = _write_case(session, case_id, state, making, in_places)
        report.in_places += [case_id] if in_places else []
        weak += [case_id] if drawn or in_places else []
    if not report.lesions:
        remedy = "tick 'looked at the whole scan' on the page for each"
        what = "no scan is done" if done_only else "nothing is judged, and no scan is done"
        raise UserError(
            f"{session.store.folder}: {what}", remedy=remedy if done_only else f"judge candidates, or {remedy}"
        )
    _define(session, report, weak, making)
    write_json(making.root / MARK, {"task": session.dataset.task.name, "reader": session.store.reader})
    session.store.write_log()
    _put(making, target)
    return report


def _check_target(session: ReviewSession, target: TaskFolder, overwrite: bool) -> None:
    if not target.root.exists():
        return
    other = "choose another --export"
    if target.root.resolve() == session.dataset.task.root.resolve():
        raise UserError(f"{target.root}: is the Task that is reviewed", remedy=other)
    if not (target.root / MARK).is_file():
        raise UserError(f"{target.root}: exists", remedy=other)
    if not overwrite:
        raise UserError(f"{target.root}: exists", remedy="add --overwrite to replace it")
    images = target.images("Tr")
    own = sorted(path for path in images.iterdir() if not path.is_symlink()) if images.is_dir() else []
    if own:
        raise UserError(f"{own[0]}: no export has put it there", remedy=f"move it away, or {other}")


def _put(made: TaskFolder, target: TaskFolder) -> None:
    """Moves a new export to its place, where an earlier one may be; what else lies there stays. The mark comes last, so
    that what was interrupted can be done again."""
    if not target.root.exists():
        made.root.replace(target.root)
        return
    folders = [made.images("Tr"), made.labels("Tr"), made.extra("lesions", "Tr"), made.extra("judged", "Tr")]
    for new in [*folders, definition_file(made), made.root / MARK]:
        old = target.root / new.relative_to(made.root)
        if old.is_dir():
            shutil.rmtree(old)
        if new.exists():
            old.parent.mkdir(parents=True, exist_ok=True)
            new.replace(old)
    shutil.rmtree(made.root)


def _reason_against(session: ReviewSession, case_id: str, state: dict[str, Any]) -> str:
    if not state["done"]:
        return "not done"
    predictions = session.cases[case_id].read()
    judged = {name for name, lesion in state["lesions"].items() if "verdict" in lesion}
    open_ones = [str(row + 1) for row in np.flatnonzero(predictions.reported) if str(row + 1) not in judged]
    return f"candidate {open_ones[0]} is not judged" if open_ones else ""


def _is_judged(lesion: dict[str, Any]) -> bool:
    """Whether the reader knows whether it is one."""
    return lesion.get("verdict") in ("accept", "reject", "possible")


def _write_case(
    session: ReviewSession, case_id: str, state: dict[str, Any], task: TaskFolder, in_places: bool
) -> tuple[int, bool]:
    """Writes a case; returns its number of lesions, and whether one was drawn from a point."""
    own, predictions = session.cases[case_id], session.cases[case_id].read()
    kept = {name: lesion for name, lesion in state["lesions"].items() if lesion.get("verdict") in CERTAINTY}
    if in_places:
        kept = {name: lesion for name, lesion in kept.items() if _is_judged(lesion)}
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
    if in_places:
        judged = judged_places(predictions, state["lesions"], mask)
        write_image(task.extra("judged", "Tr") / f"{case_id}.nii.gz", judged, predictions.grid)
    content = {"reader": session.store.reader, "domain": own.case.domain, "lesions": lesions}
    write_json(task.extra("lesions", "Tr") / f"{case_id}.json", content)
    return len(kept), any(how != "model" for how in drawn)


def judged_places(predictions: CasePredictions, lesions: dict[str, dict[str, Any]], mask: np.ndarray) -> np.ndarray:
    """Where a reader has said what there is: around what was accepted, rejected or called possible, but not where a
    candidate lies of which nothing was said.

    Args:
        predictions: the candidates.
        lesions: what was decided, as ``Review.state`` has it.
        mask: [z, y, x] the lesions that are labelled, not 0.

    Returns:
        uint8 [z, y, x], 1 where it was judged.
    """
    judged = np.zeros(mask.shape, np.uint8)
    margin = AROUND_MM / np.asarray(predictions.grid.spacing, dtype=float)

    def part(box: np.ndarray, grown: np.ndarray | float) -> tuple[slice, ...]:
        """The voxels of a box [6], grown by so many voxels on each side."""
        low = np.clip(np.floor(box[:3] - grown + 1e-4), 0, mask.shape).astype(int)
        high = np.clip(np.ceil(box[3:] + grown - 1e-4), 0, mask.shape).astype(int)
        return tuple(map(slice, low.tolist(), high.tolist()))

    boxes = predictions.detections.boxes.astype(float)
    known = {int(name) - 1 for name, lesion in lesions.items() if name.isdecimal() and _is_judged(lesion)}
    for box in boxes[sorted(known)]:
        judged[part(box, margin)] = 1
    for box in boxes_of_instances(mask).values():
        judged[part(np.asarray(box, dtype=float), margin)] = 1
    for row in sorted(set(range(len(boxes))) - known):
        judged[part(boxes[row], 0.0)] = 0
    judged[mask > 0] = 1
    return judged


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


def _patient(dataset: Dataset, case_id: str) -> str:
    """Whose scan it is: as the Task says, or the subject in its BIDS name, whose sessions would else be split between
    training and validation; empty where nobody knows."""
    subject = re.match(r"sub-[A-Za-z0-9]+(?=_)", case_id)
    return dataset.session_id.get(case_id, subject[0] if subject else "")


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
        task_name=report.task.name,
        modalities=dataset.modalities,
        classes=dataset.classes,
        target_class=dataset.target_class,
        annotation_style="weak" if weak else "seg",
        session_id={name: patient for name in names if (patient := _patient(dataset, name))},
        domain={name: session.cases[name].case.domain for name in names if session.cases[name].case.domain},
        **extra,
    )
