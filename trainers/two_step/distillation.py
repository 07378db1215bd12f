"""Knowledge distillation: a student learns from the labels and from what its teacher says."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def distillation_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 4.0, alpha: float = 0.4
) -> Tensor:
    """Hinton et al. 2015 (arXiv 1503.02531) with the values of Sundaresan et al. 2023:

        L = a T^2 KL(softmax(teacher / T) || softmax(student / T)) + (1 - a) CE(student, labels).

    T^2 keeps the gradients of the first term as large as those of the second, whatever T. No gradient reaches the
    teacher.

    Args:
        student: [N, K] logits.
        teacher: [N, K] logits.
        labels: [N] class indices.
        temperature: T, above 0.
        alpha: a; 0 learns from the labels alone, 1 from the teacher alone.

    Returns:
        a scalar, the mean over N.
    """
    student, teacher = student.float(), teacher.detach().float()
    divergence = F.kl_div(
        F.log_softmax(student / temperature, dim=1),
        F.log_softmax(teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return alpha * temperature**2 * divergence + (1 - alpha) * F.cross_entropy(student, labels)
