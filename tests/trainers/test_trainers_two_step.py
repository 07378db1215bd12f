"""Candidates, teacher and student learn in turn, and a killed run goes on in its step."""

import dataclasses

import numpy as np
import pytest
import torch
from cmb_plugin.trainers.two_step.candidates import classes_at
from cmb_plugin.trainers.two_step.shapes import core_shapes
from cmb_plugin.trainers.two_step.vessels import inpaint_vessels
from dies_at import DiesAt
from small_plan import PLAN
from tiny_task import make_tiny_task

from cmb_plugin.commands.names import find_model
from cmb_plugin.commands.predict import main as nndet_predict
from cmb_plugin.commands.prep import main as nndet_prep
from cmb_plugin.commands.train import main as nndet_train
from cmb_plugin.dataset import boxes_file, read_case_predictions
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import CaseResult
from cmb_plugin.files import write_json
from cmb_plugin.plugins import trainers
from cmb_plugin.training import Batch, TrainerConfig, loop

TwoStepKD = trainers.get("TwoStepKD")
SHORT = TrainerConfig(
    epochs=4, steps_per_epoch=20, swa_epochs=0, optimizer="adamw", learning_rate=5e-3, warmup_steps=2,
    precision="32-true",
)  # fmt: skip
CONFIG = TwoStepKD.model_config(levels=2, crop_mm=8.0, radii_mm=(1.6,))
TRAIN = [
    "900", "-o", "module=TwoStepKD", "train=demo", "trainer_cfg.epochs=8", "trainer_cfg.steps_per_epoch=2",
    "trainer_cfg.swa_epochs=1", "trainer_cfg.batch_size=2", "trainer_cfg.validate_every=8", "model_cfg.modality=SWI",
    "model_cfg.levels=2", "model_cfg.crop_mm=8", "model_cfg.radii_mm=[1.6]",
]  # fmt: skip


def module(plan=PLAN, **model_cfg):
    torch.manual_seed(0)
    return TwoStepKD(plan, dataclasses.replace(CONFIG, **model_cfg), SHORT)


def scene():
    """Two patches of noise: the first with a dark ball of class 1, the lesion; both with a dark tube."""
    images = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.2
    foreground = torch.zeros(2, 16, 16, 16, dtype=torch.uint8)
    images[:, 0, 12:14, :, 3:5] -= 4
    images[0, 0, 5:8, 7:10, 9:12] -= 4
    foreground[0, 5:8, 7:10, 9:12] = 1
    boxes = [torch.tensor([[5.0, 7, 9, 8, 10, 12]]), torch.zeros(0, 6)]
    return Batch(images, boxes, [torch.tensor([1]), torch.zeros(0, dtype=torch.long)], foreground)


def test_every_step_learns_in_its_turn_and_only_then(monkeypatch):
    model, batch, step = module(), scene(), [0]
    monkeypatch.setattr(TwoStepKD, "global_step", property(lambda self: step[0]))
    assert model.starts == (0, 40, 60, 80)
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=2e-2)
    history = []
    for number in range(80):
        step[0] = number
        before = {name: value.clone() for name, value in model.network.state_dict().items()}
        optimizer.zero_grad()
        losses = model.losses(batch)
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
        changed = {
            name.split(".")[0] for name, value in model.network.state_dict().items() if (value != before[name]).any()
        }
        learning = ("candidates", "teacher", "student")[model.stage_at(number)]
        assert changed == {learning}
        if number in (40, 60):  # teacher and student have begun as the first network
            first, begun = model.network["candidates"], model.network["teacher"].unet
            if number == 60:
                first, begun = first.encoder, model.network["student"].encoder
            after = begun.state_dict()
            # One step of Adam moves a weight by the learning rate and its decay at most.
            assert all((after[name] - value).abs().max() < 2.5e-2 for name, value in first.state_dict().items())
    for first, last in ((0, 39), (40, 59), (60, 79)):
        assert sum(history[last].values()) < 0.7 * sum(history[first].values()), history[first].keys()
    found, foreground = model.eval().detect(batch.images)
    best = int(found[0].scores.argmax())
    assert found[0].labels[best] == 1
    torch.testing.assert_close(found[0].boxes[best], batch.boxes[0][0], atol=0.5, rtol=0)
    assert {"score_candidate", "score_student", "score_accepted", "rejected_by", "core_mm3"} <= set(found[0].columns)
    assert foreground.shape == (2, 16, 16, 16)

    columns = found[0].columns
    odds = [p / (1 - p) for p in (columns[f"score_{name}"].double() for name in ("candidate", "student", "fused"))]
    torch.testing.assert_close(odds[2], (odds[0] * odds[1]).sqrt(), rtol=1e-2, atol=1e-3)
    passed = columns["rejected_by"] == 0
    assert torch.equal(columns["score_accepted"][passed], columns["score_fused"][passed].clamp(min=0.03))

    model.candidate_threshold.fill_(2.0)  # nothing passes, and everything is still there
    rejected = model.detect(batch.images)[0][0]
    assert len(rejected.scores) == len(found[0].scores)
    assert (rejected.scores < found[0].scores.max()).all()
    assert (rejected.scores >= 0.02).all()  # inference drops nothing of it
    torch.testing.assert_close(rejected.columns["score_student"], found[0].columns["score_student"])


