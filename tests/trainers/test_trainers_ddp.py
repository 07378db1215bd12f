"""``nndet_train`` with two processes, which Lightning starts; tests/training/test_training_ddp.py looks at what they
learn."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_task import make_tiny_task

from cmb_plugin.commands.names import find_task
from cmb_plugin.settings import Overrides
from cmb_plugin.workflows.prep import prepare
from cmb_plugin.workflows.training_run import resolve

WORDS = ["train=demo", "trainer_cfg.epochs=2", "trainer_cfg.steps_per_epoch=3", "trainer_cfg.swa_epochs=1"]
PLAN = ["planner_cfg.patch_size=[16,16,16]", "planner_cfg.base_features=4", "planner_cfg.pyramid_channels=8"]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch was built without distributed training")
def test_the_command_trains_the_default_model_in_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    monkeypatch.setenv("det_models", str(tmp_path / "models"))
    make_tiny_task(tmp_path / "data", n_train=6, n_test=0)
    prepare(find_task("900"), Overrides.parse(PLAN), workers=0)
    words = [*WORDS, "trainer_cfg.devices=2", "trainer_cfg.accelerator=cpu", "model_cfg.hspl_start=0.5"]
    # A file, because Lightning starts the second process by running the first one's command again.
    script = tmp_path / "train.py"
    script.write_text("import sys\nfrom cmb_plugin.commands.train import main\nsys.exit(main(sys.argv[1:]))\n")
    command = [sys.executable, str(script), "900", "-o", *words]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Trained ") == 1  # the second process keeps quiet
    fold = resolve(find_task("900"), Overrides.parse(words)).fold
    weights = torch.load(fold.last, weights_only=True)["averaged_weights"]
    assert "network.head.logits.prototypes" in weights
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert (fold.results("val") / "metrics.json").is_file()
