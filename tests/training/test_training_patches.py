"""Patches: what they hold, and that they depend on seed and index alone."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from cmb_plugin.images import Grid
from cmb_plugin.preparation import Normalisation, Preprocessing, preprocess_case, save_case
from cmb_plugin.training import Augmentation, AugmentConfig, PatchDataset, PreparedCases, Sample
from cmb_plugin.training.augmentation import seeded
from cmb_plugin.training.config import AUGMENT_PRESETS
from cmb_plugin.training.patches import StepSampler, collate, domain_shares

PATCH = (16, 24, 20)
ALWAYS = AugmentConfig(spatial=1.0, noise=1.0, blur=1.0, brightness=1.0, contrast=1.0, low_resolution=1.0, gamma=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two cases with two lesions each, one healthy, one smaller than a patch."""
    folder = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)
    recipe = Preprocessing(spacing=(1.0, 1.0, 1.0), normalisation=(Normalisation(), Normalisation("none")))
    for name, shape, lesions in [
        ("a", (30, 40, 50), 2),
        ("b", (30, 40, 50), 2),
        ("c", (30, 40, 50), 0),
        ("d", (8, 8, 8), 1),
    ]:
        image = rng.normal(5, 1, size=(2, *shape)).astype(np.float32)
        mask = np.zeros(shape, dtype=np.int16)
        for i in range(1, lesions + 1):
            z, y, x = (s * i // (lesions + 1) for s in shape)
            mask[z : z + 2, y : y + 3, x : x + 1] = i
        image[1] = mask  # the second channel shows where the mask must be after every spatial change
        prepared = preprocess_case(image, Grid(shape, (1.0, 1.0, 1.0)), mask, recipe)
        save_case(folder, name, prepared, {i: i % 2 for i in range(1, lesions + 1)})
    return folder


def dataset(folder, ids="abcd", augment=None, fraction=0.5, seed=0, domain=None, balance=0.0, batch_size=4):
    augmentation = Augmentation(PATCH, (1.0, 1.0, 1.0), augment) if augment else None
    return PatchDataset(
        PreparedCases(folder, tuple(ids), domain or {}),
        batch_size=batch_size,
        foreground_fraction=fraction,
        augmentation=augmentation,
        patch_size=PATCH,
        seed=seed,
        domain_balance=balance,
    )


def test_a_patch_says_where_it_was_read(folder):
    data = dataset(folder, "ab")
    for sample in items(data):
        case, *first = sample.place
        stored = np.asarray(data.case(case).data[:])
        z, y, x = (slice(max(0, start), start + side) for start, side in zip(first, PATCH, strict=True))
        inside = sample.image[(slice(None), *(slice(max(0, -s), None) for s in first))]
        expected = torch.from_numpy(stored[:, z, y, x])
        torch.testing.assert_close(inside[(slice(None), *(slice(0, n) for n in expected.shape[1:]))], expected)


def items(data, count=24) -> Iterator:
    return (data[index] for index in range(count))


def test_half_of_every_batch_holds_a_lesion(folder):
    data = dataset(folder)
    for first in range(0, 40, 4):
        assert all(len(data[first + slot].boxes) for slot in (2, 3))


@pytest.mark.parametrize(("batch_size", "fraction"), [(1, 0.5), (4, 0.1), (5, 0.5), (3, 1.0), (2, 0.0)])
def test_the_share_of_lesions_holds_over_batches_of_any_size(folder, batch_size, fraction):
    data = dataset(folder, "a", batch_size=batch_size, fraction=fraction)
    wanted = [data.wants_lesion(index) for index in range(40 * batch_size)]
    assert sum(wanted) == round(fraction * len(wanted))
    for sample, wants in zip(items(data), wanted, strict=False):
        assert len(sample.boxes) or not wants


def test_few_cases_are_open_at_a_time(folder, monkeypatch):
    """Each takes file handles, of which a process has few: 600 scans need more than a usual one may have."""
    monkeypatch.setattr("cmb_plugin.training.patches.MOST_OPEN", 2)
    data = dataset(folder, "abc")
    unlimited = [sample.image for sample in items(dataset(folder, "abc"))]
    for sample, image in zip(items(data), unlimited, strict=True):
        torch.testing.assert_close(sample.image, image, rtol=0, atol=0)
        assert len(data._open) <= 2


@pytest.mark.parametrize("augment", [None, ALWAYS])
def test_boxes_labels_and_foreground_agree(folder, augment):
    for sample in items(dataset(folder, augment=augment)):
        assert sample.image.shape == (2, *PATCH)
        drawn = torch.zeros(PATCH)
        for z0, y0, x0, z1, y1, x1 in sample.boxes.int().tolist():
            drawn[z0:z1, y0:y1, x0:x1] = 1
        assert (drawn[sample.foreground > 0] == 1).all()
        assert len(sample.boxes) == len(sample.labels) <= 2
        assert sample.image.isfinite().all()


def test_spatial_changes_move_image_and_mask_together(folder):
    spatial_only = AugmentConfig(spatial=1.0, noise=0, blur=0, brightness=0, contrast=0, low_resolution=0, gamma=0)
    shown = [(sample.image[1] > 0.5, sample.foreground > 0) for sample in items(dataset(folder, "ab", spatial_only))]
    shares = [(bright & mask).sum() / mask.sum() for bright, mask in shown if mask.sum() >= 4]
    assert len(shares) > 5
    assert min(shares) > 0.3


@pytest.mark.parametrize(("degrees", "scaling"), [(0, (0.7, 1.4)), (0, (0.7, 0.9)), (90, (1, 1)), (180, (1, 1))])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0)])
def test_patches_are_turned_by_any_angle_and_scaled_without_one(degrees, scaling, spacing):
    config = AugmentConfig(spatial=1.0, rotation_degrees=degrees, scaling=scaling, mirror=0, noise=0, blur=0,
                           brightness=0, contrast=0, low_resolution=0, gamma=0)  # fmt: skip
    augmentation = Augmentation(PATCH, spacing, config)
    rng = np.random.default_rng(0)
    size = augmentation.source_size(rng)
    assert all(a >= b for a, b in zip(size, PATCH, strict=True))
    assert max(size) <= np.ceil(np.linalg.norm(PATCH) * 1.5)
    image = torch.from_numpy(rng.normal(size=(1, *size)).astype(np.float32))
    mask = torch.zeros(size, dtype=torch.int16)
    inner = augmentation._cropped({"image": image})["image"]
    for seed in range(5):
        changed, _ = augmentation(image, mask, seed)
        assert changed.shape == inner.shape
        assert not torch.allclose(changed, inner, atol=0.1)