def test_without_distillation_the_student_has_the_teachers_time():
    model = module(distil=False)
    assert model.starts == (0, 40, 40, 80)
    assert {model.stage_at(step) for step in range(100)} == {0, 2}
    assert module().starts == (0, 40, 60, 80)
    rates = [module().rate(step) for step in range(80)]
    assert rates[41] == rates[61] == pytest.approx(5e-3 * (1 - 1 / 20) ** 0.9)  # each step warms up and decays


def test_the_modality_is_chosen_by_name_and_turned_by_its_polarity():
    plan = dataclasses.replace(PLAN, modalities=("swi", "qsm"), polarity=("dark", "bright"))
    images = torch.randn(1, 2, 16, 16, 16)
    assert torch.equal(module(plan).channels(images)[:, 0], -images[:, 0])
    assert torch.equal(module(plan, modality="QSM").channels(images)[:, 0], images[:, 1])
    with pytest.raises(UserError, match="known: qsm, swi"):
        module(plan, modality="t2")


def test_the_threshold_finds_the_wanted_share_of_the_validation_lesions():
    boxes = np.array([[10.0 * i, 0, 0, 10 * i + 3, 3, 3] for i in range(6)])
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    found = Detections(boxes, scores, np.zeros(6), {"score_candidate": scores})
    case = CaseResult(
        case_id="a", detections=found, truth_boxes=boxes[[0, 1, 3, 4]], truth_labels=np.zeros(4, dtype=int),
        spacing=(1.0, 1.0, 1.0),
    )  # fmt: skip
    model = module(target_sensitivity=0.75)
    model.learn_from_validation([case])
    assert 0.5 < model.candidate_threshold <= 0.6  # the three best of four
    other_class = dataclasses.replace(case, truth_labels=np.array([0, 1, 0, 1]))
    threshold = float(model.candidate_threshold)
    model.learn_from_validation([other_class])  # what the student calls them does not matter
    assert model.candidate_threshold == threshold
    unseen = dataclasses.replace(
        case, truth_boxes=boxes[[0, 1, 3, 4]] + np.array([0, 90, 90, 0, 90, 90]) * np.array([[0], [0], [1], [1]])
    )
    model.learn_from_validation([unseen])  # half of the lesions have no candidate: none is let go
    assert model.candidate_threshold == pytest.approx(CONFIG.candidate_floor)
    model.learn_from_validation([dataclasses.replace(case, detections=Detections.empty())])
    assert model.candidate_threshold == pytest.approx(CONFIG.candidate_floor)


def test_what_a_low_floor_joins_are_candidates_of_their_own():
    probability = torch.zeros(16, 16, 16)
    probability[4:13, 4, 4] = 0.1  # between a lesion and a fainter one
    probability[4, 3:6, 3:6], probability[12, 3:6, 3:6] = 0.9, 0.5
    found = module().candidates(probability)
    np.testing.assert_array_equal(found.boxes, [[4, 3, 3, 5, 6, 6], [12, 3, 3, 13, 6, 6]])
    np.testing.assert_allclose(found.scores, [0.9, 0.5])


def test_a_crop_has_the_class_of_the_lesion_in_or_beside_its_middle():
    boxes = torch.tensor([[2.0, 2, 2, 4, 4, 4], [10, 10, 10, 12, 12, 12]])
    centres = torch.tensor([[3.0, 3, 3], [4.9, 3, 3], [5.1, 3, 3], [11, 11, 9.2]])
    assert classes_at(centres, boxes, torch.tensor([0, 1])).tolist() == [1, 1, 0, 2]
    assert classes_at(centres, boxes[:0], torch.zeros(0, dtype=torch.long)).tolist() == [0, 0, 0, 0]


def test_a_step_without_training_is_refused():
    with pytest.raises(UserError, match="left untrained"):
        module(candidate_share=0.8, teacher_share=0.2)


def test_single_slices_are_the_users_error():
    with pytest.raises(UserError, match="1x16x16") as refused:
        module(dataclasses.replace(PLAN, patch_size=(1, 16, 16)))
    assert "CMBRetinaUNet" in str(refused.value)


