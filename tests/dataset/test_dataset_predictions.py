import csv
import json
import weakref

import numpy as np
import pytest
import SimpleITK as sitk

from cmb_plugin.dataset.predictions import (
    CasePredictions,
    StoredPredictions,
    predicted_cases,
    read_case_predictions,
    write_case_predictions,
    write_lesions,
    write_summary,
)
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid

GRID = Grid((20, 30, 40), (3.0, 0.5, 0.4), (10.0, -20.0, 5.0), (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))


def case(case_id="sub-01_ses-2", **columns):
    boxes = [[1.5, 2, 3, 3.5, 6, 9], [4, 5, 6, 5, 7, 9], [0, 0, 0, 1, 1, 1]]
    detections = Detections(boxes, [0.9, 0.7, 0.1], [0, 1, 0], columns)
    return CasePredictions(case_id, detections, GRID, ("cmb", "iron"), 0.7, "M", (0, 2), (12.5, 3.0, None))


def rows(path):
    with path.open() as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def test_what_is_written_is_read_back(tmp_path):
    given = case(distance=np.array([1.25, np.nan, 3]), kind=np.array(["vein", "cmb", "cmb"]), vector=np.eye(3))
    read = read_case_predictions(write_case_predictions(tmp_path, given))
    np.testing.assert_allclose(read.detections.boxes, given.detections.boxes, atol=1e-4)
    np.testing.assert_allclose(read.detections.scores, given.detections.scores, atol=1e-6)
    np.testing.assert_array_equal(read.detections.labels, [0, 1, 0])
    assert list(read.detections.columns["distance"]) == [1.25, None, 3.0]
    assert list(read.detections.columns["kind"]) == ["vein", "cmb", "cmb"]
    np.testing.assert_array_equal(read.detections.columns["vector"], np.eye(3))
    assert (read.case_id, read.grid, read.classes, read.model) == (given.case_id, GRID, given.classes, "M")
    assert (read.operating_point, read.folds, read.volumes_mm3) == (0.7, (0, 2), (12.5, 3.0, None))


def test_a_score_equal_to_the_operating_point_is_reported(tmp_path):
    read = read_case_predictions(write_case_predictions(tmp_path, case()))
    np.testing.assert_array_equal(read.reported, [True, True, False])


def test_the_json_holds_the_documented_fields(tmp_path):
    content = json.loads(write_case_predictions(tmp_path, case()).read_text(encoding="utf-8"))
    assert content["schema"] == 1
    first = content["detections"][0]
    assert first["box"] == [1.5, 2, 3, 3.5, 6, 9]
    assert first["centre"] == [2.5, 4, 6]
    assert first["diameter_mm"] == pytest.approx((6.0 * 2.0 * 2.4) ** (1 / 3), abs=1e-3)
    assert (first["class"], first["reported"], first["instance"]) == ("cmb", True, 1)
    assert content["detections"][2]["instance"] is None


def test_world_coordinates_are_those_of_simpleitk(tmp_path):
    image = sitk.Image(40, 30, 20, sitk.sitkUInt8)
    image.SetSpacing(GRID.spacing[::-1])
    image.SetOrigin(GRID.origin)
    image.SetDirection(GRID.direction)
    first = json.loads(write_case_predictions(tmp_path, case()).read_text(encoding="utf-8"))["detections"][0]

    def world(z, y, x):
        return image.TransformContinuousIndexToPhysicalPoint((x - 0.5, y - 0.5, z - 0.5))

    np.testing.assert_allclose(first["centre_lps_mm"], world(2.5, 4, 6), atol=1e-3)
    np.testing.assert_allclose(first["box_lps_mm"], [world(1.5, 2, 3), world(3.5, 6, 9)], atol=1e-3)


