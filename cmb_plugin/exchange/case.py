"""``ExportedCase``: a predicted case with where its scan came from; the lesions that count, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmb_plugin.dataset import CasePredictions, boxes_file, instances_file, read_case_predictions
from cmb_plugin.images import DicomSeries, Grid, read_mask
from cmb_plugin.intake import InputCase


@dataclass(frozen=True)
class ExportedLesion:
    """One reported lesion.

    Attributes:
        instance: its number in the mask.
        name: of its class.
        score: of the detection.
        diameter_mm, volume_mm3: its size; the volume is that of its voxels in the mask.
        centre_lps_mm: middle of its box.
        voxel: index of that voxel along x, y, z.
        group, region, side: where it lies, "" where that is not known.
        columns: further numbers of the detection.
    """

    instance: int
    name: str
    score: float
    diameter_mm: float
    volume_mm3: float | None
    centre_lps_mm: tuple[float, float, float]
    voxel: tuple[int, int, int]
    group: str = ""
    region: str = ""
    side: str = ""
    columns: Mapping[str, object] | None = None


@dataclass(frozen=True)
class ExportedCase:
    """A case as it stands in a predictions folder.

    Attributes:
        folder: the predictions folder.
        case_id: name of the case.
        scan: the first of its scans, where it is a file.
        source: what it was in the input; None for the scans of a Task folder.
    """

    folder: Path
    case_id: str
    scan: Path
    source: InputCase | None = None

    def predictions(self) -> CasePredictions:
        """What was predicted.

        Raises:
            UserError: the file is missing or damaged.
        """
        return read_case_predictions(boxes_file(self.folder, self.case_id))

    def mask(self) -> tuple[np.ndarray, Grid]:
        """The reported lesions as a numbered mask [z, y, x].

        Raises:
            UserError: the file is missing or damaged.
        """
        return read_mask(instances_file(self.folder, self.case_id))

    @property
    def series(self) -> DicomSeries | None:
        """The DICOM series of its first channel that has one."""
        volumes = {} if self.source is None else self.source.volumes
        return next((volumes[channel].series for channel in sorted(volumes) if volumes[channel].series), None)


def reported_lesions(predictions: CasePredictions, columns: Sequence[str] = ()) -> Iterator[ExportedLesion]:
    """The reported lesions of a case, highest score first; ``columns`` are passed on where detections have them."""
    detections = predictions.detections
    world = predictions.grid.to_world(detections.centres)
    voxels = np.clip(np.floor(detections.centres), 0, np.asarray(predictions.grid.shape) - 1).astype(int)

    def text(name: str, row: int) -> str:
        """A column of words; "" where there is none."""
        values = detections.columns.get(name)
        return "" if values is None else str(values[row] or "")

    for row in np.flatnonzero(predictions.reported).tolist():
        volume = predictions.volumes_mm3[row] if predictions.volumes_mm3 else None
        group = text("nearest_group", row) or text("region_group", row)
        x, y, z = (float(v) for v in world[row])
        k, j, i = (int(v) for v in voxels[row])
        yield ExportedLesion(
            row + 1,
            predictions.classes[int(detections.labels[row])],
            float(detections.scores[row]),
            float(predictions.diameters_mm[row]),
            volume,
            (x, y, z),
            (i, j, k),
            "" if group == "unknown" else group,
            text("nearest_region", row) or text("region", row),
            text("side", row),
            {name: detections.columns[name][row] for name in columns if name in detections.columns},
        )
