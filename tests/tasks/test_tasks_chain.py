"""A miniature of every source goes through convert, prep, train, predict and eval."""

from __future__ import annotations

from pathlib import Path

import miniatures
import pytest
from task_rules import assert_task_folder

from cmb_plugin.commands import convert, prep, train
from cmb_plugin.commands import eval as eval_command
from cmb_plugin.commands import predict as predict_command
from cmb_plugin.files import read_json
from cmb_plugin.paths import TaskFolder

SMALL_PLAN = ["planner_cfg.patch_size=[16,16,16]", "planner_cfg.base_features=4", "planner_cfg.pyramid_channels=8"]
SHORT = ["train=demo", "trainer_cfg.epochs=1", "trainer_cfg.steps_per_epoch=2", "trainer_cfg.swa_epochs=0"]
WRITERS = {
    "table": miniatures.write_table,
    "valdo": miniatures.write_valdo,
    "cuhk": miniatures.write_cuhk,
    "csiro": miniatures.write_csiro,
    "rodeja": miniatures.write_rodeja,
    "bids": miniatures.write_bids,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_miniature_goes_through_every_command(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    monkeypatch.setenv("det_models", str(tmp_path / "models"))
    source = WRITERS[name](tmp_path / "source", miniatures.tiny_scans(6))
    words = ["--source", str(source), "--task", "Task901_Mini", "--test-fraction", "0.34", "-np", "0"]
    assert convert.main([name, *words]) == 0
    task = TaskFolder(tmp_path / "data" / "Task901_Mini")
    assert_task_folder(task.root)
    assert (task.root / "conversion.html").is_file()
    assert prep.main(["901", "-np", "0", "-o", *SMALL_PLAN]) == 0
    assert train.main(["901", "-o", *SHORT]) == 0
    assert predict_command.main(["901", "-npp", "0"]) == 0
    assert eval_command.main(["901", "--test"]) == 0
    metrics = next((tmp_path / "models").rglob("test_results/metrics.json"))
    assert read_json(metrics)["n_cases"] == len(list(task.images("Ts").glob("*_0000.nii.gz")))
