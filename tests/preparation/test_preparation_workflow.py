"""``nndet_prep`` from a raw Task folder to plan, arrays and splits."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_task import make_tiny_task, tiny_grid

from cmb_plugin.commands.prep import main
from cmb_plugin.dataset import Dataset, read_truth, write_dataset
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import Grid, boxes_of_instances, read_mask, write_image
from cmb_plugin.paths import TaskFolder
from cmb_plugin.planning import Plan
from cmb_plugin.plugins import planners
from cmb_plugin.preparation import Fingerprint, ScanSource, StoredCase, input_cases, prepared_cases, prepared_scans
from cmb_plugin.settings import Overrides
from cmb_plugin.workflows.prep import prepare
from cmb_plugin.workflows.prep_report import PrepReport

PLAN = "D3CMB_3d"
BUDGET = "planner_cfg.gpu_memory_gb=2"


@pytest.fixture(autouse=True)
def _coarse_anchor_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmb_plugin.planning.anchors.PLACED_BOXES", 100)


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskFolder:
    monkeypatch.setenv("det_data", str(tmp_path))
    return make_tiny_task(tmp_path, n_train=3, n_test=1, modalities=("swi",), shape=(16, 24, 24))


def prep(task: TaskFolder, *overrides: str, **options: bool) -> PrepReport:
    budget = [] if any(word.startswith("plan=") for word in overrides) else [BUDGET]
    return prepare(task, Overrides.parse([*budget, *overrides]), workers=0, **options)  # type: ignore[arg-type]


def test_everything_is_prepared_and_every_lesion_counted(task: TaskFolder) -> None:
    report = prep(task)
    assert report.exit_code == 0
    assert prepared_cases(task.prepared(PLAN, "Tr")) == ["sub-01", "sub-02", "sub-03"]
    assert prepared_cases(task.prepared(PLAN, "Ts")) == ["sub-51"]
    dataset = Dataset.load(task)
    for case in dataset.cases("Tr"):
        stored = StoredCase.open(task.prepared(PLAN, "Tr"), case.case_id)
        mask, _ = read_mask(case.label)  # type: ignore[arg-type]
        truth = boxes_of_instances(mask)
        np.testing.assert_array_equal(stored.truth, np.array(list(truth.values())).reshape(-1, 6))
        summary = next(c for c in report.cases if c.case_id == case.case_id)
        assert summary.lesions_before == summary.lesions_after == len(truth)
        np.testing.assert_allclose(stored.mapping.boxes_to_source(stored.boxes), stored.truth, atol=1e-3)
    assert Plan.load(task.plan(PLAN)) == report.plan
    assert len(Fingerprint.load(task.fingerprint).cases) == 3
    folds = read_json(task.splits)
    assert sorted(case for fold in folds for case in fold["val"]) == ["sub-01", "sub-02", "sub-03"]


def test_a_labelled_scan_gives_the_array_that_input_gives_and_lesions_outside_are_named(
    task: TaskFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """One lesion of a training and of a test scan lies in the empty slices at the scan's edge."""
    dataset = Dataset.load(task)
    for case in (dataset.cases("Tr")[0], dataset.cases("Ts")[0]):
        mask, grid = read_mask(case.label)  # type: ignore[arg-type]
        classes = read_json(case.classes_file)["instances"]  # type: ignore[arg-type]
        mask[0, 1, 1] = 9
        write_image(case.label, mask.astype(np.uint8), grid)  # type: ignore[arg-type]
        write_json(case.classes_file, {"instances": {**classes, "9": 0}})  # type: ignore[arg-type]
    assert main([str(task.root), "-np", "0", "-o", BUDGET]) == 0
    named = [line for line in capsys.readouterr().out.splitlines() if "instance 9 lies outside the crop" in line]
    assert ["labelsTr/sub-01" in named[0], "labelsTs/sub-51" in named[1]] == [True, True]
    recipe = Plan.load(task.plan(PLAN)).preprocessing
    for split in ("Tr", "Ts"):
        given = [ScanSource(case) for case in input_cases(task.images(split), 1)]
        for outcome in prepared_scans(given, recipe, workers=0):
            assert outcome.result is not None
            stored = StoredCase.open(task.prepared(PLAN, split), outcome.item.case.case_id)
            np.testing.assert_array_equal(stored.data[:], outcome.result.data)
            assert stored.mapping == outcome.result.mapping
            lesions = read_truth(next(c for c in dataset.cases(split) if c.case_id == stored.case_id), 1)
            assert len(stored.all_boxes) == len(stored.all_labels) == len(lesions)
            assert stored.outside_ids == ((9,) if stored.case_id in ("sub-01", "sub-51") else ())
            assert len(stored.boxes) == len(stored.mask_boxes) == len(lesions) - len(stored.outside_ids)
    again = prep(task)
    assert [case.outside for case in again.cases if case.outside] == [(9,), (9,)]
    assert not any(case.fresh for case in again.cases)


