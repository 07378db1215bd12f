"""Losses of dense detectors, and the choice of anchors they are computed on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cmb_plugin.boxes import paired_giou


def sample_anchors(
    matches: Tensor,
    scores: Tensor,
    per_image: int = 32,
    positive_fraction: float = 1 / 3,
    pool: float | None = 20,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Chooses the anchors of a batch that enter the loss: hard negative sampling as in nnDetection.

    At most ``per_image * positive_fraction`` positives per image of the batch, at random; then negatives in the
    proportion that ``positive_fraction`` asks for (without positives, as many as with the full number), drawn at random
    from the ``pool`` times as many highest-scoring background anchors. The pool is what keeps it from memorising
    label errors.

    Args:
        matches: [B, T] index of the matched lesion, -1 for background, or any lower number for what is neither.
        scores: [B, T] highest class score of each anchor; only their order counts.
        per_image: anchors per image.
        positive_fraction: share of positives among them.
        pool: size of the pool of hard negatives relative to the number drawn; None draws from all negatives.
        generator: source of randomness on the CPU; None uses the global one.

    Returns:
        indices into the flattened [B * T] of the positives and of the negatives.
    """
    flat = matches.reshape(-1)
    positives = (flat >= 0).nonzero().squeeze(1)
    negatives = (flat == -1).nonzero().squeeze(1)
    full = per_image * matches.shape[0]
    n_positive = min(len(positives), int(full * positive_fraction))
    n_negative = int(max(1, n_positive) * (1 - positive_fraction) / positive_fraction) if n_positive else 0
    n_negative = min(len(negatives), max(n_negative, int(full * (1 - positive_fraction))))
    if pool is not None:
        hardest = scores.detach().reshape(-1)[negatives].topk(min(len(negatives), int(n_negative * pool)))
        negatives = negatives[hardest.indices]
    return _draw(positives, n_positive, generator), _draw(negatives, n_negative, generator)


