"""The memory of mimics: the hardest lesion-free crops stay, what was learned goes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cmb_plugin.trainers.cmb.replay import MimicPatches, Replay

from cmb_plugin.images import Grid
from cmb_plugin.preparation import Preprocessing, preprocess_case, save_case
from cmb_plugin.training import Batch, PreparedCases

PATCH = (16, 24, 20)
ONE_PROCESS = SimpleNamespace(world_size=1)


def visit(replay: Replay, places: list[tuple[int, ...]], hardness: list[float], lesions: int = 0) -> None:
    boxes = [torch.zeros(lesions, 6)] * len(places)
    batch = Batch(torch.zeros(0), boxes, [], torch.zeros(0), places=torch.tensor(places))
    replay.on_train_batch_end(ONE_PROCESS, SimpleNamespace(hardness=torch.tensor(hardness)), {}, batch, 0)
    replay.on_train_epoch_end(ONE_PROCESS, None)


def remembered(replay: Replay) -> list[tuple[int, ...]]:
    return [tuple(place) for place in replay.places.tolist() if place[0] >= 0]


def test_the_hardest_places_are_kept():
    replay = Replay(2, (8, 8, 8))
    visit(replay, [(0, 0, 0, 0), (0, 8, 0, 0), (1, 0, 0, 0)], [0.1, 0.9, 0.5])
    assert remembered(replay) == [(0, 8, 0, 0), (1, 0, 0, 0)]
    visit(replay, [(2, 0, 0, 0)], [0.7])
    assert remembered(replay) == [(0, 8, 0, 0), (2, 0, 0, 0)]


def test_a_place_that_was_learned_is_forgotten():
    replay = Replay(1, (8, 8, 8))
    visit(replay, [(0, 8, 0, 0)], [0.9])
    visit(replay, [(0, 9, 1, 1), (3, 0, 0, 0)], [0.0, 0.2])
    assert remembered(replay) == [(3, 0, 0, 0)]


def test_crops_with_a_lesion_are_not_remembered():
    replay = Replay(4, (8, 8, 8))
    visit(replay, [(0, 8, 0, 0)], [0.9], lesions=1)
    assert remembered(replay) == []


def test_the_memory_travels_in_the_checkpoint():
    replay, resumed = Replay(3, (8, 8, 8)), Replay(3, (8, 8, 8))
    visit(replay, [(0, -4, 0, 0), (1, 8, 3, 0)], [0.1, 0.9])
    resumed.load_state_dict(replay.state_dict())
    assert remembered(resumed) == remembered(replay)
    visit(replay, [(1, 8, 3, 0)], [0.0])
    visit(resumed, [(1, 8, 3, 0)], [0.0])
    assert remembered(resumed) == remembered(replay)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """One case with a lesion in its middle and one without."""
    folder = tmp_path_factory.mktemp("prepared")
    recipe = Preprocessing(spacing=(1.0, 1.0, 1.0))
    for name in ("a", "healthy"):
        mask = np.zeros((30, 40, 50), dtype=np.int16)
        if name == "a":
            mask[14:17, 19:22, 24:27] = 1
        image = np.random.default_rng(0).normal(size=(1, *mask.shape)).astype(np.float32)
        prepared = preprocess_case(image, Grid(mask.shape, (1.0, 1.0, 1.0)), mask, recipe)
        save_case(folder, name, prepared, {1: 0} if mask.any() else {})
    return PreparedCases(folder, ("a", "healthy"))


def patches(cases, replay=None, fraction=0.0):
    options = {"batch_size": 4, "foreground_fraction": fraction, "augmentation": None, "patch_size": PATCH, "seed": 0}
    data = MimicPatches(cases, replay=replay, replay_fraction=1.0, **options)
    return [data[index] for index in range(40)]


def test_half_of_every_batch_holds_a_lesion_and_half_holds_none(cases):
    for index, sample in enumerate(patches(cases, fraction=0.5)):
        assert bool(len(sample.boxes)) == (index % 4 >= 2)


def test_remembered_places_are_drawn_again(cases):
    replay = torch.full((5, 4), -1)
    anywhere = [sample.place for sample in patches(cases, replay)]
    replay[2] = torch.tensor([1, 9, 11, 20])
    near = torch.tensor([sample.place for sample in patches(cases, replay)])
    assert len({place[0] for place in anywhere}) == 2  # an empty memory changes nothing
    assert (near[:, 0] == 1).all()
    assert ((near[:, 1:] - replay[2, 1:]).abs() <= torch.tensor(PATCH) // 4).all()
    assert len(near.unique(dim=0)) > 1
