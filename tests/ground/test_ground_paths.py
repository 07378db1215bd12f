"""What a user may call a task and a model."""

import pytest

from cmb_plugin.commands.names import find_model, find_task
from cmb_plugin.errors import UserError
from cmb_plugin.paths import ModelFolder, TaskFolder


@pytest.fixture
def root(tmp_path):
    for name in ("Task101_CMB", "Task007_Other_Name", "Task012_CMB2"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize("word", ["101", "Task101_CMB", "CMB", "Task101"])
def test_a_task_is_a_number_a_name_or_both(root, word):
    assert find_task(word, root).name == "Task101_CMB"


def test_leading_zeros_do_not_matter(root):
    assert find_task("7", root).name == find_task("007", root).name == "Task007_Other_Name"
    assert find_task("Other_Name", root).name == "Task007_Other_Name"


def test_letters_behind_a_number_are_found_as_in_nndetection(root):
    (root / "Task000D3_Example").mkdir()
    (root / "Task012FG_CMB2").mkdir()
    assert {find_task(name, root).name for name in ("000", "0", "000D3", "Task000D3")} == {"Task000D3_Example"}
    assert find_task("12", root).name == "Task012_CMB2"  # its own number comes first
    assert find_task("012FG", root).name == "Task012FG_CMB2"


def test_a_path_is_a_task_wherever_it_lies(root):
    assert find_task(str(root / "Task012_CMB2"), root / "elsewhere").root == root / "Task012_CMB2"


def test_an_unknown_task_names_the_nearest(root):
    with pytest.raises(UserError, match=r"no task 'Task101_CBM'.*Task101_CMB"):
        find_task("Task101_CBM", root)


def test_two_tasks_of_one_number_must_be_told_apart(root):
    (root / "Task101_Again").mkdir()
    with pytest.raises(UserError, match="Task101_Again, Task101_CMB"):
        find_task("101", root)


def make_model(root, name, fold=0):
    folder = root / "Task101_CMB" / name / f"fold{fold}"
    folder.mkdir(parents=True)
    (folder / "model_last.ckpt").touch()


def test_the_only_trained_model_is_the_default(root, tmp_path):
    models, task = tmp_path / "models", TaskFolder(root / "Task101_CMB")
    with pytest.raises(UserError, match="nndet_train Task101_CMB"):
        find_model(task, root=models)
    make_model(models, "A_plan", fold=3)
    make_model(models, "A_plan", fold=0)
    (models / "Task101_CMB" / "untrained" / "fold0").mkdir(parents=True)
    assert find_model(task, root=models).trained_folds() == [0, 3]
    make_model(models, "B_plan")
    with pytest.raises(UserError, match="name one: A_plan, B_plan"):
        find_model(task, root=models)
    assert find_model(task, "B_plan", models) == ModelFolder(models / "Task101_CMB" / "B_plan")
