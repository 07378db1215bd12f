"""A packed model predicts what its source predicts, refuses what is none, and warns of scans unlike all it has seen."""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_plan import PLAN as SMALL
from tiny_task import make_tiny_task

from cmb_plugin.commands import bids, pack, predict, prep, sweep, train
from cmb_plugin.dataset import boxes_file, predicted_cases, read_case_predictions
from cmb_plugin.documents import from_json
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json
from cmb_plugin.images import Grid, read_scan, write_image
from cmb_plugin.inference import InferenceConfig
from cmb_plugin.models import packed, shipped
from cmb_plugin.models.initial_weights import InitialWeights
from cmb_plugin.models.packed import read_header, read_packed_weights, unpacked
from cmb_plugin.models.seen import SeenScans
from cmb_plugin.models.trained import TrainedModel
from cmb_plugin.paths import FoldFolder, ModelFolder, TaskFolder
from cmb_plugin.planning import Plan
from cmb_plugin.plugins import trainers
from cmb_plugin.settings import Overrides, plain_settings, read_settings, write_settings
from cmb_plugin.training import read_weights
from cmb_plugin.workflows.pack import pack as workflow_pack
from cmb_plugin.workflows.prep import prepare
from cmb_plugin.workflows.training_run import resolve

SMALL_PLAN = ["planner_cfg.patch_size=[16,16,16]", "planner_cfg.base_features=4", "planner_cfg.centre_features=4"]
SHORT = ["train=demo", "trainer_cfg.epochs=2", "trainer_cfg.steps_per_epoch=6", "trainer_cfg.swa_epochs=1"]
SHORT.append("model_cfg.score_threshold=0.001")  # what was trained for seconds is sure of nothing
MODEL = "CMBRetinaUNet_D3CMB_3d"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A trained and packed Task of one modality: ``data``, ``models``, ``mine.cmb``."""
    folder = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("det_data", str(folder / "data"))
        patch.setenv("det_models", str(folder / "models"))
        make_tiny_task(folder / "data", modalities=("swi",))
        assert prep.main(["900", "-np", "0", "-o", *SMALL_PLAN]) == 0
        assert train.main(["900", "-o", *SHORT]) == 0
        assert pack.main(["900", MODEL, "--output", str(folder / "mine.cmb"), "--recipe", "two epochs"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _environment(root, monkeypatch):
    monkeypatch.setenv("det_data", str(root / "data"))
    monkeypatch.setenv("det_models", str(root / "models"))


def images(root: Path) -> str:
    return str(root / "data" / "Task900_Tiny" / "raw_splitted" / "imagesTs")


def predictions(folder: Path):
    return [read_case_predictions(boxes_file(folder, name)) for name in predicted_cases(folder)]


def test_it_holds_the_source_weights_in_half_precision_and_names_no_case(root):
    path = root / "mine.cmb"
    header = read_header(path)
    source = read_weights(root / "models" / "Task900_Tiny" / MODEL / "fold0" / "model_last.ckpt")
    stored = read_packed_weights(path, header)[0]
    assert stored.keys() == source.keys()
    for name, value in source.items():
        expected = value.half().float() if value.is_floating_point() else value
        torch.testing.assert_close(stored[name], expected, rtol=0, atol=0)
    assert b"sub-0" not in path.read_bytes()
    assert header.recipe == "two epochs"
    assert header.seen_scans.cases == 3
    assert header.seen_scans.polarity == "dark"
    assert header.warning.startswith("Research use only")


def test_packing_again_gives_the_same_bytes(root, tmp_path):
    assert pack.main(["900", MODEL, "--output", str(tmp_path / "again.cmb"), "--recipe", "two epochs"]) == 0
    assert (tmp_path / "again.cmb").read_bytes() == (root / "mine.cmb").read_bytes()


def test_it_predicts_what_its_source_predicts_without_a_task(root, tmp_path, monkeypatch):
    settings = ["-npp", "0", "-o", "inference_cfg.min_score=0.001"]
    assert predict.main(["900", "--input", images(root), "--output", str(tmp_path / "source"), *settings]) == 0
    monkeypatch.setenv("det_data", str(tmp_path / "nothing"))
    monkeypatch.setenv("det_models", str(tmp_path / "nothing"))
    path = str(root / "mine.cmb")
    assert predict.main([path, "--input", images(root), "--output", str(tmp_path / "packed"), *settings]) == 0
    pairs = list(zip(predictions(tmp_path / "source"), predictions(tmp_path / "packed"), strict=True))
    assert len(pairs) == 2
    for source, ours in pairs:
        assert ours.model == "mine"
        strongest = source.detections[:3]
        assert len(strongest), "a source that finds nothing shows nothing"
        for box, score in zip(strongest.boxes, strongest.scores, strict=True):
            near = np.abs(ours.detections.boxes - box).max(axis=1) < 0.25
            assert near.any()
            assert ours.detections.scores[near].max() == pytest.approx(float(score), abs=0.01)
    before = {p.name: p.read_bytes() for p in (tmp_path / "packed").glob("*_boxes.json")}
    words = [path, "--input", images(root), "--output", str(tmp_path / "packed"), "--overwrite", *settings]
    assert predict.main(words) == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "packed").glob("*_boxes.json")} == before


def test_of_a_task_it_reads_the_modality_that_it_knows(root, tmp_path, monkeypatch, capsys):
    make_tiny_task(tmp_path, modalities=("phase", "t2s"), n_train=1, n_test=1, name="Task901_Other")
    monkeypatch.setenv("det_data", str(tmp_path))
    words = ["901", str(root / "mine.cmb"), "-npp", "0"]
    assert predict.main([*words, "--output", str(tmp_path / "found")]) == 0
    assert predicted_cases(tmp_path / "found") == ["sub-51"]
    assert predict.main(words) == 2
    assert "add --output DIR" in capsys.readouterr().err


def test_an_operating_point_chosen_on_scans_of_a_new_scanner_goes_into_a_packed_model(root, tmp_path, capsys):
    source, target, found = root / "mine.cmb", tmp_path / "new.cmb", tmp_path / "found"
    task = TaskFolder(root / "data" / "Task900_Tiny")
    settings = ["-npp", "0", "-o", "inference_cfg.min_score=0.001"]
    assert predict.main([str(source), "--input", str(task.images("Tr")), "--output", str(found), *settings]) == 0
    choose = ["900", str(source), "--predictions", str(found), "--output", str(target)]
    assert sweep.main([*choose, "-o", "sweep_cfg.rule=sensitivity", "sweep_cfg.target=1"]) == 0
    assert f"Next: nndet_predict {target}" in capsys.readouterr().out

    before, after = read_header(source), read_header(target)
    point = after.folds["0"]["operating_point"]
    assert len(point["rates"]) == 4
    assert point["n_cases"] == len(predicted_cases(found))
    same = dataclasses.replace(
        after, folds={"0": {**after.folds["0"], "operating_point": before.folds["0"]["operating_point"]}}
    )
    assert same == before
    again = tmp_path / "again"
    assert predict.main([str(target), "--input", str(task.images("Tr")), "--output", str(again), *settings]) == 0
    for old, new in zip(predictions(found), predictions(again), strict=True):
        np.testing.assert_array_equal(new.detections.boxes, old.detections.boxes)
        np.testing.assert_array_equal(new.reported, new.detections.scores >= round(point["score"], 6))

    capsys.readouterr()
    for words, hint in (
        (["900", str(target), *choose[2:]], "is by mine, not new"),
        (["900", MODEL, *choose[2:]], "nndet_pack 900"),
        (choose[:4], "--output FILE.cmb is missing"),
        (["900", str(source), *choose[4:]], "--predictions DIR is missing"),
        ([*choose[:5], str(tmp_path / "new.zip")], "let it end in .cmb"),
    ):
        assert sweep.main(words) == 2
        assert hint in capsys.readouterr().err


def with_header(source: Path, target: Path, change) -> Path:
    """A copy whose header of ours is changed."""
    data = source.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    own = json.loads(header["__metadata__"]["cmb_plugin"])
    change(own)
    header["__metadata__"]["cmb_plugin"] = json.dumps(own)
    text = json.dumps(header).encode()
    target.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return target


def test_the_operating_point_is_that_of_the_rate_asked_for(root, tmp_path, capsys):
    rates = [{"target": rate, "score": 0.9 - 0.2 * rate} for rate in (0.25, 0.5, 1.0, 2.0)]

    def sweep(own):
        own["folds"]["0"]["operating_point"] = {"schema": 1, "score": 0.6, "rates": rates}

    path = with_header(root / "mine.cmb", tmp_path / "swept.cmb", sweep)
    words = [str(path), "--input", images(root), "--output", str(tmp_path / "found"), "-npp", "0"]
    for options, score in (([], 0.6), (["--fp-per-scan", "0.5"], 0.8), (["--fp-per-scan", "2"], 0.5)):
        assert predict.main([*words, *options]) == 0
        assert {case.operating_point for case in predictions(tmp_path / "found")} == {score}
    assert predict.main([*words, "--fp-per-scan", "3"]) == 2
    assert "it has 0.25, 0.5, 1, 2" in capsys.readouterr().err


def test_tiles_are_mirrored_no_more_often_than_when_the_operating_point_was_chosen(root, tmp_path, capsys):
    swept = read_header(root / "mine.cmb").folds["0"]["operating_point"]
    assert swept["views"] == 1
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    usual = InferenceConfig()
    assert [usual.on(cuda, views).tta for views in (None, 1, 4, 8)] == [8, 1, 4, 8]
    assert [usual.on(cpu, views).tta for views in (None, 1, 8)] == [1, 1, 1]
    assert dataclasses.replace(usual, tta=2).on(cuda, 1).tta == 2  # what is asked for holds

    packed.repack(root / "mine.cmb", read_header(root / "mine.cmb"), tmp_path / "four.cmb", {**swept, "views": 4})
    for model, views, note in (
        (root / "mine.cmb", ["-ntta", "2"], "chosen with 1 mirroring, now there are 2; -ntta 1 makes"),
        (tmp_path / "four.cmb", [], "chosen with 4 mirrorings, now there is 1; -ntta 4 makes"),
        (root / "mine.cmb", [], None),
    ):
        words = ["--input", images(root), "-npp", "0", "--output", str(tmp_path / f"{model.stem}{len(views)}")]
        assert predict.main([str(model), *words, *views]) == 0
        out = capsys.readouterr().out
        assert ("Note: the operating point" in out) == (note is not None)
        assert note is None or note in out


def test_a_bids_data_set_is_predicted_without_a_task(root, tmp_path, monkeypatch):
    monkeypatch.setenv("det_data", str(tmp_path / "nothing"))
    scan = tmp_path / "raw" / "sub-51" / "swi" / "sub-51_swi.nii.gz"
    scan.parent.mkdir(parents=True)
    shutil.copy(next(Path(images(root)).glob("*_0000.nii.gz")), scan)
    words = [str(tmp_path / "raw"), str(tmp_path / "out"), "participant", "--model", str(root / "mine.cmb")]
    assert bids.main([*words, "-npp", "0"]) == 0
    assert list((tmp_path / "out").glob("sub-51/**/*_desc-cmb_dseg.nii.gz"))


def spoilt(root: Path, folder: Path, how: str) -> Path:
    path, whole = folder / "bad.cmb", (root / "mine.cmb").read_bytes()
    if how == "truncated":
        path.write_bytes(whole[:-1000])
    elif how == "cut in its header":
        path.write_bytes(whole[:500])
    elif how == "a flipped bit":
        path.write_bytes(whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:])
    elif how == "another version":
        with_header(root / "mine.cmb", path, lambda own: own.update(format=2))
    elif how == "text":
        path.write_text("weights, by another program, at some length\n" * 10)
    elif how == "safetensors of others":
        save_file({"weight": torch.zeros(3)}, path)
    return path


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("truncated", "is damaged or incomplete - copy or download it again"),
        ("cut in its header", "is damaged or incomplete"),
        ("a flipped bit", "is damaged or incomplete"),
        ("another version", "has format 2, this version reads 1"),
        ("text", "is no packed model"),
        ("safetensors of others", "no packed model of cmb_plugin"),
        ("missing", "cannot be read (No such file or directory)"),
    ],
)
def test_what_is_no_whole_packed_model_is_refused_in_one_line(how, complaint, root, tmp_path, capsys):
    path = spoilt(root, tmp_path, how)
    assert predict.main([str(path), "--input", images(root), "--output", str(tmp_path / "found")]) == 2
    error = capsys.readouterr().err
    assert complaint in error.replace(" — ", " - ")
    assert error.count("\n") == 1


def test_a_build_without_weights_says_so(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shipped, "pretrained_file", lambda: tmp_path / "none.cmb")
    assert predict.main(["pretrained", "--input", images(root), "--output", str(tmp_path / "found")]) == 2
    error = capsys.readouterr().err
    assert "no weights are in this build" in error
    assert "make pretrained" in error
    assert error.count("\n") == 1


def test_the_name_pretrained_means_the_file_of_the_package(root, tmp_path, monkeypatch):
    shutil.copy(root / "mine.cmb", tmp_path / "pretrained.cmb")
    monkeypatch.setattr(shipped, "pretrained_file", lambda: tmp_path / "pretrained.cmb")
    words = ["pretrained", "--input", images(root), "--output", str(tmp_path / "found"), "-npp", "0"]
    assert predict.main(words) == 0
    assert predictions(tmp_path / "found")[0].model == "pretrained"


def test_the_weights_of_the_package_are_small():
    path = shipped.pretrained_file()
    if not path.is_file():
        pytest.skip("no weights are in this checkout")
    assert path.stat().st_size <= shipped.SHIPPED_MB * 1e6
    header = read_header(path)
    assert header.parameters <= shipped.SHIPPED_PARAMETERS
    assert {entry["target"] for entry in header.folds["0"]["operating_point"]["rates"]} == {0.25, 0.5, 1.0, 2.0}


# What it has seen ----------------------------------------------------------------------------------------------------

SEEN = SeenScans(100, 300, (0.8, 3.0), (0.4, 1.0), ((120, 170), (200, 250), (180, 230)), ("swi",), "dark")


def grid(spacing, extent=(150, 220, 200)) -> Grid:
    return Grid(tuple(round(mm / side) for mm, side in zip(extent, spacing, strict=True)), spacing)


@pytest.mark.parametrize(
    ("seen_grid", "negative", "contrast", "expected"),
    [
        (grid((1.5, 0.6, 0.6)), 0.0, "swi", []),
        (grid((5.0, 0.6, 0.6)), None, "swi", ["Slices of 5 mm; the model has seen 0.8 to 3 mm"]),
        (grid((1.5, 1.3, 1.3)), None, "swi", ["Pixels of 1.3 mm"]),
        (grid((1.5, 0.6, 0.6), (60, 220, 200)), None, "swi", ["The scan covers 60 mm from neck to top"]),
        (grid((1.5, 0.6, 0.6)), 0.5, "unknown", ["50 % of its values are negative"]),
        (grid((1.5, 0.6, 0.6)), 0.5, "qsm", ["A map of susceptibility, turned dark"]),
    ],
)
def test_a_scan_unlike_all_that_were_seen_is_doubted_in_words(seen_grid, negative, contrast, expected):
    doubts = SEEN.doubts(seen_grid, negative, contrast)
    assert len(doubts) == len(expected)
    assert all(doubt.startswith(start) for doubt, start in zip(doubts, expected, strict=True))


def test_maps_of_susceptibility_are_turned_dark_with_a_note_and_one_warning_for_all(root, tmp_path, capsys):
    scan = next(Path(images(root)).glob("*_0000.nii.gz"))
    array, place = read_scan(scan)
    (tmp_path / "in").mkdir()
    names = ("sub-51_qsm", "sub-52_qsm")
    for name in names:
        write_image(tmp_path / "in" / f"{name}.nii.gz", 0.001 * (100 - array), place)
    words = [str(root / "mine.cmb"), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "-npp", "0"]
    assert predict.main(words) == 0
    assert (tmp_path / "out" / "inputs.tsv").read_text(encoding="utf-8").count("its sign is turned") == 2
    for name, case in zip(names, predictions(tmp_path / "out"), strict=True):
        turned, _ = read_scan(tmp_path / "out" / "scans" / f"{name}_0000.nii.gz")
        np.testing.assert_allclose(turned, 0.001 * (array - 100), atol=1e-6)
        assert case.warnings[0].startswith("A map of susceptibility")
    assert capsys.readouterr().err.count("sub-51_qsm, sub-52_qsm: A map of susceptibility") == 1


# Fine-tuning ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_channels(root, tmp_path, monkeypatch):
    """A Task of phase and T2* that is planned for the packed model."""
    make_tiny_task(tmp_path, modalities=("phase", "t2s"), n_test=0, name="Task902_Two", spacing=(1.4, 1.1, 1.1))
    monkeypatch.setenv("det_data", str(tmp_path))
    task = TaskFolder(tmp_path / "Task902_Two")
    prepare(task, Overrides({"plan_from": str(root / "mine.cmb")}), workers=0)
    return task


def test_a_setting_of_the_planner_that_the_model_decides_is_refused(root, two_channels):
    for setting in ("spacing=[2,2,2]", "base_features=8", "gpu_memory_gb=2"):
        overrides = Overrides.parse([f"plan_from={root / 'mine.cmb'}", f"planner_cfg.{setting}"])
        with pytest.raises(UserError, match=f"planner_cfg.{setting.partition('=')[0]}: plan_from="):
            prepare(two_channels, overrides, workers=0)
    overrides = Overrides.parse([f"plan_from={root / 'mine.cmb'}", "planner_cfg.domains=dataset"])  # this one acts
    assert prepare(two_channels, overrides, workers=0).plan.name == "D3CMB_3d_mine"


def test_a_plan_from_a_model_has_its_spacing_and_network_and_trains_on_from_it(root, two_channels):
    unsaid = resolve(two_channels, Overrides({"train.init": str(root / "mine.cmb")}))
    assert unsaid.settings["train"] == "finetune"
    run = resolve(two_channels, Overrides({"train.init": str(root / "mine.cmb"), "train": "demo"}))
    theirs = Plan.load(root / "data" / "Task900_Tiny" / "preprocessed" / "D3CMB_3d" / "plan.json")
    assert run.plan.name == "D3CMB_3d_mine"
    assert run.plan.modalities == ("phase", "t2s")
    for name in ("architecture", "patch_size", "batch_size", "centres", "anchors"):
        assert getattr(run.plan, name) == getattr(theirs, name)
    assert run.plan.preprocessing.spacing == theirs.preprocessing.spacing
    module = run.module()
    log = run.initial.begin(module)
    given = read_packed_weights(root / "mine.cmb", read_header(root / "mine.cmb"))[0]
    own = module.state_dict()
    first = [name for name, value in own.items() if value.shape != given[name].shape]
    assert first
    for name, value in own.items():
        if name in first:
            torch.testing.assert_close(value[:, 1], given[name][:, 0], rtol=0, atol=0)
            assert not value[:, 0].any()
        else:
            torch.testing.assert_close(value, given[name], rtol=0, atol=0)
    assert log.startswith(f"Weights of mine: {len(own)} of {len(own)} tensors taken, phase from 0, t2s from swi")


def test_what_weights_have_seen_goes_with_them(root, two_channels, tmp_path, monkeypatch):
    shutil.copytree(root / "data" / "Task900_Tiny", tmp_path / "Task900_Tiny")
    fold = root / "models" / "Task900_Tiny" / MODEL / "fold0"
    theirs = read_header(root / "mine.cmb").seen_scans
    for begun in (root / "mine.cmb", fold):
        run = resolve(two_channels, Overrides({"train.init": str(begun), "plan": "D3CMB_3d_mine"}))
        assert from_json(SeenScans, plain_settings(run.settings)["init"]["seen"], "") == theirs
    again = resolve(TaskFolder(tmp_path / "Task900_Tiny"), Overrides({"train.init": str(fold)}))
    assert "seen" not in again.settings["init"]  # its own scans: they count once

    trained_on = ModelFolder(tmp_path / "models" / "on")
    shutil.copytree(fold, trained_on.fold(0).root)
    before = dataclasses.replace(theirs, cases=40, slice_mm=(0.5, 9.0), polarity="bright")
    settings = read_settings(fold.joinpath("settings.yaml")) | {"init": {"seen": dataclasses.asdict(before)}}
    write_settings(trained_on.fold(0).settings, settings)
    model = TrainedModel(trained_on, (0,))
    seen = workflow_pack(TaskFolder(tmp_path / "Task900_Tiny"), model, tmp_path / "on.cmb").seen_scans
    assert (seen.cases, seen.slice_mm, seen.polarity) == (43, (0.5, 9.0), "unknown")
    assert seen.lesions == 2 * theirs.lesions
    assert seen.lesion_mm == theirs.lesion_mm


def test_percentiles_of_lesions_are_weighted_by_their_numbers():
    extent = ((100.0, 120.0),) * 3
    one = SeenScans(3, 30, (1.0, 2.0), (0.5, 1.0), extent, ("SWI",), "dark", (1.0, 2.0, 4.0))
    other = SeenScans(2, 10, (0.8, 1.5), (0.4, 0.6), extent, ("T2S",), "dark", (3.0, 4.0, 8.0))
    both = SeenScans(5, 40, (0.8, 2.0), (0.4, 1.0), extent, ("SWI", "T2S"), "dark", (1.5, 2.5, 5.0))
    assert one.joined(other) == both
    healthy = dataclasses.replace(other, lesions=0, lesion_mm=())
    assert one.joined(healthy).lesion_mm == healthy.joined(one).lesion_mm == one.lesion_mm


def test_another_network_is_refused_with_the_remedy(root, two_channels):
    prepare(two_channels, Overrides.parse([*SMALL_PLAN[:2], "planner_cfg.centre_features=6"]), workers=0)
    run = resolve(two_channels, Overrides({"train.init": str(root / "mine.cmb"), "plan": "D3CMB_3d", "train": "demo"}))
    with pytest.raises(UserError, match="plan_from=mine"):
        run.initial.begin(run.module())


def begun(folder, name, plan, other, **model_cfg):
    """The weights of an untrained network, and of one for another plan that begins with them, and what was said."""
    trainer, fold = trainers.get(name), FoldFolder(folder / "model" / "fold0")
    torch.manual_seed(0)
    module = trainer(plan, trainer.model_config(**model_cfg))
    fold.root.mkdir(parents=True)
    plan.save(fold.plan)
    write_settings(fold.settings, {"module": name, "model_cfg": module.model_cfg})
    torch.save({"state_dict": module.state_dict()}, fold.last)
    torch.manual_seed(1)
    own = trainer(other, trainer.model_config(**model_cfg))
    drawn = {key: value.clone() for key, value in own.state_dict().items()}
    state = torch.get_rng_state()
    said = InitialWeights("model", fold, fold.last).begin(own)
    assert torch.equal(torch.get_rng_state(), state)
    return module.state_dict(), drawn, own.state_dict(), said


@pytest.mark.parametrize("classes", [("iron", "cmb"), ("cmb", "other"), ("cmb",), ("cmb", "iron", "other")])
def test_rows_of_classes_are_never_those_of_other_classes(tmp_path, classes):
    """Two classes in another order have rows that fit, of the other class."""
    theirs, drawn, own, said = begun(tmp_path, "CMBRetinaUNet", SMALL, dataclasses.replace(SMALL, classes=classes))
    left = [name for name, value in own.items() if value.shape == drawn[name].shape and torch.equal(value, drawn[name])]
    assert "network.head.logits.prototypes" in left
    assert "left as drawn, since the classes are others: " in said
    assert "network.head.logits.prototypes" in said
    assert all(torch.equal(own[name], theirs[name]) for name in own if name not in left)


def test_a_class_alone_is_the_same_under_another_name(tmp_path):
    plans = [dataclasses.replace(SMALL, classes=(name,)) for name in ("cmb", "microbleed")]
    theirs, _, own, said = begun(tmp_path, "CMBRetinaUNet", *plans)
    assert "left as drawn" not in said
    assert all(torch.equal(own[name], theirs[name]) for name in own)


@pytest.mark.parametrize(("name", "moved"), [("TwoStepKD", False), ("CMBRetinaUNet", True)])
def test_only_what_reads_the_modalities_follows_their_order(tmp_path, name, moved):
    """The first step of TwoStepKD has two channels of its own: a modality and its symmetry."""
    recipe = dataclasses.replace(SMALL.preprocessing, normalisation=SMALL.preprocessing.normalisation * 2)
    plans = [
        dataclasses.replace(SMALL, modalities=names, preprocessing=recipe)
        for names in (("swi", "phase"), ("phase", "swi"))
    ]
    theirs, _, own, _ = begun(tmp_path, name, *plans, **({} if moved else {"modality": "swi"}))
    exchanged = [key for key, value in own.items() if not torch.equal(value, theirs[key])]
    assert bool(exchanged) == moved
    assert all(torch.equal(own[key], theirs[key].flip(1)) for key in exchanged)


def test_weights_are_named_by_checkpoint_fold_or_model(root):
    task = TaskFolder(root / "data" / "Task900_Tiny")
    folder = root / "models" / "Task900_Tiny" / MODEL
    names = [folder, folder / "fold0", folder / "fold0" / "model_last.ckpt", MODEL]
    assert {InitialWeights.named(str(name), task).checkpoint for name in names} == {
        folder / "fold0" / "model_last.ckpt"
    }
    with pytest.raises(UserError, match="no weights to begin with"):
        InitialWeights.named("nothing", task)


def test_more_modalities_than_the_model_has_are_no_weights_for_it_unless_one_is_alike(root, tmp_path):
    make_tiny_task(tmp_path, modalities=("phase",), n_test=0, name="Task903_Phase")
    task = TaskFolder(tmp_path / "Task903_Phase")
    with pytest.raises(UserError, match="knows swi, the data set has phase"):
        prepare(task, Overrides({"plan_from": str(root / "mine.cmb")}), workers=0)


def test_what_is_unpacked_is_a_model_folder_that_knows_its_file(root):
    folder = unpacked(root / "mine.cmb")
    assert folder.trained_folds() == [0]
    content = read_json(folder.root / packed.PACKED)
    assert content["weights_sha256"] == read_header(root / "mine.cmb").weights_sha256


def test_a_file_that_was_written_anew_is_unpacked_anew(root, tmp_path):
    path = tmp_path / "weights.cmb"
    shutil.copy(root / "mine.cmb", path)
    first = read_weights(unpacked(path).fold(0).last)
    header = read_header(path)
    changed = {name: value + 1 for name, value in load_file(path).items()}
    own = dataclasses.replace(header, weights_sha256=packed._sha256(changed))
    save_file(changed, path, {"cmb_plugin": json.dumps(dataclasses.asdict(own))})
    second = read_weights(unpacked(path).fold(0).last)
    name = next(name for name, value in first.items() if value.is_floating_point())
    assert not torch.equal(first[name], second[name])
