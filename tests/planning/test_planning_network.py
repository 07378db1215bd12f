"""Topology, memory estimate, and the plan file."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.networks import DetectionHead, FeaturePyramid, build_encoder, pyramid_widths
from cmb_plugin.planning import (
    DEFAULT_BUDGET_GB,
    Architecture,
    Plan,
    PlannerConfig,
    build_architecture,
    default_anchors,
    estimate_training_gb,
    find_budget,
    plan_topology,
    shrink_patch,
)
from cmb_plugin.planning.memory import _weights, pyramid_width
from cmb_plugin.preparation import Preprocessing
from cmb_plugin.settings import Overrides


def network(patch: tuple[int, int, int] = (32, 96, 96), finest: int = 2, base: int = 32) -> Architecture:
    strides, kernels, _ = plan_topology((1.0, 0.45, 0.45), patch)
    return build_architecture(
        strides,
        kernels,
        base_features=base,
        max_features=320,
        pyramid_channels=base * 4,
        finest_level=finest,
        levels=4,
    )


def plan(patch: tuple[int, int, int] = (32, 96, 96)) -> Plan:
    architecture = network(patch)
    anchors = default_anchors((1.0, 0.45, 0.45), [architecture.stride_of(s) for s in architecture.detection_levels])
    return Plan(
        name="D3V001_3d",
        planner="D3V001",
        task="Task001_X",
        modalities=("swi",),
        classes=("cmb",),
        preprocessing=Preprocessing((1.0, 0.45, 0.45)),
        patch_size=patch,
        batch_size=2,
        architecture=architecture,
        anchors=anchors,
        memory_gb=8.0,
        memory_estimate_gb=3.0,
    )


def test_coarse_axis_is_pooled_later() -> None:
    architecture = network()
    assert architecture.strides[1] == (1, 2, 2)
    assert architecture.stride_of(2) == (2, 4, 4)
    assert architecture.kernels[0] == (1, 3, 3)
    assert architecture.detection_levels[0] == 2


def test_no_map_is_smaller_than_four_voxels_unless_the_patch_is() -> None:
    for patch in ((8, 128, 128), (40, 56, 72), (200, 200, 200)):
        strides, _, padded = plan_topology((1.5, 1.2, 1.2), patch)
        total = [1, 1, 1]
        for stride in strides:
            total = [a * b for a, b in zip(total, stride, strict=True)]
        assert all(side % step == 0 for side, step in zip(padded, total, strict=True))
        assert all(side // step >= 4 for side, step in zip(padded, total, strict=True))
        assert all(step <= 32 for step in total)


def test_shrinking_visits_ever_smaller_valid_patches_down_to_the_end() -> None:
    patch, seen = (96, 160, 128), []
    while patch is not None:
        seen.append(patch)
        assert plan_topology((1.5, 1.2, 1.2), patch)[2] == patch
        patch = shrink_patch((1.5, 1.2, 1.2), patch, (100, 150, 130))
    volumes = [a * b * c for a, b, c in seen]
    assert volumes == sorted(volumes, reverse=True)
    assert len(set(volumes)) == len(volumes)
    assert volumes[-1] < 16**3


def test_estimate_follows_the_encoder_of_the_library() -> None:
    """Per sample more than the encoder's own maps, and the same slope in the batch as they have at least."""
    architecture = network()
    maps = build_encoder(1, architecture).compute_conv_feature_map_size((32, 96, 96))
    one, three = (
        estimate_training_gb(architecture, (32, 96, 96), batch, modalities=1, classes=1, anchors_per_location=27)
        for batch in (1, 3)
    )
    slope = (three - one) / 2 * 1024**3 / 4
    assert slope > 2 * maps  # convolution output and normalised output
    assert slope < 8 * maps


def test_weights_are_counted_exactly_but_for_norms_and_biases() -> None:
    architecture = network()
    levels = len(architecture.detection_levels)
    parts = (
        build_encoder(1, architecture),
        FeaturePyramid(architecture),
        DetectionHead(architecture.pyramid_channels, anchors=27, classes=1, levels=levels),
    )
    convolutions = sum(p.numel() for part in parts for p in part.parameters() if p.ndim > 1)
    assert _weights(architecture, 1, 1, 27) == convolutions


