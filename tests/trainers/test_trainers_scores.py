"""Every score by which a trainer's detections can be ranked says what it means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_plan import PLAN

from cmb_plugin.detections import SCORE_PREFIX
from cmb_plugin.inference import InferenceConfig, predict_array
from cmb_plugin.plugins import trainers


@pytest.mark.parametrize(
    ("name", "everything"),  # and the setting with which an untrained network sees lesions
    [
        ("RetinaUNetV001", {"score_threshold": 0.0}),
        ("CMBRetinaUNet", {"score_threshold": 0.0}),
        ("CMBRetinaUNet", {"score_threshold": 0.0, "prototype_score": False}),
        ("TwoStepKD", {}),
        ("DeepMIRUNet", {"candidate_threshold": 0.001}),
    ],
)
def test_the_scores_of_detections_are_those_that_the_trainer_describes(name, everything):
    torch.manual_seed(0)
    trainer = trainers.get(name)
    module = trainer(PLAN, trainer.model_config(**everything)).eval()
    if name == "TwoStepKD":
        module.stage_reached.fill_(2)  # all three steps have learned
    scan = np.random.default_rng(0).standard_normal((1, 16, 16, 16)).astype(np.float32)
    detections = predict_array([module], scan, InferenceConfig(min_score=0.0, tta=1)).detections
    assert len(detections)
    assert set(detections.rankings) == set(module.scores)
    assert all(column.startswith(SCORE_PREFIX) and meaning for column, meaning in module.scores.items())
