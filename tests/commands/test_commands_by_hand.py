"""A Task folder written by hand from nnDetection's description goes through every command.

Two modalities, two classes, an empty case, dataset.yaml, a case named sub-01_ses-2; nothing here uses our own writers.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import SimpleITK as sitk

from cmb_plugin.commands import boxes2nii, consolidate, predict, prep, seg2nii, sweep, train, unpack
from cmb_plugin.commands import eval as eval_command
from cmb_plugin.files import read_json

SMALL_PLAN = ["planner_cfg.patch_size=[16,16,16]", "planner_cfg.base_features=4", "planner_cfg.pyramid_channels=8"]
SHORT = ["train=demo", "trainer_cfg.epochs=2", "trainer_cfg.steps_per_epoch=4", "trainer_cfg.swa_epochs=1"]
DIRECTION = (0.98, 0.198997487, 0.0, -0.198997487, 0.98, 0.0, 0.0, 0.0, 1.0)
LESIONS = {
    "sub-01_ses-2": {"1": 0, "2": 1},
    "sub-02": {"1": 0},
    "sub-03": {"1": 1},
    "sub-04": {"1": 0},
    "sub-05": {},
    "sub-06": {"1": 0},
}


def write_scan(folder, name, array):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.0, 1.5))
    image.SetOrigin((-20.0, 13.0, 7.5))
    image.SetDirection(DIRECTION)
    folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))


def write_case(raw, split, name, instances, rng):
    swi = rng.normal(100, 5, size=(24, 32, 32)).astype(np.float32)
    phase = rng.normal(0, 1, size=swi.shape).astype(np.float32)
    mask = np.zeros(swi.shape, dtype=np.uint8)
    for number in instances:
        z, y, x = (int(rng.integers(6, side - 6)) for side in swi.shape)
        place = (slice(z, z + 2), slice(y, y + 3), slice(x, x + 3))
        mask[place], swi[place], phase[place] = int(number), 40, 3
    write_scan(raw / f"images{split}", f"{name}_0000", swi)
    write_scan(raw / f"images{split}", f"{name}_0001", phase)
    present = {number: label for number, label in instances.items() if (mask == int(number)).any()}
    write_scan(raw / f"labels{split}", name, mask)
    (raw / f"labels{split}" / f"{name}.json").write_text(json.dumps({"instances": present} if present else {}))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("by_hand")
    raw = root / "data" / "Task042_ByHand" / "raw_splitted"
    rng = np.random.default_rng(0)
    for name, instances in LESIONS.items():
        write_case(raw, "Tr", name, instances, rng)
    write_case(raw, "Ts", "sub-07", {"1": 0}, rng)
    write_case(raw, "Ts", "sub-08", {}, rng)
    (raw.parent / "dataset.yaml").write_text(
        "task: Task042_ByHand\nname: by hand\ndim: 3\ntarget_class: null\ntest_labels: true\n"
        'labels:\n  "0": cmb\n  "1": iron\nmodalities:\n  "0": swi\n  "1": phase\n'
    )
    saved = {key: os.environ.get(key) for key in ("det_data", "det_models")}
    os.environ.update(det_data=str(root / "data"), det_models=str(root / "models"))
    yield root
    for key, value in saved.items():
        os.environ.pop(key) if value is None else os.environ.update({key: value})


@pytest.fixture(scope="module")
def trained(folders):
    assert prep.main(["42", "-o", *SMALL_PLAN, "-np", "0"]) == 0
    assert train.main(["Task042_ByHand", "-o", *SHORT]) == 0
    return folders / "models" / "Task042_ByHand" / "CMBRetinaUNet_D3CMB_3d"


def test_training_leaves_the_documented_model_folder(trained):
    fold = trained / "fold0"
    expected = {
        "model_last.ckpt",
        "model_best.ckpt",
        "plan.json",
        "settings.yaml",
        "splits.json",
        "training.json",
        "operating_point.json",
        "prototypes.json",
        "embedding.png",
    }
    assert expected <= {path.name for path in fold.iterdir()}
    assert (fold / "val_results" / "metrics.json").is_file()


def test_a_second_training_does_not_touch_the_first(trained, capsys):
    before = (trained / "fold0" / "model_last.ckpt").read_bytes()
    assert train.main(["42", "-o", *SHORT]) == 2
    assert "train.mode=resume" in capsys.readouterr().err
    assert (trained / "fold0" / "model_last.ckpt").read_bytes() == before


def test_a_resume_with_other_settings_is_refused(trained, capsys):
    assert train.main(["42", "-o", *SHORT, "train.mode=resume", "trainer_cfg.learning_rate=7"]) == 2
    assert "trainer_cfg.learning_rate was 0.002 when training began" in capsys.readouterr().err


def test_prediction_and_evaluation_of_the_test_set(trained, tmp_path):
    assert predict.main(["42", "-npp", "0"]) == 0
    folder = trained / "fold0" / "test_predictions"
    assert {path.name for path in folder.glob("*_boxes.json")} == {"sub-07_boxes.json", "sub-08_boxes.json"}
    rows = list(csv.DictReader((folder / "summary.tsv").open(), delimiter="\t"))
    assert len(rows) == 2
    assert eval_command.main(["42", "CMBRetinaUNet_D3CMB_3d", "0", "--test"]) == 0
    metrics = json.loads((trained / "fold0" / "test_results" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["n_cases"] == 2
    assert metrics["n_lesions"] == 1
    assert "NaN" not in json.dumps(metrics)


def test_masks_lie_on_the_scan(trained, folders):
    if not (trained / "fold0" / "test_predictions").is_dir():
        assert predict.main(["42", "-npp", "0"]) == 0
    mask = sitk.ReadImage(str(trained / "fold0" / "test_predictions" / "sub-07_instances.nii.gz"))
    scan = sitk.ReadImage(str(folders / "data/Task042_ByHand/raw_splitted/imagesTs/sub-07_0000.nii.gz"))
    assert mask.GetSize() == scan.GetSize()
    np.testing.assert_allclose(mask.GetDirection(), scan.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(mask.GetOrigin(), scan.GetOrigin(), atol=1e-4)


def test_the_other_commands_run_too(trained):
    assert sweep.main(["42", "CMBRetinaUNet_D3CMB_3d", "0"]) == 0
    if not (trained / "fold0" / "test_predictions").is_dir():
        assert predict.main(["42", "-npp", "0"]) == 0
    assert boxes2nii.main(["42", "CMBRetinaUNet_D3CMB_3d", "-f", "0", "--test", "--threshold", "0.1"]) == 0
    assert seg2nii.main(["42", "CMBRetinaUNet_D3CMB_3d", "-f", "0", "--test"]) == 0
    assert unpack.main([str(trained), "4"]) == 0


def test_a_packed_model_predicts_the_same_and_names_no_patient(trained, folders, tmp_path, capsys):
    model = "CMBRetinaUNet_D3CMB_3d"
    assert consolidate.main(["42", model]) == 2
    assert "fold 1, 2, 3, 4 not trained" in capsys.readouterr().err
    assert consolidate.main(["42", model, "--num_folds", "1", "--sweep_boxes"]) == 0
    packed = trained / "consolidated" / model
    assert f"packed 1 fold: {packed}" in capsys.readouterr().out.replace("\n", " ")
    files = [path for path in packed.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        "model_last.ckpt",
        "plan.json",
        "settings.yaml",
        "training.json",
        "operating_point.json",
        "prototypes.json",
    }
    for path in files:
        assert not any(case.encode() in path.read_bytes() for case in LESIONS), path
    whole, weights = ((folder / "fold0" / "model_last.ckpt").stat().st_size for folder in (trained, packed))
    assert weights < whole / 2
    scans = folders / "data/Task042_ByHand/raw_splitted/imagesTs"
    for name, place in (("own", trained), ("packed", packed)):
        words = ["42", str(place), "-f", "0", "--input", str(scans), "--output", str(tmp_path / name)]
        assert predict.main([*words, "-npp", "0"]) == 0
    for path in (tmp_path / "own").glob("*_boxes.json"):
        own, other = (read_json(tmp_path / name / path.name) for name in ("own", "packed"))
        assert own.pop("key") != other.pop("key")  # of the checkpoint's bytes
        assert own == other
    assert consolidate.main(["42", model, "--num_folds", "1", "-c", "copy"]) == 0
    assert (packed / "fold0" / "model_last.ckpt").stat().st_size == whole


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["module=RetinaUNet"], "RetinaUNetV001"),
        (["train=quick"], "known: demo, fast, finetune, v001"),
        (["trainer_cfg.epoch=3"], "trainer_cfg.epochs"),
        (["plan=D3CMB_2d"], "D3CMB_3d"),
        (["exp.fold=9"], "exp.fold from 0 to 4"),
        (["train.mode=restart"], "resume"),
        (["additional_imports=[nowhere_to_be_found]"], "nowhere_to_be_found"),
    ],
)
def test_a_mistyped_setting_is_one_line_with_the_nearest_known_one(trained, capsys, words, hint):
    assert train.main(["42", "-o", *words]) == 2
    error = capsys.readouterr().err
    assert hint in error
    assert error.count("\n") == 1


def test_killed_for_good_and_resumed_ends_as_if_never_killed(trained, folders):
    """SIGKILL at two places of a real process; afterwards the history is the same as that of the run above."""
    code = "import sys; from cmb_plugin.commands.train import main; sys.exit(main(sys.argv[1:]))"
    words = [*SHORT, "exp.tag=killed"]
    fold = trained.parent / "CMBRetinaUNet_D3CMB_3d_killed" / "fold0"

    def start(*extra):
        return subprocess.Popen([sys.executable, "-c", code, "42", "-o", *words, *extra], stderr=subprocess.DEVNULL)

    for extra, sign in (((), fold / "settings.yaml"), (("train.mode=resume",), fold / "model_last.ckpt")):
        process = start(*extra)
        deadline = time.monotonic() + 120
        while not sign.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start("train.mode=resume").wait(timeout=240) == 0
    for name in ("history.csv", "prototypes.json"):
        assert (fold / name).read_text(encoding="utf-8") == (trained / "fold0" / name).read_text(encoding="utf-8"), name
    assert json.loads((fold / "val_results/metrics.json").read_text(encoding="utf-8")) == json.loads(
        (trained / "fold0" / "val_results/metrics.json").read_text(encoding="utf-8")
    )
