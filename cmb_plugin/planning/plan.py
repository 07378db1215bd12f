"""``Plan``: everything a trainer and a predictor need to know, as plain data that a person can read and edit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cmb_plugin.dataset import Case
from cmb_plugin.documents import from_json
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.preparation.recipe import Preprocessing

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]
T = TypeVar("T")
POLARITIES = ("dark", "bright", "signed", "unknown")
TARGETS = ("lesions", "regions")


@dataclass(frozen=True)
class Architecture:
    """The shape of an encoder-decoder network with a feature pyramid; index 0 of every tuple is the full resolution.

    Attributes:
        features: channels of each encoder stage.
        strides: stride of each stage relative to the one before, per axis; the first is (1, 1, 1).
        kernels: kernel size of each stage.
        convs_per_stage: convolutions in each encoder stage.
        pyramid_channels: channels of the feature maps that the heads read.
        detection_levels: stages whose maps carry anchors, finest first; empty for a network without anchors.
    """

    features: tuple[int, ...]
    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]
    convs_per_stage: tuple[int, ...]
    pyramid_channels: int
    detection_levels: tuple[int, ...]

    def stride_of(self, level: int) -> Triple:
        """Voxels of the network's input per voxel of the map at ``level``, per axis."""
        total = [1, 1, 1]
        for stride in self.strides[: level + 1]:
            total = [a * b for a, b in zip(total, stride, strict=True)]
        return (total[0], total[1], total[2])

    @property
    def divisor(self) -> Triple:
        """Every patch side must be a multiple of this."""
        return self.stride_of(len(self.strides) - 1)


@dataclass(frozen=True)
class AnchorFit:
    """How well anchors fit the lesions of one size.

    Attributes:
        diameter: the range of diameters in mm as text; of the box within the slice, geometric mean of its two sides.
        lesions: number of training lesions of that size.
        mean_best_iou: as ``Anchors.mean_best_iou``, of these lesions; None without any.
        min_best_iou: the worst of them at its worst place.
    """

    diameter: str
    lesions: int
    mean_best_iou: float | None = None
    min_best_iou: float | None = None


@dataclass(frozen=True)
class Anchors:
    """Anchor sizes and how well they fit the data set.

    Attributes:
        sizes: for each detection level, finest first, a tuple of (z, y, x) sizes in network voxels; every location of
            the level's map carries one anchor of each size, centred on it. Empty where there are no such levels.
        mean_best_iou: mean over the training boxes of the best IoU with any anchor, at random places on the lattice of
            anchor centres; None without boxes.
        min_best_iou: the worst box at its worst place.
        by_size: the same for lesions of each size; empty where not planned.
    """

    sizes: tuple[tuple[tuple[float, float, float], ...], ...]
    mean_best_iou: float | None = None
    min_best_iou: float | None = None
    by_size: tuple[AnchorFit, ...] = ()


@dataclass(frozen=True)
class CentreFit:
    """What lesions of one size get from a dense map of centres.

    Attributes:
        diameter: the range of diameters in mm as text, as in ``AnchorFit``.
        lesions: number of training lesions of that size.
        cells: locations that their box covers, the mean.
        learned: locations that learn their box, the mean.
    """

    diameter: str
    lesions: int
    cells: float
    learned: float


