"""What evaluation is given: one scan's detections beside its reference lesions, and how to compare them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmb_plugin.dataset import Mimic
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError

from .challenge import ValdoCounts
from .components import ComponentCounts


@dataclass(frozen=True)
class MaskCounts:
    """What the predicted and the reference mask of a scan have in common."""

    overlap: ComponentCounts
    valdo: ValdoCounts


@dataclass
class CaseResult:
    """One scan: what was detected and what is there.

    Attributes:
        case_id: name of the case.
        detections: boxes in voxels of the scan itself, all scores.
        truth_boxes: [N, 6] half-open voxel-edge boxes ``(z0, y0, x0, z1, y1, x1)`` of the reference lesions.
        truth_labels: [N] class indices from 0.
        spacing: voxel size in mm along z, y, x.
        certainty: ``definite`` or ``possible`` for each lesion; None when the data set does not say: all definite.
        instances: [N] number of each lesion in the mask, for tables; None numbers them from 1.
        mimics: what looks like a lesion and is none; None when the data set does not list it.
        centroids: [N, 3] mean place of each lesion's voxels, voxel-edge coordinates z, y, x; None takes box centres.
        regions: name of the place of each lesion, None where unknown; None when the data set does not say.
        cnr: [N] contrast-to-noise ratio of each lesion, NaN where unknown; None when the data set does not say.
        domain: protocol, scanner or site of the scan; None when the data set does not say.
        patient: whose scan it is; None makes every scan a patient.
        masks: comparison of masks; None where none were compared.
    """

    case_id: str
    detections: Detections
    truth_boxes: np.ndarray
    truth_labels: np.ndarray
    spacing: tuple[float, float, float]
    certainty: Sequence[str] | None = None
    instances: np.ndarray | None = None
    mimics: Sequence[Mimic] | None = None
    centroids: np.ndarray | None = None
    regions: Sequence[str | None] | None = None
    cnr: np.ndarray | None = None
    domain: str | None = None
    patient: str | None = None
    masks: MaskCounts | None = None

    def __post_init__(self) -> None:
        self.truth_boxes = np.asarray(self.truth_boxes, dtype=float).reshape(-1, 6)
        self.truth_labels = np.asarray(self.truth_labels, dtype=np.int64).reshape(-1)
        self.instances = np.arange(1, len(self.truth_boxes) + 1) if self.instances is None else self.instances
        lengths = {len(self.truth_boxes), len(self.truth_labels), len(self.instances)}
        further = (self.certainty, self.centroids, self.regions, self.cnr)
        lengths |= {len(values) for values in further if values is not None}
        if len(lengths) > 1:
            raise ValueError(
                f"{self.case_id}: reference boxes, labels, certainty and instances differ in length: {sorted(lengths)}"
            )

    @property
    def truth_centres(self) -> np.ndarray:
        """[N, 3] centroids where they are known, else the centres of the boxes."""
        if self.centroids is not None:
            return np.asarray(self.centroids, dtype=float).reshape(-1, 3)
        return (self.truth_boxes[:, :3] + self.truth_boxes[:, 3:]) / 2

    def as_one_class(self) -> CaseResult:
        """The scan as if all lesions and detections were of class 0."""
        detections = self.detections
        return dataclasses.replace(
            self,
            detections=Detections(detections.boxes, detections.scores, np.zeros(len(detections)), detections.columns),
            truth_labels=np.zeros(len(self.truth_boxes)),
        )

    def of_class(self, label: int) -> CaseResult:
        """The scan as if there were no other class, neither of lesions nor of detections."""
        kept = self.truth_labels == label

        def of_kept(values: Sequence[Any] | np.ndarray | None) -> Any:
            """The values of the lesions of the class, None where there are none."""
            return None if values is None else np.asarray(values)[kept]

        return dataclasses.replace(
            self,
            detections=self.detections[self.detections.labels == label],
            truth_boxes=self.truth_boxes[kept],
            truth_labels=self.truth_labels[kept],
            certainty=of_kept(self.certainty),
            instances=of_kept(self.instances),
            centroids=of_kept(self.centroids),
            regions=of_kept(self.regions),
            cnr=of_kept(self.cnr),
            masks=None,
        )

    @property
    def possible(self) -> np.ndarray:
        """[N] True where a lesion is only "possible"."""
        if self.certainty is None:
            return np.zeros(len(self.truth_boxes), dtype=bool)
        return np.array([value == "possible" for value in self.certainty], dtype=bool)


@dataclass
class EvaluationConfig:
    """How detections are compared with the reference (``-o eval_cfg.match_mm=3``).

    Attributes:
        operating_point: a detection counts as reported from this score on; None means the one that ``nndet_sweep``
            chose, or 0.5 where there is none.
        match_mm: largest distance between centres, in mm, at which a detection finds a lesion (headline matching).
        iou: smallest intersection over union of the boxes for the second matching.
        fp_rates: false positives per scan at which the FROC curve is read.
        sensitivities: shares of the lesions at which the false positives per scan are read; 0.9466 is that of Kim et
            al. 2023.
        mimic_mm: a false positive is put down to the nearest mimic if its centre is at most so far from that one's
            surface, in mm.
        connectivity: neighbours by which the components of masks are connected: 6, 18 or 26.
        resamples: of the bootstrap that gives the intervals; 0 for none.
        max_detections: the average precision looks at this many detections per scan and class, highest scores first.

    Raises:
        UserError: a number that cannot be meant.
    """

    operating_point: float | None = None
    match_mm: float = 5.0
    iou: float = 0.1
    fp_rates: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    sensitivities: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.9466)
    mimic_mm: float = 3.0
    max_detections: int = 100
    connectivity: int = 26
    resamples: int = 2000

    def __post_init__(self) -> None:
        rules = {
            "match_mm": (self.match_mm > 0, "more than 0"),
            "mimic_mm": (self.mimic_mm >= 0, "0 or more"),
            "iou": (0 <= self.iou <= 1, "from 0 to 1"),
            "fp_rates": (bool(self.fp_rates) and min(self.fp_rates) > 0, "one rate or more, each more than 0"),
            "sensitivities": (all(0 < share <= 1 for share in self.sensitivities), "shares above 0 and up to 1"),
            "max_detections": (self.max_detections > 0, "1 or more"),
            "connectivity": (self.connectivity in (6, 18, 26), "6, 18 or 26"),
            "resamples": (self.resamples >= 0, "0 or more"),
        }
        for name, (good, wanted) in rules.items():
            if not good:
                raise UserError(f"eval_cfg.{name}: is {getattr(self, name)}", remedy=f"give {wanted}")