def test_sixty_one_voxel_lesions_survive_a_plan_at_half_the_resolution(tmp_path: Path) -> None:
    task = TaskFolder(tmp_path / "Task001_Small")
    rng = np.random.default_rng(0)
    grid = Grid((48, 48, 48), (0.5, 0.5, 0.5))
    for case_id in ("a", "b"):
        mask = np.zeros(grid.shape, dtype=np.uint8)
        mask.flat[rng.choice(mask.size, 60, replace=False)] = np.arange(1, 61)
        image = rng.normal(100, 10, grid.shape).astype(np.float32)
        image[mask > 0] = 20
        write_image(task.images("Tr") / f"{case_id}_0000.nii.gz", image, grid)
        write_image(task.labels("Tr") / f"{case_id}.nii.gz", mask, grid)
        write_json(task.labels("Tr") / f"{case_id}.json", {"instances": {str(i): 0 for i in range(1, 61)}})
    write_dataset(task, modalities=["swi"], classes=["cmb"])
    report = prep(task, "planner_cfg.spacing=[1,1,1]")
    for summary in report.cases:
        assert summary.lesions_before == 60
        assert summary.lesions_after == 60
        assert len(summary.redrawn) == 60
        stored = StoredCase.open(task.prepared(PLAN, "Tr"), summary.case_id)
        assert len(np.unique(stored.instances[:])) - 1 == 60
        centres = (stored.boxes[:, :3] + stored.boxes[:, 3:]) / 2
        drawn = (stored.mask_boxes[:, :3] + stored.mask_boxes[:, 3:]) / 2
        assert np.abs(centres - drawn).max() <= 1.5  # a voxel is shared now and then; none strays farther than the next


def test_rerun_skips_what_is_finished_and_a_changed_recipe_redoes_it(task: TaskFolder) -> None:
    prep(task)
    before = {path: path.stat().st_mtime_ns for path in task.prepared(PLAN, "Tr").iterdir()}
    assert not any(case.fresh for case in prep(task).cases)
    assert {path: path.stat().st_mtime_ns for path in task.prepared(PLAN, "Tr").iterdir()} == before
    (task.prepared(PLAN, "Tr") / "sub-02.json").unlink()  # as if the first run had been killed there
    assert [case.case_id for case in prep(task).cases if case.fresh] == ["sub-02"]
    again = prep(task, "planner_cfg.spacing=[2,1.2,1.2]")
    assert all(case.fresh for case in again.cases)
    assert StoredCase.open(task.prepared(PLAN, "Tr"), "sub-01").shape[0] < 14


def test_a_changed_label_is_prepared_again(task: TaskFolder) -> None:
    prep(task)
    case = Dataset.load(task).cases("Tr")[0]
    mask, grid = read_mask(case.label)  # type: ignore[arg-type]
    number = int(mask.max()) + 1
    mask[8, 1, 1] = number
    write_image(case.label, mask.astype(np.uint8), grid)  # type: ignore[arg-type]
    classes = read_json(case.classes_file)["instances"]  # type: ignore[arg-type]
    write_json(case.classes_file, {"instances": {**classes, str(number): 0}})  # type: ignore[arg-type]
    report = prep(task)
    assert [c.case_id for c in report.cases if c.fresh] == [case.case_id]
    assert report.cases[0].lesions_after == number


