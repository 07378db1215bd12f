"""Writes what was found in one scan: instance mask and boxes, in the scan's own space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmb_plugin.dataset.predictions import CasePredictions, instances_file, write_case_predictions
from cmb_plugin.images import Mapping, voxels_of_instances, write_image

from .predictor import Prediction
from .restore import instance_mask, restore


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

    Returns:
        what was written, in voxels of the scan.
    """
    found = restore(prediction.detections, mapping)
    case = CasePredictions(case_id, found, mapping.source, tuple(classes), operating_point, model, tuple(folds))
    reported = found[case.reported]
    mask = instance_mask(reported, prediction.foreground, mapping)
    voxels = voxels_of_instances(mask)
    voxel_mm3 = float(np.prod(mapping.source.spacing))
    drawn = [voxels[row + 1] * voxel_mm3 for row in range(len(reported))]
    case.volumes_mm3 = (*drawn, *[None] * (len(found) - len(drawn)))
    write_image(instances_file(folder, case_id), mask, mapping.source)
    write_case_predictions(folder, case)
    return case
