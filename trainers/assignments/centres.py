"""Lesions as peaks of a dense map of centres: no anchors, nothing sampled, nothing to match."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmb_plugin.boxes import (
    batched_nms,
    centre_map,
    decode_from,
    encode_from,
    flat_index,
    growth_of,
    image_of_boxes,
    locations_near,
    middles_of,
    peaks,
)
from cmb_plugin.inference import PatchDetections
from cmb_plugin.networks import CentreHead, RetinaOutput, centre_loss, hard_centre_loss, light_tower, regression_loss
from cmb_plugin.planning import WIDEST_REACH, WIDEST_TARGET, Architecture, Centres, default_centres
from cmb_plugin.training import Batch

from .assignment import Assignment, judged_anchors

PEAK_MM = 2.0
"""A peak is the highest location within this distance along each axis; lesions nearer to each other are one."""

OVERLAP_MM = 10.0
"""Boxes whose locations are farther apart do not overlap: no microbleed is longer, by definition."""

SAME_LESION_IOU = 0.1
"""Of two boxes of a class that overlap by more, the weaker one is a second peak of the same lesion."""

WIDEST_CODE_ERROR = 1.0
"""Error of a box's code from which its loss grows no faster than the error."""

FOCAL_SHARE = 0.25
"""Weight of the focal loss beside that of hard negatives: it keeps down what is never hard (docs/studies/dense.md)."""