def _draw(items: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    order = torch.randperm(len(items), generator=generator)[:count]
    return items[order.to(items.device)]


def classification_loss(logits: Tensor, labels: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Binary cross entropy over the sampled anchors, averaged over anchors and classes.

    Args:
        logits: [N, classes].
        labels: [N] class index of each anchor's lesion; any value where it is background.
        positives: indices of positive anchors.
        negatives: indices of background anchors.

    Returns:
        a scalar; 0, with a path for gradients, without any anchor.
    """
    if not len(positives) + len(negatives):
        return logits.sum() * 0
    targets = torch.zeros(len(positives) + len(negatives), logits.shape[1], device=logits.device)
    targets[torch.arange(len(positives), device=logits.device), labels[positives]] = 1
    return F.binary_cross_entropy_with_logits(logits[torch.cat([positives, negatives])], targets)


def centre_loss(
    logits: Tensor, target: Tensor, focus: float = 2.0, forgiveness: float = 4.0, judged: Tensor | None = None
) -> Tensor:
    """Focal loss of a map of centres (Law & Deng 2018, CornerNet), per lesion.

    A location that holds a centre (target 1) is a positive, every other one a negative, which counts the less the
    nearer to a centre it lies: -(1 - p)^a log p and -(1 - y)^b p^a log(1 - p). The sum over all locations of the batch
    is divided by the number of positives.

    Args:
        logits: [...] of any shape.
        target: y, the same shape, 0..1.
        focus: a, how little locations count that are right already.
        forgiveness: b, how little locations near a centre count.
        judged: bool, broadcast to the same shape, False for locations that are left out; None takes all.
    """
    centre = target >= 1
    score = logits.sigmoid()
    hit = -(1 - score).pow(focus) * F.logsigmoid(logits)
    miss = -(1 - target).pow(forgiveness) * score.pow(focus) * F.logsigmoid(-logits)
    each = torch.where(centre, hit, miss)
    if judged is not None:
        each, centre = torch.where(judged, each, 0), centre & judged
    return each.sum() / centre.sum().clamp(min=1)


def hard_centre_loss(
    logits: Tensor,
    target: Tensor,
    lesions: int,
    negatives: int,
    weight: float = 2.0,
    forgiveness: float = 4.0,
    judged: Tensor | None = None,
) -> Tensor:
    """Cross entropy of a map of centres over its positives and the hardest negatives alone (Shrivastava et al. 2016).

    The sum of -log p over the n locations of the batch that hold a centre (target 1), and of
    -(``weight`` / k) (1 - y)^b log(1 - p) over the k max(n, B) others where it is greatest, divided by n: all in all
    negatives count ``weight`` times as much as positives, and more in a batch with fewer lesions than images.

    Args:
        logits: [B, ...] of any shape.
        target: y, the same shape, 0..1.
        lesions: n where the number of negatives is set; known without asking the device.
        negatives: k, locations without a centre for each that holds one.
        weight: of the negatives; 2 as where a third of sampled anchors are positives.
        forgiveness: b, how little locations near a centre count.
        judged: bool, broadcast to the same shape, False for locations that are left out; None takes all.
    """
    centre = target >= 1
    miss = torch.where(centre, 0, -(1 - target).pow(forgiveness) * F.logsigmoid(-logits))
    if judged is not None:
        centre, miss = centre & judged, torch.where(judged, miss, 0)
    hardest = miss.flatten().topk(min(negatives * max(lesions, len(logits)), miss.numel())).values
    hit = torch.where(centre, -F.logsigmoid(logits), 0)
    return (hit.sum() + weight / negatives * hardest.sum()) / centre.sum().clamp(min=1)


def regression_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 - GIoU of decoded boxes and their lesions (Rezatofighi et al. 2019), averaged; 0 (with a gradient path)
    without pairs.

    Args:
        boxes: [P, 6] decoded.
        targets: [P, 6].
    """
    if len(boxes) == 0:
        return boxes.sum() * 0
    return (1 - paired_giou(boxes, targets)).mean()


LEFT_OUT = -100
"""Class of voxels that a cross entropy leaves out."""


def segmentation_loss(
    logits: Tensor,
    foreground: Tensor,
    foreground_weight: float = 1.0,
    smooth: float = 1e-5,
    judged: Tensor | None = None,
) -> Tensor:
    """0.5 cross entropy + 0.5 soft Dice loss of the foreground, the Dice over the whole batch as in nnDetection.

    Over a batch without any foreground the Dice term would only push noise, so it is left out there. Without any
    image the loss is 0, with a path for gradients.

    Args:
        logits: [B, 2, Z, Y, X], background first.
        foreground: [B, Z, Y, X], 1 inside lesions.
        foreground_weight: weight of a lesion's voxels in the cross entropy. Lesions fill about one voxel in 10,000;
            with weight 1 the network first learns to call everything background, where the Dice term has no gradient,
            and leaves that state only after thousands of steps.
        smooth: keeps the quotient defined.
        judged: [B, Z, Y, X], not 0 for the voxels that count; None takes all. Without any the loss is 0.
    """
    if len(logits) == 0 or (judged is not None and not judged.any()):
        return logits.sum() * 0
    weights = logits.new_tensor([1.0, foreground_weight])
    classes = foreground.long()
    probability = logits.softmax(dim=1)[:, 1]
    target = foreground.to(probability.dtype)
    if judged is not None:
        classes = classes.masked_fill(judged == 0, LEFT_OUT)
        probability, target = (torch.where(judged != 0, part, 0) for part in (probability, target))
    cross_entropy = F.cross_entropy(logits, classes, weights, ignore_index=LEFT_OUT)
    overlap = (probability * target).sum()
    dice = (2 * overlap + smooth) / (probability.sum() + target.sum() + smooth)
    has_lesion = (target.sum() > 0).to(probability.dtype)
    return 0.5 * cross_entropy + 0.5 * has_lesion * (1 - dice)


def class_shares(classes: Tensor, count: int) -> Tensor:
    """[B, Z, Y, X] integers 0 .. count - 1 as [B, count, Z, Y, X]: which share of each voxel a class covers, 0 or 1."""
    return F.one_hot(classes.long(), count).movedim(-1, 1).float()


def dice_and_cross_entropy(
    logits: Tensor, shares: Tensor, voxel_weights: Tensor | None = None, smooth: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Soft Dice loss (Milletari et al. 2016) and cross entropy of a map of classes, as nnU-Net adds them up.

    The Dice of each class is taken over the whole batch; its mean leaves out the background, and classes of which the
    batch holds nothing, over which the term would only push noise.

    Args:
        logits: [B, K, Z, Y, X], background first.
        shares: [B, K, Z, Y, X], which share of each voxel a class covers, as ``class_shares`` gives them.
        voxel_weights: [B, Z, Y, X] weights of the voxels in the cross entropy, whose mean is then a weighted one.
        smooth: keeps the quotient defined.

    Returns:
        two scalars; the Dice loss is 0 (with a path for gradients) where the batch is all background.
    """
    logits = logits.float()  # under mixed precision sums over a hundred thousand voxels would lose the small classes
    entropy = F.cross_entropy(logits, shares, reduction="none")
    cross_entropy = entropy.mean() if voxel_weights is None else (entropy * voxel_weights).sum() / voxel_weights.sum()
    probability = logits.softmax(dim=1)
    over = (0, 2, 3, 4)
    volume = shares.sum(over)[1:]
    overlap = (probability * shares).sum(over)[1:]
    dice = (2 * overlap + smooth) / (probability.sum(over)[1:] + volume + smooth)
    present = (volume > 0).to(dice.dtype)
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1), cross_entropy


def stage_losses(
    stages: Sequence[Tensor], shares: Tensor, voxel_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Soft Dice loss and cross entropy over the stages of a decoder (deep supervision, Lee et al. 2015).

    Each coarser stage counts half as much as the one above it. There a voxel may belong to several classes; it is
    compared with the share of each, so that what is smaller than such a voxel is still seen.

    Args:
        stages: logits [B, K, z, y, x], the full resolution first.
        shares, voxel_weights: as for ``dice_and_cross_entropy``, at full resolution.

    Returns:
        two scalars, weighted means over the stages.
    """
    total = shares.new_zeros(2)
    for stage, logits in enumerate(stages):
        size = logits.shape[2], logits.shape[3], logits.shape[4]
        pooled = None if voxel_weights is None else F.adaptive_avg_pool3d(voxel_weights[:, None], size)[:, 0]
        total += 0.5**stage * torch.stack(dice_and_cross_entropy(logits, F.adaptive_avg_pool3d(shares, size), pooled))
    dice, cross_entropy = total / (2 - 0.5 ** (len(stages) - 1))
    return dice, cross_entropy
