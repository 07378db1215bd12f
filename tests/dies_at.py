"""A training that ends before a chosen step, as if it had been killed."""

from lightning import Callback


class DiesAt(Callback):
    def __init__(self, step, error=KeyError):
        self.step = step
        self.error = error

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise self.error("killed")
