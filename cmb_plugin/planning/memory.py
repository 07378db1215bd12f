"""Memory of a training step: what to plan for, and an estimate from the plan alone, the same answer everywhere."""

from __future__ import annotations

import math

from cmb_plugin.errors import UserError

from .plan import Architecture, Triple

GIB = 1024**3
DEFAULT_BUDGET_GB = 4.0  # wherever nndet_prep runs; docs/planning.md has the numbers that it was chosen by
AUTO = "auto"
AUTO_WITHOUT_GPU_GB = 2.0  # fits beside a desktop


def find_budget(gpu_memory_gb: float | str = DEFAULT_BUDGET_GB) -> tuple[float, str]:
    """The memory to plan for in GB, and a sentence that says where the number comes from.

    Args:
        gpu_memory_gb: what the user asked for, or ``auto`` for the memory of this machine's first CUDA device.

    Raises:
        UserError: it is neither a positive number nor ``auto``.
    """
    if gpu_memory_gb == AUTO:
        return _budget_here()
    if isinstance(gpu_memory_gb, str) or not 0 < gpu_memory_gb < math.inf:
        raise UserError(
            f"planner_cfg.gpu_memory_gb={gpu_memory_gb}", remedy=f"give the memory in GB, for instance 8, or {AUTO}"
        )
    if gpu_memory_gb == DEFAULT_BUDGET_GB:
        return DEFAULT_BUDGET_GB, (
            f"Planned for {DEFAULT_BUDGET_GB:g} GB, the default on every machine; planner_cfg.gpu_memory_gb=11 plans "
            "for more, planner_cfg.gpu_memory_gb=2 for a CPU."
        )
    return float(gpu_memory_gb), f"Planned for {gpu_memory_gb:g} GB, as asked for by planner_cfg.gpu_memory_gb."


def _budget_here() -> tuple[float, str]:
    """The same for this machine."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        memory = round(properties.total_memory / GIB, 1)
        return memory, f"Planned for {memory:g} GB, the memory of {properties.name} (planner_cfg.gpu_memory_gb={AUTO})."
    return AUTO_WITHOUT_GPU_GB, (
        f"Planned for {AUTO_WITHOUT_GPU_GB:g} GB, as no CUDA device was found (planner_cfg.gpu_memory_gb={AUTO})."
    )


def estimate_training_gb(
    architecture: Architecture,
    patch_size: Triple,
    batch_size: int,
    modalities: int,
    classes: int,
    anchors_per_location: int,
    fused_maps: int = 0,
) -> float:
    """Peak memory in GB (2^30 bytes) of one optimisation step in float32, network and process together.

    Counts what automatic differentiation keeps: for every convolution its output and the normalised one; per level of
    the pyramid the merged map and one after a convolution (on the safe side where no head reads it); per location of
    the heads both towers, the outputs of all anchors and their rearranged copies. Weights count five times (value,
    gradient, two moments of the optimiser, running average). benchmarks/speed/training_memory.py compares it with real
    steps: 0 to 16 % more than they took. Mixed precision needs less. ``fused_maps`` more maps of the pyramid's width
    are kept on the finest detection level, for trainers that fuse levels there.
    """
    kept = 0.0
    largest = 0.0
    weights = _weights(architecture, modalities, classes, anchors_per_location)
    finest = architecture.detection_levels[0]
    for stage, features in enumerate(architecture.features):
        stride = architecture.stride_of(stage)
        voxels = math.prod(side / step for side, step in zip(patch_size, stride, strict=True))
        width = pyramid_width(architecture, stage)
        numbers = 2.0 * architecture.convs_per_stage[stage] * features + 2 * width
        if stage in architecture.detection_levels:
            numbers += 4 * architecture.pyramid_channels + anchors_per_location * (
                _PER_ANCHOR + _PER_ANCHOR_CLASS * classes
            )
        if stage == finest:
            numbers += fused_maps * architecture.pyramid_channels
        if stage == 0:
            numbers += modalities + _SEGMENTATION
        kept += voxels * numbers
        largest = max(largest, voxels * max(features, width, architecture.pyramid_channels * (stage >= finest)))
    total = batch_size * (kept + _PASSING_MAPS * largest) + 5 * weights
    return total * 4 / GIB + _PROCESS_GB


def estimate_unet_gb(
    architecture: Architecture, patch_size: Triple, batch_size: int, modalities: int, classes: int
) -> float:
    """The same for a U-Net with skip connections and a decoder that mirrors the encoder (``networks.UNet``).

    Kept of the decoder on each stage: the upsampled map, the joined one, and of every convolution its output and the
    normalised one; on the finest the scores of the classes and the background, their softmax, target and gradients.
    """
    kept, largest, weights, incoming = 0.0, 0.0, 0, modalities
    stages = len(architecture.features)
    for stage, (features, kernel) in enumerate(zip(architecture.features, architecture.kernels, strict=True)):
        stride, convs = architecture.stride_of(stage), architecture.convs_per_stage[stage]
        voxels = math.prod(side / step for side, step in zip(patch_size, stride, strict=True))
        in_decoder = stage < stages - 1
        kept += voxels * features * (2.0 * convs + in_decoder * (3 + 2 * convs))
        largest = max(largest, voxels * features * (1 + in_decoder))
        weights += math.prod(kernel) * features * (incoming + (convs - 1) * features)
        weights += in_decoder * math.prod(kernel) * features * (convs + 1) * features
        incoming = features
    kept += math.prod(patch_size) * (modalities + 6 * (classes + 1))
    total = batch_size * (kept + _PASSING_MAPS * largest) + 5 * weights
    return total * 4 / GIB + _PROCESS_GB


def pyramid_width(architecture: Architecture, stage: int) -> int:
    """Channels of the pyramid's map at ``stage``: halved below the finest detection level, but not under 8."""
    below = max(0, architecture.detection_levels[0] - stage)
    return max(8, architecture.pyramid_channels >> below)


_PER_ANCHOR = 32  # anchor, deltas, their scaled, rearranged, joined and decoded copies, six numbers each
_PER_ANCHOR_CLASS = 4  # logit, its copies and its gradient
_SEGMENTATION = 12  # two logits, softmax, targets and their gradients
_PASSING_MAPS = 3  # gradients that live at the same time in the backward pass, and the workspace of a convolution
_PROCESS_GB = 0.5  # Python, torch and its libraries; on a GPU about the same for the context


def _weights(architecture: Architecture, modalities: int, classes: int, anchors: int) -> int:
    """Number of weights of the network."""
    total, incoming = 0, modalities
    for stage, (features, kernel) in enumerate(zip(architecture.features, architecture.kernels, strict=True)):
        volume = math.prod(kernel)
        total += volume * features * (incoming + (architecture.convs_per_stage[stage] - 1) * features)
        width = pyramid_width(architecture, stage)
        total += features * width
        if stage == 0 or stage in architecture.detection_levels:  # the maps that heads read
            total += volume * width * width
        if stage:
            total += pyramid_width(architecture, stage - 1) * width * math.prod(architecture.strides[stage])
        incoming = features
    width = architecture.pyramid_channels
    return total + 27 * width * (2 * width + anchors * (6 + classes))
