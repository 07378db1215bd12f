"""``describe_prototypes``: what the prototypes of a trained fold stand for, in words and as a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.dataset import Case, Dataset, read_mimics, read_truth
from cmb_plugin.detections import Detections
from cmb_plugin.evaluation import EvaluationConfig, match_by_distance
from cmb_plugin.evaluation.embedding import embedding_figure, name_prototypes
from cmb_plugin.evaluation.mimics import NONE, mimic_kinds
from cmb_plugin.files import write_json
from cmb_plugin.inference import InferenceConfig, predict_array, restore
from cmb_plugin.paths import FoldFolder, TaskFolder
from cmb_plugin.preparation import StoredCase
from cmb_plugin.reporting.figures import save_figure
from cmb_plugin.training import DetectionModule
from cmb_plugin.workers import progress

SCHEMA = 1
MOST_CASES = 12


def describe_prototypes(
    task: TaskFolder, module: DetectionModule, fold: FoldFolder, case_ids: Sequence[str], settings: InferenceConfig
) -> None:
    """Writes ``prototypes.json`` (names, and what lies nearest to each prototype) and ``embedding.png``.

    Args:
        task: the Task folder; where it lists mimics by kind, prototypes are named after them.
        module: trained, with a ``prototype_space``, on the device that shall predict.
        fold: its folder.
        case_ids: scans to look at, the first ``MOST_CASES`` of them; prepared and labelled.
        settings: of tiled prediction.
    """
    space = module.prototype_space()
    assert space is not None, "the trainer learns no prototypes"
    prototypes, kinds = space[0].float().cpu().numpy(), space[1]
    dataset = Dataset.load(task)
    chosen = set(case_ids[:MOST_CASES])
    cases = [case for case in dataset.cases("Tr") if case.case_id in chosen and case.label is not None]
    folder = task.prepared(module.plan.name, "Tr")
    module.keep_embeddings = True
    embeddings: list[np.ndarray] = []
    seen: list[str] = []
    try:
        with progress("Looking at prototypes", len(cases)) as advance:
            for case in cases:
                found = _predict(module, folder, case.case_id, settings)
                seen += _truly(found, case, dataset.classes)
                embeddings += list(found.columns.get("embedding", []))
                advance()
    finally:
        module.keep_embeddings = False
    points = np.array(embeddings, dtype=float).reshape(-1, prototypes.shape[1])
    nearest = np.square(points[:, None] - prototypes[None]).sum(axis=2).argmin(axis=1)
    names, members = name_prototypes(kinds, nearest, seen)
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "names": names,
        "kinds": kinds,
        "members": members,
        "cases": len(cases),
    }
    write_json(fold.prototypes, content)
    title = f"{task.name}, {fold.root.parent.name}, {fold.root.name}: {len(cases)} scans"
    figure = embedding_figure(points, seen, prototypes, names, dataset.classes, title)
    save_figure(figure, fold.root / "embedding.png")


def _predict(module: DetectionModule, folder: Path, case_id: str, settings: InferenceConfig) -> Detections:
    stored = StoredCase.open(folder, case_id)
    plain = dataclasses.replace(settings, foreground=False, tta=1)
    prediction = predict_array([module], stored.data, plain, module.device)
    return restore(prediction.detections, stored.mapping)


def _truly(found: Detections, case: Case, classes: Sequence[str]) -> list[str]:
    """What each detection is: a lesion's class, the kind of the mimic it lies on, or ``none``."""
    truth, mimics = read_truth(case, len(classes)), read_mimics(case)
    lesion = match_by_distance(found.boxes, truth.boxes, truth.grid.spacing, EvaluationConfig().match_mm)
    kinds = mimic_kinds(found.centres, mimics or [], truth.grid.spacing)
    return [
        classes[truth.labels[match]] if match >= 0 else kind or NONE for match, kind in zip(lesion, kinds, strict=True)
    ]
