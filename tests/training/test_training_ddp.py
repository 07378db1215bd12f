"""Two processes train one model on CPUs: one set of weights, validation of all scans, exact resume, an end together."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from short_training import PLAN

from cmb_plugin.inference import InferenceConfig
from cmb_plugin.paths import FoldFolder
from cmb_plugin.plugins import trainers
from cmb_plugin.preparation import StoredCase
from cmb_plugin.training import read_weights
from cmb_plugin.training.validation import _find_lesions, validation_figures

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch trains in one process only")


@pytest.fixture(scope="module")
def together(prepared, tmp_path_factory):
    """The folder of the trainings, and what each of the two processes saw."""
    folder = tmp_path_factory.mktemp("ddp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Path(__file__).parent
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]),
    }
    command = [sys.executable, str(here / "ddp_training.py"), str(prepared), str(folder)]
    processes = []
    for rank in range(2):
        with (folder / f"rank{rank}.log").open("w") as log:
            environment = {**os.environ, **shared, "LOCAL_RANK": str(rank)}
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    try:
        codes = [process.wait(timeout=500) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0], "".join(
        (folder / f"rank{rank}.log").read_text(encoding="utf-8")[-2000:] for rank in range(2)
    )
    return folder, [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_both_processes_have_the_same_weights(together):
    _, (first, second) = together
    assert first["weights"]["prototypes"]["network.prototypes.placed"] == 1  # at places that both must agree about
    for name in ("whole", "killed", "prototypes", "centres"):
        torch.testing.assert_close(first["weights"][name], second["weights"][name], rtol=0, atol=0)


def test_each_process_learns_of_all_validation_scans(together):
    _, ranks = together
    for seen in ranks:
        assert seen["validated"]
        assert all(cases == ["a", "c", "b"] for cases in seen["validated"])  # the first process has a and c


def test_validation_by_two_processes_equals_that_by_one(prepared, together):
    folder, _ = together
    module = trainers.get("RetinaUNetV001")(PLAN)
    module.load_state_dict(read_weights(FoldFolder(folder / "whole").last))
    module.eval()
    config = InferenceConfig(overlap=0.25, foreground=False)
    cases = [_find_lesions(module, StoredCase.open(prepared, case_id), config) for case_id in ("a", "b", "c")]
    row = list(csv.DictReader((folder / "whole" / "history.csv").open()))[-1]
    for name, value in validation_figures(cases, PLAN.classes).items():
        assert float(row[name]) == pytest.approx(value, abs=1e-6), name


def test_a_resumed_run_equals_an_uninterrupted_one(together):
    folder, ranks = together
    assert ranks[0]["rows"]["killed"] == ranks[0]["rows"]["whole"]
    for seen in ranks:
        torch.testing.assert_close(seen["weights"]["killed"], seen["weights"]["whole"], rtol=0, atol=0)
    whole, resumed = (read_weights(FoldFolder(folder / name).last) for name in ("whole", "killed"))
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


def test_the_processes_draw_different_patches(together):
    _, (first, second) = together
    assert first["rows"]["whole"][0]["loss"] != second["rows"]["whole"][0]["loss"]


def test_a_loss_that_is_not_finite_in_one_process_ends_both(together):
    folder, (first, second) = together
    assert "not finite in another process" in first["error"]
    assert "not finite at step 4" in second["error"]
    assert not (folder / "spoilt" / "model_last.ckpt").exists()
