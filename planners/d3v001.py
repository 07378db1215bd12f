"""``D3V001``: nnDetection's planning rules for 3D, with a stated memory budget instead of a measurement on a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, TypeVar

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.planning import (
    Anchors,
    Architecture,
    Plan,
    Planner,
    anchor_quality,
    build_architecture,
    default_anchors,
    estimate_training_gb,
    find_budget,
    fit_anchors,
    plan_topology,
    shrink_patch,
)
from cmb_plugin.plugins import register_planner
from cmb_plugin.preparation import CaseFingerprint, Fingerprint, Normalisation, Preprocessing, target_shape

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]
T = TypeVar("T", int, float)


@register_planner
class D3V001(Planner):
    """Plans a 3D detector as nnDetection does (Baumgartner et al. 2021), on nnU-Net's rules (Isensee et al. 2021).

    docs/planning.md gives every rule with its reason. A subclass changes a rule by overriding a class attribute or a
    method.

    Attributes:
        anisotropy: an axis is coarse when its voxels are longer than this many times those of the other axes.
        coarse_percentile: percentile of the spacing taken on a coarse axis, instead of the median.
        masked_below: intensities are normalised inside the head when cropping leaves less than this share of the scan.
        start_side: side of the cube whose volume the first patch tried has.
        floor_side: side of the cube under whose volume a patch does not shrink while batch or widths can give way.
        least_batch: down to this the batch is halved before the widths are.
        least_features: narrowest first stage.
        fused_maps: maps of the pyramid's width that a fusion of levels keeps in memory; the baseline fuses none.
        weak_fit: mean best-anchor IoU under which the plan says what a finer level would give.
        batch_size, base_features, pyramid_channels: what the settings of these names are where nobody gives them.
    """

    anisotropy: ClassVar[float] = 3.0
    coarse_percentile: ClassVar[float] = 10.0
    masked_below: ClassVar[float] = 0.75
    start_side: ClassVar[int] = 256
    floor_side: ClassVar[int] = 48
    least_batch: ClassVar[int] = 1
    least_features: ClassVar[int] = 8
    fused_maps: ClassVar[int] = 0
    weak_fit: ClassVar[float] = 0.45
    batch_size: ClassVar[int] = 4
    base_features: ClassVar[int] = 32
    pyramid_channels: ClassVar[int] = 128

    def plan(self, fingerprint: Fingerprint) -> Plan:
        self.check_config(fingerprint)
        body_spacing = self.target_spacing(fingerprint)
        transpose = self.transpose(body_spacing)
        spacing = _permuted(body_spacing, transpose)
        median_shape = self.median_shape(fingerprint, spacing, transpose)
        budget, source = find_budget(self.config.gpu_memory_gb)
        patch, batch, architecture, estimate, notes = self.fit_to_memory(fingerprint, spacing, median_shape, budget)
        box_sizes = fingerprint.sizes_mm[:, transpose] / np.asarray(spacing)
        anchors, anchor_notes = self.fit_anchors(box_sizes, spacing, architecture)
        return Plan(
            name=self.plan_name(),
            planner=type(self).__name__,
            task=fingerprint.task,
            modalities=fingerprint.modalities,
            classes=fingerprint.classes,
            preprocessing=self.preprocessing(fingerprint, spacing, transpose),
            patch_size=patch,
            batch_size=batch,
            architecture=architecture,
            anchors=anchors,
            memory_gb=budget,
            memory_estimate_gb=round(estimate, 2),
            notes=(source, *notes, *anchor_notes),
        )

    def check_config(self, fingerprint: Fingerprint) -> None:
        """Refuses settings that no plan can follow.

        Raises:
            UserError: one of them, or no case to plan for.
        """
        config = self.config
        if not fingerprint.cases:
            raise UserError(f"{fingerprint.task}: no usable training case", remedy="repair the cases reported above")
        for name in (
            "detection_levels",
            "base_features",
            "max_features",
            "pyramid_channels",
            "batch_size",
            "anchors_per_axis",
        ):
            value = getattr(config, name)
            if value is not None and value < 1:
                raise UserError(f"planner_cfg.{name}={value} is too small", remedy="give 1 or more")
        if config.finest_level is not None and config.finest_level < 0:
            raise UserError(
                f"planner_cfg.finest_level={config.finest_level}", remedy="give 0 (full resolution) or more"
            )
        for name in ("patch_size", "spacing"):
            sides = getattr(config, name)
            if sides is not None and (len(sides) != 3 or min(sides) <= 0):
                raise UserError(
                    f"planner_cfg.{name}={sides}", remedy="give three positive numbers, for instance [64,96,96]"
                )

    def target_spacing(self, fingerprint: Fingerprint) -> Spacing:
        """mm along the body's z, y, x: the median; on a coarse axis that also has few slices a low percentile.

        The median of thick-sliced sets would throw away the thinner scans' slices, and interpolating the thicker ones
        costs less.
        """
        if self.config.spacing is not None:
            return _three(self.config.spacing)
        spacings = np.array([case.spacing for case in fingerprint.cases])
        target = np.median(spacings, axis=0)
        sides = np.median([case.cropped_shape for case in fingerprint.cases], axis=0)
        coarse = int(np.argmax(target))
        others = [axis for axis in range(3) if axis != coarse]
        longest = target[others].max()
        if target[coarse] > self.anisotropy * longest and sides[coarse] * self.anisotropy < sides[others].min():
            target[coarse] = max(np.percentile(spacings[:, coarse], self.coarse_percentile), longest)
        return _three(target)

    def transpose(self, spacing: Spacing) -> Triple:
        """The axis of the longest voxels first: networks and nnU-Net's tools expect the slice axis there."""
        coarse = int(np.argmax(spacing))
        first, second = (axis for axis in range(3) if axis != coarse)
        return coarse, first, second

    def preprocessing(self, fingerprint: Fingerprint, spacing: Spacing, transpose: Triple) -> Preprocessing:
        """The recipe from scan to array."""
        return Preprocessing(spacing, transpose, self.normalisation(fingerprint))

    def normalisation(self, fingerprint: Fingerprint) -> tuple[Normalisation, ...]:
        """z-score for each modality; inside the head only where cropping showed that the background had been
        removed."""
        masked = float(np.median([case.cropped_fraction for case in fingerprint.cases])) < self.masked_below
        return (Normalisation("zscore", masked),) * len(fingerprint.modalities)

    def kept_shape(self, case: CaseFingerprint) -> Triple:
        """Voxels of a case after its crop, before resampling; the body's axes."""
        return case.cropped_shape

    def median_shape(self, fingerprint: Fingerprint, spacing: Spacing, transpose: Triple) -> np.ndarray:
        """[3] median voxels of the resampled cases along the network's axes."""
        shapes = [
            target_shape(_permuted(self.kept_shape(case), transpose), _permuted(case.spacing, transpose), spacing)
            for case in fingerprint.cases
        ]
        return np.median(shapes, axis=0)

    def finest_level(self, spacing: Spacing, fingerprint: Fingerprint) -> int:
        """First stage with anchors, as far as the network has so many: nnDetection's P2."""
        return 2 if self.config.finest_level is None else self.config.finest_level

    def first_patch(self, spacing: Spacing, median_shape: np.ndarray) -> Triple:
        """A patch that is a cube in mm of 256^3 voxels, cut to the median scan, padded to the network's total
        stride."""
        cube = 1 / np.asarray(spacing)
        cube *= self.start_side / cube.prod() ** (1 / 3)
        sides = np.maximum(np.minimum(cube.round(), median_shape), 1).astype(int)
        return plan_topology(spacing, sides.tolist())[2]

    def fit_to_memory(
        self, fingerprint: Fingerprint, spacing: Spacing, median_shape: np.ndarray, budget: float
    ) -> tuple[Triple, int, Architecture, float, list[str]]:
        """Patch, batch and network that fit the budget: the patch shrinks down to a floor, then the batch, then the
        widths."""
        config = self.config
        notes = []
        if config.patch_size is None:
            patch = self.first_patch(spacing, median_shape)
        else:
            patch = plan_topology(spacing, config.patch_size)[2]
            if list(patch) != list(config.patch_size):
                asked = _by(config.patch_size)
                notes.append(f"planner_cfg.patch_size {asked} was rounded up to {_by(patch)}, to fit the strides.")
        finest = self.finest_level(spacing, fingerprint)
        wanted = batch, base, pyramid = self.sizes(finest)
        while True:
            architecture = self.architecture(spacing, patch, base, pyramid, finest)
            estimate = self.estimate_gb(architecture, patch, batch, fingerprint)
            if estimate <= budget:
                break
            smaller = shrink_patch(spacing, patch, median_shape.tolist()) if config.patch_size is None else None
            if smaller is not None and math.prod(smaller) >= self.floor_side**3:
                patch = smaller
            elif batch > self.least_batch:
                batch //= 2
            elif base >= 2 * self.least_features:
                base, pyramid = base // 2, max(base // 2, pyramid // 2)
            elif batch > 1:
                batch //= 2
            else:
                notes.append(f"{budget:g} GB is less than the smallest network's {estimate:.2f} GB: training may fail.")
                break
        if config.patch_size is None:
            notes.append(f"Patch {_by(patch)} of a median scan of {_by(median_shape)} voxels.")
        if batch < wanted[0]:
            notes.append(f"Batch {batch} instead of {wanted[0]}, to fit the memory.")
        if base < wanted[1]:
            notes.append(f"Widths start at {base} instead of {wanted[1]}, to fit the memory.")
        if architecture.detection_levels and architecture.detection_levels[0] < finest:
            begins = architecture.detection_levels[0]
            notes.append(f"The network has {len(architecture.strides)} stages: detection begins at stage {begins}.")
        return patch, batch, architecture, estimate, notes

    def sizes(self, finest_level: int) -> Triple:
        """Batch, channels of the first stage and of the pyramid to begin with."""
        config = self.config
        return (
            config.batch_size or self.batch_size,
            config.base_features or self.base_features,
            config.pyramid_channels or self.pyramid_channels,
        )

    def architecture(
        self, spacing: Spacing, patch: Triple, base_features: int, pyramid_channels: int, finest_level: int
    ) -> Architecture:
        """The network for a patch."""
        strides, kernels, _ = plan_topology(spacing, patch)
        return build_architecture(
            strides,
            kernels,
            base_features=base_features,
            max_features=self.config.max_features,
            pyramid_channels=pyramid_channels,
            finest_level=finest_level,
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
            f"Lesions are small against the finest stride {_by(strides[0])}: mean best-anchor IoU "
            f"{anchors.mean_best_iou:.2f}; planner_cfg.finest_level={finest - 1} gives {better:.2f} "
            "for more memory and time."
        ]


def _strides(architecture: Architecture) -> list[Triple]:
    return [architecture.stride_of(level) for level in architecture.detection_levels]


def _permuted(values: tuple[T, T, T], transpose: Triple) -> tuple[T, T, T]:
    first, second, third = transpose
    return values[first], values[second], values[third]


def _three(values: Sequence[float] | np.ndarray) -> Spacing:
    z, y, x = (round(float(value), 5) for value in values)
    return z, y, x


def _by(values: Sequence[float] | np.ndarray) -> str:
    return "x".join(f"{value:g}" for value in values)
