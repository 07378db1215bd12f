"""``pack``: a trained model of a Task becomes one file that predicts anywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cmb_plugin.dataset import read_splits
from cmb_plugin.errors import UserError
from cmb_plugin.models.packed import PackedHeader, pack_file
from cmb_plugin.models.seen import SeenScans
from cmb_plugin.models.trained import TrainedModel, splits_file
from cmb_plugin.paths import TaskFolder
from cmb_plugin.planning import Plan
from cmb_plugin.preparation import Fingerprint
from cmb_plugin.workers import commit_of_code


def pack(task: TaskFolder, model: TrainedModel, target: Path, recipe: str = "") -> PackedHeader:
    """Packs trained folds with what the Task's training scans are like.

    Args:
        task: that the model was trained on; of its preparation the fingerprint is read.
        model: the folds.
        target: file to write.
        recipe: how it was trained, a sentence.

    Raises:
        UserError: the Task was never prepared here, or the model cannot be read.
    """
    plan = Plan.load(model.folder.fold(model.folds[0]).plan)
    fingerprint = Fingerprint.load(task.fingerprint)
    trained = {
        case_id
        for number, fold in model.fold_folders.items()
        for case_id in read_splits(splits_file(task, fold))[number]["train"]
    }
    cases = tuple(case for case in fingerprint.cases if case.case_id in trained)
    if not cases:
        raise UserError(f"{task.fingerprint}: holds none of the model's training scans", remedy="run nndet_prep again")
    fingerprint = replace(fingerprint, cases=cases)
    seen = SeenScans.of(fingerprint, plan.modalities, plan.polarity[0] if plan.polarity else "")
    return pack_file(model, seen, target, recipe, commit_of_code())