@dataclass(frozen=True)
class Centres:
    """How a detector without anchors learns the lesions of a data set: from the places of their centres.

    Attributes:
        level: stage of the network whose map's locations say how near the centre of a lesion is.
        features: channels of each encoder stage; fewer stages than the plan's architecture where these suffice.
        channels: channels of the maps that the head reads.
        sigma_mm: standard deviation of the Gaussian around a lesion's centre that the map learns.
        reach_mm: locations so near to a lesion's centre also learn its box.
        sides_mm: the median lesion along the network's z, y, x, that boxes are told relative to.
        by_size: what lesions of each size get; empty without lesions.
    """

    level: int
    features: tuple[int, ...]
    channels: int
    sigma_mm: float
    reach_mm: float
    sides_mm: Spacing
    by_size: tuple[CentreFit, ...] = ()

    def architecture(self, planned: Architecture) -> Architecture:
        """The light network of such a detector, from the planned one: its finer stages, with these widths. The first
        has one convolution, as what happens at the full resolution costs most."""
        stages = len(self.features)
        return Architecture(
            features=self.features,
            strides=planned.strides[:stages],
            kernels=planned.kernels[:stages],
            convs_per_stage=(1, *planned.convs_per_stage[1:stages]),
            pyramid_channels=self.channels,
            detection_levels=(self.level,),
        )

    def problem(self, stages: int) -> str:
        """What in it cannot be followed by a network of so many stages, as text; empty when all is well."""
        if not 0 < len(self.features) <= stages or min(self.features) < 1 or self.channels < 1:
            return f"centres: features {self.features} and channels {self.channels} do not fit {stages} stages"
        if not 0 <= self.level < len(self.features):
            return f"centres: level {self.level} is no stage from 0 to {len(self.features) - 1}"
        if min(self.sigma_mm, self.reach_mm, *self.sides_mm) <= 0:
            return "centres: sigma_mm, reach_mm and sides_mm must be above 0"
        return ""


