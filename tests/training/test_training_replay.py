"""The memory of mimics: the hardest lesion-free crops stay, what was learned goes."""

from types import SimpleNamespace

import torch

from cmb_plugin.training.patches import Batch
from cmb_plugin.training.replay import Replay

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
