"""Overrides as nnDetection's users type them."""

import json
from dataclasses import dataclass, field

import pytest

from cmb_plugin.errors import UserError
from cmb_plugin.inference import InferenceConfig
from cmb_plugin.planning import PlannerConfig
from cmb_plugin.settings import Overrides, read_settings, typed, within, write_settings
from cmb_plugin.training.config import AugmentConfig, ExperimentConfig, TrainerConfig


@dataclass
class Inner:
    depth: int = 2


@dataclass
class Config:
    rate: float = 0.1
    name: str | None = None
    sizes: list[int] = field(default_factory=lambda: [1])
    inner: Inner = field(default_factory=Inner)


def test_values_are_typed_and_the_given_instance_is_not_changed():
    config = Config()
    words = ["cfg.rate=3", "cfg.name=a b", "cfg.sizes=[1,2,3]", "cfg.inner.depth=7"]
    result = Overrides.parse(words).apply(cfg=config)["cfg"]
    assert result == Config(3.0, "a b", [1, 2, 3], Inner(7))
    assert config == Config()


@pytest.mark.parametrize("text", ["010", "1e-3", "0x1f", "2024_01", "true", "v2"])
def test_a_tag_is_text_however_like_a_number_it_looks(text):
    overrides = Overrides.parse([f"exp.tag={text}", "exp.fold=010"]).copy().below({"exp.tag": "preset", "exp.seed": 3})
    exp = overrides.apply(exp=ExperimentConfig())["exp"]
    assert (exp.tag, exp.fold, exp.seed) == (text, 8, 3)


@pytest.mark.parametrize("value", ["3", "[3]", "{a: b}"])
def test_what_is_no_list_of_modules_is_the_users_error(value):
    with pytest.raises(UserError, match=r"additional_imports=.*: is no module"):
        Overrides.parse([f"additional_imports={value}"]).take_imports()


def test_a_leading_plus_means_nothing():
    overrides = Overrides.parse(["+additional_imports=[a,b.c]", "+cfg.rate=1"])
    assert overrides.take_imports() == ["a", "b.c"]
    assert overrides.apply(cfg=Config())["cfg"].rate == 1


def test_an_unknown_key_names_the_nearest_known_one():
    with pytest.raises(UserError, match=r"unknown setting 'cfg\.inner\.dept' - did you mean cfg\.inner\.depth"):
        Overrides.parse(["cfg.inner.dept=1"]).apply(cfg=Config())


@pytest.mark.parametrize("word", ["cfg.rate", "=3", "cfg.rate=fast", "cfg=3", "cfg.sizes=[1,", "cfg.inner=5"])
def test_a_bad_word_is_one_line(word):
    with pytest.raises(UserError) as caught:
        Overrides.parse([word]).apply(cfg=Config())
    assert "\n" not in str(caught.value)


def test_overrides_win_over_a_preset():
    overrides = Overrides.parse(["cfg.rate=5"]).below({"cfg.rate": 1, "cfg.name": "preset"})
    assert overrides.apply(cfg=Config())["cfg"] == Config(rate=5, name="preset")


def test_settings_survive_a_file(tmp_path):
    config = Config(0.5, "x", [4], Inner(9))
    write_settings(tmp_path / "settings.yaml", {"cfg": config, "plain": [1, "a"]})
    values = read_settings(tmp_path / "settings.yaml")
    assert typed(Config, values["cfg"], "file") == config
    assert values["plain"] == [1, "a"]


def test_an_edited_settings_file_with_a_wrong_key_is_named():
    with pytest.raises(UserError, match=r"settings\.yaml"):
        typed(Config, {"rat": 1}, "settings.yaml")


@dataclass
class Bounded:
    overlap: float = within(0.5, 0, 0.95)
    count: int | None = within(None, 1)
    range: tuple[float, float] = within((0.7, 1.4), 0.1, 10)


@dataclass
class Outer:
    inner: Bounded = field(default_factory=Bounded)


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("inner.overlap=0.96", "choose 0 to 0.95"),
        ("inner.overlap=.nan", "choose 0 to 0.95"),
        ("inner.count=0", "choose 1 or more"),
        ("inner.range=[0.7,11]", "choose 0.1 to 10"),
    ],
)
def test_settings_out_of_range_are_named_with_their_bounds(word, remedy):
    with pytest.raises(UserError, match=f"cfg.{word.split('=')[0]}=.* is out of range - {remedy}"):
        Overrides.parse([f"cfg.{word}"]).apply(cfg=Outer())
    key, value = word.removeprefix("inner.").split("=")
    with pytest.raises(UserError, match=rf"settings.yaml: Bounded.{key}=.* is out of range"):
        typed(Bounded, {key: json.loads(value) if value != ".nan" else float("nan")}, "settings.yaml")


def test_settings_at_their_bounds_and_null_are_taken():
    inner = Overrides.parse(["cfg.inner.overlap=0.95", "cfg.inner.count=null"]).apply(cfg=Outer())["cfg"].inner
    assert (inner.overlap, inner.count, tuple(inner.range)) == (0.95, None, (0.7, 1.4))


@pytest.mark.parametrize(
    "word",
    ["trainer_cfg.epochs=-3", "trainer_cfg.foreground_fraction=2", "augment_cfg.mirror=-1", "augment_cfg.scaling=[0,1]",
     "exp.fold=-1", "exp.seed=-1", "inference_cfg.max_detections=0", "planner_cfg.seed=-1"],
)  # fmt: skip
def test_settings_of_training_and_prediction_have_bounds(word):
    groups = {"trainer_cfg": TrainerConfig(), "augment_cfg": AugmentConfig(), "exp": ExperimentConfig()}
    with pytest.raises(UserError, match="is out of range"):
        Overrides.parse([word]).apply(**groups, inference_cfg=InferenceConfig(), planner_cfg=PlannerConfig())
