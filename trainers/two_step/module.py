"""``TwoStepKD``: candidates by segmentation, then a distilled classifier that looks at each of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from scipy import ndimage
from torch import Tensor, nn

from cmb_plugin.dataset import CasePredictions
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import CaseResult, SweepConfig, find_operating_point
from cmb_plugin.inference import CORE, PatchDetections, component_detections
from cmb_plugin.networks import UNet, class_shares, stage_losses
from cmb_plugin.planning import by
from cmb_plugin.plugins import register_trainer, suggest
from cmb_plugin.settings import within
from cmb_plugin.training import Batch, DetectionModule, ModelConfig, learning_rate

from .candidates import all_rejected, classes_at, fused
from .crops import CropStudent, CropTeacher, cut_crops
from .distillation import distillation_loss
from .gaussian import blurred
from .radial_symmetry import ball_response, radial_symmetry
from .shapes import core_shapes
from .vessels import inpaint_vessels

CANDIDATES, TEACHER, STUDENT = range(3)
REJECTED = (0.02, 0.03)  # scores of what is rejected: below all others, above the lowest that inference keeps
MOST_CANDIDATES = 100  # of one patch, as many as inference keeps of one scan
LESION_PRIOR = 0.01  # of a voxel before training
CROPS_AT_ONCE = 16  # that the student judges, so that a patch full of candidates needs no more memory than training
REJECTED_BY = ("none", "candidates", "volume", "elongation")
_KEEP: dict[str, Any] = {"inference_cfg.min_score": 0.0}  # folds that disagree lower the scores of what is rejected
_ADAM: dict[str, Any] = {"trainer_cfg.optimizer": "adamw", "trainer_cfg.learning_rate": 1e-3}


@dataclass
class TwoStepConfig(ModelConfig):
    """Settings of ``TwoStepKD`` (``-o model_cfg.*``).

    Attributes:
        modality: the one that is read, as ``dataset.json`` names it, in any case; empty for the first.
        levels: stages of the U-Nets, the first ones of the plan's network.
        radii_mm: of the balls that the radial symmetry channel shows.
        inpaint_vessels: take vessels out of the image first. Off, because it takes microbleeds out too.
        lesion_weight: how much more a lesion's voxels weigh in the cross entropies.
        candidate_floor: probability from which voxels are put together to candidates.
        target_sensitivity: share of the validation lesions that the candidates must hold; sets their threshold.
        candidate_share: share of the main schedule that goes to the candidates' network.
        teacher_share: share of it that goes to the teacher; the student has the rest.
        crop_mm: side of the crops around candidates, at least.
        crops_per_patch: highest-scoring candidates of each patch that are learned from.
        distil: without it the student learns from the labels alone, also in the teacher's time.
        temperature: T of the distillation loss.
        alpha: a of the distillation loss.
        least_mm3: candidates with a smaller core are rejected; 0 for none.
        most_elongated: those with a longer core are rejected; 0 for none.
    """

    modality: str = ""
    levels: int = within(3, 2)
    radii_mm: tuple[float, ...] = within((1.6, 2.4, 3.2), 0)
    inpaint_vessels: bool = False
    lesion_weight: float = within(10.0, 0)
    candidate_floor: float = within(0.05, 0, 1)
    target_sensitivity: float = within(0.95, 0, 1)
    candidate_share: float = within(0.5, 0, 1)
    teacher_share: float = within(0.25, 0, 1)
    crop_mm: float = within(20.0, 1)
    crops_per_patch: int = within(8, 1)
    distil: bool = True
    temperature: float = 4.0
    alpha: float = within(0.4, 0, 1)
    least_mm3: float = within(1.0, 0)
    most_elongated: float = within(4.0, 0)


@register_trainer
class TwoStepKD(DetectionModule):
    """Candidates, then discrimination by a distilled student (Sundaresan et al. 2023, 10.3389/fninf.2023.1204186).

    Three networks learn one after another in one schedule: a U-Net that segments lesions on one modality and its radial
    symmetry; a teacher that segments and classifies crops around the candidates which that U-Net, now fixed, finds in
    the training patches; a student that classifies such crops, from the labels and from the teacher. Which of them is
    learning follows from the step, so that a resumed run goes on where it was. In prediction every candidate keeps the
    score of each step.
    """

    model_config = TwoStepConfig
    model_cfg: TwoStepConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {"v001": _ADAM | _KEEP, "fast": _KEEP, "demo": _KEEP}
    scores: ClassVar[dict[str, str]] = {
        "score_candidate": "highest probability of the first step",
        "score_student": "probability of any lesion by the second step",
        "score_fused": "both steps, by the geometric mean of their odds",
        "score_accepted": "both steps, below all others where threshold or clean-up reject the candidate",
    }
    candidate_threshold: Tensor
    stage_reached: Tensor

    def build_network(self) -> nn.Module:
        """The networks of all steps, in one module.

        Raises:
            UserError: a step would be left untrained, a setting is out of range, or the plan's patches are flat.
        """
        if min(self.plan.patch_size) < 2:
            raise UserError(
                f"TwoStepKD looks for balls, and patches of {by(self.plan.patch_size)} voxels show none",
                remedy="train CMBRetinaUNet, or plan for patches of two slices or more",
            )
        shares = self.model_cfg.candidate_share, self.model_cfg.teacher_share
        if min(shares) <= 0 or sum(shares) >= 1:
            raise UserError(
                f"model_cfg.candidate_share={shares[0]:g}, teacher_share={shares[1]:g}: a step is left untrained",
                remedy="give shares above 0 that add up to less than 1",
            )
        if not self.model_cfg.temperature > 0:
            raise UserError(
                f"model_cfg.temperature={self.model_cfg.temperature:g}: nothing can be divided by it",
                remedy="give a number above 0, as published 4",
            )
        if not self.model_cfg.radii_mm or min(self.model_cfg.radii_mm) <= 0:
            raise UserError(
                f"model_cfg.radii_mm={self.model_cfg.radii_mm}: is no size of a ball", remedy="give one or more"
            )
        # What validation chose, and which networks have learned something: both travel with the weights.
        self.register_buffer("candidate_threshold", torch.tensor(self.model_cfg.candidate_floor))
        self.register_buffer("stage_reached", torch.tensor(float(CANDIDATES)))
        plan, levels = self.plan.architecture, self.model_cfg.levels
        small = dataclasses.replace(
            plan,
            features=plan.features[:levels],
            strides=plan.strides[:levels],
            kernels=plan.kernels[:levels],
            convs_per_stage=plan.convs_per_stage[:levels],
        )
        # At least two voxels per axis at the coarsest stage, whose norm has no deviation of one.
        self.crop_size = tuple(
            max(2, math.ceil(self.model_cfg.crop_mm / side / step)) * step
            for side, step in zip(self.plan.preprocessing.spacing, small.divisor, strict=True)
        )
        self.channel = self._channel()
        self.ball_peak = ball_response(self.plan.preprocessing.spacing, self.model_cfg.radii_mm)
        classes = 1 + len(self.plan.classes)
        return nn.ModuleDict(
            {
                "candidates": UNet(2, 2, small, prior=LESION_PRIOR),
                "teacher": CropTeacher(2, classes, small),
                "student": CropStudent(2, classes, small),
            }
        )

    def _channel(self) -> int:
        """Number of the modality that is read.

        Raises:
            UserError: the data set has no such modality.
        """
        names = [name.lower() for name in self.plan.modalities]
        wanted = self.model_cfg.modality
        if wanted and wanted.lower() not in names:
            raise UserError(
                f"model_cfg.modality={wanted}: the data set has no such modality",
                remedy=suggest(wanted, self.plan.modalities),
            )
        return names.index(wanted.lower()) if wanted else 0

    def part(self, name: str) -> nn.Module:
        """One of the three networks."""
        return cast(nn.ModuleDict, self.network)[name]

    @property
    def polarity(self) -> str:
        """How a microbleed shows in the modality that is read, as in ``Plan.polarities``."""
        return self.plan.polarities[self.channel]

    # Schedule ---------------------------------------------------------------------------------------------------------

    @property
    def starts(self) -> tuple[int, int, int, int]:
        """First optimisation step of each stage, and the end of the main schedule."""
        config = self.model_cfg
        total = self.trainer_cfg.epochs * self.trainer_cfg.steps_per_epoch
        teacher = round(config.candidate_share * total)
        student = round((config.candidate_share + config.teacher_share) * total) if config.distil else teacher
        return 0, teacher, student, total

    def stage_at(self, step: int) -> int:
        """The network that learns at an optimisation step; in the epochs of weight averaging the student."""
        _, teacher, student, _ = self.starts
        return CANDIDATES if step < teacher else TEACHER if step < student else STUDENT

    def rate(self, step: int) -> float:
        """Learning rate: each stage has a warm-up and a decay of its own."""
        *starts, end = self.starts
        if step >= end:
            return learning_rate(step, self.trainer_cfg)
        stage = self.stage_at(step)
        length = [*starts, end][stage + 1] - starts[stage]
        warmup = min(self.trainer_cfg.warmup_steps, length // 4)
        own = dataclasses.replace(self.trainer_cfg, epochs=1, steps_per_epoch=length, warmup_steps=warmup)
        return learning_rate(step - starts[stage], own)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """As the base, with the learning rate of ``rate``.

        Raises:
            UserError: more than one device was asked for.
        """
        if self.trainer_cfg.devices != 1 or self.trainer_cfg.num_nodes != 1:
            raise UserError(
                "TwoStepKD trains on one device: two of its three networks rest at any time",
                remedy="set trainer_cfg.devices=1 trainer_cfg.num_nodes=1",
            )
        made = cast(dict[str, Any], super().configure_optimizers())
        made["lr_scheduler"]["scheduler"] = torch.optim.lr_scheduler.LambdaLR(made["optimizer"], self.rate)
        return cast(OptimizerLRScheduler, made)

    # Losses -----------------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Those of the network whose step it is; [B, C, Z, Y, X] patches."""
        stage = self.stage_at(self.global_step)
        if self.global_step == self.starts[stage]:
            self.begin(stage)
        images = self.channels(batch.images)
        if stage == CANDIDATES:
            dice, cross_entropy = self.segmentation_losses(self.part("candidates")(images), batch.foreground)
            return {"candidate_dice": dice, "candidate_cross_entropy": cross_entropy}
        places, labels = self.examples(self.candidate_probability(images), batch)
        crops = cut_crops(images, places, self.crop_size)
        if stage == TEACHER:
            return self.teacher_losses(
                crops, cut_crops(batch.foreground[:, None], places, self.crop_size)[:, 0], labels
            )
        student = self.part("student")(crops)
        if not self.model_cfg.distil:
            return {"student": F.cross_entropy(student, labels)}
        with torch.no_grad():
            _, teacher = self.part("teacher")(crops)
        return {
            "student": distillation_loss(student, teacher, labels, self.model_cfg.temperature, self.model_cfg.alpha)
        }

    def begin(self, stage: int) -> None:
        """Teacher and student begin with the weights of step 1; only their class heads are new."""
        self.stage_reached.fill_(stage)
        first = cast(UNet, self.part("candidates"))
        if stage == TEACHER:
            cast(CropTeacher, self.part("teacher")).unet.load_state_dict(first.state_dict())
        elif stage == STUDENT:
            cast(CropStudent, self.part("student")).encoder.load_state_dict(first.encoder.state_dict())

    def teacher_losses(self, crops: Tensor, foreground: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """crops [N, 2, Z, Y, X], lesions in them [N, Z, Y, X], class of what lies in their middle [N]."""
        voxels, scores = self.part("teacher")(crops)
        dice, cross_entropy = self.segmentation_losses(voxels, foreground)
        return {
            "teacher_segmentation": 0.5 * (dice + cross_entropy),
            "teacher_class": F.cross_entropy(scores, labels),
        }

    def segmentation_losses(self, stages: Sequence[Tensor], foreground: Tensor) -> tuple[Tensor, Tensor]:
        """Dice loss and cross entropy of a U-Net's stages and lesions [B, Z, Y, X]. In the latter lesions weigh more,
        and what is around them less the farther it lies, as published."""
        lesions = foreground.float()
        near = torch.maximum(blurred(lesions, self.plan.preprocessing.spacing, 1.0), lesions)
        return stage_losses(stages, class_shares(foreground, 2), 1 + self.model_cfg.lesion_weight * near)

    @torch.no_grad()
    def examples(self, probability: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the second step learns from: the candidates of the first in each patch, every lesion, moved by up to a
        voxel, and one place at random.

        Args:
            probability: [B, Z, Y, X] of lesion.
            batch: the truth of the same patches.

        Returns:
            int64 [N, 4] places ``(image, z, y, x)`` and int64 [N] classes, 0 for none.
        """
        generator, shape = self.step_generator(), torch.tensor(probability.shape[1:])
        places, labels = [], []
        for index, (boxes, classes) in enumerate(zip(batch.boxes, batch.labels, strict=True)):
            boxes, classes = boxes.cpu(), classes.cpu()
            candidates = self.candidates(probability[index])[: self.model_cfg.crops_per_patch]
            lesions = (boxes[:, :3] + boxes[:, 3:]) / 2 + torch.rand(len(boxes), 3, generator=generator) * 2 - 1
            anywhere = torch.rand(1, 3, generator=generator) * shape
            centres = torch.cat([torch.from_numpy(candidates.centres), lesions, anywhere])
            places.append(F.pad(centres.floor().long().clamp(min=0).minimum(shape - 1), (1, 0), value=index))
            labels.append(classes_at(centres, boxes, classes))
        return torch.cat(places), torch.cat(labels).to(probability.device)

    def learn_from_validation(self, cases: Sequence[CaseResult]) -> None:
        """Sets the threshold of the candidates, so that they hold the wanted share of the validation lesions; where
        all of them together do not, none is let go."""
        self.candidate_threshold.fill_(self.model_cfg.candidate_floor)
        if any(len(case.detections) for case in cases):
            wanted = SweepConfig("sensitivity", self.model_cfg.target_sensitivity, "score_candidate")
            # Step 1 knows no classes: a candidate whose class the student mistakes is right all the same.
            point = find_operating_point([case.as_one_class() for case in cases], wanted)
            if (point.sensitivity or 0.0) >= self.model_cfg.target_sensitivity:
                self.candidate_threshold.fill_(point.score)

    # Prediction -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def channels(self, images: Tensor) -> Tensor:
        """[B, C, Z, Y, X] -> [B, 2, Z, Y, X]: the modality, lesions bright, and its radial symmetry.

        The symmetry is a product of three: as it is, all but the roundest places are 0 beside the image's values, and a
        network does not see it. Its cube root, with 10 for a ball as high as the image's deviation, it does. Where
        lesions may be bright or dark the image stays as it is, and both are looked for.
        """
        config, spacing = self.model_cfg, self.plan.preprocessing.spacing
        bright = images[:, self.channel].float() * (-1 if self.polarity == "dark" else 1)
        if config.inpaint_vessels:
            bright = inpaint_vessels(bright, spacing)
        symmetry = radial_symmetry(bright, spacing, config.radii_mm)
        if self.polarity not in ("dark", "bright"):
            symmetry = torch.maximum(symmetry, radial_symmetry(-bright, spacing, config.radii_mm))
        return torch.stack([bright, 10 * (symmetry / self.ball_peak) ** (1 / 3)], dim=1)

    @torch.no_grad()
    def candidate_probability(self, channels: Tensor) -> Tensor:
        """[B, 2, Z, Y, X] -> float32 [B, Z, Y, X] of lesion, by the network of step 1."""
        logits: Tensor = self.part("candidates")(channels)[0]
        return logits.float().softmax(dim=1)[:, 1]

    def candidates(self, probability: Tensor) -> Detections:
        """Components of a patch [Z, Y, X], highest score first; the score is the highest probability.

        At a low floor a lesion and what lies beside it are one piece; each of the piece's connected cores is a
        candidate of its own, so that the middle of a candidate lies on something.
        """
        lesion, floor = probability.float().cpu().numpy(), self.model_cfg.candidate_floor
        pieces, count = ndimage.label(lesion >= floor, structure=np.ones((3, 3, 3)))
        highest = np.array(ndimage.maximum(lesion, pieces, range(count + 1)))
        cores = np.where(lesion >= np.maximum(CORE * highest[pieces], floor), lesion, 0)
        detections = component_detections(np.stack([1 - cores, cores]), floor)
        return detections.ranked_by("score_peak")[:MOST_CANDIDATES]

    def remarks(self, predictions: Sequence[CasePredictions]) -> list[str]:
        """Names the scans in which the second step rejected all that the first let pass: so it should be in healthy
        ones, but a new scanner can do the same to every scan."""
        names = [case.case_id for case in predictions if all_rejected(case)]
        if not names:
            return []
        return [
            f"all candidates were rejected in {len(names)} scans ({', '.join(names)}): right in healthy ones; "
            "score_candidate in their _boxes.json files says what the first step saw"
        ]

    def find(self, images: Tensor) -> tuple[list[PatchDetections], Tensor | None]:
        """Candidates of each patch as the student judges them, and their probability [B, Z, Y, X]."""
        channels = self.channels(images)
        probability = self.candidate_probability(channels)
        return [self.judged(*pair) for pair in zip(channels, probability, strict=True)], probability

    def judged(self, channels: Tensor, probability: Tensor) -> PatchDetections:
        """The candidates of one patch ([2, Z, Y, X] and [Z, Y, X]) with the scores of every step that has learned.

        ``score_fused`` weighs both steps alike; ``score_accepted`` is it where threshold and clean-up let the candidate
        pass; below all of these come the others, in the order of ``score_candidate``.
        """
        config, detections = self.model_cfg, self.candidates(probability)
        volumes, elongations = core_shapes(
            probability.float().cpu().numpy(), detections.boxes, self.plan.preprocessing.spacing
        )
        candidate, labels = torch.from_numpy(detections.scores), torch.from_numpy(detections.labels)
        columns = {
            "score_candidate": candidate,
            "core_mm3": torch.from_numpy(volumes),
            "elongation": torch.from_numpy(elongations),
        }
        score = candidate
        if int(self.stage_reached) == STUDENT:
            student, labels = self.student_scores(channels, detections)
            score = fused(candidate, student)
            columns |= {"score_student": student, "score_fused": score}
        rejected_by = torch.zeros(len(detections), dtype=torch.long)
        if config.most_elongated:
            rejected_by[columns["elongation"] > config.most_elongated] = 3
        rejected_by[columns["core_mm3"] < config.least_mm3] = 2
        if int(self.stage_reached) != CANDIDATES:
            rejected_by[candidate < self.candidate_threshold.cpu()] = 1
        low, high = REJECTED
        accepted = torch.where(rejected_by == 0, score.clamp(min=high), low + (high - low) * candidate)
        columns |= {"score_accepted": accepted, "rejected_by": rejected_by}
        return PatchDetections(
            torch.from_numpy(detections.boxes), accepted, labels, columns, {"rejected_by": REJECTED_BY}
        )

    def student_scores(self, channels: Tensor, detections: Detections) -> tuple[Tensor, Tensor]:
        """[N] probability of any lesion and [N] most probable class of the candidates of a patch [2, Z, Y, X]."""
        places = F.pad(torch.from_numpy(detections.centres).floor().long(), (1, 0))
        crops = (cut_crops(channels[None], some, self.crop_size) for some in places.split(CROPS_AT_ONCE) if len(some))
        probabilities = [self.part("student")(some).softmax(dim=1).cpu() for some in crops]
        probability = torch.cat([torch.zeros(0, 1 + len(self.plan.classes)), *probabilities])
        return 1 - probability[:, 0], probability[:, 1:].argmax(dim=1)