@pytest.mark.parametrize("damage", ["no image", "last byte missing"])
def test_bad_cases_are_named_and_skipped_while_the_others_go_on(
    task: TaskFolder, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    bad = task.images("Tr") / "sub-02_0000.nii.gz"
    bad.write_bytes(b"no image" if damage == "no image" else bad.read_bytes()[:-1])
    write_image(task.labels("Ts") / "sub-51.nii.gz", np.zeros((3, 3, 3), np.uint8), tiny_grid((3, 3, 3), (1, 1, 1)))
    assert main([str(task.root), "-np", "0", "-o", BUDGET]) == 2
    out = capsys.readouterr().out
    assert "sub-02_0000.nii.gz" in out
    assert "sub-51.nii.gz" in out
    assert prepared_cases(task.prepared(PLAN, "Tr")) == ["sub-01", "sub-03"]
    assert prepared_cases(task.prepared(PLAN, "Ts")) == []
    assert {case for fold in read_json(task.splits) for part in fold.values() for case in part} == {"sub-01", "sub-03"}
    assert main([str(task.root), "-np", "0", "--no_check", "-o", BUDGET]) == 2  # found without the check as well
    assert "sub-02_0000.nii.gz" in capsys.readouterr().out


def test_what_is_gone_or_refused_does_not_stay_prepared(task: TaskFolder) -> None:
    """Else a scan whose owner has taken back consent would be trained on, and a refused one by its former label."""
    prep(task)
    other = task.preprocessed / "Other_3d"
    shutil.copytree(task.preprocessed / PLAN, other)
    for path in task.raw.rglob("sub-01*"):
        path.unlink()
    (task.labels("Tr") / "sub-02.json").write_text('{"instances": {"1": 0, "77": 0}}')
    report = prep(task)
    assert {failure.case_id for failure in report.failures} == {"sub-02"}
    assert any(warning.startswith("sub-01: the scan is gone") for warning in report.warnings)
    assert prepared_cases(task.prepared(PLAN, "Tr")) == ["sub-03"]
    assert prepared_cases(other / "imagesTr") == ["sub-02", "sub-03"]
    assert not list(task.preprocessed.rglob("sub-01*.b2nd"))
    assert prepared_cases(task.prepared(PLAN, "Ts")) == ["sub-51"]
    (task.images("Ts") / "sub-51_0000.nii.gz").unlink()  # no test scan is there: prepared ones may have come alone
    prep(task)
    assert prepared_cases(task.prepared(PLAN, "Ts")) == ["sub-51"]


def test_an_edited_plan_is_never_overwritten_and_can_be_kept(task: TaskFolder) -> None:
    planned = prep(task).plan
    path = task.plan(PLAN)
    content = read_json(path)
    content["batch_size"] = 3
    write_json(path, content)
    with pytest.raises(UserError, match="edited by hand") as raised:
        prep(task)
    assert f"-o plan={path}" in raised.value.remedy
    assert prep(task, f"plan={path}").plan.batch_size == 3
    assert Plan.load(path).batch_size == 3
    with pytest.raises(UserError, match="edited by hand"):
        prep(task)
    path.unlink()
    assert prep(task).plan == planned


def test_a_plan_file_of_another_name_stands_beside_the_planners(task: TaskFolder, tmp_path: Path) -> None:
    prep(task)
    content = read_json(task.plan(PLAN))
    content["name"], content["preprocessing"]["spacing"] = "mine", [3.0, 1.2, 1.2]
    write_json(tmp_path / "my.json", content)
    report = prep(task, f"plan={tmp_path / 'my.json'}")
    assert report.plan_path == task.plan("mine")
    assert StoredCase.open(task.prepared("mine", "Tr"), "sub-01").shape[0] == 7
    assert Plan.load(task.plan(PLAN)).name == PLAN
    content["modalities"] = ["flair"]
    write_json(tmp_path / "my.json", content)
    with pytest.raises(UserError, match="flair"):
        prep(task, f"plan={tmp_path / 'my.json'}")


def test_a_plan_follows_the_settings_when_nobody_edited_it(task: TaskFolder) -> None:
    prep(task)
    assert prep(task, "planner_cfg.batch_size=2").plan.batch_size == 2
    assert Plan.load(task.plan(PLAN)).batch_size == 2


def test_splits_stay_until_there_are_new_cases(task: TaskFolder) -> None:
    prep(task)
    own = [{"train": ["sub-01"], "val": ["sub-02", "sub-03"]}]
    write_json(task.splits, own)
    assert prep(task).warnings == []
    assert read_json(task.splits) == own
    for kind, name in (("images", "_0000.nii.gz"), ("labels", ".nii.gz"), ("labels", ".json")):
        folder = getattr(task, kind)("Tr")
        (folder / f"sub-09{name}").write_bytes((folder / f"sub-01{name}").read_bytes())
    assert "made anew" in prep(task).warnings[0]
    assert len(read_json(task.splits)) == 4


def test_unknown_settings_name_the_nearest(task: TaskFolder) -> None:
    with pytest.raises(UserError, match=r"planner_cfg\.finest_level"):
        prep(task, "planner_cfg.finest_levle=1")
    with pytest.raises(UserError, match="D3V001"):
        prep(task, "planner=D3V002")
    with pytest.raises(UserError, match="is no file"):
        prep(task, "plan=D3V001_3d")
    with pytest.raises(UserError, match="exclude"):
        prep(task, "plan=my.json", "planner_cfg.batch_size=1")


def test_a_planner_of_the_users_own_module(task: TaskFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "from cmb_plugin.planners.d3v001 import D3V001\nfrom cmb_plugin.plugins import register_planner\n"
        "@register_planner\nclass Own(D3V001):\n    coarse_percentile = 50.0\n"
    )
    (tmp_path / "my_planner.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    report = prep(task, "+additional_imports=[my_planner]", "planner=Own")
    assert report.plan.name == "Own_3d"
    assert task.plan("Own_3d").is_file()
    planners._registered.pop("Own")


def test_several_tasks_one_of_them_missing(task: TaskFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["998", "900", "-np", "0", "-o", BUDGET]) == 2
    out = capsys.readouterr().out
    assert "error: 998" in out
    assert task.plan(PLAN).is_file()


def test_one_missing_task_is_one_line(task: TaskFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["998"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_nothing_to_train_on_is_an_error(task: TaskFolder) -> None:
    for path in task.images("Tr").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match="no usable training case"):
        prep(task)


def test_nan_voxels_are_reported(task: TaskFolder) -> None:
    path = task.images("Tr") / "sub-01_0000.nii.gz"
    grid = tiny_grid((16, 24, 24), (1.5, 1.2, 1.2))
    image = np.random.default_rng(0).normal(100, 5, grid.shape).astype(np.float32)
    image[0, 0, :5] = np.nan
    write_image(path, image, grid)
    report = prep(task)
    assert report.exit_code == 0
    assert report.cases[0].nonfinite == 5
    assert any("NaN" in warning for warning in report.warnings)
    assert np.isfinite(StoredCase.open(task.prepared(PLAN, "Tr"), "sub-01").data[:]).all()


def test_labels_that_lie_elsewhere_or_are_numbered_too_high_are_found_without_the_check(task: TaskFolder) -> None:
    case = Dataset.load(task).cases("Tr")[0]
    mask, grid = read_mask(case.label)  # type: ignore[arg-type]
    moved = Grid(grid.shape, grid.spacing, (0.0, 0.0, 0.0), grid.direction)
    write_image(case.label, mask.astype(np.int32), moved)  # type: ignore[arg-type]
    assert "does not lie on the grid" in prep(task, check=False).failures[0].reason
    mask[mask == 1] = 40_000
    write_image(case.label, mask.astype(np.int32), grid)  # type: ignore[arg-type]
    write_json(case.classes_file, {"instances": {str(n): 0 for n in np.unique(mask[mask > 0])}})  # type: ignore[arg-type]
    assert "instance 40000" in prep(task, check=False).failures[0].reason


def test_fingerprint_holds_what_the_scans_have(task: TaskFolder) -> None:
    prep(task)
    content = json.loads(task.fingerprint.read_text(encoding="utf-8"))
    first = content["cases"][0]
    assert first["shape"] == [16, 24, 24]
    assert first["cropped_shape"] == [14, 24, 23]
    assert first["spacing"] == pytest.approx([1.5, 1.2, 1.2])
    assert len(first["sizes_mm"]) == len(first["voxels"]) == len(first["labels"])
    task.fingerprint.write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"fingerprint\.json"):
        Fingerprint.load(task.fingerprint)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom cmb_plugin.commands.prep import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print({'torch', 'numpy', 'SimpleITK', 'nnunetv2', 'rich'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip().endswith("set()")
    assert "planner_cfg" in result.stdout
