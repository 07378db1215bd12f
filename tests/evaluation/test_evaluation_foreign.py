"""Predictions of other programs: each format gives the same lesions, and what is not data is refused."""

from __future__ import annotations

import json
import pickle
import re
from collections import OrderedDict

import numpy as np
import pytest
from tiny_task import make_tiny_task

from cmb_plugin.commands import eval as eval_command
from cmb_plugin.dataset import CasePredictions, Dataset, read_truth, write_case_predictions
from cmb_plugin.dataset.foreign import boxes_from_nndetection, find_prediction, foreign_cases, read_foreign
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import EvaluationConfig
from cmb_plugin.images import read_mask, write_image
from cmb_plugin.models.scored_cases import PredictionSet
from cmb_plugin.workflows.evaluate import evaluate

CASES = ("sub-51", "sub-52")


def evaluate_folders(predictions, labels, images=None, resamples=0):
    measured = PredictionSet.of_masks(predictions, labels, images)
    return evaluate(measured, EvaluationConfig(resamples=resamples), masks=True)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return make_tiny_task(tmp_path_factory.mktemp("foreign"))


@pytest.fixture
def truths(task):
    return {case.case_id: read_truth(case) for case in Dataset.load(task).cases("Ts")}


def nndetection(boxes, scores):
    """As nnDetection writes it: from masks whose first voxel is min + 1 and whose last is max - 1."""
    first, last = boxes[:, :3], boxes[:, 3:] - 1
    low, high = first - 1, last + 1
    return OrderedDict(
        pred_boxes=np.stack([low[:, 0], low[:, 1], high[:, 0], high[:, 1], low[:, 2], high[:, 2]], axis=1),
        pred_scores=np.asarray(scores, dtype=np.float32),
        pred_labels=np.zeros(len(boxes)),
        restore=True,
        itk_origin=(0.0, 0.0, 0.0),
        original_size_of_raw_data=np.array([24, 32, 32]),
    )


def write_all(kind, folder, task, truths):
    folder.mkdir()
    if kind.startswith("points"):
        rows = ["case,score," + {"ras": "x_ras_mm,y_ras_mm,z_ras_mm", "lps": "x_lps_mm,y_lps_mm,z_lps_mm"}.get(
            kind[7:], "i,j,k")]  # fmt: skip
    for case_id, truth in truths.items():
        if kind == "pickle":
            content = nndetection(truth.boxes, np.linspace(0.9, 0.7, len(truth)))
            (folder / f"{case_id}_boxes.pkl").write_bytes(pickle.dumps(content, protocol=4))
        elif kind.startswith("points"):
            edges = truth.centroids
            world = truth.grid.to_world(edges)
            sign = np.array([-1, -1, 1]) if kind == "points-ras" else 1
            places = world * sign if kind != "points-voxel" else edges[:, ::-1] - 0.5
            rows += [f"{case_id}.nii.gz,0.9," + ",".join(f"{v:.4f}" for v in place) for place in places]
        else:
            mask, grid = read_mask(task.labels("Ts") / f"{case_id}.nii.gz")
            array = {"instances": mask, "binary": (mask > 0).astype(np.uint8), "probability": (mask > 0) * 0.8}[kind]
            write_image(folder / f"{case_id}.nii.gz", array.astype(np.float32), grid)
    if kind.startswith("points"):
        (folder / "all.csv").write_text("\n".join(rows) + "\n")


