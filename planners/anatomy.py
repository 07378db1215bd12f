"""``Anatomy``: plans for networks that learn the regions of the brain, with all of it in view."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.planning import (
    Architecture,
    BrainPlanner,
    Plan,
    PlannerConfig,
    Spacing,
    Triple,
    brain_notes,
    estimate_unet_gb,
    plan_topology,
)
from cmb_plugin.plugins import register_planner, suggest
from cmb_plugin.preparation import (
    Fingerprint,
    brain_channel,
    target_shape,
)


@dataclass
class AnatomyConfig(PlannerConfig):
    """Settings of ``Anatomy``.

    Attributes:
        brain_margin_mm: kept around the brain when a scan is cropped to it.
        modalities: names of the modalities that the network sees; null takes the one that shows the brain best, so that
            the model serves every scan that has it.
    """

    brain_margin_mm: float = 12.0
    modalities: list[str] | None = None


@register_planner
class Anatomy(BrainPlanner):
    """Plans the segmentation of ``regionsTr``: where a voxel lies in the brain, which a small piece of the brain does
    not tell. So voxels are coarse and a patch holds a whole brain. Networks are small, so that a CPU trains them in
    minutes: they give way to less memory and do not grow with more.

    Attributes:
        coarse_mm: side of a voxel. Borders between regions are found more exactly than this, since probabilities are
            interpolated.
    """

    config_class: ClassVar[type[PlannerConfig]] = AnatomyConfig
    coarse_mm: ClassVar[float] = 3.0
    start_side: ClassVar[int] = 96
    floor_side: ClassVar[int] = 32
    batch_size: ClassVar[int] = 2
    base_features: ClassVar[int] = 16
    covered: ClassVar[str] = "the largest scan"

    config: AnatomyConfig

    def plan(self, fingerprint: Fingerprint) -> Plan:
        """A plan whose target is regions, of the modalities that the network sees."""
        channels = self.channels(fingerprint)
        seen = replace(fingerprint.of_channels(channels), classes=fingerprint.regions)
        plan = super().plan(seen)
        learned = f"Learns {', '.join(plan.classes)} from regionsTr on {', '.join(plan.modalities)}."
        notes = (*plan.notes, learned, *brain_notes(plan, seen))
        return replace(plan, target="regions", channels=channels, notes=notes)

    def channels(self, fingerprint: Fingerprint) -> tuple[int, ...]:
        """Numbers of the modalities that the network sees: the one that shows the brain; all where none does.

        Raises:
            UserError: one was asked for that the data set lacks.
        """
        names = fingerprint.modalities
        if self.config.modalities is None:
            best = brain_channel(names)
            return tuple(range(len(names))) if best is None else (best,)
        for name in self.config.modalities:
            if name not in names:
                raise UserError(f"planner_cfg.modalities: no modality '{name}'", remedy=suggest(name, names))
        return tuple(names.index(name) for name in self.config.modalities)

    def target_spacing(self, fingerprint: Fingerprint) -> Spacing:
        """``planner_cfg.spacing``, else ``coarse_mm`` on every axis."""
        if self.config.spacing is not None:
            return super().target_spacing(fingerprint)
        return (self.coarse_mm,) * 3

    def median_shape(self, fingerprint: Fingerprint, spacing: Spacing, transpose: Triple) -> np.ndarray:
        """Not the median but the largest scan: a patch that holds it needs no neighbours."""
        shapes = [
            target_shape([self.kept_shape(case)[axis] for axis in transpose],
                         tuple(case.spacing[axis] for axis in transpose), spacing)
            for case in fingerprint.cases
        ]  # fmt: skip
        largest: np.ndarray = np.max(shapes, axis=0)
        return largest

    def architecture(
        self, fingerprint: Fingerprint, spacing: Spacing, patch: Triple, base_features: int, pyramid_channels: int
    ) -> Architecture:
        """A U-Net for a patch: no level carries anchors."""
        strides, kernels, _ = plan_topology(spacing, patch)
        stages = len(strides)
        return Architecture(
            features=tuple(min(base_features * 2**stage, self.config.max_features) for stage in range(stages)),
            strides=tuple(strides),
            kernels=tuple(kernels),
            convs_per_stage=(2,) * stages,
            pyramid_channels=0,
            detection_levels=(),
        )

    def estimate_gb(self, architecture: Architecture, patch: Triple, batch: int, fingerprint: Fingerprint) -> float:
        """GB that training a U-Net with this patch takes."""
        return estimate_unet_gb(architecture, patch, batch, len(fingerprint.modalities), len(fingerprint.classes))
