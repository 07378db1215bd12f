"""The learning rate over a run: warm-up, polynomial decay, then falling cycles of weight averaging."""

from __future__ import annotations

from .config import TrainerConfig


def learning_rate(step: int, config: TrainerConfig) -> float:
    """Learning rate of optimisation step ``step`` (from 0).

    Main schedule of S steps: linear warm-up over W steps, times (1 - step / S) ** power. Averaging epochs of E steps:
    each falls linearly from ``swa_learning_rate`` to ``swa_final_learning_rate`` and starts again, so that every
    average is taken at the bottom of a cycle (Izmailov et al. 2018).
    """
    total = max(1, config.epochs * config.steps_per_epoch)
    if step >= total:
        done = (step - total) % config.steps_per_epoch / max(1, config.steps_per_epoch - 1)
        return config.swa_learning_rate + (config.swa_final_learning_rate - config.swa_learning_rate) * done
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return float(config.learning_rate * warmup * (1 - step / total) ** config.poly_power)
