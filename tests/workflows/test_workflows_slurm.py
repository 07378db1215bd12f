"""Folds as a job array of Slurm: the script is run here by bash, with programs that stand for Slurm's."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from tiny_task import make_tiny_task

from cmb_plugin.commands import prep, train
from cmb_plugin.workflows.slurm import slurm_options

SMALL = ["planner_cfg.patch_size=[16,16,16]", "planner_cfg.base_features=4", "planner_cfg.centre_features=4"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("det_data", str(folder / "data"))
        make_tiny_task(folder / "data", modalities=("swi",), n_train=4, n_test=0, shape=(16, 24, 24))
        assert prep.main(["900", "-np", "0", "-o", *SMALL]) == 0
    return folder


@pytest.fixture(autouse=True)
def _environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("det_data", str(root / "data"))
    monkeypatch.setenv("det_models", str(root / "models"))


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def test_each_entry_of_the_array_trains_its_fold(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--slurm-options", "partition=gpu,time=600", "nodelist=a,b", "gpus_per_node=1"]
    tag = "exp.tag=a b"  # a space is one word
    assert train.main(["900", "--slurm", "-f", "0,2", "-o", tag, "train=demo", *options]) == 0
    script = capsys.readouterr().out
    for line in ("--partition=gpu", "--time=600", "--nodelist=a,b", "--gpus-per-node=1", "--array=0-1%2"):
        assert f"#SBATCH {line}\n" in script
    (logs,) = re.findall(r"--output=(.*)/%A_%a_0_log.out", script.replace("'", ""))
    assert Path(logs).is_dir()
    assert not list((root / "models").rglob("fold*"))  # nothing was trained
    # srun prints the words of the command that comes after its own
    program(tmp_path, "srun", 'while [ "${1:0:2}" = -- ] || [ "${1:0:1}" = % ] || [ -d "${1%/*}" ] && '
            '[[ "$1" != *nndet_train ]]; do shift; done; shift; printf "%s|" "$@"')  # fmt: skip
    for entry, fold in ((0, "0"), (1, "2")):
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": str(entry)}
        done = subprocess.run(["bash"], input=script, env=environment, capture_output=True, text=True, check=True)
        task = root / "data" / "Task900_Tiny"
        assert done.stdout.strip("|") == f"{task}|-o|{tag}|train=demo|-o|exp.fold={fold}"


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["partition=gpu,exclude=n1,n2"], {"partition": "gpu", "exclude": "n1,n2"}),
        (["exclude=n1,n2,mem=32GB", "time=600"], {"exclude": "n1,n2", "mem": "32GB", "time": 600}),
        (["partition=gpu,long", "comment=a=b"], {"partition": "gpu,long", "comment": "a=b"}),
    ],
)
def test_a_comma_begins_an_option_only_where_a_name_follows(words: list[str], options: dict[str, object]) -> None:
    assert slurm_options(words) == options


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["-f", "0,1"], "-f 0,1: one fold is trained at a time - call nndet_train for each, or"),
        (["-f", "0", "-f", "1"], "-f 0,1: one fold is trained at a time"),
        (["-f", "1", "-o", "exp.fold=2"], "-f 1: exp.fold=2 names another fold"),
        (["-f", "9"], "no fold 9"),
        (["-f", "without:mars"], "has no second domain to train on"),
        (["--slurm-options", "partition=gpu"], "add --slurm"),
    ],
)
def test_what_is_meant_for_slurm_is_not_passed_over_without_it(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["900", *words]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [["-f", "2"], ["-f", "2", "-o", "exp.fold=2"], ["-o", "exp.fold=2", "exp.tag=x"]])
def test_a_fold_named_as_in_other_commands_is_the_one_that_is_trained(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    monkeypatch.setattr("cmb_plugin.workflows.train.train", lambda run, log: trained.append(run.fold.root.name))
    assert train.main(["900", *words]) == 0
    assert trained == ["fold2"]


def test_all_folds_are_submitted_with_the_script_beside_the_logs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "sbatch", 'grep -o "array=.*" "$1"; echo Submitted batch job 7')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert train.main(["900", "--slurm", "submit"]) == 0
    assert capsys.readouterr().out.splitlines() == ["array=0-3%4", "Submitted batch job 7"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["-f", "9"], "no fold 9"),
        (["-o", "exp.fold=1"], "exp.fold names one fold - name those of the array with -f 0,1,2"),
        (["--slurm-options", "partitoin=gpu"], "partitoin: is no option of sbatch - did you mean partition?"),
        (["--slurm-options", "gpu"], "gpu: is no NAME=VALUE"),
        (["submit"], "there is no sbatch here"),
    ],
)
def test_what_cannot_be_trained_is_said_before_a_job_waits(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert train.main(["900", "--slurm", *words]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
