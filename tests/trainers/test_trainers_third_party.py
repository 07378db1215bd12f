"""A planner and a trainer that are installed as a package of their own go the whole way, with every hook in use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_task import make_tiny_task

SOURCE = Path(__file__).parents[1] / "third_party"
SETTINGS = ["train=demo", "trainer_cfg.epochs=2", "trainer_cfg.steps_per_epoch=15", "trainer_cfg.swa_epochs=1"]
CASES = 6
BATCHES = 3 * 15


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as pip installs it, in a folder of its own."""
    source, target = tmp_path_factory.mktemp("source") / "dark_spots", tmp_path_factory.mktemp("installed")
    shutil.copytree(SOURCE, source)  # building leaves files beside the source
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True, timeout=120)
    return target


def test_it_goes_through_all_commands(installed: Path, tmp_path: Path) -> None:
    data, models = tmp_path / "data", tmp_path / "models"
    environment = {**os.environ, "det_data": str(data), "det_models": str(models), "PYTHONPATH": str(installed)}
    environment |= {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    task = make_tiny_task(data, n_train=CASES, n_test=2)

    def nndet(name: str, *words: str) -> str:
        code = f"import sys; from cmb_plugin.commands.{name} import main; sys.exit(main(sys.argv[1:]))"
        done = subprocess.run(
            [sys.executable, "-c", code, "900", *words],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "Planned by a package outside the repository." in nndet("prep", "-o", "planner=SpotPlanner", "-np", "1")
    nndet("train", "-o", "module=DarkSpots", *SETTINGS)
    fold = models / task.name / "DarkSpots_SpotPlanner_3d" / "fold0"
    calibration = json.loads((fold / "calibration.json").read_text(encoding="utf-8"))
    validated = json.loads((fold / "splits.json").read_text(encoding="utf-8"))[0]["val"]
    assert calibration["scans"] == len(validated) > 0
    assert calibration["centred"] == BATCHES * 4 // 2  # its own sampling: half of every batch of 4

    remark = f"2 scans by a model that was calibrated on {len(validated)}"
    assert remark in nndet("predict")
    nndet("consolidate", "--num_folds", "1")
    packed = fold.parent / "consolidated" / fold.parent.name
    kept = {path.name for path in (packed / "fold0").iterdir()}
    needed = {"model_last.ckpt", "training.json", "plan.json", "settings.yaml", "operating_point.json"}
    assert kept == {*needed, "calibration.json"}

    elsewhere = tmp_path / "handed_over"
    shutil.move(packed, elsewhere)
    shutil.rmtree(models)
    scans = str(task.images("Ts"))
    assert remark in nndet("predict", str(elsewhere), "--input", scans, "--output", str(tmp_path / "detections"))
    assert len(list((tmp_path / "detections").glob("*_boxes.json"))) == 2
