"""A few steps of training on one batch."""

import torch

from cmb_plugin.training import Batch, TrainingModule


def train(model: TrainingModule, batch: Batch, steps: int, lr: float) -> list[dict[str, float]]:
    """The losses of each step, by name."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=lr)
    history = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses = model.losses(batch)
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
    return history
