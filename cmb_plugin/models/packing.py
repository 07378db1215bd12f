"""A trained model packed for other machines: what prediction reads of each fold, and nothing that names a patient."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from cmb_plugin.files import atomic
from cmb_plugin.paths import ModelFolder
from cmb_plugin.training import read_weights

from .ensemble import trainer_of
from .trained import TrainedModel


def pack(model: TrainedModel, whole: bool = False) -> Path:
    """Writes ``consolidated/{model}``, a model folder of its own: no splits, no history, nothing that names a case.

    Args:
        model: the folds, and the checkpoint of each that is packed.
        whole: pack checkpoints as they are, optimiser included, instead of their weights alone.

    Returns:
        the new folder.
    """
    target = ModelFolder(model.folder.consolidated.root / model.name)
    shutil.rmtree(target.root, ignore_errors=True)
    for number, source in model.fold_folders.items():
        fold = target.fold(number)
        fold.root.mkdir(parents=True)
        own = [source.root / name for name in trainer_of(source).files]
        for path in (source.plan, source.settings, source.operating_point, *own):
            if path.is_file():
                shutil.copy2(path, fold.root / path.name)
        chosen = source.checkpoint(model.checkpoint)
        if whole:
            shutil.copy2(chosen, fold.last)
        else:
            with atomic(fold.last) as temporary:
                torch.save({"state_dict": read_weights(chosen)}, temporary)
        fold.mark(finished=True)
    return target.root