def test_phase_is_turned_on_its_circle():
    only_spatial = AugmentConfig(
        spatial=1, mirror=0, noise=0, blur=0, brightness=0, contrast=0, low_resolution=0, gamma=0
    )
    augmentation = Augmentation(PATCH, (1.0, 1.0, 1.0), only_spatial, circular=(False, True))
    size = augmentation.source_size(np.random.default_rng(0))
    z, y, x = torch.meshgrid(*(torch.arange(float(side)) - side / 2 for side in size), indexing="ij")
    ramp = 0.3 * x + 0.2 * y - 0.1 * z  # radians; linear, so that it is turned exactly where it does not wrap
    wrapped = torch.remainder(ramp + torch.pi, 2 * torch.pi) - torch.pi
    nothing = torch.zeros(size, dtype=torch.int16)
    for seed in range(5):
        smooth, phase = augmentation(torch.stack([ramp, wrapped]), nothing, seed)[0]
        inside = augmentation(torch.ones(2, *size), nothing, seed)[0][0] > 1 - 1e-6  # nothing from beyond the scan
        difference = torch.remainder(phase - smooth + torch.pi, 2 * torch.pi) - torch.pi
        assert inside.float().mean() > 0.5
        assert difference[inside].abs().max() < 0.02
        assert phase.abs().max() <= torch.pi + 1e-6