KINDS = ("pickle", "instances", "binary", "probability", "points-ras", "points-lps", "points-voxel")


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_itself_in_any_format_is_perfect(kind, task, truths, tmp_path, capsys):
    folder = tmp_path / kind
    write_all(kind, folder, task, truths)
    words = ["-o", "eval_cfg.resamples=50"]
    assert eval_command.main(["--predictions", str(folder), "--labels", str(task.labels("Ts")), *words]) == 0
    metrics = json.loads((folder / "results" / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["n_cases"], metrics["sensitivity"], metrics["fp_per_scan"]) == (2, 1.0, 0.0)
    assert metrics["valdo"]["f1"]["median"] == 1.0
    assert metrics["overall"]["centre_inside"]["sensitivity"] == 1.0
    if not kind.startswith("points"):
        assert metrics["overall"]["iou"]["AP_IoU_0.10"] == 1.0
    assert (metrics["components"] is not None) == (kind in ("instances", "binary", "probability"))
    assert "no operating point" in capsys.readouterr().out
    assert foreign_cases(folder)[0] == "sub-51"


def test_boxes_of_nndetection_are_those_of_the_mask(truths):
    boxes = truths["sub-51"].boxes
    np.testing.assert_array_equal(boxes_from_nndetection(nndetection(boxes, [0] * len(boxes))["pred_boxes"]), boxes)
    thin = boxes_from_nndetection(np.array([[4.0, 4.0, 5.0, 6.0, 4.0, 6.0]]))
    np.testing.assert_allclose(thin, [[4.75, 5, 5, 5.25, 6, 6]])


class Harm:
    def __reduce__(self):
        return (print, ("harm",))


@pytest.mark.parametrize(
    "content", [Harm(), {"pred_boxes": np.array([Harm()], dtype=object)}, np.load, re.compile("a")]
)
def test_a_pickle_that_holds_more_than_data_is_refused_before_it_runs(content, tmp_path, truths, capsys):
    path = tmp_path / "sub-51_boxes.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="neither an array nor plain data"):
        read_foreign(path, "sub-51", truths["sub-51"].grid, ["cmb"])
    assert "harm" not in capsys.readouterr().out


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol_are_read(protocol, tmp_path, truths):
    path = tmp_path / "sub-51_boxes.pkl"
    content = nndetection(truths["sub-51"].boxes, np.linspace(1, 0.5, len(truths["sub-51"])))
    content["best"] = np.float64(0.5)
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_foreign(path, "sub-51", truths["sub-51"].grid, ["cmb"]).detections
    np.testing.assert_array_equal(found.boxes, truths["sub-51"].boxes)


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("all.csv", "case,x,y,z\nsub-51,1,2,3\n", "x_ras_mm"),
        ("all.csv", "case,i,j,k\nsub-51,1,two,3\n", "a number in every cell"),
        ("all.csv", "case,i,j,k,class\nsub-51,1,2,3,iron\n", "unknown class"),
        ("all.csv", "case,i,j,k,class\nsub-51,1,2,3,4\n", "has class 4"),
        ("sub-51_boxes.pkl", "nonsense", "plain data"),
    ],
)
def test_what_cannot_be_understood_is_named_with_a_remedy(name, text, hint, tmp_path, truths):
    (tmp_path / name).write_text(text)
    path = find_prediction(tmp_path, "sub-51")
    with pytest.raises(UserError, match=hint):
        read_foreign(path, "sub-51", truths["sub-51"].grid, ["cmb"])


def test_scores_of_a_probability_map_are_the_mean_inside(tmp_path, truths):
    grid = truths["sub-51"].grid
    array = np.zeros(grid.shape, np.float32)
    array[5, 5, 5:7], array[9, 9, 9] = (0.6, 0.9), 0.4
    write_image(tmp_path / "sub-51.nii.gz", array, grid)
    found = read_foreign(tmp_path / "sub-51.nii.gz", "sub-51", grid, ["cmb"]).detections
    assert found.scores == pytest.approx([0.75])
    assert found.boxes.tolist() == [[5, 5, 5, 6, 6, 7]]


