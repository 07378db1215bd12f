"""``D3CMB``: plans for cerebral microbleeds. Tiny lesions decide spacing and stride; modalities decide intensities."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.planning import (
    TYPICAL_MM,
    Anchors,
    Architecture,
    BrainPlanner,
    Centres,
    Plan,
    PlannerConfig,
    Spacing,
    Triple,
    brain_notes,
    default_free_anchors,
    fit_by_size,
    fit_free_anchors,
    plan_centres,
)
from cmb_plugin.plugins import register_planner
from cmb_plugin.preparation import Fingerprint, modality_polarity

from .d3v001 import D3V001, D3V001Config


@dataclass
class D3CMBConfig(D3V001Config):
    """Settings of ``D3CMB``.

    Attributes:
        detection_levels: one: microbleeds span 2 to 10 mm, which anchors of one level reach.
        anchors: per location, each with sides of its own.
        centre_features: channels of the light network's first stage, for detectors of centres.
        centre_channels: channels of the maps that their head reads.
        brain_margin_mm: kept around the brain when a scan is cropped to it.
    """

    detection_levels: int = 1
    anchors: int = 3
    centre_features: int = 16
    centre_channels: int = 16
    brain_margin_mm: float = 12.0


@register_planner
class D3CMB(BrainPlanner, D3V001):
    """Plans a detector of cerebral microbleeds; what it does not say is as in ``D3V001``. docs/planning.md has all
    rules.

    Attributes:
        context_mm: side of the cube whose volume no patch exceeds: what tells a lesion from a vessel is nearer, and of
            the same voxels many small patches show more lesions than few large ones.
        least_cells: voxels of the detection level's map that the median lesion should span along each axis.
        fine_percentile: percentile of the scans' pixels that the spacing may be as fine as for that, and of their
            slices up to which they tell how deep lesions are.
        typical_mm: the median lesion of data sets without any.
        fused_maps: maps of the pyramid's width that a fusion of levels keeps: joined, mixed, normalised, summed, and
            three in passing.
        batches, widths: what grows, in this order, when the patch covers the median scan; widths are those of the first
            stage, and the pyramid's grow with them up to ``widest_pyramid``.
        clear_contrast: mean contrast of lesions, in deviations of their surroundings, that tells dark from bright.
        few_lesions: fewer tell nothing.
    """

    config_class: ClassVar[type[PlannerConfig]] = D3CMBConfig
    start_side: ClassVar[int] = 96
    context_mm: ClassVar[float] = 48.0
    floor_side: ClassVar[int] = 60  # voxels are half as long as D3V001's where there are small lesions
    least_batch: ClassVar[int] = 2  # one crop with and one without a microbleed
    least_cells: ClassVar[float] = 3.0
    fine_percentile: ClassVar[float] = 25.0
    typical_mm: ClassVar[float] = TYPICAL_MM
    fused_maps: ClassVar[int] = 7
    batches: ClassVar[tuple[int, ...]] = (4, 6, 8)
    widths: ClassVar[tuple[int, ...]] = (32, 48, 64)
    widest_pyramid: ClassVar[int] = 192
    clear_contrast: ClassVar[float] = 0.5
    few_lesions: ClassVar[int] = 5
    at_least_one: ClassVar[tuple[str, ...]] = (*D3V001.at_least_one, "centre_features", "centre_channels")

    config: D3CMBConfig

    def plan(self, fingerprint: Fingerprint) -> Plan:
        """As D3V001, with the polarity of each modality and notes on grid and brain."""
        plan = super().plan(fingerprint)
        polarity, notes = self.polarity(fingerprint)
        notes = [*self.grid_notes(plan, fingerprint), *notes, *brain_notes(plan, fingerprint)]
        centres = self.centres(plan, fingerprint)
        return replace(plan, polarity=polarity, notes=(*plan.notes, *notes), centres=centres)

    def centres(self, plan: Plan, fingerprint: Fingerprint) -> Centres:
        """The light network and the target of detectors without anchors."""
        recipe = plan.preprocessing
        depth, width = (round(side, 3) for side in self.lesion_mm(fingerprint))
        return plan_centres(
            plan.architecture,
            recipe.spacing,
            plan.architecture.detection_levels[0],
            (depth, width, width),  # slices lie along the network's first axis
            fingerprint.sizes_mm[:, recipe.transpose] / np.asarray(recipe.spacing),
            features=self.config.centre_features,
            channels=self.config.centre_channels,
        )

    def check_config(self, fingerprint: Fingerprint) -> None:
        """Refuses settings of D3V001 that mean nothing here.

        Raises:
            UserError: naming the setting.
        """
        super().check_config(fingerprint)
        if self.config.anchors < 1:
            raise UserError(f"planner_cfg.anchors={self.config.anchors} is too small", remedy="give 1 or more")
        if self.config.anchors_per_axis != D3V001Config.anchors_per_axis:
            raise UserError(
                "planner_cfg.anchors_per_axis is D3V001's", remedy="give planner_cfg.anchors=N, all of them free"
            )

    def lesion_mm(self, fingerprint: Fingerprint) -> tuple[float, float]:
        """Median sides of the lesions' boxes in mm: across the slices, and within them.

        Slices lie across the longest voxels of each scan. How deep a lesion is, thick slices do not show, so that side
        is taken from the scans with the thinnest slices.
        """
        coarse = [int(np.argmax(case.spacing)) for case in fingerprint.cases]
        thickness = [case.spacing[axis] for case, axis in zip(fingerprint.cases, coarse, strict=True)]
        thin = np.percentile(thickness, self.fine_percentile)
        depths, widths = [], []
        for case, axis in zip(fingerprint.cases, coarse, strict=True):
            for size in case.sizes_mm:
                widths.append(math.sqrt(math.prod(size) / size[axis]))
                if case.spacing[axis] <= thin:
                    depths.append(size[axis])
        width = float(np.median(widths)) if widths else self.typical_mm
        return (float(np.median(depths)) if depths else width), width

    def target_spacing(self, fingerprint: Fingerprint) -> Spacing:
        """mm along the body's z, y, x: the median, but so fine that the median lesion spans ``least_cells`` voxels, as
        far as a quarter of the scans have such pixels and a tenth such slices."""
        if self.config.spacing is not None:
            return super().target_spacing(fingerprint)
        spacings = np.array([case.spacing for case in fingerprint.cases])
        target = np.median(spacings, axis=0)
        coarse = int(np.argmax(target))
        depth, width = self.lesion_mm(fingerprint)
        for axis in range(3):
            wanted = (depth if axis == coarse else width) / self.least_cells
            percentile = self.coarse_percentile if axis == coarse else self.fine_percentile
            target[axis] = min(target[axis], max(wanted, np.percentile(spacings[:, axis], percentile)))
        target[coarse] = target.max()
        z, y, x = (round(float(side), 4) for side in target)
        return z, y, x

    def finest_level(self, spacing: Spacing, fingerprint: Fingerprint) -> int:
        """Stride 2 within the slice where it leaves the median lesion ``least_cells`` voxels, else full resolution."""
        if self.config.finest_level is not None:
            return self.config.finest_level
        _, width = self.lesion_mm(fingerprint)
        return 1 if 2 * max(spacing[1:]) * self.least_cells <= width else 0

    def network_spacing(self, spacing: Spacing, fingerprint: Fingerprint) -> Spacing:
        """The spacing that the network's stages are laid out for: slices that must not be joined before the detection
        level count as thick."""
        depth, _ = self.lesion_mm(fingerprint)
        if 2 * spacing[0] * self.least_cells <= depth or self.finest_level(spacing, fingerprint) == 0:
            return spacing
        return max(spacing[0], 2 * max(spacing[1:])), spacing[1], spacing[2]

    def sizes(self, fingerprint: Fingerprint, spacing: Spacing) -> Triple:
        """As in ``D3V001``, but the pyramid is twice as wide as the encoder's stage where detection begins."""
        batch, base, pyramid = super().sizes(fingerprint, spacing)
        if self.config.pyramid_channels is None:
            pyramid = min(pyramid, base * 2 ** (self.finest_level(spacing, fingerprint) + 1))
        return batch, base, pyramid

    def first_patch(self, spacing: Spacing, median_shape: np.ndarray) -> Triple:
        """As in ``NetworkPlanner``, within ``context_mm``."""
        sides = np.round(self.context_mm / np.asarray(spacing))
        return super().first_patch(spacing, np.minimum(median_shape, np.maximum(sides, 1)))

    def fit_to_memory(
        self, fingerprint: Fingerprint, spacing: Spacing, median_shape: np.ndarray, budget: float
    ) -> tuple[Triple, int, Architecture, float, list[str]]:
        """As in ``D3V001``; what the largest patch leaves goes to the batch, then to the widths."""
        config, spacing = self.config, self.network_spacing(spacing, fingerprint)
        fitted = super().fit_to_memory(fingerprint, spacing, median_shape, budget)
        patch, batch, architecture, estimate, notes = fitted
        if config.patch_size is None and patch != self.first_patch(spacing, median_shape):
            return fitted
        for larger, base, pyramid in self.growth(fingerprint, spacing):
            wider = self.architecture(fingerprint, spacing, patch, base, pyramid)
            need = self.estimate_gb(wider, patch, larger, fingerprint)
            if need > budget:
                break
            if need > estimate:
                batch, architecture, estimate = larger, wider, need
        return patch, batch, architecture, estimate, notes

    def growth(self, fingerprint: Fingerprint, spacing: Spacing) -> list[Triple]:
        """Batch, first width and pyramid in the order in which they grow; what the user gives stays."""
        config = self.config
        batch, base, pyramid = self.sizes(fingerprint, spacing)
        batches = [batch] if config.batch_size else [size for size in self.batches if size >= batch]
        widths = [base] if config.base_features else [width for width in self.widths if width >= base]
        steps = [(size, base, pyramid) for size in batches]
        for width in widths:
            wide = pyramid if config.pyramid_channels else min(pyramid * width // base, self.widest_pyramid)
            steps.append((batches[-1], width, wide))
        return steps

    @property
    def anchors_per_location(self) -> int:
        """``planner_cfg.anchors``, all of them free."""
        return self.config.anchors

    def fit_anchors(
        self, box_sizes: np.ndarray, spacing: Spacing, architecture: Architecture
    ) -> tuple[Anchors, list[str]]:
        """Free anchors for the data set's boxes, and how well they fit each size of lesion."""
        strides = [architecture.stride_of(level) for level in architecture.detection_levels]
        if not len(box_sizes):
            return default_free_anchors(spacing, strides, self.config.anchors), [
                "No lesion is labelled: anchors are those of microbleeds of 3 to 10 mm."
            ]
        anchors = fit_free_anchors(box_sizes, strides, self.config.anchors, self.config.seed)
        by_size = fit_by_size(anchors, box_sizes, strides, spacing, self.config.seed + 1)
        return replace(anchors, by_size=by_size), []

    def polarity(self, fingerprint: Fingerprint) -> tuple[tuple[str, ...], list[str]]:
        """How a microbleed shows in each modality: by its name; where that says nothing, by the training lesions. And
        what to say where name and lesions disagree."""
        polarities, notes = [], []
        contrasts = [row for case in fingerprint.cases for row in case.contrasts]
        for index, name in enumerate(fingerprint.modalities):
            polarity = modality_polarity(name)
            contrast = float(np.median([row[index] for row in contrasts])) if contrasts else 0.0
            seen = "unknown"
            if len(contrasts) >= self.few_lesions and abs(contrast) > self.clear_contrast:
                seen = "dark" if contrast < 0 else "bright"
            if polarity == "unknown":
                polarity = seen
            elif {polarity, seen} == {"dark", "bright"}:
                notes.append(
                    f"By its name lesions are {polarity} on {name}, but the labelled ones are {seen} "
                    f"({contrast:+.1f} deviations of their surroundings): is the modality named rightly?"
                )
            polarities.append(polarity)
        return tuple(polarities), notes

    def grid_notes(self, plan: Plan, fingerprint: Fingerprint) -> list[str]:
        """What the median lesion is to the detection map."""
        stride = plan.architecture.stride_of(plan.architecture.detection_levels[0])
        cells = [side * step for side, step in zip(plan.preprocessing.spacing, stride, strict=True)]
        _, width = self.lesion_mm(fingerprint)
        spans = width / max(cells[1:])
        note = f"The median lesion is {width:.1f} mm wide and spans {spans:.1f} voxels of the detection map"
        if spans < self.least_cells * 0.99:
            given = self.config.finest_level is not None or self.config.spacing is not None
            note += ", as the settings have it" if given else "; the scans are no finer"
        return [f"{note}."]