def test_a_rotated_tiny_lesion_is_never_lost(folder):
    spatial_only = AugmentConfig(spatial=1.0, scaling=(1.4, 1.4))  # shrunk, the worst case
    data = dataset(folder, "ab", spatial_only)
    lesions = sum(len(data[index].boxes) > 0 for index in range(400) if index % 4 >= 2)
    # A lesion may leave the patch near its corners, but the centre two thirds always keep theirs.
    assert lesions >= 0.85 * 200


def test_an_item_depends_on_seed_and_index_alone(folder):
    first, second = dataset(folder, augment=ALWAYS), dataset(folder, augment=ALWAYS)
    list(items(second, 5))
    torch.manual_seed(99)
    a, b = first[7], second[7]
    torch.testing.assert_close(a.image, b.image, rtol=0, atol=0)
    torch.testing.assert_close(a.boxes, b.boxes, rtol=0, atol=0)
    assert not torch.equal(a.image, dataset(folder, augment=ALWAYS, seed=1)[7].image)
    assert not torch.equal(a.image, first[11].image)


def test_drawing_a_patch_leaves_the_global_generators_alone(folder):
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    _ = dataset(folder, augment=ALWAYS)[3]
    assert (torch.rand(1), np.random.rand()) == expected


def test_a_healthy_only_data_set_gives_patches_without_lesions(folder):
    assert all(len(sample.boxes) == 0 for sample in items(dataset(folder, "c", ALWAYS), 8))


def test_a_scan_smaller_than_the_patch_is_padded(folder):
    sample = dataset(folder, "d")[3]
    assert sample.image.shape == (2, *PATCH)
    assert len(sample.boxes) == 1


def test_batches_stack_images_and_keep_boxes_apart(folder):
    batch = collate([dataset(folder)[i] for i in range(4)])
    assert batch.images.shape == (4, 2, *PATCH)
    assert [len(b) for b in batch.boxes] == [len(lab) for lab in batch.labels]


def test_a_trainers_own_data_travel_with_the_batch():
    samples = [
        Sample(torch.zeros(1, 2, 2, 2), torch.zeros(0, 6), torch.zeros(0), torch.zeros(2, 2, 2), extra={"age": age})
        for age in (torch.tensor([61.0]), torch.tensor([83.0]))
    ]
    batch = collate(samples)
    assert batch.extra["age"].tolist() == [[61.0], [83.0]]
    assert batch.class_map is None  # their data set knows no classes of voxels


def test_a_loader_that_pins_memory_pins_every_tensor_of_a_batch(folder, monkeypatch):
    from torch.utils.data._utils.pin_memory import pin_memory  # what a DataLoader calls where there is a GPU

    batch = collate(list(items(dataset(folder), 4)))
    batch.extra, batch.judged = {"age": torch.zeros(4, 1)}, None
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: pinned.append(self) or self.clone())

    again = pin_memory(batch)

    tensors = [batch.images, *batch.boxes, *batch.labels, batch.foreground, batch.outlined, batch.places]
    tensors += [batch.class_map, batch.extra["age"]]
    assert {id(t) for t in pinned} == {id(t) for t in tensors}
    assert again.judged is None
    assert again.images is not batch.images
    torch.testing.assert_close(again.boxes, batch.boxes)
    torch.testing.assert_close(again.extra["age"], batch.extra["age"])


def test_thick_slices_are_not_rotated_out_of_plane():
    assert Augmentation(PATCH, (4.0, 0.5, 0.5), ALWAYS)._rotates[1:] == (0.0, 0.0)
    assert all(Augmentation(PATCH, (1.5, 1.2, 1.2), ALWAYS)._rotates)


def test_no_index_is_drawn_twice_over_epochs_and_ranks():
    seen = []
    for epoch in range(3):
        for rank in range(2):
            sampler = StepSampler(steps=5, batch_size=4, rank=rank, world_size=2)
            sampler.set_epoch(epoch)
            assert len(sampler) == len(list(sampler)) == 20
            seen += list(sampler)
    assert sorted(seen) == list(range(120))