def test_a_missing_case_counts_as_missed_and_folders_without_a_common_case_are_refused(task, truths, tmp_path, capsys):
    write_all("binary", tmp_path / "p", task, truths)
    (tmp_path / "p" / "sub-51.nii.gz").unlink()
    run = evaluate_folders(tmp_path / "p", task.labels("Ts"), resamples=0)
    assert (run.metrics["missing_cases"], run.metrics["sensitivity"], run.complete) == (["sub-51"], 0.0, False)
    assert (run.metrics["components"]["sensitivity"], run.metrics["components"]["n_scans"]) == (0.0, 2)
    assert "masks" in run.metrics["valdo"]["rule"]
    with pytest.raises(UserError, match="name predictions and labels alike"):
        evaluate_folders(tmp_path / "p", task.labels("Tr"))
    assert eval_command.main([]) == 2
    assert eval_command.main(["1", "--labels", "x"]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_tables_that_our_commands_write_are_no_predictions(task, truths, tmp_path):
    write_all("binary", tmp_path / "p", task, truths)
    (tmp_path / "p" / "sub-51.nii.gz").unlink()
    for name in ("scans.tsv", "inputs.tsv", "cohort.tsv"):
        (tmp_path / "p" / name).write_text("case\tfile\nsub-51\tx.nii.gz\n")
    (tmp_path / "p" / "._all.csv").write_bytes(b"\x00\x05\x16\x07\xff")  # as macOS leaves beside files
    run = evaluate_folders(tmp_path / "p", task.labels("Ts"))
    assert (run.metrics["missing_cases"], run.metrics["sensitivity"]) == (["sub-51"], 0.0)


def point_rows(truth, before=""):
    places = truth.centroids[:, ::-1] - 0.5
    return "".join(f"{before}{number},{x},{y},{z}\n" for number, (x, y, z) in enumerate(places, start=1))


def test_a_table_with_the_name_of_a_case_is_its_own(task, truths, tmp_path):
    """Its column ``id`` numbers the lesions, and of the other case it says nothing."""
    (tmp_path / "sub-51.csv").write_text("id,i,j,k\n" + point_rows(truths["sub-51"]))
    assert find_prediction(tmp_path, "sub-52", CASES) is None
    (tmp_path / "sub-52.csv").write_text("scan,id,i,j,k\n")
    run = evaluate_folders(tmp_path, task.labels("Ts"))
    assert (run.metrics["missing_cases"], run.metrics["sensitivity"]) == ([], 1.0)
    assert foreign_cases(tmp_path, CASES) == [*CASES]


def test_a_case_is_in_the_table_that_names_it(truths, tmp_path):
    for part, case_id in enumerate(CASES):
        (tmp_path / f"part{part}.csv").write_text("case,id,i,j,k\n" + point_rows(truths["sub-51"], f"{case_id},"))
    assert [find_prediction(tmp_path, case_id, CASES).name for case_id in CASES] == ["part0.csv", "part1.csv"]
    assert find_prediction(tmp_path, "sub-53", CASES).name == "part0.csv"
    (tmp_path / "part2.csv").write_text("case,id,i,j,k\nsub-52,1,2,3,4\n")
    with pytest.raises(UserError, match=r"part2\.csv: has rows of sub-52, as part1\.csv"):
        find_prediction(tmp_path, "sub-52", CASES)


def test_training_scans_that_a_table_does_not_name_are_told(task, tmp_path):
    """Nothing says whether they were predicted, with nothing found, or not at all."""
    (tmp_path / "all.csv").write_text("case,i,j,k\nsub-01,2,3,4\n")
    dataset = Dataset.load(task)
    measured = PredictionSet.of_folder(dataset, tmp_path, "val")
    assert [case.case_id for case in measured.cases] == ["sub-01"]
    assert "no row of the table names them: sub-02" in measured.notes[0]


def test_the_report_holds_everything_and_asks_the_network_for_nothing(task, truths, tmp_path):
    write_all("binary", tmp_path / "p", task, truths)
    write_image(tmp_path / "p" / "sub-51.nii.gz", np.zeros(truths["sub-51"].grid.shape), truths["sub-51"].grid)
    run = evaluate_folders(tmp_path / "p", task.labels("Ts"), task.images("Ts"), resamples=20)
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    for words in ("Misses, largest first", "False positives, highest score first", "VALDO", "components overlap"):
        assert words in text
    assert text.count("data:image/png;base64,") >= 2
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "<script" not in text


def write_own(folder, task, truths, classes):
    """What nndet_predict would write if it found every lesion, each of the class that it has."""
    for case_id, truth in truths.items():
        found = Detections(truth.boxes, np.linspace(0.9, 0.7, len(truth)), truth.labels)
        write_case_predictions(folder, CasePredictions(case_id, found, truth.grid, classes, 0.5))


def test_our_own_files_of_several_classes_are_measured_without_a_task(tmp_path, capsys):
    task = make_tiny_task(tmp_path, classes=("cmb", "iron"), healthy=False)
    truths = {case.case_id: read_truth(case) for case in Dataset.load(task).cases("Ts")}
    assert any(truth.labels.any() for truth in truths.values())
    write_own(tmp_path / "p", task, truths, ("cmb", "iron"))
    words = ["--predictions", str(tmp_path / "p"), "--labels", str(task.labels("Ts"))]
    assert eval_command.main([*words, "-o", "eval_cfg.resamples=0"]) == 0
    metrics = json.loads((tmp_path / "p" / "results" / "metrics.json").read_text(encoding="utf-8"))
    assert list(metrics["per_class"]) == ["cmb", "iron"]
    assert (metrics["sensitivity"], metrics["fp_per_scan"]) == (1.0, 0.0)
    assert eval_command.main([*words, "--classes", "lesion"]) == 2
    assert "give a class index" in capsys.readouterr().err