@dataclass(frozen=True)
class Plan:
    """How one data set is preprocessed, and with what network, patch, batch and anchors it is learned.

    Attributes:
        name: ``{planner}_{mode}``, for instance ``D3V001_3d``.
        planner: registered name of the planner class.
        task: name of the Task folder.
        modalities: names in the order of the channels.
        classes: class names by index from 0: of lesions, or of regions.
        preprocessing: the recipe from scan to array.
        patch_size: network input in voxels, multiples of the architecture's divisor.
        batch_size: patches per optimisation step on one device.
        architecture: shape of the network.
        anchors: sizes per detection level.
        memory_gb: budget that the plan was made for.
        memory_estimate_gb: estimated need of one training step.
        notes: sentences that say why something was chosen, for the reader of the file.
        polarity: for each modality how a microbleed shows, one of ``POLARITIES``; empty where not planned.
        target: what is learned, one of ``TARGETS``: the lesions of ``labelsTr``, or the regions of ``regionsTr``.
        channels: number of the data set's modality that each channel is; empty for all of them in their order.
        centres: how a detector without anchors learns; None where not planned.
    """

    name: str
    planner: str
    task: str
    modalities: tuple[str, ...]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    patch_size: Triple
    batch_size: int
    architecture: Architecture
    anchors: Anchors
    memory_gb: float
    memory_estimate_gb: float
    notes: tuple[str, ...] = field(default=())
    polarity: tuple[str, ...] = ()
    target: str = "lesions"
    channels: tuple[int, ...] = ()
    centres: Centres | None = None

    def save(self, path: Path) -> None:
        """Writes ``plan.json``, atomically."""
        write_json(path, self)

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Reads ``plan.json``.

        Raises:
            UserError: the file is missing, is not JSON, or was edited into something that is no plan; the field is
                named.
        """
        plan = from_json(cls, read_json(path), str(path))
        problem = plan.problem()
        if problem:
            raise UserError(f"{path}: {problem}", remedy="repair the entry, or run nndet_prep to write a new plan")
        return plan

    def used(self, of_all: Sequence[T]) -> tuple[T, ...]:
        """Of a list with one entry per modality of the data set those of the plan's channels."""
        return tuple(of_all[channel] for channel in self.channels) if self.channels else tuple(of_all)

    @property
    def polarities(self) -> tuple[str, ...]:
        """For each modality how a microbleed shows: as planned, else by the modality's name."""
        from cmb_plugin.preparation import modality_polarity  # late: who only predicts does without

        return self.polarity or tuple(map(modality_polarity, self.modalities))

    @property
    def n_files(self) -> int:
        """Modality files ``_0000``, ``_0001``, ... that a case must be searched for."""
        return max(self.channels) + 1 if self.channels else len(self.modalities)

    def case(self, case: Case) -> Case:
        """The files of a case that this plan reads: its modalities, and as the label what is to be learned."""
        missing = self.used([number in case.missing for number in range(len(case.images))])
        absent = tuple(channel for channel, is_missing in enumerate(missing) if is_missing)
        case = dataclasses.replace(case, images=self.used(case.images), missing=absent)
        if self.target == "lesions":
            return case
        return dataclasses.replace(case, label=case.extra("regions") if case.split else None, classes_file=None)

    def problem(self) -> str:
        """What in the plan cannot be followed, as text; empty when all is well."""
        net, recipe = self.architecture, self.preprocessing
        stages = len(net.features)
        if stages == 0 or {len(net.strides), len(net.kernels), len(net.convs_per_stage)} != {stages}:
            return "architecture: features, strides, kernels and convs_per_stage differ in length"
        if (
            min(net.features) < 1
            or min(net.convs_per_stage) < 1
            or min(min(k) for k in (*net.strides, *net.kernels)) < 1
        ):
            return "architecture: holds a number below 1"
        if net.strides[0] != (1, 1, 1):
            return f"architecture: the first stride is {net.strides[0]}, it must be (1, 1, 1)"
        if self.target not in TARGETS:
            return f"target is '{self.target}', known are {', '.join(TARGETS)}"
        if self.channels and (len(self.channels) != len(self.modalities) or min(self.channels) < 0):
            return f"channels {list(self.channels)} do not fit {len(self.modalities)} modalities"
        levels = net.detection_levels
        if list(levels) != sorted({*levels} & {*range(stages)}):
            return f"architecture: detection_levels {levels} are not ascending stages from 0 to {stages - 1}"
        if any(side < 1 or side % step for side, step in zip(self.patch_size, net.divisor, strict=True)):
            return f"patch_size {self.patch_size} is no multiple of the network's total stride {net.divisor}"
        if self.batch_size < 1:
            return f"batch_size is {self.batch_size}"
        if len(self.anchors.sizes) != len(levels) or len({len(sizes) for sizes in self.anchors.sizes}) > 1:
            return "anchors: needs one list of sizes per detection level, all of one length"
        if levels and (
            not self.anchors.sizes[0]
            or min(side for sizes in self.anchors.sizes for size in sizes for side in size) <= 0
        ):
            return "anchors: every level needs positive sizes"
        if self.centres is not None and self.centres.problem(stages):
            return self.centres.problem(stages)
        if sorted(recipe.transpose) != [0, 1, 2]:
            return f"preprocessing: transpose {recipe.transpose} is no order of 0, 1, 2"
        if min(recipe.spacing) <= 0:
            return f"preprocessing: spacing is {recipe.spacing}"
        if len(recipe.normalisation) != len(self.modalities):
            return f"preprocessing: {len(recipe.normalisation)} normalisations for {len(self.modalities)} modalities"
        if any(len(entry.units) != len(self.modalities) for entry in recipe.domain_units):
            return f"preprocessing: domain_units of a domain are not {len(self.modalities)}"
        if recipe.brain_channel is not None and not 0 <= recipe.brain_channel < len(self.modalities):
            return f"preprocessing: brain_channel is {recipe.brain_channel}, the data set has no such modality"
        if self.polarity and len(self.polarity) != len(self.modalities):
            return f"polarity: {len(self.polarity)} entries for {len(self.modalities)} modalities"
        if not set(self.polarity) <= set(POLARITIES):
            return f"polarity: {list(self.polarity)}, known are {', '.join(POLARITIES)}"
        if not self.name or "/" in self.name:
            return f"name '{self.name}' cannot be a folder's name"
        return ""
