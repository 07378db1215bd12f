"""``CMBRetinaUNet``: feature fusion and prototype learning of hard samples, after Kim et al. 2023."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Self, cast

import torch
from lightning import Callback
from torch import Tensor, nn
from torch.utils.data import Dataset

from cmb_plugin.boxes import at_middles, box_centres, cells_of, image_of_boxes
from cmb_plugin.files import read_json
from cmb_plugin.inference import PatchDetections
from cmb_plugin.networks import LOCAL_NORMS, RetinaOutput, RetinaUNet
from cmb_plugin.paths import FoldFolder
from cmb_plugin.planning import Plan
from cmb_plugin.plugins import register_trainer
from cmb_plugin.settings import within
from cmb_plugin.training import Augmentation, Batch, LabelledCases, PreparedCases, Sample, can_be_painted

from ..retina_config import RetinaConfig
from ..retina_unet import RetinaUNetV001
from .description import describe_prototypes
from .fusion import FeatureFusion
from .prototypes import PrototypeHead, PrototypeLogits, Prototypes, hard_mimics, peaks_near
from .replay import REPLAYED_PLACES, MimicPatches, Replay

PROTOTYPES = "prototypes.json"
"""What the prototypes of a fold were found to stand for."""

PAINTED = 0.1
"""Share of the patches into which deposits and vessels are painted, so that a scanner that was not learned from is not
all that new (docs/studies/large_lesions.md)."""

OWN_SCORES = {
    "score_rpn": "the detector's own",
    "score_prototype": "probability of its class by the distances to the prototypes",
    "score_fused": "geometric mean of the detector's and the prototypes'",
}


@dataclass
class CMBRetinaConfig(RetinaConfig):
    """Settings of ``CMBRetinaUNet`` beside those of the family (``-o model_cfg.*``).

    Kim et al. do not publish gamma, the weight of the concentration or the schedule; these are our choices
    (docs/studies/experiments.md).

    Attributes:
        ffm: feature fusion: the heads read several decoder maps fused into one. Off, since it added nothing
            (docs/studies/ablation.md).
        hspl: hard-sample prototype learning: lesions and mined mimics are pulled to prototypes of their own, and crops
            in which the detector was most wrong are drawn again.
        prototype_score: with a dense map, the score of a location is made of its distances to the prototypes.
        fused_levels: decoder maps that are fused, the detection level included.
        lesion_prototypes: prototypes of each lesion class.
        mimic_prototypes: prototypes of the mimics.
        embedding: dimensions of the space in which they lie.
        window: side of the cube of feature vectors from which a place is embedded, with anchors.
        gamma: how fast probability falls with squared distance.
        concentration: weight of the pull of an embedding to its prototype.
        prototype_weight: weight of the prototype loss beside the detector's.
        hspl_start: share of the main schedule after which mimics are mined; before it the scores say nothing.
        mimics_per_crop: highest-scoring places without a lesion that are taken from each crop.
        mimic_distance_mm: how far from every lesion they lie.
        replay: share of the lesion-free crops that are drawn again where the detector was most wrong before.
    """

    assignment: str = "centre"
    widths: str = "light"
    norm: str = "batch"
    score_threshold: float = within(0.05, 0, 1)  # a dense map scores every mimic above the baseline's 0.02
    segmentation_foreground_weight: float = within(100.0, 0)
    ffm: bool = False
    hspl: bool = True
    prototype_score: bool = True
    fused_levels: int = within(4, 1)
    lesion_prototypes: int = within(4, 1)
    mimic_prototypes: int = within(8, 1)
    embedding: int = within(16, 1)
    window: int = within(1, 1)
    gamma: float = 0.5
    concentration: float = 0.05
    prototype_weight: float = within(0.25, 0)
    hspl_start: float = within(0.2, 0, 1)
    mimics_per_crop: int = within(8, 0)
    mimic_distance_mm: float = within(5.0, 0)
    replay: float = within(0.5, 0, 1)


@register_trainer
class CMBRetinaUNet(RetinaUNetV001):
    """A dense map of lesions' centres with feature fusion and hard-sample prototype learning (Kim et al. 2023, arXiv
    2306.13020).

    The head reads decoder maps of several levels fused into the detection level. Microbleeds, and the mimics that the
    detector itself takes for microbleeds, lie near prototypes of their own in a space of embeddings, and a location's
    score is made of its distances to them; half of the crops of a batch hold no lesion, so that there are always mimics
    to mine. Each detection tells its nearest prototype and how far away it is.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # What is learned from dense maps takes fewer steps, and fewer patches in each; too few to learn from painted
        # deposits too (docs/studies/large_lesions.md).
        "demo": {
            "trainer_cfg.batch_size": 4,
            "trainer_cfg.epochs": 4,
            "trainer_cfg.swa_epochs": 1,
            "augment_cfg.painted": 0.0,
        },
    }

    files: ClassVar[tuple[str, ...]] = (PROTOTYPES,)
    model_config = CMBRetinaConfig
    model_cfg: CMBRetinaConfig

    hardness: Tensor | None = None
    """[B] how wrong the network was in each patch of the last training batch; None before mimics are mined."""

    keep_embeddings: bool = False
    """Whether detections carry the column ``embedding`` [N, E]."""

    @classmethod
    def defaults_for(cls, plan: Plan) -> dict[str, Any]:
        """Deposits are painted wherever they can be."""
        return {"augment_cfg.painted": PAINTED} if can_be_painted(plan) else {}

    @classmethod
    def migrated(cls, model_cfg: dict[str, Any]) -> dict[str, Any]:
        """Before there were dense maps of centres it was a network with anchors; the first ones had the focal loss
        alone."""
        anchors = {"assignment": "atss", "widths": "plan", "norm": "instance"}
        before = {"hard_negatives": 0} if "assignment" in model_cfg else anchors
        return {**before, **model_cfg}

    @property
    def scores(self) -> dict[str, str]:  # type: ignore[override] # which there are is a question of the settings
        """Besides the score itself, where prototypes give one of their own."""
        return OWN_SCORES if self.model_cfg.hspl and not self.scores_by_prototypes else {}

    def build_network(self) -> nn.Module:
        """The baseline's network, with feature fusion and a prototype head where they are asked for."""
        config = self.model_cfg
        fusion = partial(FeatureFusion, norm=config.norm if config.norm in LOCAL_NORMS else "group")
        network = self.build_retina_unet(fusion if config.ffm else None, config.fused_levels)
        counts = [config.lesion_prototypes] * len(self.plan.classes) + [config.mimic_prototypes]
        channels = self.assignment.architecture.pyramid_channels
        # Parts of the network: their weights are decayed, averaged, saved and resumed with the others.
        if self.scores_by_prototypes:
            network.head.logits = PrototypeLogits(channels, counts, config.embedding, config.gamma)
        elif config.hspl:
            network.prototypes = PrototypeHead(channels, counts, config.embedding, config.gamma, config.window)
        return network

    @property
    def halo(self) -> tuple[int, int, int] | None:
        """As far as the family's, and a window of vectors where one is embedded beside the score."""
        halo, config = super().halo, self.model_cfg
        if halo is None or self.scores_by_prototypes or not config.hspl:
            return halo
        z, y, x = (side + config.window // 2 * step for side, step in zip(halo, self.stride, strict=True))
        return z, y, x

    @property
    def scores_by_prototypes(self) -> bool:
        """Whether the detector's own score is made of distances to prototypes."""
        config = self.model_cfg
        return config.hspl and config.prototype_score and config.assignment == "centre"

    @property
    def prototypes(self) -> Prototypes:
        """Those of the network; only with ``model_cfg.hspl``."""
        network = cast(RetinaUNet, self.network)
        part = network.head.logits if self.scores_by_prototypes else network.prototypes
        assert isinstance(part, Prototypes)
        return part

    @property
    def stride(self) -> tuple[int, int, int]:
        """Patch voxels per location of the finest detection level."""
        architecture = self.assignment.architecture
        return architecture.stride_of(architecture.detection_levels[0])

    # Patches ----------------------------------------------------------------------------------------------------------

    @cached_property
    def memory(self) -> Replay | None:
        """The memory of mimics; None where nothing is drawn again."""
        config = self.model_cfg
        return Replay(REPLAYED_PLACES, self.plan.patch_size) if config.hspl and config.replay > 0 else None

    def callbacks(self) -> list[Callback]:
        """The memory of mimics."""
        return [self.memory] if self.memory else []

    def patches(self, cases: PreparedCases, augmentation: Augmentation, seed: int) -> Dataset[Sample]:
        """Patches of which some show again what the network took for lesions."""
        if not self.model_cfg.hspl:
            return super().patches(cases, augmentation, seed)
        return MimicPatches(
            cases,
            replay=self.memory.places if self.memory else None,
            replay_fraction=self.model_cfg.replay,
            **self.patch_settings(augmentation, seed),
        )

    # Losses -----------------------------------------------------------------------------------------------------------

    def output_losses(self, output: RetinaOutput, batch: Batch) -> dict[str, Tensor]:
        """The baseline's, and ``prototype``."""
        losses = super().output_losses(output, batch)
        if self.model_cfg.hspl:
            losses["prototype"] = self.prototype_loss(output, batch)
        return losses

    def prototype_loss(self, output: RetinaOutput, batch: Batch) -> Tensor:
        """The prototype loss of lesions and mined mimics, weighted; 0 in the start-up phase."""
        config, features = self.model_cfg, output.features[0]
        scores = self.score_map(output, len(batch.boxes))
        if batch.judged is not None:  # what nobody has judged is no mimic, however much it looks like one
            scores = scores.masked_fill(~at_middles(batch.judged, scores.shape[1:], self.stride), -torch.inf)
        # In the start-up phase scores say nothing, and nothing is remembered.
        self.hardness = scores.flatten(1).amax(dim=1) if self.is_mining else None
        places, classes = self.lesion_places(batch, features.shape[2:])
        # A detection is embedded where its score peaks, which may be beside the lesion's middle: both are learned.
        places, classes = torch.cat([places, peaks_near(scores, places)]), torch.cat([classes, classes])
        if self.is_mining:
            mimics = hard_mimics(
                scores,
                batch.boxes,
                self.stride,
                self.plan.preprocessing.spacing,
                config.mimics_per_crop,
                config.mimic_distance_mm,
            )
            mimic_class = torch.full((len(mimics),), len(self.plan.classes), device=classes.device)
            places, classes = torch.cat([places, mimics]), torch.cat([classes, mimic_class])
        embeddings = self.prototypes.embed(features, places)
        if self.is_mining and isinstance(self.prototypes, PrototypeHead) and not self.prototypes.placed:
            self.place_prototypes(self.prototypes, embeddings.detach(), classes)
        loss = self.prototypes.loss(embeddings, classes, config.concentration)
        # Multiplied by 0 rather than left out before mining begins: DDP wants a gradient for every weight.
        return loss * (config.prototype_weight if self.is_mining else 0.0)

    @property
    def is_mining(self) -> bool:
        """Whether the start-up phase is over."""
        schedule = self.trainer_cfg.epochs * self.trainer_cfg.steps_per_epoch
        return self.global_step >= self.model_cfg.hspl_start * schedule

    def place_prototypes(self, head: PrototypeHead, embeddings: Tensor, classes: Tensor) -> None:
        """Starts the prototypes on the first embeddings that are learned; every process of a DDP run on the same."""
        head.begin_at(embeddings, classes, self.step_generator())
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.broadcast(head.prototypes.data, src=0)
        head.placed.fill_(1)

    def lesion_places(self, batch: Batch, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Where the lesions' middles lie on the finest detection level: int64 [N, 4] ``(image, z, y, x)``, and their
        classes [N]."""
        places = cells_of(box_centres(torch.cat(batch.boxes)), shape, self.stride)
        return torch.cat([image_of_boxes(batch.boxes)[:, None], places], dim=1), torch.cat(batch.labels)

    @staticmethod
    def score_map(output: RetinaOutput, images: int) -> Tensor:
        """[B, Z, Y, X] highest logit of any anchor and class at each location of the finest detection level."""
        shape = output.map_shapes[0]
        locations = shape[0] * shape[1] * shape[2]
        total = sum(z * y * x for z, y, x in output.map_shapes)
        per_location = output.logits.shape[1] // total
        finest = output.logits[:, : locations * per_location].detach().amax(dim=2)
        return finest.reshape(images, *shape, per_location).amax(dim=4)

    # Prediction -------------------------------------------------------------------------------------------------------

    def describe(
        self, output: RetinaOutput, image: int, detections: PatchDetections, points: Tensor
    ) -> dict[str, Tensor]:
        """Scores of the detector, of the prototypes and of both, the likeliest prototype and the distance to it;
        nothing without ``model_cfg.hspl``."""
        if not self.model_cfg.hspl:
            return {}
        features = output.features[0]
        cells = cells_of(points, features.shape[2:], self.stride)
        places = torch.cat([torch.full_like(cells[:, :1], image), cells], dim=1)
        embeddings = self.prototypes.embed(features, places)
        likeliest = self.prototypes.log_likelihoods(embeddings).argmax(dim=1)
        distance = (embeddings - self.prototypes.prototypes[likeliest]).float().norm(dim=1)
        detections.categories = {"looks_like": self.prototype_names}
        columns = {"looks_like": likeliest, "prototype_distance": distance}
        if not self.scores_by_prototypes:
            probability = self.prototypes.log_probabilities(embeddings).exp()
            score = probability.gather(1, detections.labels[:, None]).squeeze(1)
            fused = (detections.scores * score).sqrt()
            columns |= {"score_rpn": detections.scores, "score_prototype": score, "score_fused": fused}
        return columns | ({"embedding": embeddings} if self.keep_embeddings else {})

    @property
    def prototype_names(self) -> list[str]:
        """What each prototype is called in the output files: ``cmb 1``, ``mimic 3`` or, where mimics are known by kind,
        ``mimic 3 (vein_straight)``."""
        kinds = self.kinds
        return self._names or [f"{kind} {kinds[: index + 1].count(kind)}" for index, kind in enumerate(kinds)]

    _names: list[str] | None = None  # as they were found to be after training

    @property
    def kinds(self) -> list[str]:
        """The kind of each prototype: the name of a class, or ``mimic``."""
        config = self.model_cfg
        lesions = [name for name in self.plan.classes for _ in range(config.lesion_prototypes)]
        return lesions + ["mimic"] * config.mimic_prototypes

    # After training ---------------------------------------------------------------------------------------------------

    def after_training(self, fold: FoldFolder, cases: LabelledCases) -> None:
        """Writes ``prototypes.json`` and ``embedding.png``: what each prototype stands for."""
        if not self.model_cfg.hspl:
            return
        self.keep_embeddings = True
        try:
            describe_prototypes(self, self.prototypes, self.kinds, fold, cases)
        finally:
            self.keep_embeddings = False

    @classmethod
    def load(cls, fold: FoldFolder, device: torch.device | str = "cpu", checkpoint: str = "last") -> Self:
        """As the base, with the names of the prototypes where they were described."""
        module = super().load(fold, device, checkpoint)
        path = fold.root / PROTOTYPES
        if path.is_file():
            module._names = list(read_json(path)["names"])
        return module
