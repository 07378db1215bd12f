"""Writes what was found in one scan: instance mask and boxes, in the scan's own space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmb_plugin.dataset import (
    CasePredictions,
    boxes_file,
    instances_file,
    predicted_cases,
    read_case_predictions,
    write_case_predictions,
)
from cmb_plugin.errors import UserError
from cmb_plugin.files import write_json
from cmb_plugin.images import Mapping, read_mask, voxels_of_instances, write_image
from cmb_plugin.inference.predictor import Prediction
from cmb_plugin.inference.restore import filled_boxes, instance_mask, restore


def write_case(
    folder: Path,
    case_id: str,
    prediction: Prediction,
    mapping: Mapping,
    *,
    classes: Sequence[str],
    operating_point: float,
    model: str = "",
    folds: Sequence[int] = (),
    key: str = "",
    draw: bool = True,
    modalities: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> CasePredictions:
    """Writes ``{case}_instances.nii.gz``, then ``{case}_boxes.json``: where the JSON stands, the case is whole.

    Args:
        folder: predictions folder.
        case_id: name of the case.
        prediction: in voxels of the network's array.
        mapping: the way from the scan to that array.
        classes: class names by index.
        operating_point: detections with at least this score are reported and drawn.
        model: name of the model folder.
        folds: which of its folds predicted together.
        key: kept in the JSON, see ``CasePredictions``.
        draw: also write the instance mask, which needs SimpleITK.
        modalities: names of those that were seen.
        warnings: sentences on what is unlike every scan that the model has seen.

    Returns:
        what was written, in voxels of the scan.
    """
    found = restore(prediction.detections, mapping)
    case = CasePredictions(
        case_id,
        found,
        mapping.source,
        tuple(classes),
        operating_point,
        model,
        tuple(folds),
        key=key,
        modalities=tuple(modalities),
        warnings=tuple(warnings),
    )
    reported = found[case.reported]
    mask = instance_mask(reported, prediction.foreground, mapping)
    voxels = voxels_of_instances(mask)
    voxel_mm3 = float(np.prod(mapping.source.spacing))
    drawn = [voxels[row + 1] * voxel_mm3 for row in range(len(reported))]
    case.volumes_mm3 = (*drawn, *[None] * (len(found) - len(drawn)))
    if draw:
        write_image(instances_file(folder, case_id), mask, mapping.source)
    write_case_predictions(folder, case)
    return case


def export_boxes(source: Path, target: Path, threshold: float | None = None) -> list[str]:
    """Draws the boxes of a predictions folder as filled cuboids, one mask per case (nnDetection's ``boxes2nii``).

    Writes ``{case}_boxes.nii.gz``, whose voxels hold a detection's number, and ``{case}_boxes.json`` with the score,
    label, class and box of every number.

    Args:
        source: predictions folder.
        target: folder to write.
        threshold: lowest score that is drawn; None draws what is reported.

    Returns:
        the names of the cases.

    Raises:
        UserError: the folder holds no predictions, or a file is damaged.
    """
    case_ids = _cases_in(source)
    for case_id in case_ids:
        case = read_case_predictions(boxes_file(source, case_id))
        drawn = case.detections[case.reported if threshold is None else case.detections.scores >= threshold]
        write_image(target / f"{case_id}_boxes.nii.gz", filled_boxes(drawn.boxes, case.grid.shape), case.grid)
        rows = {
            str(number): {
                "score": round(float(drawn.scores[number - 1]), 6),
                "label": int(drawn.labels[number - 1]),
                "class": case.classes[drawn.labels[number - 1]],
                "box": drawn.boxes[number - 1],
            }
            for number in range(1, len(drawn) + 1)
        }
        write_json(target / f"{case_id}_boxes.json", rows)
    return case_ids


def export_segmentation(source: Path, target: Path) -> list[str]:
    """Writes ``{case}_segmentation.nii.gz`` of every case of a predictions folder: 0, or 1 + class of a reported lesion
    (nnDetection's ``seg2nii``).

    Args:
        source: predictions folder.
        target: folder to write.

    Returns:
        the names of the cases.

    Raises:
        UserError: the folder holds no predictions, or a file is missing or damaged.
    """
    case_ids = _cases_in(source)
    for case_id in case_ids:
        case = read_case_predictions(boxes_file(source, case_id))
        drawn = instances_file(source, case_id)
        if not drawn.is_file():
            raise UserError(f"{drawn}: is missing", remedy="predict the case again")
        instances, grid = read_mask(drawn)
        class_of = np.append(0, 1 + case.detections.labels).astype(np.uint8)
        if instances.max() >= len(class_of):
            raise UserError(f"{drawn}: has more lesions than its JSON", remedy="predict the case again")
        write_image(target / f"{case_id}_segmentation.nii.gz", class_of[instances], grid)
    return case_ids


def _cases_in(source: Path) -> list[str]:
    case_ids = predicted_cases(source)
    if not case_ids:
        raise UserError(f"{source}: holds no predictions", remedy="run nndet_predict first")
    return case_ids
