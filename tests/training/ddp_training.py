"""One process of a training with two: trains whole, killed and resumed, and with a loss that is not finite in one of
them; leaves what it saw in ``rank{N}.pt``.

Both are started by the test with Lightning's variables, so that they run several trainings after one start.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

import torch
from dies_at import DiesAt
from short_training import run

from cmb_plugin.errors import UserError
from cmb_plugin.training import loop

DDP = {"devices": 2, "accelerator": "cpu", "ids": ("a", "healthy", "b"), "validation_ids": ("a", "b", "c")}
ANCHORS = {"assignment": "atss", "widths": "plan", "norm": "instance"}


def main(prepared, folder):
    rank = int(os.environ["LOCAL_RANK"])
    rows, weights = {}, {}
    validated = []

    def record(module):
        module.learn_from_validation = lambda cases: validated.append([case.case_id for case in cases])
        weights["now"] = module

    def trained(name, resume=False, **changes):
        history, _ = run(prepared, folder / name, resume=resume, change=record, **DDP, **changes)
        rows[name] = history.rows
        weights[name] = {key: value.clone() for key, value in weights["now"].state_dict().items()}

    trained("whole")
    progress, loop.TrainingProgress = loop.TrainingProgress, lambda history: DiesAt(13)
    with suppress(KeyError):
        trained("killed")
    loop.TrainingProgress = progress
    trained("killed", resume=True)

    trained("prototypes", trainer="CMBRetinaUNet", epochs=1, model_cfg=ANCHORS)
    trained("centres", trainer="CMBRetinaUNet", epochs=1)

    def spoil(module):
        losses = module.losses
        factor = {(1, 4): float("nan")}
        module.losses = lambda batch: {
            name: value * factor.get((module.global_rank, module.global_step), 1.0)
            for name, value in losses(batch).items()
        }

    error = ""
    try:
        run(prepared, folder / "spoilt", change=spoil, **DDP)
    except UserError as stopped:
        error = str(stopped)
    del weights["now"]
    torch.save({"rows": rows, "weights": weights, "validated": validated, "error": error}, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
