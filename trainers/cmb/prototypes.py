"""Prototype learning: what lesions and the things that look like them have in common, each as points in one space."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmb_plugin.boxes import LESIONS_AT_ONCE, image_of_boxes, peaks
from cmb_plugin.errors import UserError


class Prototypes(nn.Module, ABC):
    """Points of an embedding space that stand for lesions of each class, and for mimics.

    Convolutional prototype learning (CPL, Yang et al., CVPR 2018), which Kim et al. (2023, arXiv 2306.13020) apply to
    microbleeds and hard mimics. With prototypes m_k, each of one class, and an embedding f(x),

        p(k | x) = exp(-g ||f(x) - m_k||^2) / sum_l exp(-g ||f(x) - m_l||^2),
        p(class | x) = sum over the prototypes k of the class of p(k | x).

    A class may have several prototypes, because mimics are of many kinds.

    Args:
        counts: number of prototypes of each class; the last class are the mimics.
        embedding: dimensions of the space.
        gamma: g of the formula.
    """

    owner: Tensor

    def __init__(self, counts: Sequence[int], embedding: int, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.counts = list(counts)
        self.prototypes = nn.Parameter(torch.randn(sum(counts), embedding) * 0.5)
        owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(self.counts))
        self.register_buffer("owner", owner, persistent=False)

    @abstractmethod
    def embed(self, features: Tensor, places: Tensor) -> Tensor:
        """Embeddings of places.

        Args:
            features: [B, C, Z, Y, X].
            places: int64 [N, 4] ``(image, z, y, x)``; those outside the map are moved to its edge.

        Returns:
            [N, E] float32.
        """

    def squared_distances(self, embeddings: Tensor) -> Tensor:
        """[N, E] -> [N, K] squared Euclidean distance to every prototype, in float32."""
        return (embeddings.float()[:, None] - self.prototypes.float()[None]).square().sum(dim=2)

    def log_likelihoods(self, embeddings: Tensor) -> Tensor:
        """[N, E] -> [N, K] log of how likely it is that each prototype stands for a place, but for a constant of the
        place: -g ||f(x) - m_k||^2."""
        return -self.gamma * self.squared_distances(embeddings)

    def log_probabilities(self, embeddings: Tensor) -> Tensor:
        """[N, E] -> [N, classes] log p(class | x)."""
        log_each = F.log_softmax(-self.gamma * self.squared_distances(embeddings), dim=1)
        of_classes = [of_class.logsumexp(dim=1) for of_class in log_each.split(self.counts, dim=1)]
        return torch.stack(of_classes, dim=1)

    def loss(self, embeddings: Tensor, classes: Tensor, concentration: float = 0.01) -> Tensor:
        """The prototype loss of Yang et al. 2018: L = -log p(y | x) + l ||f(x) - m_y||^2.

        m_y is the nearest prototype of the true class. The mean is taken over the classes that occur, each weighing the
        same: a batch with one lesion and eight mimics is a balanced one.

        Args:
            embeddings: [N, E].
            classes: [N] true classes.
            concentration: l, the weight of the term that pulls an embedding to its prototype.

        Returns:
            a scalar; 0, with a path for gradients, without embeddings.
        """
        if len(embeddings) == 0:
            return embeddings.sum() * 0 + self.prototypes.sum() * 0
        cross_entropy = F.nll_loss(self.log_probabilities(embeddings), classes, reduction="none")
        own = self.owner[None] == classes[:, None]
        nearest = self.squared_distances(embeddings).masked_fill(~own, torch.inf).amin(dim=1)
        each = cross_entropy + concentration * nearest
        return torch.stack([each[classes == index].mean() for index in classes.unique()]).mean()


class PrototypeLogits(Prototypes):
    """The score of every location made of its distances to prototypes.

    With an embedding f(x) of the location's vector of features,

        logit of a class = log sum over its k of exp(-g ||f(x) - m_k||^2) - log sum over the mimics' of the same + b,

    the log odds of the class against the mimics, shifted by b, as most places are neither. So what pulls and pushes
    embeddings moves the score itself. In place of the layer of ``CentreHead`` that gives scores.

    Args:
        channels: width of the feature map.
        counts, embedding, gamma: as for ``Prototypes``.
        prior: score of a location before training (Lin et al. 2017).
    """

    def __init__(
        self, channels: int, counts: Sequence[int], embedding: int = 16, gamma: float = 0.5, prior: float = 0.01
    ) -> None:
        super().__init__(counts, embedding, gamma)
        self.embedding = nn.Linear(channels, embedding)
        many = torch.tensor(self.counts, dtype=torch.float32)
        self.bias = nn.Parameter(-math.log((1 - prior) / prior) - torch.log(many[:-1] / many[-1]))

    def forward(self, features: Tensor) -> Tensor:
        """features: [..., C]; returns logits [..., classes]."""
        # ||f||^2 is common to all distances and cancels. Prototypes come first, then locations: sums over few
        # neighbouring numbers, of which there are millions, are slow.
        weight = self.prototypes @ self.embedding.weight
        shift = self.prototypes @ self.embedding.bias - self.prototypes.square().sum(dim=1) / 2
        near = torch.movedim(F.linear(features, weight, shift), -1, 0) * (2 * self.gamma)
        *classes, mimics = (of_class.logsumexp(dim=0) for of_class in near.split(self.counts))
        return torch.stack([of_class - mimics for of_class in classes], dim=-1) + self.bias

    def embed(self, features: Tensor, places: Tensor) -> Tensor:
        """``Prototypes.embed``: of the vector at each place."""
        with torch.autocast(features.device.type, enabled=False):
            embedded: Tensor = self.embedding(windows(features, places, 1).float())
        return embedded

    def log_likelihoods(self, embeddings: Tensor) -> Tensor:
        """As the base's, lesions being as rare as ``b`` says: their log odds are the score's logit."""
        rarity = torch.cat([self.bias, self.bias.new_zeros(1)])[self.owner]
        return super().log_likelihoods(embeddings) + rarity.float()


class PrototypeHead(Prototypes):
    """An embedding of places that a detector with anchors found, beside its own scores.

    Kim et al. take the feature vector at a place itself; here a small perceptron looks at the ``window`` of vectors
    around it, so that the heads need not carry in one vector what tells a vessel, which goes on, from a deposit, which
    ends. It is evaluated only at the places asked for.

    Args:
        channels: width of the feature map.
        counts, embedding, gamma: as for ``Prototypes``.
        window: side of the cube of vectors that is looked at, odd.
    """

    placed: Tensor

    def __init__(
        self, channels: int, counts: Sequence[int], embedding: int = 32, gamma: float = 1.0, window: int = 3
    ) -> None:
        super().__init__(counts, embedding, gamma)
        if window % 2 != 1:
            raise UserError(f"model_cfg.window={window}: is even", remedy="give 1, 3 or 5")
        self.window = window
        self.embedding = nn.Sequential(
            nn.Linear(channels * window**3, 2 * embedding), nn.ReLU(), nn.Linear(2 * embedding, embedding)
        )
        self.register_buffer("placed", torch.zeros(()))  # 1 once ``begin_at`` was called; saved, so called once

    def embed(self, features: Tensor, places: Tensor) -> Tensor:
        """``Prototypes.embed``: of the window of vectors around each place."""
        embedded: Tensor = self.embedding(windows(features, places, self.window))
        return embedded.float()

    @torch.no_grad()
    def begin_at(self, embeddings: Tensor, classes: Tensor, generator: torch.Generator) -> None:
        """Puts the prototypes of each class on embeddings of that class, chosen so as to lie far apart.

        Prototypes that begin far away stay there: the one nearest to all embeddings of its class wins them all. The
        first of a class is drawn at random, each further one with a probability that grows with the squared distance
        to those before it (k-means++, Arthur & Vassilvitskii 2007). A class without embeddings keeps its prototypes.

        Args:
            embeddings: [N, E].
            classes: [N].
            generator: source of randomness, on the CPU.
        """
        for index in classes.unique().tolist():
            own = embeddings[classes == index].float()
            squared = torch.full((len(own),), torch.inf, device=own.device)
            for number in (self.owner == index).nonzero().squeeze(1).tolist():
                # Where embeddings are fewer than prototypes, some are taken twice.
                chances = squared.nan_to_num(posinf=1.0).clamp(min=1e-6).cpu()
                chosen = own[int(torch.multinomial(chances, 1, generator=generator))]
                self.prototypes[number] = chosen
                squared = torch.minimum(squared, (own - chosen).square().sum(dim=1))


def windows(features: Tensor, places: Tensor, side: int) -> Tensor:
    """The vectors around places of a feature map.

    Args:
        features: [B, C, Z, Y, X].
        places: int64 [N, 4] ``(image, z, y, x)``; those outside the map are moved to its edge.
        side: of the cube that is looked at, odd; beyond the map it holds 0.

    Returns:
        [N, C * side^3].
    """
    shape = torch.tensor(features.shape[2:], device=features.device)
    offsets = torch.arange(side, device=features.device) - side // 2
    around = torch.stack(torch.meshgrid(offsets, offsets, offsets, indexing="ij"), dim=-1).reshape(-1, 3)
    centres = places[:, 1:].clamp(min=0).minimum(shape - 1)
    at = centres[:, None] + around[None]  # [N, S, 3]
    inside = ((at >= 0) & (at < shape)).all(dim=2)
    at = at.clamp(min=0).minimum(shape - 1)
    # Only the wanted vectors are gathered: padding the map would copy all of it for a few hundred of them.
    vectors = features[places[:, :1], :, at[..., 0], at[..., 1], at[..., 2]]  # [N, S, C]
    return (vectors * inside[..., None].to(vectors.dtype)).flatten(1)


LEAST_LOGIT = torch.finfo(torch.float32).min
"""Any finite score counts as a place; -inf is none."""


def peaks_near(scores: Tensor, places: Tensor) -> Tensor:
    """The highest-scoring location among each place's 27 nearest.

    Args:
        scores: [B, Z, Y, X]; -inf where there is no place.
        places: int64 [N, 4] ``(image, z, y, x)`` inside the map.

    Returns:
        int64 [N, 4].
    """
    scores = scores.detach().float()
    places_with_score = scores > -torch.inf
    if not places_with_score.all():  # -inf is no place: below all others, but so that these still differ
        least = scores[places_with_score].amin() - 1 if places_with_score.any() else scores.new_zeros(())
        scores = torch.where(places_with_score, scores, least)
    above = scores - scores.amin() + 1 if scores.numel() else scores  # beyond the map ``windows`` holds 0: below all
    best = windows(above[:, None], places, 3).argmax(dim=1) if len(places) else places[:, 0]
    steps = torch.stack(torch.unravel_index(best, (3, 3, 3)), dim=1) - 1
    return torch.cat([places[:, :1], places[:, 1:] + steps], dim=1)


def hard_mimics(
    scores: Tensor,
    boxes: Sequence[Tensor],
    stride: Sequence[float],
    spacing: Sequence[float],
    count: int,
    apart_mm: float,
) -> Tensor:
    """The highest-scoring places of each image that are no lesion: what the detector takes for one.

    In an image without lesions the first of them is the argmax of the score map, as in Kim et al. (2023); further ones,
    and those of images with lesions, are local maxima at least ``apart_mm`` away from every lesion.

    Args:
        scores: [B, Z, Y, X] score of each location of the detection level.
        boxes: for each image [N, 6] lesions in patch voxels.
        stride: patch voxels per location along z, y, x.
        spacing: mm per patch voxel.
        count: places per image; fewer where the map has fewer local maxima.
        apart_mm: smallest distance from a location's middle to a lesion's box.

    Returns:
        int64 [M, 4] ``(image, z, y, x)``.
    """
    scores, every = scores.detach().float(), torch.cat(list(boxes))
    lesions = torch.zeros_like(scores)  # how many are near
    for some, own in zip(every.split(LESIONS_AT_ONCE), image_of_boxes(boxes).split(LESIONS_AT_ONCE), strict=True):
        near = _distance_mm(scores.shape[1:], some, stride, spacing) < max(apart_mm, 1e-6)  # [N, Z, Y, X]
        lesions.index_add_(0, own, near.to(scores.dtype))
    scores = scores.masked_fill(lesions > 0, -torch.inf)
    return peaks(scores, count, LEAST_LOGIT, (1, 1, 1), of_each=True)


def _distance_mm(shape: Sequence[int], boxes: Tensor, stride: Sequence[float], spacing: Sequence[float]) -> Tensor:
    """[N, Z, Y, X] distance in mm of each location's middle to each box; 0 inside."""
    squared = torch.zeros((len(boxes), *shape), device=boxes.device)
    for axis in range(3):
        centres = (torch.arange(shape[axis], device=boxes.device) + 0.5) * stride[axis]
        outside = torch.maximum(boxes[:, axis, None] - centres, centres - boxes[:, axis + 3, None]).clamp(min=0)
        view = [len(boxes), 1, 1, 1]
        view[axis + 1] = shape[axis]
        squared = squared + (outside * spacing[axis]).square().reshape(view)
    return squared.sqrt()
