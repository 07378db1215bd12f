"""A training of seconds: a tiny network, five small prepared cases, and ``run``."""

import dataclasses

import numpy as np
import torch

from cmb_plugin.images import Grid
from cmb_plugin.paths import FoldFolder
from cmb_plugin.planning import Anchors, Architecture, Plan
from cmb_plugin.plugins import trainers
from cmb_plugin.preparation import Preprocessing, preprocess_case, save_case
from cmb_plugin.training import AugmentConfig, TrainerConfig, fit, seed_all

PLAN = Plan(
    name="test_3d",
    planner="test",
    task="Task000_Test",
    modalities=("swi",),
    classes=("cmb",),
    preprocessing=Preprocessing(spacing=(1.0, 1.0, 1.0)),
    patch_size=(16, 16, 16),
    batch_size=2,
    architecture=Architecture(
        features=(4, 8),
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 3),) * 2,
        convs_per_stage=(1, 1),
        pyramid_channels=8,
        detection_levels=(1,),
    ),
    anchors=Anchors(sizes=(((3.0, 3.0, 3.0),),)),
    memory_gb=1.0,
    memory_estimate_gb=0.1,
)
CONFIG = TrainerConfig(
    epochs=2,
    swa_epochs=2,
    steps_per_epoch=5,
    optimizer="adamw",
    learning_rate=3e-3,
    warmup_steps=2,
    validate_every=2,
    precision="32-true",
)


def prepare_cases(folder):
    """Cases a, b and c with one lesion each, and two healthy ones."""
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c", "healthy", "healthy2"):
        image = rng.normal(size=(1, 24, 24, 24)).astype(np.float32)
        mask = np.zeros((24, 24, 24), dtype=np.int16)
        if not name.startswith("healthy"):
            mask[10:13, 8:11, 12:15] = 1
            image[0, mask > 0] -= 6
        case = preprocess_case(image, Grid((24, 24, 24), (1.0,) * 3), mask, PLAN.preprocessing)
        save_case(folder, name, case, {1: 0} if mask.any() else {})


def run(
    prepared,
    folder,
    *,
    resume=False,
    seed=0,
    trainer="RetinaUNetV001",
    ids=("a", "b"),
    validation_ids=("c",),
    inference_cfg=None,
    change=None,
    model_cfg=None,
    **changes,
):
    """Trains into ``folder``; ``model_cfg`` are settings of the network, ``change`` gets the module before, ``changes``
    are of ``TrainerConfig``.

    Returns the history and the last checkpoint.
    """
    seed_all(seed)
    config = dataclasses.replace(CONFIG, **changes)
    found = trainers.get(trainer)
    module = found(PLAN, found.model_config(**(model_cfg or {})), config, seed)
    if change:
        change(module)
    fold = FoldFolder(folder)
    history = fit(module, fold, prepared, ids, list(validation_ids), AugmentConfig(), resume, inference_cfg)
    return history, torch.load(fold.last, weights_only=True)