@pytest.mark.parametrize("finest", [0, 1, 2, 3])
def test_pyramid_widths_are_those_of_the_network(finest: int) -> None:
    architecture = network(finest=finest)
    widths = [pyramid_width(architecture, stage) for stage in range(len(architecture.features))]
    assert widths == pyramid_widths(architecture)


def test_estimate_grows_with_patch_batch_width_and_finer_levels() -> None:
    def gb(patch: tuple[int, int, int] = (32, 96, 96), batch: int = 2, finest: int = 2, base: int = 32) -> float:
        architecture = network(patch, finest, base)
        return estimate_training_gb(architecture, patch, batch, modalities=1, classes=1, anchors_per_location=27)

    assert gb(patch=(48, 96, 96)) > gb()
    assert gb(batch=3) > gb()
    assert gb(finest=1) > gb()
    assert gb(base=16) < gb()


@pytest.mark.parametrize("gpu_gb", [None, 24, 80])
def test_the_default_budget_is_the_same_on_every_machine(monkeypatch: pytest.MonkeyPatch, gpu_gb: int | None) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu_gb is not None)
    device = SimpleNamespace(total_memory=(gpu_gb or 0) * 1024**3, name="a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)
    assert find_budget(PlannerConfig().gpu_memory_gb)[0] == find_budget()[0] == DEFAULT_BUDGET_GB
    assert find_budget(8) == (8.0, "Planned for 8 GB, as asked for by planner_cfg.gpu_memory_gb.")
    assert find_budget("auto")[0] == (gpu_gb or 2)


@pytest.mark.parametrize("wrong", ["much", "", 0, -2.0, float("nan"), float("inf")])
def test_a_budget_that_is_none_is_refused(wrong: float | str) -> None:
    with pytest.raises(UserError, match="gpu_memory_gb") as raised:
        find_budget(wrong)
    assert "auto" in raised.value.remedy


def test_the_budget_comes_from_the_command_line_as_a_number_or_auto() -> None:
    for word, value in (("8", 8), ("2.5", 2.5), ("auto", "auto")):
        overrides = Overrides.parse([f"planner_cfg.gpu_memory_gb={word}"])
        assert overrides.apply(planner_cfg=PlannerConfig())["planner_cfg"].gpu_memory_gb == value


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan().save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan()


def test_a_plan_of_before_there_were_units_tells_them_scan_by_scan(tmp_path: Path) -> None:
    plan().save(tmp_path / "plan.json")
    content = read_json(tmp_path / "plan.json")
    for step in content["preprocessing"]["normalisation"]:
        del step["unit"]
    write_json(tmp_path / "old.json", content)
    assert [step.unit for step in Plan.load(tmp_path / "old.json").preprocessing.normalisation] == [None]


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("patch_size", [33, 96, 96], "multiple"),
        ("batch_size", 0, "batch_size"),
        ("modalities", ["swi", "phase"], "normalisation"),
        ("name", "a/b", "folder"),
        ("architecture.detection_levels", [2, 9], "detection_levels"),
        ("architecture.features", [8], "length"),
        ("architecture.strides.0", [2, 2, 2], "first stride"),
        ("anchors.sizes", [], "anchors"),
        ("preprocessing.transpose", [0, 0, 1], "transpose"),
        ("preprocessing.spacing", [1, -1, 1], "spacing"),
        ("patch_sizes", [1, 1, 1], "patch_size"),
    ],
)
def test_an_edit_that_cannot_be_followed_is_named(tmp_path: Path, field: str, value: object, word: str) -> None:
    path = tmp_path / "plan.json"
    plan().save(path)
    content = read_json(path)
    *parents, key = field.split(".")
    place = content
    for parent in parents:
        place = place[parent]
    place[int(key) if key.isdigit() else key] = value
    write_json(path, content)
    with pytest.raises(UserError, match=word) as raised:
        Plan.load(path)
    assert str(path) in raised.value.message


def test_plan_and_recipe_are_plain_data() -> None:
    assert dataclasses.asdict(plan())["preprocessing"]["spacing"] == (1.0, 0.45, 0.45)
