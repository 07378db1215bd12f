"""Regions through the real commands: prepared, learned, predicted, measured."""

import numpy as np
import pytest
from region_task import SHAPE, SPACING, make_region_task

from cmb_plugin.anatomy import Place
from cmb_plugin.anatomy.learned import doubts, places_of
from cmb_plugin.anatomy.storage import load_map
from cmb_plugin.commands.eval import main as nndet_eval
from cmb_plugin.commands.names import find_model, find_task
from cmb_plugin.commands.predict import main as nndet_predict
from cmb_plugin.commands.prep import main as nndet_prep
from cmb_plugin.commands.train import main as nndet_train
from cmb_plugin.dataset import Case
from cmb_plugin.evaluation import dice_intervals, dice_scores
from cmb_plugin.files import read_json
from cmb_plugin.images import Grid, read_grid, read_mask, read_scan, write_image
from cmb_plugin.regions.prediction import RegionModel

MODEL = "AnatomyUNet_Anatomy_3d"
PREP = [
    "-o",
    "planner=Anatomy",
    "planner_cfg.spacing=[5,5,5]",
    "planner_cfg.base_features=8",
    "planner_cfg.max_features=16",
]
TRAIN = ["-o", "module=AnatomyUNet", "train=demo", "exp.fold=1",
         "trainer_cfg.epochs=3", "trainer_cfg.steps_per_epoch=30",
         "trainer_cfg.learning_rate=0.02", "trainer_cfg.batch_size=1",
         "trainer_cfg.foreground_fraction=0"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A task that was prepared and trained by commands, and its folder of predictions."""
    root = tmp_path_factory.mktemp("regions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("det_data", str(root / "data"))
        patch.setenv("det_models", str(root / "models"))
        task = make_region_task(root / "data")
        assert nndet_prep(["901", "-np", "0", *PREP]) == 0
        assert nndet_train(["901", *TRAIN]) == 0
        assert nndet_predict(["901", "-npp", "0"]) == 0
        yield task, find_model(task).fold(1)


def test_a_case_without_regions_is_named_and_left_out(trained, capsys):
    task, _ = trained
    assert nndet_prep(["901", "-np", "0", *PREP]) == 0
    said = capsys.readouterr().out
    assert "sub-05: has no mask in regionsTr, left out of Anatomy_3d" in said
    assert not (task.prepared("Anatomy_3d", "Tr") / "sub-05.json").exists()
    # Folds are shared with plans for lesions, which can use that case.
    assert "sub-05" in {case for fold in read_json(task.splits) for part in fold.values() for case in part}


def test_maps_lie_on_the_scans_and_agree_with_the_truth(trained):
    task, fold = trained
    for case_id in ("sub-51", "sub-52"):
        found, grid = read_mask(fold.predictions("test") / f"{case_id}_regions.nii.gz")
        truth, _ = read_mask(task.extra("regions", "Ts") / f"{case_id}.nii.gz")
        assert grid.matches(read_grid(task.images("Ts") / f"{case_id}_0001.nii.gz"))
        assert dice_scores(found, truth, 3).min() > 0.7
    regions = load_map(fold.predictions("test"), "sub-51")
    assert (regions.source, regions.trusted) == (f"model:{MODEL}", True)
    assert [regions.places[i].group for i in range(4)] == ["outside", "lobar", "deep", "infratentorial"]


def test_nndet_eval_gives_dice_and_the_places_of_lesions(trained, capsys):
    _, fold = trained
    assert nndet_eval(["901", "--test"]) == 0
    assert "in the right region" in capsys.readouterr().out
    metrics = read_json(fold.results("test") / "metrics.json")
    assert metrics["regions"]["deep"]["dice"] > 0.7
    assert metrics["lesions"]["all"]["n"] == 6
    assert metrics["lesions"]["all"]["accuracy"] >= 5 / 6
    assert {path.name for path in fold.results("test").iterdir()} == {"metrics.json", "regions.tsv", "dice.png"}
    assert not fold.operating_point.exists()
    assert (fold.results("val") / "metrics.json").is_file()  # by nndet_train


def test_finished_maps_are_kept(trained, capsys):
    assert nndet_predict(["901", "-npp", "0"]) == 0
    assert "0 cases predicted, 2 kept from an earlier run" in capsys.readouterr().out


def test_one_scan_of_a_folder_and_of_a_function_give_the_same_map(trained, tmp_path):
    task, _ = trained
    scan = task.images("Ts") / "sub-51_0001.nii.gz"
    (tmp_path / "in").mkdir()
    for modality in (0, 1):
        source = task.images("Ts") / f"sub-51_{modality:04d}.nii.gz"
        (tmp_path / "in" / f"new_{modality:04d}.nii.gz").write_bytes(source.read_bytes())
    assert nndet_predict(["901", "-npp", "0", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 0
    of_folder = load_map(tmp_path / "out", "new")
    model = RegionModel(find_model(task))
    case = Case("new", (tmp_path / "in" / "new_0000.nii.gz", tmp_path / "in" / "new_0001.nii.gz"))
    np.testing.assert_array_equal(model(case).labels, of_folder.labels)
    assert tmp_path / "in" / "new_0001.nii.gz" in model.files(case)
    image, grid = read_scan(scan)
    write_image(tmp_path / "in" / "new_0001.nii.gz", image[:8], Grid((8, *grid.shape[1:]), grid.spacing))
    slab = model(case)  # feet of the head: less than 400 ml of brain
    assert not slab.trusted
    assert "ml of brain" in slab.why


def test_a_trainer_of_lesions_refuses_a_plan_of_regions(trained, capsys):
    assert nndet_train(["901", "-o", "module=RetinaUNetV001", "plan=Anatomy_3d"]) == 2
    assert "RetinaUNetV001 learns lesions, plan Anatomy_3d is one for regions" in capsys.readouterr().err


def test_a_damaged_scan_does_not_stop_the_others(trained, tmp_path, capsys):
    task, _ = trained
    (tmp_path / "in").mkdir()
    for name in ("sub-51", "sub-52"):
        for modality in (0, 1):
            content = (task.images("Ts") / f"{name}_{modality:04d}.nii.gz").read_bytes()
            (tmp_path / "in" / f"{name}_{modality:04d}.nii.gz").write_bytes(content)
    (tmp_path / "in" / "sub-51_0001.nii.gz").write_bytes(b"no image")
    assert nndet_predict(["901", "-npp", "0", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 2
    assert load_map(tmp_path / "out", "sub-52") is not None
    assert "sub-51\tfailed" in (tmp_path / "out" / "summary.tsv").read_text(encoding="utf-8")


def test_maps_that_cannot_be_are_not_trusted():
    places, grid = places_of(("lobar", "deep", "infratentorial")), Grid((28, 36, 32), SPACING)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[4:24, 6:30, 6:26] = 1
    labels[12:16, 14:20, 12:18] = 2
    assert "finds nothing infratentorial" in doubts(labels, grid, places)
    labels[4:8, 6:30, 6:26] = 3
    assert doubts(labels, grid, places) == ""
    upside_down = Grid(grid.shape, grid.spacing, direction=(1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0))
    assert "cerebellum above the cerebrum" in doubts(labels, upside_down, places)
    assert "ml of brain" in doubts(np.zeros_like(labels), grid, places)
    assert doubts(labels, grid, places_of(("cerebrum", "nuclei", "cerebellum"))) == ""  # names of the user's own
    half = np.where(labels == 1, 1, 0)
    half[:, :18][half[:, :18] == 1] = 4
    named = places_of(("lobar", "deep", "infratentorial", "cortex"))
    assert "nothing deep" in doubts(half, grid, named)  # and not too little brain
    assert places_of(("brain", "csf"))[1] == Place("unknown", "brain")
    assert places_of(("brain", "csf"))[2] == Place("csf")


def test_dice_is_that_of_the_textbook():
    found, truth = np.array([0, 1, 1, 2, 2, 2]), np.array([1, 1, 0, 2, 2, 0])
    np.testing.assert_allclose(dice_scores(found, truth, 3), [0.5, 0.8, np.nan])
    (low, high), nothing = dice_intervals(np.array([[0.4, np.nan], [0.6, np.nan]]), ["a", "b"])
    assert (low, high) == (pytest.approx(0.4), pytest.approx(0.6))
    assert nothing is None
    assert dice_intervals(np.array([[0.4], [0.6]]), ["a", "a"]) == [(pytest.approx(0.5), pytest.approx(0.5))]


def test_a_lesion_model_is_the_default_beside_one_of_regions(trained, tmp_path):
    task, fold = trained
    other = tmp_path / task.name / "Lesions_Test_3d" / "fold1"
    other.mkdir(parents=True)
    (other / "model_last.ckpt").touch()
    (tmp_path / task.name / MODEL).symlink_to(fold.root.parent)
    assert find_model(find_task("901"), root=tmp_path).name == "Lesions_Test_3d"
    assert find_model(find_task("901"), MODEL, root=tmp_path).target == "regions"