@pytest.mark.parametrize("radii", [(), (0.0,)])
def test_no_radius_is_the_users_error(radii):
    with pytest.raises(UserError, match="radii_mm"):
        module(radii_mm=radii)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_divides_nothing_is_the_users_error(temperature):
    with pytest.raises(UserError, match=f"temperature={temperature:g}"):
        module(temperature=temperature)


def test_shapes_are_measured_in_millimetres():
    probability = np.zeros((12, 20, 20), dtype=np.float32)
    probability[2:4, 2:6, 2:6] = 0.9  # 4 x 2 x 2 mm
    probability[8, 10, 1:19] = 0.8
    boxes = np.array([[2, 2, 2, 4, 6, 6], [8, 10, 1, 9, 11, 19]])
    volumes, elongations = core_shapes(probability, boxes, (2.0, 0.5, 0.5))
    assert volumes == pytest.approx([16.0, 9.0])
    assert elongations[0] < 2 < 4 < elongations[1]
    assert core_shapes(probability, np.array([[2, 2, 2, 3, 3, 3]]), (2.0, 0.5, 0.5))[1] == pytest.approx([1.0])


def test_inpainting_takes_the_tube_and_leaves_most_of_the_ball():
    z, y, x = torch.meshgrid(*[torch.arange(24.0)] * 3, indexing="ij")
    tube = torch.sigmoid((1.0 - ((y - 5) ** 2 + (z - 5) ** 2).sqrt()) / 0.3)
    ball = torch.sigmoid((2.0 - ((z - 16) ** 2 + (y - 16) ** 2 + (x - 12) ** 2).sqrt()) / 0.3)
    left = inpaint_vessels((tube + ball)[None], (1.0, 1.0, 1.0))[0]
    assert left[5, 5, 4:20].max() < 0.3 * tube.max()
    assert left[16, 16, 12] > 0.9


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    root = tmp_path_factory.mktemp("two_step")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("det_data", str(root / "data"))
        patch.setenv("det_models", str(root / "models"))
        made = make_tiny_task(root / "data", n_train=4, n_test=1, shape=(20, 24, 24), healthy=False)
        settings = ["planner_cfg.base_features=8", "planner_cfg.patch_size=[16,16,16]", "planner_cfg.batch_size=2"]
        assert nndet_prep(["900", "-np", "1", "-o", *settings]) == 0
        assert nndet_train(TRAIN) == 0
        yield made


def test_commands_train_all_steps_predict_and_go_on_after_a_kill(task, monkeypatch, capsys):
    fold = find_model(task).fold(0)
    whole = torch.load(fold.last, weights_only=True)
    assert "candidate_threshold" in whole["averaged_weights"]
    assert whole["averaged_weights"]["stage_reached"] == 2
    lines = (fold.root / "history.csv").read_text(encoding="utf-8").splitlines()
    assert {"candidate_dice", "teacher_class", "student", "val_froc_score"} <= set(lines[0].split(","))

    mode = "new"
    # Steps 0-7 are the candidates', 8-11 the teacher's, 12-15 the student's, and every second is saved: inside the
    # first, between first and second, inside the second, between second and third, and inside the third.
    for step in (5, 9, 11, 13, 15):
        monkeypatch.setattr(loop, "TrainingProgress", lambda history, step=step: DiesAt(step))
        assert nndet_train([*TRAIN, "exp.tag=killed", f"train.mode={mode}"]) == 1
        mode = "resume"
    monkeypatch.undo()
    assert nndet_train([*TRAIN, "exp.tag=killed", "train.mode=resume"]) == 0
    resumed = torch.load(find_model(task, "TwoStepKD_D3CMB_3d_killed").fold(0).last, weights_only=True)
    for part in ("state_dict", "averaged_weights"):
        for name, value in whole[part].items():
            assert torch.equal(resumed[part][name], value), name
    capsys.readouterr()

    # Of a network that has seen 16 patches nobody knows the scores: once nothing is reported, once everything.
    for score, warned in ((1.0, True), (0.0, False)):
        write_json(fold.operating_point, {"score": score, "ranking": "score_candidate"})
        assert nndet_predict(["900", "TwoStepKD_D3CMB_3d", "-npp", "0", "--overwrite"]) == 0
        case = read_case_predictions(boxes_file(fold.predictions("test"), "sub-51"))
        assert {"score_accepted", "score_candidate", "score_student", "rejected_by"} <= set(case.detections.columns)
        assert (case.detections.columns["rejected_by"] != "candidates").any()
        assert case.reported.any() != warned
        assert ("all candidates were rejected in 1 scans (sub-51)" in capsys.readouterr().err) == warned
