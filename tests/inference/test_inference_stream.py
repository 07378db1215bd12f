"""Reading, network and writing overlap; a run may be killed; a case can be predicted whole in any process."""

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from by_name import predict
from test_inference_workflow import LESIONS, blob_trainer, contents, task, write_scan  # noqa: F401 - fixtures

from cmb_plugin.commands.names import find_folds, find_model
from cmb_plugin.models.ensemble import load_ensemble
from cmb_plugin.workflows import case_prediction
from cmb_plugin.workflows.case_prediction import CaseJob, CasePredictor, CaseResult
from cmb_plugin.workflows.predict import default_device
from cmb_plugin.workflows.scan_selection import ScanSelection


def test_a_predictor_that_was_sent_to_another_process_writes_the_same_case(task, tmp_path, monkeypatch, blob_trainer):  # noqa: F811
    predict("900", output=tmp_path / "here")
    folds = find_folds(find_model(task, None), None)
    ensemble = load_ensemble(folds, default_device(), folds.inference_config())
    (tmp_path / "there").mkdir()
    sent = pickle.dumps(CasePredictor.of(ensemble, tmp_path / "there", draw=True))
    sources = ScanSelection(task).select(folds, ensemble.plan, False).sources
    jobs = pickle.dumps([CaseJob(source, "") for source in sources])
    monkeypatch.setattr(case_prediction, "_loaded", {})
    blob_trainer.loaded.clear()
    predictor = pickle.loads(sent)
    assert [predictor(job) for job in pickle.loads(jobs)] == [CaseResult()] * 2
    assert [name for name, _ in blob_trainer.loaded] == ["fold0", "fold1"]
    here, there = (contents(tmp_path / name) for name in ("here", "there"))
    assert len(there) == 4
    for name, written in there.items():
        if name.endswith(".nii.gz"):
            assert written == here[name]
        else:
            without_key = [line for line in here[name].splitlines() if b'"key"' not in line]
            assert [line for line in written.splitlines() if b'"key"' not in line] == without_key


def test_a_case_is_written_while_the_network_sees_the_next_and_no_more_wait(task, tmp_path, monkeypatch):  # noqa: F811
    for name in ("a", "b", "c"):
        write_scan(task.images("Ts") / f"{name}_0000.nii.gz", LESIONS)
    detected = {name: threading.Event() for name in ("b", "c", "sub-01_ses-2", "sub.2")}
    held: set[str] = set()
    most = []
    detect, write = CasePredictor.detect, CasePredictor.write

    def watched_detect(self, job, scan):
        held.add(job.case_id)
        most.append(len(held))
        if job.case_id in detected:
            detected[job.case_id].set()
        return detect(self, job, scan)

    def watched_write(self, job, scan, prediction):
        following = {"a": "b", "b": "c", "c": "sub-01_ses-2", "sub-01_ses-2": "sub.2"}.get(job.case_id)
        assert following is None or detected[following].wait(20), f"{following} waits for {job.case_id} to be written"
        held.remove(job.case_id)
        if job.case_id == "b":
            raise OSError(28, "No space left on device")
        return write(self, job, scan, prediction)

    monkeypatch.setattr(CasePredictor, "detect", watched_detect)
    monkeypatch.setattr(CasePredictor, "write", watched_write)
    report = predict("900", output=tmp_path / "out")
    assert max(most) == 2
    assert [(failure.item.case.case_id, failure.error) for failure in report.failures] == [
        ("b", "No space left on device - free space there or choose another folder, then run the command again")
    ]
    assert report.predicted == 4
    assert len(list((tmp_path / "out").glob("*_boxes.json"))) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_killed_at_any_place_and_started_again_nothing_is_lost_or_done_twice(task, tmp_path):  # noqa: F811
    for name in ("a", "b", "c", "d"):
        write_scan(task.images("Ts") / f"{name}_0000.nii.gz", LESIONS)
    (task.images("Ts") / "c_0000.nii.gz").write_bytes(b"no image")
    whole, out = tmp_path / "whole", tmp_path / "out"
    predict("900", output=whole)
    script = Path(__file__).with_name("killed_runs.py")
    done = subprocess.run(
        [sys.executable, script, "network:2", "writing:1", "writing:2", "--", "900", "--output", out, "-npp", "0"],
        capture_output=True,
        text=True,
    )
    assert [line for line in done.stdout.splitlines() if line.lstrip("-").isdigit()] == ["-9"] * 3, done.stderr
    # A file that was being written when its process was killed stays, under a hidden name.
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("[!.]*_boxes.json")}
    # Before the network saw the second, the first may or may not have been written; of the writes two were whole.
    assert 1 <= len(kept) <= 2
    report = predict("900", output=out)
    assert (report.predicted, report.kept, len(report.failures)) == (5 - len(kept), len(kept), 1)
    assert all((out / name).stat().st_mtime_ns == time for name, time in kept.items())
    assert {name: file for name, file in contents(out).items() if not name.startswith(".")} == contents(whole)
    assert "c\tfailed" in (out / "summary.tsv").read_text(encoding="utf-8")