def test_slots_of_a_batch_keep_their_meaning_on_every_rank():
    sampler = StepSampler(steps=2, batch_size=4, rank=1, world_size=3)
    assert [index % 4 for index in sampler] == [0, 1, 2, 3] * 2


def test_seeding_is_undone_after_an_error():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(3):
        _ = 1 / 0
    assert torch.equal(before, torch.get_rng_state())


def test_a_modality_that_a_case_lacks_stays_empty_in_augmentation(tmp_path):
    image = np.random.default_rng(0).normal(5, 1, size=(2, 30, 40, 50)).astype(np.float32)
    image[1] = 0
    recipe = Preprocessing(spacing=(1.0, 1.0, 1.0), normalisation=(Normalisation(), Normalisation("qsm")))
    prepared = preprocess_case(image, Grid((30, 40, 50), (1.0, 1.0, 1.0)), np.zeros((30, 40, 50), dtype=int), recipe)
    save_case(tmp_path, "a", prepared, {})
    data = dataset(tmp_path, "a", ALWAYS)
    assert data.case(0).missing == (1,)
    for index in range(4):
        seen = data[index].image
        assert seen[0].std() > 0
        assert not seen[1].any()


def test_shares_go_from_scans_to_domains():
    domains = ["large"] * 8 + ["small"] * 2
    assert domain_shares(domains, 0.0) is None
    assert domain_shares(["one"] * 3, 1.0) is None
    even, between = domain_shares(domains, 1.0), domain_shares(domains, 0.5)
    assert even[:8].sum() == pytest.approx(0.5)
    assert between[:8].sum() / between[8:].sum() == pytest.approx(np.sqrt(8 / 2))  # n^(1 - balance)
    assert len(set(even[:8])) == 1


def test_a_small_domain_is_drawn_as_often_as_a_large_one(folder):
    domain = {"a": "large", "b": "large", "c": "large", "d": "small"}
    places = {0.0: [], 1.0: []}
    for balance, drawn in places.items():
        data = dataset(folder, domain=domain, balance=balance)
        rng = np.random.default_rng(0)
        drawn += [data.place(bool(i % 2), PATCH, rng)[0] for i in range(1200)]
    assert places[0.0].count(3) / 1200 == pytest.approx((1 / 4 + 1 / 3) / 2, abs=0.04)
    assert places[1.0].count(3) / 1200 == pytest.approx(1 / 2, abs=0.04)


def test_without_balance_domains_change_no_patch(folder):
    plain, known = dataset(folder), dataset(folder, domain={"a": "one", "b": "two"})
    for first, second in zip(items(plain, 12), items(known, 12), strict=True):
        assert first.place == second.place
        assert torch.equal(first.image, second.image)


def test_the_preset_for_domains_changes_intensities_and_no_lesion(folder):
    config = AugmentConfig(**{key.partition(".")[2]: 1.0 for key in AUGMENT_PRESETS["domains"]}, spatial=0, mirror=0)
    for plain, changed in zip(items(dataset(folder), 8), items(dataset(folder, augment=config), 8), strict=True):
        assert torch.isfinite(changed.image).all()
        assert not torch.allclose(plain.image, changed.image)
        assert len(plain.boxes) == len(changed.boxes) or plain.place != changed.place


def test_a_bias_field_is_smooth_and_leaves_the_mean(folder):
    config = AugmentConfig(**dict.fromkeys(("spatial", "mirror", "noise", "blur", "brightness", "contrast"), 0.0),
                           low_resolution=0, gamma=0, bias_field=1.0)  # fmt: skip
    image = torch.zeros(1, *PATCH)
    field, _ = Augmentation(PATCH, (1.0, 1.0, 1.0), config)(image, torch.zeros(PATCH, dtype=torch.int16), 3)
    assert field.abs().max() > 0.01
    assert float(field.mean()) == pytest.approx(0, abs=1e-4)
    steps = [field.diff(dim=axis).abs().max() for axis in (1, 2, 3)]
    assert max(steps) < 0.3 * (field.max() - field.min())
