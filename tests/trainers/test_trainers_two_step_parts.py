"""Radial symmetry, distillation and crops, against spheres whose centre is known, scipy's entropies and slices."""

import math

import numpy as np
import pytest
import torch
from cmb_plugin.trainers.two_step.crops import CropStudent, CropTeacher, cut_crops, middle
from cmb_plugin.trainers.two_step.distillation import distillation_loss
from cmb_plugin.trainers.two_step.gaussian import blurred
from cmb_plugin.trainers.two_step.radial_symmetry import radial_symmetry
from scipy.ndimage import gaussian_filter
from scipy.special import log_softmax, rel_entr, softmax

from cmb_plugin.planning import Architecture

SPACINGS = [(0.8, 0.8, 0.8), (2.0, 0.6, 0.6), (3.0, 0.8, 0.8)]


def smooth_shape(distance_mm, radius=2.4):
    """Bright inside, with an edge as a scanner blurs it."""
    return torch.sigmoid((radius - distance_mm) / 0.4)


def grid_mm(shape, spacing):
    axes = [torch.arange(n) * side for n, side in zip(shape, spacing, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def shape_of(spacing):
    return tuple(round(24 / side) for side in spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("offset", [(0.0, 0.0, 0.0), (0.3, -0.4, 0.2)])
def test_the_centre_of_a_sphere_is_found_within_half_a_voxel(spacing, offset):
    shape = shape_of(spacing)
    centre = np.array([n // 2 for n in shape]) + offset  # in voxels
    away = grid_mm(shape, spacing) - torch.tensor(centre * spacing).reshape(3, 1, 1, 1)
    response = radial_symmetry(smooth_shape(away.norm(dim=0))[None].float(), spacing)[0].numpy()
    peak = np.array(np.unravel_index(response.argmax(), shape))
    around = tuple(slice(p - 1, p + 2) for p in peak)
    weights = response[around] / response[around].sum()
    found = [
        (np.arange(p - 1, p + 2) * weights.sum(axis=tuple({0, 1, 2} - {axis}))).sum() for axis, p in enumerate(peak)
    ]
    assert np.abs(np.array(found) - centre).max() < 0.5


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_tube_is_ignored(spacing, axis):
    shape = shape_of(spacing)
    middle = torch.tensor([n // 2 * side for n, side in zip(shape, spacing, strict=True)])
    away = grid_mm(shape, spacing) - middle.reshape(3, 1, 1, 1)
    noise = 0.05 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ball = radial_symmetry((smooth_shape(away.norm(dim=0)) + noise)[None], spacing).max()
    across = away[[other for other in range(3) if other != axis]].norm(dim=0)
    tube = radial_symmetry((smooth_shape(across) + noise)[None], spacing).max()
    assert tube < 0.15 * ball
    assert radial_symmetry(noise[None], spacing).max() < 0.01 * ball
    dark = radial_symmetry(-smooth_shape(away.norm(dim=0))[None], spacing)
    assert dark[0][tuple(n // 2 for n in shape)] < 0.05 * ball


@pytest.mark.parametrize("sigma", [0.5, 1.3])
def test_blur_is_scipys(sigma):
    images = torch.rand(2, 12, 20, 20)
    found = blurred(images, (2.0, 0.7, 0.7), sigma)
    radius = [max(1, math.ceil(3 * sigma / side)) for side in (2.0, 0.7, 0.7)]
    sides = np.array([2.0, 0.7, 0.7])
    expected = [gaussian_filter(image, sigma / sides, mode="constant", radius=radius) for image in images.numpy()]
    assert found.numpy() == pytest.approx(np.stack(expected), abs=1e-5)


def logits(seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(0, 3, (5, 3)), generator.normal(0, 3, (5, 3)), generator.integers(0, 3, 5)


@pytest.mark.parametrize(("temperature", "alpha"), [(4.0, 0.4), (1.0, 0.4), (4.0, 0.0), (4.0, 1.0), (1.0, 1.0)])
def test_distillation_is_the_published_formula(temperature, alpha):
    student, teacher, labels = logits()
    kl = rel_entr(softmax(teacher / temperature, axis=1), softmax(student / temperature, axis=1)).sum(axis=1).mean()
    cross_entropy = -log_softmax(student, axis=1)[np.arange(5), labels].mean()
    found = distillation_loss(torch.tensor(student), torch.tensor(teacher), torch.tensor(labels), temperature, alpha)
    assert found.item() == pytest.approx(alpha * temperature**2 * kl + (1 - alpha) * cross_entropy, rel=1e-5)


def test_limits_of_distillation():
    student, teacher, labels = (torch.tensor(values) for values in logits(1))
    assert distillation_loss(student, teacher, labels, alpha=0.0).item() == pytest.approx(
        torch.nn.functional.cross_entropy(student, labels).item()
    )
    plain = torch.nn.functional.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
    assert distillation_loss(student, teacher, labels, 1.0, 1.0).item() == pytest.approx(plain.item(), rel=1e-5)
    assert distillation_loss(teacher, teacher, labels, alpha=1.0).item() == pytest.approx(0, abs=1e-6)
    student.requires_grad_()
    teacher.requires_grad_()
    distillation_loss(student, teacher, labels).backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


def test_crops_are_slices_with_zeros_beyond_the_edge():
    images = torch.rand(2, 3, 10, 12, 14) + 1
    places = torch.tensor([[1, 5, 6, 7], [0, 0, 11, 13]])
    inside, corner = cut_crops(images, places, (4, 6, 8))
    assert torch.equal(inside, images[1, :, 3:7, 3:9, 3:11])
    assert torch.equal(corner[:, 2:, :4, :5], images[0, :, :2, 8:, 9:])
    assert (corner == 0).sum() == 3 * (4 * 6 * 8 - 2 * 4 * 5)
    assert cut_crops(images, places[:0], (4, 6, 8)).shape == (0, 3, 4, 6, 8)


def test_the_middle_of_a_crop_is_its_place_at_every_resolution():
    image = torch.zeros(1, 1, 16, 16, 16)
    image[..., 5:7, 6:8, 9:11] = torch.rand(2, 2, 2) + 1  # around the corner of voxel (6, 7, 10)
    crops = cut_crops(image, torch.tensor([[0, 6, 7, 10], [0, 6, 7, 2]]), (8, 8, 8))
    expected = image[image > 0].mean().item()
    assert middle(crops)[:, 0].tolist() == pytest.approx([expected, 0.0])
    halved = torch.nn.functional.avg_pool3d(crops, 2)
    assert middle(halved)[:, 0].tolist() == pytest.approx([expected / 8, 0.0])
    assert crops.amax(dim=(1, 2, 3, 4))[1] == 0
    assert cut_crops(image, torch.tensor([[0, 6, 7, 7]]), (8, 8, 8)).max() > 0  # seen, but not in the middle
    assert middle(cut_crops(image, torch.tensor([[0, 6, 7, 7]]), (8, 8, 8))).item() == 0


def test_teacher_and_student_use_all_their_weights():
    architecture = Architecture((4, 8), ((1, 1, 1), (1, 2, 2)), ((3, 3, 3),) * 2, (1, 1), 0, ())
    crops = torch.randn(3, 2, 4, 8, 8)
    teacher, student = CropTeacher(2, 3, architecture), CropStudent(2, 3, architecture)
    (voxels,), scores = teacher(crops)
    assert voxels.shape == (3, 2, 4, 8, 8)
    assert scores.shape == student(crops).shape == (3, 3)
    (voxels.square().sum() + scores.square().sum() + student(crops).square().sum()).backward()
    for network in (teacher, student):
        assert [name for name, weight in network.named_parameters() if weight.grad is None] == []
