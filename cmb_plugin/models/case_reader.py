"""Reads one scan with its reference lesions and its predictions as evaluation takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cmb_plugin.dataset import Case, Truth, instances_file, read_lesion_facts, read_mimics
from cmb_plugin.dataset.foreign import find_prediction, read_foreign
from cmb_plugin.dataset.predictions import ENDING, CasePredictions, read_case_predictions
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import CaseResult
from cmb_plugin.evaluation.masks import compare_masks
from cmb_plugin.images import Grid, read_mask

from .operating_point import OperatingPoint


@dataclass(frozen=True)
class ReadCase:
    """One scan as evaluation takes it, its grid, whether it was predicted, and from which score on its file reports;
    files of other programs do not say."""

    case: CaseResult
    grid: Grid
    predicted: bool
    operating_point: float | None


@dataclass(frozen=True)
class CaseReader:
    """Reads scans of one set of predictions.

    Attributes:
        read_truth: the reference lesions of a case.
        folders: case -> folder that its predictions should be in.
        classes: names by index.
        operating_point: of the model.
        patients: case -> patient.
        truths: lesions by case, filled and used here, in one process; None keeps none.
        connectivity: compare masks too, by components of so many neighbours.
        before_sweep: detections as if no sweep had been.
    """

    read_truth: Callable[[Case], Truth]
    folders: Mapping[str, Path]
    classes: Sequence[str]
    operating_point: OperatingPoint
    patients: Mapping[str, str] = field(default_factory=dict)
    truths: dict[str, Truth] | None = None
    connectivity: int | None = None
    before_sweep: bool = False

    def __call__(self, case: Case) -> ReadCase:
        """The case with everything that is known of it.

        Raises:
            UserError: a file cannot be read, or is of another grid or other classes.
        """
        truth = None if self.truths is None else self.truths.get(case.case_id)
        if truth is None:
            truth = self.read_truth(case)
            if self.truths is not None:
                self.truths[case.case_id] = truth
        folder = self.folders[case.case_id]
        path = find_prediction(folder, case.case_id, self.folders)
        detections, operating_point, mask = Detections.empty(), None, None
        if path is not None and path.name.endswith(ENDING):
            predicted = read_case_predictions(path)
            _check_fit(path, predicted, truth.grid, case, self.classes)
            operating_point = predicted.operating_point
            detections = _rescored(path, predicted, self.operating_point, self.before_sweep)
        elif path is not None:
            foreign = read_foreign(path, case.case_id, truth.grid, self.classes)
            detections, mask = foreign.detections, foreign.mask
        if self.connectivity is not None and mask is None:
            drawn = instances_file(folder, case.case_id)
            mask = read_mask(drawn)[0] if drawn.is_file() else None
            if path is None:  # counted as if nothing had been found, in the masks too
                mask = np.zeros(truth.grid.shape, np.uint8)
        assert case.label is not None
        facts = read_lesion_facts(case, truth.instances.tolist())
        spacing = truth.grid.spacing
        result = CaseResult(
            case_id=case.case_id,
            detections=detections,
            truth_boxes=truth.boxes,
            truth_labels=truth.labels,
            spacing=spacing,
            certainty=truth.certainty,
            instances=truth.instances,
            mimics=read_mimics(case),
            centroids=truth.centroids,
            regions=facts.regions,
            cnr=facts.cnr,
            domain=case.domain or facts.domain,
            patient=self.patients.get(case.case_id),
            masks=None if mask is None else compare_masks(mask, read_mask(case.label)[0], spacing, self.connectivity),
        )
        return ReadCase(result, truth.grid, path is not None, operating_point)


def _rescored(path: Path, predicted: CasePredictions, point: OperatingPoint, before_sweep: bool) -> Detections:
    """The detections of a file with the scores that the model's operating point is for now."""
    if before_sweep:
        return predicted.detections.without_thresholds()
    if point.is_default:
        return predicted.kept
    if point.ranking is not None and len(predicted.detections) and point.ranking not in predicted.detections.columns:
        raise UserError(
            f"{path}: has no {point.ranking}, by which the model ranks now", remedy="predict the case again"
        )
    return point.apply(predicted.kept)


def _check_fit(path: Path, predicted: CasePredictions, grid: Grid, case: Case, classes: Sequence[str]) -> None:
    if not predicted.grid.same_as(grid):
        raise UserError(
            f"{path}: was predicted on another grid than that of {case.label}", remedy="predict the scan of this label"
        )
    if tuple(predicted.classes) != tuple(classes):
        raise UserError(
            f"{path}: has the classes {', '.join(predicted.classes)}, the reference {', '.join(classes)}",
            remedy="evaluate with the task that the model was trained for, or name the classes with --classes",
        )
