"""``describe_prototypes``: what the prototypes of a trained fold stand for, in words and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from cmb_plugin.dataset import Case, Dataset, read_mimics, read_truth
from cmb_plugin.detections import Detections
from cmb_plugin.evaluation import EvaluationConfig, match_by_distance, mimic_kinds
from cmb_plugin.files import write_json
from cmb_plugin.paths import FoldFolder
from cmb_plugin.reporting.figures import save_figure
from cmb_plugin.training import DetectionModule, LabelledCases
from cmb_plugin.workers import progress

from .embedding import NO_MIMIC, embedding_figure, name_prototypes

SCHEMA = 1
MOST_CASES = 12


def describe_prototypes(
    module: DetectionModule, prototypes: Tensor, kinds: Sequence[str], fold: FoldFolder, scans: LabelledCases
) -> None:
    """Writes ``prototypes.json`` (names, and what lies nearest to each prototype) and ``embedding.png``.

    Args:
        module: trained; its detections have a column ``embedding`` [N, E].
        prototypes: [K, E].
        kinds: K kinds, ``mimic`` or the name of a class.
        fold: folder that is written to.
        scans: to look at, the first ``MOST_CASES`` of them; where the Task lists mimics by kind, prototypes are named
            after them.
    """
    centres, classes = prototypes.float().cpu().numpy(), Dataset.load(scans.task).classes
    cases = scans.labelled(MOST_CASES)
    embeddings: list[np.ndarray] = []
    seen: list[str] = []
    with progress("Looking at prototypes", len(cases)) as advance:
        for case in cases:
            detections = scans.predict(module, case.case_id, module.device, foreground=False, tta=1)
            seen += _true_kinds(detections, case, classes)
            embeddings += list(detections.columns.get("embedding", []))
            advance()
    points = np.array(embeddings, dtype=float).reshape(-1, centres.shape[1])
    nearest = np.square(points[:, None] - centres[None]).sum(axis=2).argmin(axis=1)
    names, members = name_prototypes(kinds, nearest, seen)
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "names": names,
        "kinds": list(kinds),
        "members": members,
        "cases": len(cases),
    }
    write_json(fold.root / "prototypes.json", content)
    title = f"{scans.task.name}, {fold.root.parent.name}, {fold.root.name}: {len(cases)} scans"
    figure = embedding_figure(points, seen, centres, names, classes, title)
    save_figure(figure, fold.root / "embedding.png")


def _true_kinds(detections: Detections, case: Case, classes: Sequence[str]) -> list[str]:
    """What each detection is: a lesion's class, the kind of the mimic it lies on, or ``none``."""
    truth, mimics = read_truth(case, len(classes)), read_mimics(case)
    lesion = match_by_distance(detections.boxes, truth.boxes, truth.grid.spacing, EvaluationConfig().match_mm)
    kinds = mimic_kinds(detections.centres, mimics or [], truth.grid.spacing)
    return [
        classes[truth.labels[match]] if match >= 0 else kind or NO_MIMIC
        for match, kind in zip(lesion, kinds, strict=True)
    ]
