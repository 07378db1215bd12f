"""``acquire``: the scans of a pool that a reader should look at next, as a queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cmb_plugin.dataset import Dataset
from cmb_plugin.errors import UserError
from cmb_plugin.inference import InferenceConfig
from cmb_plugin.models.trained import TrainedModel
from cmb_plugin.review.queue import QueuedScan, ReviewQueue

from .pool import predict_pool
from .strategies import needs_of, strategy_named


@dataclass
class AcquireReport:
    """What became of a pool.

    Attributes:
        queue: what was chosen.
        files: the queue, and its table.
        ranking: table of all scans of the pool.
        pool: number of scans that could be chosen.
        passed_over: scans that the Task has already.
        failures: case -> why it could not be predicted.
    """

    queue: ReviewQueue
    files: tuple[Path, Path]
    ranking: Path
    pool: int
    passed_over: int
    failures: dict[str, str]

    @property
    def exit_code(self) -> int:
        """0, or 2 when a scan of the pool could not be predicted."""
        return 2 if self.failures else 0


def acquire(
    dataset: Dataset,
    model: TrainedModel,
    folders: Mapping[str, Path],
    output: Path,
    *,
    strategy: str,
    count: int,
    seed: int = 0,
    config: InferenceConfig | None = None,
    device: torch.device | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> AcquireReport:
    """Ranks the scans of a pool and writes the first of them as a queue that ``nndet_review`` opens.

    Args:
        dataset: the Task of the model.
        model: what predicts.
        folders: domain -> folder of scans.
        output: folder of predictions and queues.
        strategy: name of the strategy.
        count: scans of the queue.
        seed: of chance.
        config, device, log: as for ``predict``.

    Raises:
        UserError: there is no such strategy, nothing to choose from, or the model cannot do what the strategy needs.
    """
    rank = strategy_named(strategy)
    if count < 1:
        raise UserError(f"--acquire {count}: chooses nothing", remedy="give 1 or more")
    pool = predict_pool(dataset, model, folders, output, needs_of(rank), config, device, log)
    ranking = rank(pool.evidence, np.random.default_rng(seed))
    scans = []
    for number in ranking.order.tolist():
        scan, found = pool.scans[number], pool.evidence.scans[number].predictions
        scans.append(
            QueuedScan(
                scan.case_id,
                scan.images,
                scan.predictions,
                round(float(ranking.values[number]), 6) if np.isfinite(ranking.values[number]) else 0.0,
                scan.domain,
                int(found.reported.sum()),
                len(found.detections),
            )
        )
    chosen = {
        "strategy": strategy,
        "seed": seed,
        "model": model.name,
        "folds": list(model.folds),
        "pool": {domain: str(folder) for domain, folder in folders.items()},
    }
    title = f"{dataset.task.name}, {strategy}"
    table = ReviewQueue(dataset.task.name, title, tuple(scans), chosen).table(output / f"ranking_{strategy}.tsv")
    queue = ReviewQueue(dataset.task.name, title, tuple(scans[:count]), chosen)
    files = queue.save(output / f"queue_{strategy}.json")
    return AcquireReport(queue, files, table, len(scans), pool.passed_over, pool.failures)
