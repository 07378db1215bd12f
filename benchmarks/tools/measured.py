"""Predictions and region maps of a task as the studies measure them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cmb_plugin.commands.names import region_choice
from cmb_plugin.dataset import Case, Dataset, Truth
from cmb_plugin.errors import UserError
from cmb_plugin.models.scored_cases import PredictionSet, ScoredCases
from cmb_plugin.preparation import brain_channel
from cmb_plugin.regions.sources import RegionSource, Surroundings


def scored_folder(
    dataset: Dataset, cases: Sequence[Case], folder: Path, split: str, truths: dict[str, Truth] | None = None
) -> ScoredCases:
    """Every one of some scans of a task with the predictions of a folder, with the scores that stand in its files.

    Args:
        dataset: the task.
        cases: the scans.
        folder: of the predictions.
        split: ``val`` or ``test``, to which the scans belong.
        truths: lesions by case, filled here and used by the next call; masks are slow to read.

    Raises:
        UserError: a scan is not predicted or cannot be read.
    """
    predictions = PredictionSet.of_folder(dataset, folder, split, cases)
    scored = dataclasses.replace(predictions, remedy="run again without --only eval").read(truths=truths)
    scored.check_complete()
    return scored


def source_named(text: str, dataset: Dataset, part: str) -> RegionSource:
    """The source of region maps that ``--regions`` of nndet_predict means, for scans of a task.

    Args:
        text: ``model:NAME``, ``atlas:builtin``, ...
        dataset: the task.
        part: ``Tr`` or ``Ts``.

    Raises:
        UserError: there is no such source, or it makes no map.
    """
    choice = region_choice(text, dataset.task)
    if choice is None:
        raise UserError(f"{text}: makes no map of regions", remedy="name a source, for instance atlas:builtin")
    return choice(Surroundings(dataset.task.images(part), brain_channel(dataset.modalities) or 0))
