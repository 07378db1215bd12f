"""Shapes and beginnings of the network, also for anisotropic plans."""

import math

import pytest
import torch

from cmb_plugin.errors import UserError
from cmb_plugin.networks import (
    DetectionHead,
    FeaturePyramid,
    RetinaUNet,
    SegmentationHead,
    build_encoder,
    pyramid_widths,
    resolve_precision,
)
from cmb_plugin.planning import Architecture

ISOTROPIC = Architecture(
    features=(8, 16, 32),
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    kernels=((3, 3, 3),) * 3,
    convs_per_stage=(2, 2, 2),
    pyramid_channels=16,
    detection_levels=(1, 2),
)
THICK = Architecture(
    features=(8, 16, 32),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    kernels=((1, 3, 3), (1, 3, 3), (3, 3, 3)),
    convs_per_stage=(1, 1, 1),
    pyramid_channels=16,
    detection_levels=(1, 2),
)


def build(architecture: Architecture, anchors: int = 3, classes: int = 2) -> RetinaUNet:
    pyramid = FeaturePyramid(architecture)
    head = DetectionHead(architecture.pyramid_channels, anchors, classes, levels=len(architecture.detection_levels))
    return RetinaUNet(
        build_encoder(2, architecture),
        pyramid,
        head,
        SegmentationHead(pyramid.widths[0]),
        architecture.detection_levels,
    )


@pytest.mark.parametrize(
    ("architecture", "expected"), [(ISOTROPIC, [(8, 8, 8), (4, 4, 4)]), (THICK, [(16, 8, 8), (8, 4, 4)])]
)
def test_maps_have_the_strides_of_the_plan(architecture, expected):
    output = build(architecture)(torch.randn(1, 2, 16, 16, 16))
    assert output.map_shapes == expected
    anchors = sum(math.prod(shape) for shape in expected) * 3
    assert output.logits.shape == (1, anchors, 2)
    assert output.deltas.shape == (1, anchors, 6)
    assert output.segmentation.shape == (1, 2, 16, 16, 16)


def test_every_score_begins_at_the_prior():
    output = build(ISOTROPIC)(torch.randn(1, 2, 16, 16, 16))
    assert output.logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.2)


def test_head_orders_anchors_by_location_then_size():
    head = DetectionHead(channels=4, anchors=3, classes=1, levels=1, convs=0)
    with torch.no_grad():
        head.logits.weight.zero_()
        head.logits.weight[:, 0, 1, 1, 1] = torch.tensor([1.0, 10.0, 100.0])
        head.logits.bias.zero_()
    features = torch.zeros(1, 4, 1, 2, 2)
    features[0, 0, 0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    logits, _ = head([features])
    assert logits[0, :, 0].tolist() == [1, 10, 100, 2, 20, 200, 3, 30, 300, 4, 40, 400]


def test_pyramid_is_full_width_from_the_finest_detection_level_on():
    deep = Architecture((8,) * 4, ((1, 1, 1), *((2, 2, 2),) * 3), ((3, 3, 3),) * 4, (1,) * 4, 64, (2, 3))
    assert pyramid_widths(deep) == [16, 32, 64, 64]


def test_float16_on_a_cpu_is_an_error_that_says_what_to_use():
    with pytest.raises(UserError, match="bf16-mixed or 32-true"):
        resolve_precision("16-mixed", torch.device("cpu"))


def test_unknown_precision_names_the_known_ones():
    with pytest.raises(UserError, match="32-true"):
        resolve_precision("fp32", torch.device("cpu"))
