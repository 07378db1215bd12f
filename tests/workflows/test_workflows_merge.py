"""``nndet_merge``: Tasks become one by links; names decide what goes together, and what does not fit is one line."""

import json

import pytest
from tiny_task import make_tiny_task

from cmb_plugin.commands.merge import main as nndet_merge
from cmb_plugin.dataset import Dataset, check_dataset
from cmb_plugin.paths import TaskFolder


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("det_data", str(tmp_path))
    return tmp_path


def make(root, name, modalities=("swi", "phase"), classes=("cmb",), **options):
    sizes = {"n_train": 2, "n_test": 1, "shape": (16, 20, 20), "healthy": False}
    return make_tiny_task(root, name=name, modalities=modalities, classes=classes, **{**sizes, **options})


def define(task, **entries):
    path = task.root / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **entries}))


def refused(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    return lines[0]


def test_tasks_are_joined_by_links_with_names_matched_and_domains_kept(root, capsys):
    first = make(root, "Task101_A", classes=("cmb", "iron"))
    second = make(root, "Task102_B", modalities=("PHASE", "SWI"), classes=("Iron", "CMB"), seed=1)
    define(first, domain={"sub-01": "ukb"}, session_id={"sub-01": "p", "sub-02": "p"}, metadata={"sub-01": {"age": 70}})
    define(second, missing={"sub-01": ["PHASE"]})
    assert nndet_merge(["101", "102", "--task", "Task200_All"]) == 0
    assert "ukb" in capsys.readouterr().out
    task = TaskFolder(root / "Task200_All")
    joined = Dataset.load(task)
    assert (joined.modalities, joined.classes, joined.test_labels) == (("swi", "phase"), ("cmb", "iron"), True)
    cases = {case.case_id: case for case in joined.cases("Tr")}
    assert {name: case.domain for name, case in cases.items()} == {
        "A_sub-01": "ukb", "A_sub-02": "A", "B_sub-01": "B", "B_sub-02": "B"
    }  # fmt: skip
    assert [case.case_id for case in joined.cases("Ts")] == ["A_sub-51", "B_sub-51"]
    assert joined.patients([*cases]) == {
        "A_sub-01": "A_p", "A_sub-02": "A_p", "B_sub-01": "B_sub-01", "B_sub-02": "B_sub-02"
    }  # fmt: skip
    swi, phase = cases["B_sub-02"].images
    assert swi.resolve() == second.images("Tr") / "sub-02_0001.nii.gz"
    assert phase.resolve() == second.images("Tr") / "sub-02_0000.nii.gz"
    assert cases["B_sub-01"].missing == (1,)
    assert joined.missing == {"B_sub-01": (1,)}
    before = Dataset.load(second).cases("Tr")[1].read_labels()
    after = cases["B_sub-02"].read_labels()
    names = {number: ("Iron", "CMB")[label].casefold() for number, label in before.classes.items()}
    assert {number: joined.classes[label] for number, label in after.classes.items()} == names
    assert not [file for file in task.raw.glob("images*/*") if not file.is_symlink()]
    assert not check_dataset(joined).errors
    assert json.loads((task.root / "dataset.json").read_text(encoding="utf-8"))["metadata"] == {"A_sub-01": {"age": 70}}


def test_run_again_it_links_what_is_new_and_removes_what_is_gone(root, capsys):
    first, _ = make(root, "Task101_A"), make(root, "Task102_B")
    words = ["101", "102", "--task", "Task200_All"]
    assert nndet_merge(words) == 0
    task = TaskFolder(root / "Task200_All")
    note = task.images("Tr") / "note.txt"
    note.write_text("mine")
    capsys.readouterr()
    assert nndet_merge(words) == 0
    assert "0 files linked" in capsys.readouterr().out
    for file in [*first.raw.glob("*Tr/sub-02*")]:
        file.rename(file.with_name(file.name.replace("sub-02", "sub-03")))
    assert nndet_merge(words) == 0
    assert "4 files linked, 4 removed" in capsys.readouterr().out
    assert [case.case_id for case in Dataset.load(task).cases("Tr")][:2] == ["A_sub-01", "A_sub-03"]
    assert note.exists()
    (task.root / "dataset.json").unlink()  # as if killed before the end
    assert nndet_merge(words) == 0
    assert Dataset.load(task).modalities == ("swi", "phase")
    assert nndet_merge([*words, "--shared_patients"]) == 2
    assert "--overwrite" in refused(capsys)
    assert not list(root.glob(".*.lock"))


def test_what_does_not_fit_is_one_line_with_the_remedy(root, capsys):
    make(root, "Task101_A")
    make(root, "Task102_B", modalities=("swi",))
    make(root, "Task103_C", classes=("cmb", "iron"))
    make(root, "Task104_D", modalities=("t2s", "phase"), classes=("bleed",))
    foreign = make(root, "Task300_Own")
    target = ["--task", "Task200_All"]
    assert nndet_merge(["101", "102", *target]) == 2
    message = refused(capsys)
    assert "Task102_B: has no modality phase, which Task101_A has" in message
    assert "--modalities swi" in message
    assert nndet_merge(["101", "103", *target]) == 2
    assert "Task101_A: has no class iron, which Task103_C has" in refused(capsys)
    assert nndet_merge(["101", *target]) == 2
    assert "two or more" in refused(capsys)
    assert nndet_merge(["101", "102", "--modalities", "swi", "--task", foreign.name]) == 2
    assert "holds a data set that was not joined" in refused(capsys)
    assert nndet_merge(["101", "104", *target, "--rename", "t2s=swi", "bled=cmb"]) == 2
    assert "--rename bled: no Task has such" in refused(capsys)
    assert not (root / "Task200_All").exists()
    assert nndet_merge(["101", "104", *target, "--rename", "t2s=swi", "bleed=cmb"]) == 0
    assert nndet_merge(["101", "102", *target, "--modalities", "swi,phase", "--overwrite"]) == 0
    joined = Dataset.load(TaskFolder(root / "Task200_All"))
    assert joined.missing == {"B_sub-01": (1,), "B_sub-02": (1,), "B_sub-51": (1,)}


def test_nobody_is_trained_on_and_tested(root, capsys):
    make(root, "Task101_A")
    other = make(root, "Task102_B")
    define(other, session_id={"sub-51": "sub-01"})
    words = ["101", "102", "--task", "Task200_All"]
    assert nndet_merge([*words, "--shared_patients"]) == 2
    assert "patient sub-01 is in test, but in training of Task101_A" in refused(capsys)
    define(other, session_id={})
    assert nndet_merge([*words, "--shared_patients"]) == 0
    joined = Dataset.load(TaskFolder(root / "Task200_All"))
    assert joined.patients(["A_sub-01", "B_sub-01"]) == {"A_sub-01": "sub-01", "B_sub-01": "sub-01"}