def test_lesions_tsv_has_a_row_per_reported_lesion_in_ras_and_viewer_voxels(tmp_path):
    write_lesions(tmp_path / "lesions.tsv", [case("a"), case("b", kind=np.array(["vein", "x", "y"]))])
    table = rows(tmp_path / "lesions.tsv")
    assert [(row["case"], row["lesion"], row["class"]) for row in table] == [
        ("a", "1", "cmb"),
        ("a", "2", "iron"),
        ("b", "1", "cmb"),
        ("b", "2", "iron"),
    ]
    assert [row["kind"] for row in table] == ["", "", "vein", "x"]
    lps = GRID.to_world(np.array([[2.5, 4, 6]]))[0]
    ras = [float(table[0][f"{axis}_ras_mm"]) for axis in "xyz"]
    np.testing.assert_allclose(ras, lps * [-1, -1, 1], atol=0.006)
    assert [table[0][axis] for axis in "ijk"] == ["6", "4", "2"]
    assert table[0]["volume_mm3"] == "12.50"


def test_of_a_thousand_cases_one_is_in_memory_while_the_table_is_written(tmp_path):
    for name in "abcd":
        write_case_predictions(tmp_path, case(name, kind=np.array(["vein", "x", "y"])))
    seen = []
    most = []

    def read():
        for one in StoredPredictions(tmp_path, list("abcd")):
            seen.append(weakref.ref(one))
            most.append(sum(reference() is not None for reference in seen))
            yield one

    write_lesions(tmp_path / "streamed.tsv", read())
    assert len(most) == 4
    assert max(most) <= 2  # the next one is read before the last is let go
    write_lesions(tmp_path / "together.tsv", list(StoredPredictions(tmp_path, list("abcd"))))
    assert (tmp_path / "streamed.tsv").read_bytes() == (tmp_path / "together.tsv").read_bytes()


def test_no_cases_give_tables_with_a_header_only(tmp_path):
    write_lesions(tmp_path / "lesions.tsv", [])
    write_summary(tmp_path / "summary.tsv", [])
    assert (tmp_path / "lesions.tsv").read_text(encoding="utf-8").startswith("case\tlesion\t")
    assert rows(tmp_path / "lesions.tsv") == rows(tmp_path / "summary.tsv") == []


def test_an_error_with_tabs_and_line_breaks_stays_one_row(tmp_path):
    write_summary(tmp_path / "summary.tsv", [{"case": "a", "status": "failed", "error": "x\ty\nz"}])
    (row,) = rows(tmp_path / "summary.tsv")
    assert (row["error"], row["reported"]) == ("x y z", "")


def test_a_case_without_detections_is_valid(tmp_path):
    empty = CasePredictions("a.b", Detections.empty(), GRID, ("cmb",), 0.5)
    read = read_case_predictions(write_case_predictions(tmp_path, empty))
    assert read.detections.boxes.shape == (0, 6)
    assert predicted_cases(tmp_path) == ["a.b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a predictions file"),
        ('{"schema": 2}', "schema 2"),
        ('{"schema": 1}', "grid|detections"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, message):
    path = tmp_path / "a_boxes.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_case_predictions(path)
    assert str(path) in str(error.value)


def test_unsorted_detections_and_clashing_columns_are_refused(tmp_path):
    wrong = case()
    wrong.detections.scores[0] = 0.2
    with pytest.raises(ValueError, match="sorted"):
        write_case_predictions(tmp_path, wrong)
    with pytest.raises(ValueError, match="diameter_mm"):
        write_case_predictions(tmp_path, case(diameter_mm=np.ones(3)))


def test_removed_detections_stay_in_the_file_but_are_not_reported(tmp_path):
    given = case(removed=np.array(["", "outside the brain", "outside the brain"]))
    given.regions = {"source": "atlas:builtin"}
    path = write_case_predictions(tmp_path, given)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["regions"] == {"source": "atlas:builtin"}
    assert [(row["instance"], row["reported"], row["removed"]) for row in content["detections"]] == [
        (1, True, ""), (None, False, "outside the brain"), (None, False, "outside the brain")]  # fmt: skip
    assert content["detections"][1]["score"] == 0.7
    read = read_case_predictions(path)
    assert (len(read.detections), len(read.kept)) == (3, 1)
    write_lesions(tmp_path / "lesions.tsv", [read])
    assert [row["lesion"] for row in rows(tmp_path / "lesions.tsv")] == ["1"]
    assert "removed" not in rows(tmp_path / "lesions.tsv")[0]
