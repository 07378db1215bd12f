"""``NetworkPlanner``: the order in which a network is planned, and the rules that planners share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeVar

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.preparation import CaseFingerprint, Fingerprint, Normalisation, Preprocessing, target_shape

from .memory import find_budget
from .plan import Anchors, Architecture, Plan, Spacing, Triple
from .planner import Planner
from .topology import plan_topology, shrink_patch

T = TypeVar("T", int, float)


class NetworkPlanner(Planner):
    """Plans the largest network that fits a stated memory, on nnU-Net's rules (Isensee et al. 2021).

    A planner says what the network is (``architecture``) and what it needs (``estimate_gb``), and changes a rule by
    overriding a class attribute or a method.

    Attributes:
        anisotropy: an axis is coarse when its voxels are longer than this many times those of the other axes.
        coarse_percentile: percentile of the spacing taken on a coarse axis, instead of the median.
        masked_below: intensities are normalised inside the head when cropping leaves less than this share of the scan.
        start_side: side of the cube whose volume the first patch tried has.
        floor_side: side of the cube under whose volume a patch does not shrink while batch or widths can give way.
        least_batch: down to this the batch is halved before the widths are.
        least_features: narrowest first stage.
        batch_size, base_features: what the settings of these names are where nobody gives them.
        covered: the scan that a patch need not exceed, for the notes (``median_shape``).
        at_least_one: settings that are numbers of something.
    """

    anisotropy: ClassVar[float] = 3.0
    coarse_percentile: ClassVar[float] = 10.0
    masked_below: ClassVar[float] = 0.75
    start_side: ClassVar[int] = 256
    floor_side: ClassVar[int] = 48
    least_batch: ClassVar[int] = 1
    least_features: ClassVar[int] = 8
    batch_size: ClassVar[int] = 4
    base_features: ClassVar[int] = 32
    covered: ClassVar[str] = "a median scan"
    at_least_one: ClassVar[tuple[str, ...]] = ("base_features", "max_features", "batch_size")

    def plan(self, fingerprint: Fingerprint) -> Plan:
        """Spacing, then patch, batch and network that fit the memory, then anchors."""
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
        for name in self.at_least_one:
            value = getattr(config, name)
            if value is not None and value < 1:
                raise UserError(f"planner_cfg.{name}={value} is too small", remedy="give 1 or more")
        for name in ("patch_size", "spacing"):
            sides = getattr(config, name)
            if sides is not None and (len(sides) != 3 or not all(0 < side < math.inf for side in sides)):
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
        notes: list[str] = []
        if config.patch_size is None:
            patch = self.first_patch(spacing, median_shape)
        else:
            patch = plan_topology(spacing, config.patch_size)[2]
            if list(patch) != list(config.patch_size):
                asked = by(config.patch_size)
                notes.append(f"planner_cfg.patch_size {asked} was rounded up to {by(patch)}, to fit the strides.")
        wanted = batch, base, pyramid = self.sizes(fingerprint, spacing)
        while True:
            architecture = self.architecture(fingerprint, spacing, patch, base, pyramid)
            estimate = self.estimate_gb(architecture, patch, batch, fingerprint)
            if estimate <= budget:
                break
            smaller = shrink_patch(spacing, patch, median_shape.tolist()) if config.patch_size is None else None
            if smaller is not None and math.prod(smaller) >= self.floor_side**3:
                patch = smaller
            elif batch > self.least_batch:
                batch //= 2
            elif base >= 2 * self.least_features:
                base, pyramid = base // 2, max(base // 2, pyramid // 2) if pyramid else 0
            elif batch > 1:
                batch //= 2
            else:
                notes.append(f"{budget:g} GB is less than the smallest network's {estimate:.2f} GB: training may fail.")
                break
        if config.patch_size is None:
            notes.append(f"Patch {by(patch)} of {self.covered} of {by(median_shape)} voxels.")
        if batch < wanted[0]:
            notes.append(f"Batch {batch} instead of {wanted[0]}, to fit the memory.")
        if base < wanted[1]:
            notes.append(f"Widths start at {base} instead of {wanted[1]}, to fit the memory.")
        return patch, batch, architecture, estimate, notes

    def sizes(self, fingerprint: Fingerprint, spacing: Spacing) -> Triple:
        """Batch, channels of the first stage and of the pyramid to begin with; 0 for a network without a pyramid."""
        return self.config.batch_size or self.batch_size, self.config.base_features or self.base_features, 0

    @abstractmethod
    def architecture(
        self, fingerprint: Fingerprint, spacing: Spacing, patch: Triple, base_features: int, pyramid_channels: int
    ) -> Architecture:
        """The network for a patch."""

    @abstractmethod
    def estimate_gb(self, architecture: Architecture, patch: Triple, batch: int, fingerprint: Fingerprint) -> float:
        """Memory of one training step."""

    def fit_anchors(
        self, box_sizes: np.ndarray, spacing: Spacing, architecture: Architecture
    ) -> tuple[Anchors, list[str]]:
        """Anchors for the data set's boxes, and what to say about them; none by default.

        Args:
            box_sizes: [N, 3] sides of the lesions in voxels of the network.
            spacing: mm per voxel.
            architecture: the network.
        """
        return Anchors(()), []


def _permuted(values: tuple[T, T, T], transpose: Triple) -> tuple[T, T, T]:
    first, second, third = transpose
    return values[first], values[second], values[third]


def _three(values: Sequence[float] | np.ndarray) -> Spacing:
    z, y, x = (round(float(value), 5) for value in values)
    return z, y, x


def by(values: Sequence[float] | np.ndarray) -> str:
    """Sides as they are read: ``64x96x96``."""
    return "x".join(f"{value:g}" for value in values)
