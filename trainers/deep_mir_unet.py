"""``DeepMIRUNet``: several kinds of lesions from any subset of several modalities, after Rashid et al. 2021."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from cmb_plugin.networks import UNet
from cmb_plugin.planning import Architecture
from cmb_plugin.plugins import register_trainer
from cmb_plugin.settings import within
from cmb_plugin.training import Batch

from .segmentation_unet import SegmentationConfig, SegmentationUNet

PRIOR = 0.01  # probability of each kind of lesion, against background, before anything is learned
SMALLEST_MAP = 2  # voxels along an axis: instance norm needs some to tell apart
FINE = 2  # voxels of the patch: where a map's voxel is no longer than this, a lesion of 2 voxels has one of its own


@dataclass
class DeepMIRConfig(SegmentationConfig):
    """Settings of ``DeepMIRUNet`` beside those of the family (``-o model_cfg.*``).

    Attributes:
        extra_levels: resolution levels below the plan's coarsest, as far as its map can be halved.
        fine_width: factor by which the stages of full and of half resolution are wider than the plan has them.
        modality_dropout: share of the training patches that show a random subset of their modalities.
        lesion_weight: weight of the voxels of the smallest lesions in the cross entropy, background having 1.
        small_voxels: lesions up to so many voxels have that weight; larger ones less by voxel, so that each counts
            alike.
    """

    extra_levels: int = within(2, 0)
    fine_width: float = within(1.5, 0)
    modality_dropout: float = within(0.5, 0, 1)
    lesion_weight: float = within(100.0, 0)
    small_voxels: int = within(8, 1)


@register_trainer
class DeepMIRUNet(SegmentationUNet):
    """A deep U-Net that segments kinds of lesions, microbleeds and iron, from T2, SWI and QSM or any of them (Rashid et
    al. 2021, Sci Rep 11:14124).

    The plan is that of the detectors, so that one preparation serves all. To its stages the trainer adds coarser ones,
    which see where in the brain a patch lies, and widens the finest, which alone see a lesion of two voxels. Training
    patches lose modalities at random, so that one network predicts with those that a scan has.
    """

    model_config = DeepMIRConfig
    model_cfg: DeepMIRConfig
    tolerates_missing: ClassVar[bool] = True

    def build_network(self) -> nn.Module:
        """A U-Net of the ``deepened`` architecture that takes few voxels for lesions to begin with."""
        config = self.model_cfg
        architecture = deepened(self.plan.architecture, self.plan.patch_size, config.extra_levels, config.fine_width)
        return UNet(len(self.plan.modalities), 1 + len(self.plan.classes), architecture, prior=PRIOR)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """As the base, of patches that show ``random_subsets`` of their modalities."""
        present = (batch.images != 0).flatten(2).any(dim=2).cpu()
        kept = random_subsets(present, self.model_cfg.modality_dropout, self.step_generator())
        images = batch.images * kept.to(batch.images)[:, :, None, None, None]
        return super().losses(dataclasses.replace(batch, images=images))

    def voxel_weights(self, batch: Batch) -> Tensor:
        """[B, Z, Y, X], as ``lesion_weights`` describes."""
        assert batch.class_map is not None, "the patches were drawn without classes"
        config = self.model_cfg
        return lesion_weights(batch.class_map, batch.boxes, batch.labels, config.lesion_weight, config.small_voxels)


def deepened(architecture: Architecture, patch_size: Sequence[int], levels: int, fine_width: float) -> Architecture:
    """The architecture with more resolution levels, and wider where a voxel of the map is small.

    nnU-Net's rule ends where a map has fewer than 8 voxels along an axis. Here each further stage halves the axes
    whose maps have an even number of voxels, down to ``SMALLEST_MAP``, and is as wide as the coarsest of the plan;
    where no axis can be halved there are fewer stages than asked for.

    Args:
        architecture: the plan's; its first stride is 1.
        patch_size: voxels along z, y, x.
        levels: stages to add.
        fine_width: factor on the channels of stages whose voxels are no longer than ``FINE`` of the patch.
    """
    fine = [max(architecture.stride_of(stage)) <= FINE for stage in range(len(architecture.features))]
    features = [
        max(1, round(width * fine_width)) if is_fine else width
        for width, is_fine in zip(architecture.features, fine, strict=True)
    ]
    strides, sides = list(architecture.strides), [n // d for n, d in zip(patch_size, architecture.divisor, strict=True)]
    for _ in range(levels):
        z, y, x = (2 if side % 2 == 0 and side >= 2 * SMALLEST_MAP else 1 for side in sides)
        if (z, y, x) == (1, 1, 1):
            break
        strides.append((z, y, x))
        sides = [side // step for side, step in zip(sides, (z, y, x), strict=True)]
    added = len(strides) - len(architecture.strides)
    return dataclasses.replace(
        architecture,
        features=(*features, *[architecture.features[-1]] * added),
        strides=tuple(strides),
        kernels=(*architecture.kernels, *[(3, 3, 3)] * added),
        convs_per_stage=(*architecture.convs_per_stage, *[architecture.convs_per_stage[-1]] * added),
    )


def random_subsets(present: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Which modalities each patch of a batch shows in training.

    Args:
        present: bool [B, C] which it has.
        share: probability that a patch shows a subset drawn uniformly from all that are not empty; otherwise it shows
            all that it has.
        generator: on the CPU.

    Returns:
        bool [B, C]; of a patch with any modality at least one is left.
    """
    kept = present.clone()
    for row in kept:
        names = row.nonzero().flatten()
        if len(names) and torch.rand((), generator=generator) < share:
            code = torch.randint(1, 2 ** len(names), (), generator=generator)
            row[names] = (code >> torch.arange(len(names))) % 2 == 1
    return kept


def lesion_weights(
    class_map: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor], most: float, small: float
) -> Tensor:
    """Weights of voxels by the size of the lesion that they belong to: of one of V voxels max(1, most * min(1, small /
    V)), of background 1. So all lesions between ``small`` and ``most * small`` voxels count alike, whatever their size.

    Args:
        class_map: [B, Z, Y, X], 0 background, else 1 + class index.
        boxes: of each image [N, 6] boxes of the lesions, whole voxels.
        labels: of each image [N] class indices.
        most: weight of the smallest lesions' voxels, at least 1.
        small: V up to which a voxel has this weight.

    Returns:
        float [B, Z, Y, X]; of a voxel in the boxes of several lesions of its class the highest weight.
    """
    weights = torch.ones(class_map.shape, device=class_map.device)
    for of_image, classes, image_boxes, image_labels in zip(weights, class_map, boxes, labels, strict=True):
        for (z0, y0, x0, z1, y1, x1), label in zip(image_boxes.int().tolist(), image_labels.tolist(), strict=True):
            place = (slice(z0, z1), slice(y0, y1), slice(x0, x1))
            inside = classes[place] == 1 + label
            weight = (most * small / inside.sum().clamp(min=1)).clamp(min=1, max=most)
            of_image[place] = torch.where(inside, torch.maximum(of_image[place], weight), of_image[place])
    return weights
