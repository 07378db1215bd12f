"""``pack``: a trained model of a Task becomes one file that predicts anywhere."""

from __future__ import annotations

from pathlib import Path

from cmb_plugin.models.packed import PackedHeader, pack_file
from cmb_plugin.models.seen import seen_before, seen_in_training
from cmb_plugin.models.trained import TrainedModel
from cmb_plugin.paths import TaskFolder
from cmb_plugin.workers import commit_of_code


def pack(task: TaskFolder, model: TrainedModel, target: Path, recipe: str = "") -> PackedHeader:
    """Packs trained folds with what their training scans are like, and those of the weights that they began with.

    Args:
        task: that the model was trained on; of its preparation the fingerprint is read.
        model: the folds.
        target: file to write.
        recipe: how it was trained, a sentence.

    Raises:
        UserError: the Task was never prepared here, or the model cannot be read.
    """
    folds = model.fold_folders
    seen, before = seen_in_training(task, folds), seen_before(folds[model.folds[0]])
    return pack_file(model, seen.joined(before) if before else seen, target, recipe, commit_of_code())
