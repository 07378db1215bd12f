"""Every reader of JSON ends in a value that can be used, or in a ``UserError`` that names the file and a remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import damaged_json, ends_well
from hypothesis import given, settings
from hypothesis import strategies as st
from small_plan import PLAN

from cmb_plugin.anatomy import RegionMap
from cmb_plugin.anatomy.regions import Place
from cmb_plugin.anatomy.storage import load_map, save_map
from cmb_plugin.dataset import (
    Case,
    CasePredictions,
    Dataset,
    read_case_predictions,
    read_lesion_facts,
    read_mimics,
    read_splits,
    read_truth,
    write_case_predictions,
    write_lesions,
)
from cmb_plugin.dataset.dataset import read_classes
from cmb_plugin.detections import Detections
from cmb_plugin.images import Grid, write_image
from cmb_plugin.models.operating_point import OperatingPoint
from cmb_plugin.paths import TaskFolder
from cmb_plugin.planning import Plan
from cmb_plugin.preparation import Fingerprint, StoredCase, fingerprint_case, preprocess_case, save_case

GRID = Grid((6, 7, 8), (1.5, 1.0, 1.0))


@dataclass(frozen=True)
class Reader:
    """A kind of file.

    Attributes:
        file: its path in a folder.
        document: a good one.
        read: reads it and does with the result what the program does next; takes the folder.
    """

    file: str
    document: Any
    read: Callable[[Path], Any]


def _dataset(folder: Path) -> None:
    dataset = Dataset.load(TaskFolder(folder))
    for case in dataset.cases("Tr"):
        assert all(0 <= number < len(dataset.modalities) for number in case.missing)
        assert case.present
        dataset.is_weak(case.case_id)
    dataset.patients(["sub-01"])
    assert dataset.regions


def _classes(folder: Path) -> None:
    classes = read_classes(folder / "sub-01.json", n_classes=2)
    assert all(number > 0 and label in (0, 1) for number, label in classes.items())


def _case(folder: Path) -> Case:
    label = folder / "labelsTr" / "sub-01.nii.gz"
    return Case("sub-01", (folder / "scan.nii.gz",), label, label.with_name("sub-01.json"), "Tr", folder)


def _lesions(folder: Path) -> None:
    facts = read_lesion_facts(_case(folder), [1, 2])
    assert facts.cnr is None or facts.cnr.shape == (2,)
    assert facts.regions is None or all(region is None or isinstance(region, str) for region in facts.regions)
    assert len(read_truth(_case(folder), 1)) == 1


def _mimics(folder: Path) -> None:
    for mimic in read_mimics(_case(folder)) or ():
        assert mimic.box.shape == (6,)
        assert np.isfinite(mimic.box).all()
        assert mimic.path is None or (mimic.path.shape[1] == 3 and len(mimic.path) > 1)


def _plan(folder: Path) -> None:
    plan = Plan.load(folder / "plan.json")
    plan.case(Case("sub-01", tuple(Path(f"{n}.nii.gz") for n in range(plan.n_files))))
    assert all(side % step == 0 for side, step in zip(plan.patch_size, plan.architecture.divisor, strict=True))
    plan.save(folder / "again.json")
    assert Plan.load(folder / "again.json") == plan


def _splits(folder: Path) -> None:
    for fold in read_splits(folder / "splits.json"):
        assert all(isinstance(case, str) for case in [*fold["train"], *fold["val"]])


def _operating_point(folder: Path) -> None:
    point = OperatingPoint.load(folder / "operating_point.json")
    assert 0 <= point.score <= 1
    scores = Detections(np.zeros((2, 6)), [0.9, 0.2], [0, 1], {"score_first": np.array([0.3, 0.8])})
    if point.ranking in (None, "score_first"):
        assert np.isfinite(point.apply(scores).scores).all()


def _predictions(folder: Path) -> None:
    case = read_case_predictions(folder / "sub-01_boxes.json")
    assert len(case.reported) == len(case.detections) == len(case.diameters_mm)
    for column in case.detections.rankings:
        assert np.isfinite(case.detections.ranked_by(column).scores).all()
    write_lesions(folder / "lesions.tsv", [case])


def _fingerprint(folder: Path) -> None:
    Fingerprint.load(folder / "fingerprint.json").save(folder / "again.json")


def _stored(folder: Path) -> None:
    case = StoredCase.open(folder, "sub-01")
    assert len(case.boxes) == len(case.labels)


def _region_map(folder: Path) -> None:
    regions = load_map(folder, "sub-01")
    assert regions is None or regions.labels.shape == (6, 7, 8)


def good_predictions() -> CasePredictions:
    """Two detections with columns of numbers and of text."""
    detections = Detections(
        np.array([[1, 1, 1, 3, 3, 3], [2, 2, 2, 4, 4, 4]]),
        [0.9, 0.25],
        [0, 1],
        {"score_first": np.array([0.5, 0.7]), "region": np.array(["lobar", "deep"]), "removed": np.array(["", "far"])},
    )
    return CasePredictions("sub-01", detections, GRID, ("cmb", "iron"), 0.5, "model", (0, 1), key="k")


OPERATING_POINT = {
    "score": 0.4,
    "ranking": "score_first",
    "possible_score": 0.2,
    "class_scores": {"0": 0.4, "1": 0.3},
    "removal": {"source": "auto", "outside_mm": 12.0},
}
LESION_LIST = {
    "protocol": "a",
    "lesions": [{"instance": 1, "region": "lobar", "cnr": 3.5, "certainty": "definite"}, {"instance": 2}],
}
READERS = {
    "dataset": Reader(
        "dataset.json",
        {
            "task": "Task900_Tiny",
            "dim": 3,
            "target_class": None,
            "test_labels": True,
            "labels": {"0": "cmb", "1": "iron"},
            "modalities": {"0": "swi", "1": "phase"},
            "session_id": {"sub-01": "one"},
            "domain": {"sub-01": "here"},
            "weak_cases": ["sub-01"],
            "annotation_style": "weak",
            "regions": {"1": "lobar", "2": "deep"},
            "missing": {"sub-01": ["phase"]},
        },
        _dataset,
    ),
    "classes": Reader("sub-01.json", {"instances": {"1": 0, "2": 1}}, _classes),
    "lesions": Reader("lesionsTr/sub-01.json", LESION_LIST, _lesions),
    "mimics": Reader(
        "mimicsTr/sub-01.json",
        {"mimics": [{"kind": "vein", "box": [0, 0, 0, 2, 2, 2], "path": [[0, 0, 0], [1, 1, 1]], "diameter_mm": 1.0}]},
        _mimics,
    ),
    "plan": Reader("plan.json", json.loads(json.dumps(asdict(PLAN))), _plan),
    "splits": Reader(
        "splits.json", [{"train": ["a", "b"], "val": ["c"]}, {"train": ["c"], "val": ["a", "b"]}], _splits
    ),
    "operating_point": Reader("operating_point.json", OPERATING_POINT, _operating_point),
    "predictions": Reader("sub-01_boxes.json", None, _predictions),
    "fingerprint": Reader("fingerprint.json", None, _fingerprint),
    "stored": Reader("sub-01.json", None, _stored),
    "region_map": Reader("sub-01_regions.json", None, _region_map),
}
"""Documents that are None are written by the program, in ``folders``."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder per reader with a good file, and what lies beside it."""
    made = {name: tmp_path_factory.mktemp(name) for name in READERS}
    mask = np.zeros(GRID.shape, np.uint8)
    mask[2:4, 2:4, 2:4] = 1
    image = np.random.default_rng(0).normal(size=GRID.shape).astype(np.float32)
    for name, reader in READERS.items():
        path = made[name] / reader.file
        path.parent.mkdir(exist_ok=True)
        if reader.document is not None:
            path.write_text(json.dumps(reader.document))
    for modality in range(2):
        write_image(made["dataset"] / "raw_splitted" / "imagesTr" / f"sub-01_{modality:04d}.nii.gz", image, GRID)
    write_image(made["lesions"] / "labelsTr" / "sub-01.nii.gz", mask, GRID)
    (made["lesions"] / "labelsTr" / "sub-01.json").write_text('{"instances": {"1": 0}}')
    write_case_predictions(made["predictions"], good_predictions())
    case = fingerprint_case("sub-01", image[None], GRID, mask, {1: 0}, ["swi"])
    Fingerprint("Task900_Tiny", ("swi",), ("cmb",), (case,)).save(made["fingerprint"] / "fingerprint.json")
    prepared = preprocess_case(image[None], GRID, mask, PLAN.preprocessing)
    save_case(made["stored"], "sub-01", prepared, {1: 0}, key="key")
    regions = RegionMap(mask.astype(np.uint16), GRID, {0: Place("outside"), 1: Place("lobar")}, source="given")
    save_map(made["region_map"], "sub-01", regions, "key")
    return made


@pytest.mark.parametrize("name", READERS)
def test_a_whole_file_is_read(name: str, folders: dict[str, Path]) -> None:
    assert ends_well(folders[name] / READERS[name].file, lambda: READERS[name].read(folders[name]))


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=40)
@given(data=st.data())
def test_a_damaged_file_is_read_or_named(name: str, folders: dict[str, Path], data: st.DataObject) -> None:
    path = folders[name] / READERS[name].file
    good = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged_json(json.loads(good))))
        ends_well(path, lambda: READERS[name].read(folders[name]))
    finally:
        path.write_bytes(good)
