"""``D3V001``: nnDetection's planning rules for 3D, with a stated memory budget instead of a measurement on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.planning import (
    Anchors,
    Architecture,
    NetworkPlanner,
    PlannerConfig,
    Spacing,
    Triple,
    anchor_quality,
    build_architecture,
    by,
    default_anchors,
    estimate_training_gb,
    fit_anchors,
    plan_topology,
)
from cmb_plugin.plugins import register_planner
from cmb_plugin.preparation import Fingerprint


@dataclass
class D3V001Config(PlannerConfig):
    """Settings of ``D3V001`` and the planners of detectors that build on it.

    Attributes:
        finest_level: first stage with anchors; 2 is nnDetection's P2, 1 finds smaller lesions and costs memory and
            time; null is the planner's own rule.
        detection_levels: number of stages with anchors, as far as the network has them.
        pyramid_channels: channels of the maps that the heads read; null is the planner's own rule.
        anchors_per_axis: lengths of anchors along each axis; all combinations are used, 27 for 3.
    """

    finest_level: int | None = None
    detection_levels: int = 4
    pyramid_channels: int | None = None
    anchors_per_axis: int = 3


@register_planner
class D3V001(NetworkPlanner):
    """Plans a 3D detector as nnDetection does (Baumgartner et al. 2021), on nnU-Net's rules (Isensee et al. 2021).

    docs/planning.md gives every rule with its reason. A subclass changes a rule by overriding a class attribute or a
    method.

    Attributes:
        fused_maps: maps of the pyramid's width that a fusion of levels keeps in memory; the baseline fuses none.
        weak_fit: mean best-anchor IoU under which the plan says what a finer level would give.
        pyramid_channels: what the setting of this name is where nobody gives it.
    """

    config_class: ClassVar[type[PlannerConfig]] = D3V001Config
    fused_maps: ClassVar[int] = 0
    weak_fit: ClassVar[float] = 0.45
    pyramid_channels: ClassVar[int] = 128
    at_least_one: ClassVar[tuple[str, ...]] = (
        *NetworkPlanner.at_least_one,
        "detection_levels",
        "pyramid_channels",
        "anchors_per_axis",
    )

    config: D3V001Config

    def check_config(self, fingerprint: Fingerprint) -> None:
        """Refuses a level that cannot be.

        Raises:
            UserError: naming the setting.
        """
        super().check_config(fingerprint)
        if self.config.finest_level is not None and self.config.finest_level < 0:
            raise UserError(
                f"planner_cfg.finest_level={self.config.finest_level}", remedy="give 0 (full resolution) or more"
            )

    def finest_level(self, spacing: Spacing, fingerprint: Fingerprint) -> int:
        """First stage with anchors, as far as the network has so many: nnDetection's P2."""
        return 2 if self.config.finest_level is None else self.config.finest_level

    def fit_to_memory(
        self, fingerprint: Fingerprint, spacing: Spacing, median_shape: np.ndarray, budget: float
    ) -> tuple[Triple, int, Architecture, float, list[str]]:
        """As every network, with a note where detection begins at a finer stage than asked for."""
        fitted = super().fit_to_memory(fingerprint, spacing, median_shape, budget)
        patch, batch, architecture, estimate, notes = fitted
        begins = architecture.detection_levels[0]
        if begins < self.finest_level(spacing, fingerprint):
            stages = len(architecture.strides)
            notes = [*notes, f"The network has {stages} stages: detection begins at stage {begins}."]
        return patch, batch, architecture, estimate, notes

    def sizes(self, fingerprint: Fingerprint, spacing: Spacing) -> Triple:
        """As every network, with the channels of the pyramid."""
        batch, base, _ = super().sizes(fingerprint, spacing)
        return batch, base, self.config.pyramid_channels or self.pyramid_channels

    def architecture(
        self, fingerprint: Fingerprint, spacing: Spacing, patch: Triple, base_features: int, pyramid_channels: int
    ) -> Architecture:
        """The network for a patch."""
        strides, kernels, _ = plan_topology(spacing, patch)
        return build_architecture(
            strides,
            kernels,
            base_features=base_features,
            max_features=self.config.max_features,
            pyramid_channels=pyramid_channels,
            finest_level=self.finest_level(spacing, fingerprint),
            levels=self.config.detection_levels,
        )

    def estimate_gb(self, architecture: Architecture, patch: Triple, batch: int, fingerprint: Fingerprint) -> float:
        """Memory of one training step."""
        return estimate_training_gb(
            architecture,
            patch,
            batch,
            modalities=len(fingerprint.modalities),
            classes=len(fingerprint.classes),
            anchors_per_location=self.anchors_per_location,
            fused_maps=self.fused_maps,
        )

    @property
    def anchors_per_location(self) -> int:
        """Anchors that every location of a detection level carries."""
        return self.config.anchors_per_axis**3

    def fit_anchors(
        self, box_sizes: np.ndarray, spacing: Spacing, architecture: Architecture
    ) -> tuple[Anchors, list[str]]:
        """Anchors for the data set's boxes, and what to say about them."""
        config = self.config
        strides = _strides(architecture)
        if not len(box_sizes):
            return default_anchors(spacing, strides, config.anchors_per_axis), [
                "No lesion is labelled: anchors are those of microbleeds of 3, 5 and 10 mm."
            ]
        anchors = fit_anchors(box_sizes, strides, config.anchors_per_axis, config.seed)
        assert anchors.mean_best_iou is not None
        finest = architecture.detection_levels[0]
        if anchors.mean_best_iou >= self.weak_fit or finest == 0:
            return anchors, []
        finer = _strides(replace(architecture, detection_levels=(finest - 1, *architecture.detection_levels)))
        better, _ = anchor_quality(
            box_sizes,
            fit_anchors(box_sizes, finer, config.anchors_per_axis, config.seed).sizes,
            finer,
            seed=config.seed,
        )
        return anchors, [
            f"Lesions are small against the finest stride {by(strides[0])}: mean best-anchor IoU "
            f"{anchors.mean_best_iou:.2f}; planner_cfg.finest_level={finest - 1} gives {better:.2f} "
            "for more memory and time."
        ]


def _strides(architecture: Architecture) -> list[Triple]:
    return [architecture.stride_of(level) for level in architecture.detection_levels]
