"""Rounds that are played with labels: killed anywhere they end as if nothing had been, and the real command plays."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from tiny_task import make_tiny_task

from cmb_plugin.active import simulation as played
from cmb_plugin.active.curve import curve_figure, reaches_all
from cmb_plugin.active.simulation import ALL, even_share
from cmb_plugin.commands.active import main as nndet_active
from cmb_plugin.commands.prep import main as nndet_prep
from cmb_plugin.dataset import Case, Dataset
from cmb_plugin.files import read_json, write_json
from cmb_plugin.paths import TaskFolder
from cmb_plugin.training.callbacks import Checkpoints
from cmb_plugin.training.module import read_checkpoint

SMALL = ["planner_cfg.patch_size=[16,16,16]", "planner_cfg.base_features=4", "planner_cfg.pyramid_channels=8"]
QUICK = ["train=demo", "trainer_cfg.epochs=1", "trainer_cfg.steps_per_epoch=1", "trainer_cfg.swa_epochs=1",
         "trainer_cfg.batch_size=2", "trainer_cfg.precision=32-true"]  # fmt: skip
PLAY = ["--simulate", "--rounds", "2", "--acquire", "1", "--start", "2", "--resamples", "20"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    task = make_tiny_task(data, n_train=6, n_test=2, modalities=("swi",), shape=(20, 24, 24))
    content = json.loads((task.root / "dataset.json").read_text(encoding="utf-8"))
    names = [f"sub-0{i}" for i in range(1, 7)]
    domain = {name: "ukb" if i < 3 else "cuhk" for i, name in enumerate(names)}
    (task.root / "dataset.json").write_text(json.dumps({**content, "domain": domain}))
    patch = pytest.MonkeyPatch()
    patch.setenv("det_data", str(data))
    assert nndet_prep(["900", "-np", "0", "-npp", "0", "-o", *SMALL]) == 0
    patch.undo()
    return data


@pytest.fixture
def root(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("det_data", str(prepared))
    monkeypatch.setenv("det_models", str(tmp_path / "models"))
    return tmp_path


def play(output, *options, strategies="disagreement", seeds=1):
    chosen = ["--strategies", strategies, "--seeds", str(seeds), "--output", str(output)]
    return nndet_active(["900", *PLAY, *chosen, *options, "-o", *QUICK])


def dying(real, at, after):
    """A function that is interrupted at its n-th call, before or after it has done its work."""
    calls = []

    def function(*args, **options):
        calls.append(1)
        if len(calls) != at:
            return real(*args, **options)
        if after:
            real(*args, **options)
        raise KeyboardInterrupt

    return function


def weights(folder):
    return read_checkpoint(folder / "fold0" / "model_last.ckpt")["averaged_weights"]


def test_rounds_are_played_and_go_on_after_any_interruption(root, monkeypatch, capsys):
    assert play(root / "whole") == 0
    text = capsys.readouterr().out
    assert "78 % recall, 80 % precision and 1.6 false positives per scan" in text
    assert "no rank follows" in text
    rows = list(
        csv.DictReader((root / "whole" / "active.tsv").read_text(encoding="utf-8").splitlines(), delimiter="\t")
    )
    rows = [(row["strategy"], row["labelled"]) for row in rows]
    assert rows == [("disagreement", n) for n in "234"] + [(ALL, "6")] * 3
    assert (root / "whole" / "active.png").stat().st_size > 5000

    # Killed before a training, after one of its epochs, while scans are predicted, before a file is written.
    for place, name, at in ((played, "fit", 2), (Checkpoints, "on_train_epoch_end", 4), (played, "predict", 3),
                            (played, "write_json", 5)):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(place, name, dying(getattr(place, name), at, after=place is Checkpoints))
            assert play(root / "killed") in (0, 130)
    assert play(root / "killed") == 0
    assert (root / "killed" / "active.tsv").read_text(encoding="utf-8") == (root / "whole" / "active.tsv").read_text(
        encoding="utf-8"
    )
    for place in ("start", "disagreement/round2", "all/round2"):
        one, two = (weights(root / name / "seed0" / place) for name in ("whole", "killed"))
        assert all(np.array_equal(one[key], two[key]) for key in one), place
    capsys.readouterr()

    # The same command again does nothing anew, another one is refused, further seeds and strategies are added.
    before = (root / "whole" / "seed0" / "start" / "fold0" / "model_last.ckpt").stat().st_mtime_ns
    assert play(root / "whole", "--acquire", "2") == 2
    assert "acquire was another" in capsys.readouterr().err
    assert play(root / "whole", strategies="corrections,random") == 0
    assert (root / "whole" / "seed0" / "start" / "fold0" / "model_last.ckpt").stat().st_mtime_ns == before
    chosen = read_json(root / "whole" / "seed0" / "corrections" / "round1.json")
    assert len(chosen["acquired"]) == 1
    shutil.rmtree(root / "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--simulate", "--start", "5"], r"has 6 labelled.*lower --start"),
        (["--simulate", "--strategies", "all"], "names no strategy"),
        (["--simulate", "--strategies", "rndom"], "did you mean random"),
        (["--simulate", "--start", "2", "--rounds", "0"], "give 1 or more"),
        (["--simulate", "--resamples", "-1"], "give 0 or more"),
        (["--simulate", "--start", "2", "--rounds", "1", "--acquire", "1", "--start-domain", "uk"], "did you mean ukb"),
        ([], "neither or both of --pool and --simulate"),
        (["--pool", "nowhere"], "no such folder"),
        (["--pool", "../a=."], "cannot name a domain"),
    ],
)
def test_what_cannot_be_played_is_one_line_with_a_remedy(root, capsys, options, message):
    assert nndet_active(["900", *options, "--output", str(root / "out"), "-o", *QUICK]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1


def test_a_start_of_one_domain(root, prepared):
    options = ["--start-domain", "ukb", "--rounds", "1", "--pool-scans", "4", "--test-scans", "1"]
    assert play(root / "out", *options, strategies="random") == 0
    split = read_json(root / "out" / "seed0" / "start" / "fold0" / "splits.json")[0]
    domain = Dataset.load(TaskFolder(prepared / "Task900_Tiny")).domain
    assert {domain[case] for case in split["train"]} == {"ukb"}
    assert sorted(domain[case] for case in split["val"]) == ["cuhk", "cuhk", "ukb", "ukb"]


def test_an_even_share_has_all_domains():
    cases = [Case(f"c{i:02d}", (), domain="many" if i < 18 else "few") for i in range(20)]
    share = even_share(cases, 6)
    assert sorted(case.domain for case in share) == ["few"] * 2 + ["many"] * 4
    assert even_share(cases, 6) == share
    assert len(even_share(cases, None)) == 20


def test_a_strategy_reaches_all_labels_where_its_mean_does():
    from cmb_plugin.active.curve import CurvePoint
    from cmb_plugin.evaluation import Estimate

    def points(name, values):
        own = enumerate(values)
        return [CurvePoint(name, i, 10 * (i + 1), 1.0, Estimate(v, v - 0.1, v + 0.1, (v, v)), None) for i, v in own]

    every = points("a", [0.2, 0.7, 0.6]) + points("b", [0.2, 0.3, 0.4]) + points(ALL, [0.4, 0.5, 0.6])
    assert reaches_all(every) == {"a": 20, "b": None}
    assert curve_figure(every, "T").axes[0].get_ylabel() == "sensitivity at 1 false positive per scan"


def test_a_result_that_is_damaged_is_named(root, capsys):
    write_json(root / "out" / "simulation.json", {"rounds": 7})
    assert play(root / "out") == 2
    assert "give the options that it began with, or another --output" in capsys.readouterr().err