class CentreAssignment(Assignment):
    """Every location learns how near the centre of a lesion it is, by a Gaussian in mm, with a focal loss over all of
    them (Law & Deng 2018; Zhou et al. 2019) and the hardest once more; those near a centre learn the box. A lesion of
    two voxels weighs as much as one of ten, and every mimic in view is a negative."""

    @cached_property
    def centres(self) -> Centres:
        """The plan's, or those of typical microbleeds."""
        return self.plan.centres or default_centres(self.plan.architecture, self.plan.preprocessing.spacing)

    @property
    def architecture(self) -> Architecture:
        """The plan's light network; with ``model_cfg.widths=plan`` the planned one, with one detection level."""
        planned = self.plan.architecture
        if self.config.widths == "light":
            return self.centres.architecture(planned)
        return replace(planned, detection_levels=(min(self.centres.level, len(planned.features) - 1),))

    def head(self) -> nn.Module:
        """One product of matrices."""
        return CentreHead(self.architecture.pyramid_channels, len(self.plan.classes))

    def tower(self) -> nn.Module:
        """One for scores and boxes."""
        return light_tower(self.architecture.pyramid_channels, self.config.head_convs, self.config.norm)

    @property
    def stride(self) -> tuple[int, int, int]:
        """Patch voxels per location."""
        return self.architecture.stride_of(self.architecture.detection_levels[0])

    @property
    def reach(self) -> tuple[int, int, int]:
        """As far as boxes that are compared may be apart."""
        z, y, x = (math.ceil(OVERLAP_MM / mm) for mm in self.plan.preprocessing.spacing)
        return z, y, x

    @property
    def _scale(self) -> tuple[list[float], list[float]]:
        """Reach and sides of a typical lesion in patch voxels."""
        spacing = self.plan.preprocessing.spacing
        reach = [self.centres.reach_mm / mm for mm in spacing]
        return reach, [side / mm for side, mm in zip(self.centres.sides_mm, spacing, strict=True)]

    def losses(self, output: RetinaOutput, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Focal loss over all locations, and cross entropy of centres and hard negatives; L1 of codes and GIoU of boxes
        over those near a centre. What nobody has judged is left out."""
        spacing, shape = self.plan.preprocessing.spacing, output.map_shapes[0]
        # All images of the batch at once: one by one they would keep a GPU waiting for the next small step.
        images, classes = len(batch.boxes), output.logits.shape[2]
        every, owner = torch.cat(batch.boxes), image_of_boxes(batch.boxes)
        maps = owner * classes + torch.cat(batch.labels)
        growth = growth_of(every, spacing, self.centres.sides_mm[2], WIDEST_TARGET)
        sigma, reach = self.centres.sigma_mm * growth, self.centres.reach_mm * growth.clamp(max=WIDEST_REACH)
        farthest = self.centres.reach_mm * WIDEST_REACH
        target = centre_map(every, maps, images * classes, shape, self.stride, spacing, sigma)
        target = target.reshape(images, classes, -1).transpose(1, 2)
        flat, lesion = locations_near(every, shape, self.stride, spacing, reach, owner, farthest)
        image, location = owner[lesion], flat % math.prod(shape)
        judged = judged_anchors(output, batch, [self.stride])
        if judged is not None:
            judged = judged | (target >= 1).any(dim=2)  # a lesion has been judged, wherever its location's middle lies
            kept = judged[image, location]
            image, location, lesion = image[kept], location[kept], lesion[kept]
            judged = judged[..., None]
        points = middles_of(torch.stack(torch.unravel_index(location, shape), dim=1), self.stride)
        return {
            "classification": self.score_loss(output.logits, target, len(every), judged),
            "regression": self.box_loss(output.deltas[image, location], every[lesion], points),
        }

    def score_loss(self, logits: Tensor, target: Tensor, lesions: int, judged: Tensor | None) -> Tensor:
        """Of logits [B, T, K]; ``judged`` [B, T, 1] as for ``centre_loss``."""
        focal = centre_loss(logits, target, judged=judged)
        negatives = self.config.hard_negatives
        if not negatives:
            return focal
        return FOCAL_SHARE * focal + hard_centre_loss(logits, target, lesions, negatives, judged=judged)

    def box_loss(self, codes: Tensor, boxes: Tensor, points: Tensor) -> Tensor:
        """Smooth L1 of codes [P, 6], which pulls at any prediction, and 1 - GIoU, which knows what a box is, of boxes
        [P, 6] seen from points [P, 3]; 0, with a path for gradients, without any."""
        if not len(codes):
            return codes.sum() * 0
        distance = F.smooth_l1_loss(codes, self.encode(boxes, points), beta=WIDEST_CODE_ERROR)
        return distance + regression_loss(self.decode(codes, points), boxes)

    def encode(self, boxes: Tensor, points: Tensor) -> Tensor:
        """Codes [P, 6] of boxes [P, 6] seen from points [P, 3], in units of the plan's reach and sides."""
        return encode_from(boxes, points, *self._scale)

    def decode(self, codes: Tensor, points: Tensor) -> Tensor:
        """The boxes [P, 6] in patch voxels that ``encode`` turns into codes [P, 6]."""
        return decode_from(codes, points, *self._scale)

    def select(self, output: RetinaOutput, image: int) -> tuple[PatchDetections, Tensor]:
        """The peaks of the map, without second peaks of the same lesion, and the locations where they are."""
        config, shape = self.config, output.map_shapes[0]
        scores = output.logits[image].sigmoid().T.reshape(-1, *shape)
        cell_mm = [mm * step for mm, step in zip(self.plan.preprocessing.spacing, self.stride, strict=True)]
        window = [max(1, math.floor(PEAK_MM / side)) for side in cell_mm]
        # Limits are those of a patch: a tile of a whole scan would lose what its patches together keep.
        patches = math.ceil(math.prod(output.segmentation.shape[2:]) / math.prod(self.plan.patch_size))
        found = peaks(scores, config.topk * patches, config.score_threshold, window)
        labels, z, y, x = found.unbind(1)
        points = middles_of(found[:, 1:], self.stride)
        boxes = self.decode(output.deltas[image, flat_index(found[:, 1:], shape)], points)
        scores = scores[labels, z, y, x]
        kept = batched_nms(boxes, scores, labels, SAME_LESION_IOU)[: config.detections_per_patch * patches]
        return PatchDetections(boxes[kept], scores[kept], labels[kept]), points[kept]
