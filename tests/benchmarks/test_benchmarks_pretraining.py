"""The rounds of the package's weights: two tiny ones, the second of which begins with the first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_task import make_tiny_task

from benchmarks.pretraining import rounds
from benchmarks.pretraining.recipe import Recipe
from benchmarks.pretraining.rounds import Rounds
from cmb_plugin.commands import example
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json
from cmb_plugin.models.packed import read_header
from cmb_plugin.paths import ModelFolder

TINY = Recipe(
    scans=2,
    pool=1,
    healthy=0.0,
    steps=2,
    epochs=2,
    protocol="demo",
    drawn="",
    pool_protocol="demo",
    prep=("planner_cfg.patch_size=[16,16,16]", "planner_cfg.base_features=4", "planner_cfg.centre_features=4"),
    train=("trainer_cfg.batch_size=2", "trainer_cfg.warmup_steps=0"),
)


class TinyRounds(Rounds):
    """Rounds whose scans are made in no time; every other step is the program's own."""

    def _do(self, main: Callable[..., int], *words: str) -> None:
        if main is not example.main:
            super()._do(main, *words)
            return
        given = dict(zip(words[::2], words[1::2], strict=True))
        make_tiny_task(
            self.folder / "data",
            n_train=int(given["--train"]),
            n_test=int(given["--test"]),
            modalities=given["--modalities"].split(","),
            seed=int(given["--seed"]),
            name=given["--task"],
            healthy=False,
        )


def test_a_round_begins_with_the_last_and_is_measured_on_the_same_pool(tmp_path: Path) -> None:
    steps: list[str] = []
    training = TinyRounds(tmp_path, TINY, processes=0, log=steps.append)
    first, second = training.run(0), training.run(1)
    assert first["kept"]
    assert (first["seed"], second["seed"]) == (1000, 2000)
    for number, result in enumerate((first, second)):
        fold = ModelFolder(next((tmp_path / "models" / f"Task{710 + number}_Round").glob("*"))).fold(0)
        (split,) = read_json(fold.splits)
        assert split["val"] == ["pool_sub-51"]
        assert split["train"] == ["sub-01", "sub-02"]
        assert read_header(training.packed(number)).seen_scans.cases == 2 * (number + 1)  # its own and the last one's
        assert 0 <= result["quality"] <= 1
        assert not (tmp_path / "data" / f"Task{710 + number}_Round").exists()
    settings = (tmp_path / "models" / "Task711_Round").glob("*/fold0/settings.yaml")
    assert "weights.cmb" in next(settings).read_text(encoding="utf-8")
    done = len(steps)
    assert training.run(1) == second
    assert len(steps) == done, "a finished round was done again"
    table = rounds.table(training.results())
    assert table.count("yes |") + table.count("no |") == 2
    assert "| protocol |" in table
    begun = TinyRounds(tmp_path / "further", TINY, processes=0, start=training.packed(1), log=steps.append)
    third = begun.run(0)
    assert [result["round"] for result in begun.results()] == [-1, 0]
    assert begun.results()[0]["quality"] == second["quality"], "the same weights on the same pool"
    assert third["kept"] == (third["quality"] > second["quality"])
    assert "Begun with" in read_header(begun.packed(0)).recipe
    assert training.best.read_bytes() in (training.packed(0).read_bytes(), training.packed(1).read_bytes())


def test_weights_that_are_too_large_are_not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.cmb"
    path.write_bytes(bytes(2000))
    monkeypatch.setattr(rounds, "SHIPPED_MB", 0.001)
    monkeypatch.setattr(rounds, "read_header", lambda _: type("Header", (), {"parameters": 1}))
    with pytest.raises(UserError, match="too much for the package"):
        rounds.ship(path, tmp_path / "target.cmb")
    monkeypatch.setattr(rounds, "SHIPPED_MB", 8)
    assert rounds.ship(path, tmp_path / "target.cmb").read_bytes() == path.read_bytes()


def test_what_decides_is_the_mean_sensitivity_at_four_rates() -> None:
    metrics = {"froc": {"0.125": 0.0, "0.25": 0.2, "0.5": 0.4, "1": None, "2": 1.0}, "healthy": {"fp_per_scan": 0.5}}
    metrics["strata"] = {}
    assert rounds.quality_of(metrics)["quality"] == 0.4
