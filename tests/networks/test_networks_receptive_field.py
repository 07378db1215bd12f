import numpy as np
import pytest
import torch
from cmb_plugin.trainers.cmb.fusion import FeatureFusion
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cmb_plugin.networks import (
    DetectionHead,
    FeaturePyramid,
    ReceptiveField,
    RetinaUNet,
    SegmentationHead,
    build_encoder,
    encoder_fields,
    fused_field,
    pyramid_fields,
    retina_unet_halo,
)
from cmb_plugin.planning import Architecture


@st.composite
def architectures(draw):
    stages = draw(st.integers(2, 3))
    per_axis = st.tuples(*[st.sampled_from([1, 2])] * 3)
    kernels = st.tuples(*[st.sampled_from([1, 3])] * 3)
    first = draw(st.integers(0, stages - 1))
    return Architecture(
        features=(1,) * stages,
        strides=((1, 1, 1), *(draw(per_axis) for _ in range(stages - 1))),
        kernels=tuple(draw(kernels) for _ in range(stages)),
        convs_per_stage=tuple(draw(st.integers(1, 2)) for _ in range(stages)),
        pyramid_channels=8,
        detection_levels=tuple(range(first, draw(st.integers(first + 1, stages)))),
    )


def summing(network):
    """The network with all weights 1 and nothing but its convolutions: no gradient cancels."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm | nn.InstanceNorm3d | nn.ReLU):
                setattr(module, name, nn.Identity())
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    return network.double()


def retina_unet(architecture, fused_levels, tower):
    levels = architecture.detection_levels
    pyramid = FeaturePyramid(architecture)
    fused = range(levels[0], min(levels[0] + fused_levels, len(architecture.features)))
    return summing(
        RetinaUNet(
            build_encoder(1, architecture),
            pyramid,
            DetectionHead(8, anchors=1, classes=1, levels=len(levels), convs=tower),
            SegmentationHead(pyramid.widths[0]),
            levels,
            FeatureFusion([pyramid.widths[level] for level in fused], "none") if len(fused) > 1 else None,
            len(fused),
        )
    )


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@settings(max_examples=15, deadline=None)
@given(architectures(), st.integers(1, 3), st.integers(0, 1), st.data())
def test_the_gradient_of_a_location_reaches_as_far_as_the_field_and_no_farther(architecture, fused, tower, data):
    network = retina_unet(architecture, fused, tower)
    halo = retina_unet_halo(architecture, fused, head_convs=tower + 1)
    divisor = architecture.divisor
    # A cell of the coarsest map with so many around it that no border is near.
    around = [-(-h // d) for h, d in zip(halo, divisor, strict=True)]
    shape = [d * (2 * n + 1) for d, n in zip(divisor, around, strict=True)]
    image = torch.zeros(1, 1, *shape, dtype=torch.float64, requires_grad=True)
    output = network(image)
    which = data.draw(st.integers(-1, len(output.map_shapes) - 1))
    level = 0 if which < 0 else architecture.detection_levels[which]
    stride = architecture.stride_of(level)
    place = [data.draw(st.integers(0, d // s - 1)) for d, s in zip(divisor, stride, strict=True)]
    location = [d * n // s + p for d, n, s, p in zip(divisor, around, stride, place, strict=True)]
    if which < 0:
        answer = output.segmentation[0, 0][tuple(location)]
    else:
        before = sum(int(np.prod(size)) for size in output.map_shapes[:which])
        answer = output.logits[0, before + int(np.ravel_multi_index(location, output.map_shapes[which])), 0]
    (gradient,) = torch.autograd.grad(answer, image)
    for axis in range(3):
        stages = encoder_fields(architecture, axis)
        maps = pyramid_fields(stages, [k[axis] for k in architecture.kernels], (0, *architecture.detection_levels))
        field = maps[0]
        if which >= 0:
            finest = which == 0
            field = fused_field(maps[level : level + fused]) if finest else maps[level]
            field = field.convs(3, tower + 1)
        low, high = (int(end[0]) for end in field.at(np.array([location[axis]])))
        reached = gradient[0, 0].abs().amax(dim=[d for d in range(3) if d != axis]).nonzero()
        assert (int(reached.min()), int(reached.max())) == (low, high)
        first = location[axis] * stride[axis]
        assert low >= first - halo[axis]
        assert high < first + stride[axis] + halo[axis]


def test_a_stack_of_convolutions_sees_the_sum_of_its_kernels():
    field = ReceptiveField.of_input(1).conv(3).conv(5).conv(3, dilation=4)
    assert field.halo == 1 + 2 + 4


def test_a_location_that_a_coarse_map_reaches_looks_farthest_from_the_far_end_of_its_cell():
    field = ReceptiveField.of_input(8).conv(3).conv(1, stride=8).upsampled(8)
    np.testing.assert_array_equal(field.low, [-1] * 8)
    np.testing.assert_array_equal(field.high, [1] * 8)
    assert field.halo == 8
