"""``describe_prototypes``: what the prototypes of a trained fold stand for, in words and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from cmb_plugin.dataset import Case, Dataset, read_mimics, read_truth
from cmb_plugin.detections import Detections
from cmb_plugin.evaluation import EvaluationConfig, match_by_distance, mimic_kinds
from cmb_plugin.files import write_json
from cmb_plugin.paths import FoldFolder
from cmb_plugin.reporting.figures import save_figure
from cmb_plugin.training import DetectionModule, LabelledCases
from cmb_plugin.workers import progress

from .embedding import NO_MIMIC, name_prototypes, prototypes_figure
from .prototypes import Prototypes

SCHEMA = 1
MOST_CASES = 12


def describe_prototypes(
    module: DetectionModule, prototypes: Prototypes, kinds: Sequence[str], fold: FoldFolder, scans: LabelledCases
) -> None:
    """Writes ``prototypes.json`` (names, and what each prototype stands for) and ``embedding.png``.

    Args:
        module: trained; its detections have a column ``embedding`` [N, E].
        prototypes: K of them.
        kinds: K kinds, ``mimic`` or the name of a class.
        fold: folder that is written to.
        scans: to look at, the first ``MOST_CASES`` of them; where the Task lists mimics by kind, prototypes are named
            after them.
    """
    classes = Dataset.load(scans.task).classes
    cases = scans.labelled(MOST_CASES)
    embeddings: list[np.ndarray] = []
    seen: list[str] = []
    with progress("Looking at prototypes", len(cases)) as advance:
        for case in cases:
            detections = scans.predict(module, case.case_id, module.device, foreground=False, tta=1)
            seen += _true_kinds(detections, case, classes)
            embeddings += list(detections.columns.get("embedding", []))
            advance()
    points = torch.from_numpy(np.array(embeddings, dtype=np.float32).reshape(-1, prototypes.prototypes.shape[1]))
    with torch.no_grad():
        points = points.to(prototypes.prototypes)
        likelihoods = prototypes.log_likelihoods(points)
        likeliest = likelihoods.argmax(dim=1).cpu().numpy()
        of_lesions, of_mimics = likelihoods.tensor_split([-prototypes.counts[-1]], dim=1)
        odds = of_lesions.logsumexp(dim=1) - of_mimics.logsumexp(dim=1)
    names, members = name_prototypes(kinds, likeliest, seen)
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "names": names,
        "kinds": list(kinds),
        "members": members,
        "cases": len(cases),
    }
    write_json(fold.root / "prototypes.json", content)
    title = f"{scans.task.name}, {fold.root.parent.name}, {fold.root.name}: {len(cases)} scans"
    figure = prototypes_figure(odds.cpu().numpy(), likeliest, seen, names, classes, title)
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
