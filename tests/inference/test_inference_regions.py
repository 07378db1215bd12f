"""nndet_predict --regions on scans with a parcellation, with the blob detector in place of a trained network."""

from __future__ import annotations

import dataclasses
import shutil
from html import escape

import numpy as np
import pytest
from by_name import evaluate, predict, sweep
from test_inference_workflow import (  # noqa: F401 - fixtures
    GRID,
    LESIONS,
    blob_trainer,
    contents,
    model_folder,
    table,
    task,
    write_scan,
)

from cmb_plugin.anatomy.rules import RemovalRules
from cmb_plugin.anatomy.storage import load_map
from cmb_plugin.commands.predict import main as predict_command
from cmb_plugin.dataset import read_case_predictions, write_dataset
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import read_mask, voxels_of_instances, write_image
from cmb_plugin.regions import localisation, restoration, sources

pytestmark = pytest.mark.usefixtures("blob_trainer")

CASE, OTHER = "sub-01_ses-2", "sub.2"


@pytest.fixture
def parcellations(task, tmp_path):  # noqa: F811
    """Of each scan: left cortex around the first lesion, a wide ventricle around the second."""
    labels = np.full(GRID.shape, 3, np.int16)
    labels[8:, 10:, :20] = 4
    for case_id in (CASE, OTHER):
        write_image(tmp_path / "aseg" / f"{case_id}_aseg.nii.gz", labels, GRID)
    for number in (0, 1):
        removal = dataclasses.asdict(RemovalRules(3.0, 3.0, "parcellation", 40))
        content = {"score": 0.5, "possible_score": 0.3, "removal": removal}
        write_json(model_folder(tmp_path).fold(number).operating_point, content)
    return f"parcellation:{tmp_path / 'aseg'}"


def test_lesions_get_places_and_impossible_ones_are_marked_not_deleted(parcellations, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict_command(["900", "-npp", "0", "--output", str(out), "--regions", parcellations]) == 0
    said = capsys.readouterr().out
    assert "what lies more than 3 mm outside the brain or 3 mm deep in a ventricle is removed (chosen on 80" in said
    assert "2 cases predicted: 2 lesions reported" in said

    found = read_json(out / f"{CASE}_boxes.json")
    rows = sorted(found["detections"], key=lambda row: row["centre"][0])
    assert [(row["region_group"], row["side"], row["reported"]) for row in rows] == [
        ("lobar", "left", True), ("ventricle", "left", False)]  # fmt: skip
    assert rows[1]["removed"].startswith("in a ventricle, ")
    assert rows[1]["score"] > 0.5
    assert rows[1]["instance"] is None
    assert found["regions"]["trusted"]
    mask, _ = read_mask(out / f"{CASE}_instances.nii.gz")
    assert list(voxels_of_instances(mask)) == [rows[0]["instance"]]

    assert [row["region_group"] for row in table(out / "lesions.tsv")] == ["lobar", "lobar"]
    assert {"side", "border_mm"} <= set(table(out / "lesions.tsv")[0])
    report = read_json(out / f"{CASE}_report.json")
    assert report["counts"]["groups"]["lobar"]["definite"] == 1
    assert report["counts"]["pattern"]["name"] == "strictly lobar"
    assert [entry["reason"] for entry in report["removed"]] == [rows[1]["removed"]]
    assert (out / f"{CASE}_report.png").read_bytes()[:4] == b"\x89PNG"
    assert (out / f"{CASE}_report.pdf").read_bytes()[:5] == b"%PDF-"
    page = (out / f"{CASE}_report.html").read_text(encoding="utf-8")
    assert f"<td>{escape(rows[1]['removed'])}</td>" in page
    assert "<strong>strictly lobar</strong>" in page
    assert page.count("<img ") == 1 + 1  # the glass brain, and the lesion that counts
    assert "http" not in page.replace("http-equiv", "")
    cohort = table(out / "cohort.tsv")
    assert [(row["case"], row["definite"], row["burden"], row["removed"]) for row in cohort] == [
        (CASE, "1", "1", "1"), (OTHER, "1", "1", "0")]  # fmt: skip


def test_the_rerun_makes_no_map_and_no_change_and_none_gives_plain_predictions_back(
    parcellations, tmp_path, monkeypatch
):
    predict("900", output=tmp_path / "plain")
    out = tmp_path / "out"
    predict("900", output=out, regions=parcellations)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*_*.*")}
    monkeypatch.setattr(sources, "_from_parcellation", lambda *_, **__: pytest.fail("the map was made again"))
    assert predict("900", output=out, regions=parcellations).kept == 2
    assert {path: path.stat().st_mtime_ns for path in out.glob("*_*.*")} == before
    # Other rules need no new map either.
    for number in (0, 1):
        content = {"score": 0.5, "removal": dataclasses.asdict(RemovalRules(99.0, 99.0, "parcellation", 40))}
        write_json(model_folder(tmp_path).fold(number).operating_point, content)
    assert predict("900", output=out, regions=parcellations).lesions == 3

    assert predict("900", output=out).lesions == 3
    shutil.rmtree(out / "regions")
    assert contents(out) == contents(tmp_path / "plain")


def test_a_scan_without_a_map_is_unknown_and_stops_no_other(parcellations, tmp_path, capsys):
    (tmp_path / "aseg" / f"{OTHER}_aseg.nii.gz").unlink()
    out = tmp_path / "out"
    arguments = ["900", "-npp", "0", "--output", str(out), "--regions", parcellations]
    assert predict_command(arguments) == 2
    assert f"error: {OTHER}:" in capsys.readouterr().err
    rows = {row["case"]: row for row in table(out / "cohort.tsv")}
    assert (rows[CASE]["regions"], rows[OTHER]["regions"]) == (f"parcellation:{CASE}_aseg.nii.gz", "unknown")
    assert "no parcellation of sub.2" in rows[OTHER]["why"]
    report = read_json(out / f"{OTHER}_report.json")
    assert report["counts"]["groups"]["unknown"]["definite"] == 1
    assert report["removed"] == []
    # It is tried again when the file is there.
    shutil.copy(tmp_path / "aseg" / f"{CASE}_aseg.nii.gz", tmp_path / "aseg" / f"{OTHER}_aseg.nii.gz")
    assert predict_command(arguments) == 0
    assert read_json(out / f"{OTHER}_report.json")["counts"]["groups"]["lobar"]["definite"] == 1


def test_a_bug_in_a_source_is_reported_with_its_traceback_and_stops_no_case(
    parcellations, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sources, "_from_parcellation", lambda case, **_: 1 / 0)
    out = tmp_path / "out"
    assert predict_command(["900", "-npp", "0", "--output", str(out), "--regions", parcellations]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert [row["unknown"] for row in table(out / "cohort.tsv")] == ["2", "1"]


def test_killed_between_mask_and_table_it_ends_as_if_it_had_not_been(parcellations, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    predict("900", output=whole, regions=parcellations)
    predict("900", output=out)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(localisation, "write_case_predictions", killed)
        with pytest.raises(KeyboardInterrupt):
            predict("900", output=out, regions=parcellations)
    predict("900", output=out, regions=parcellations)
    for path in whole.glob("*.*"):
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name


def test_killed_while_plain_predictions_come_back_it_ends_as_if_it_had_not_been(parcellations, tmp_path, monkeypatch):
    """A mask that had its removed lesions back counted as done, beside a table that removed them."""
    out = tmp_path / "out"
    predict("900", output=out, regions=parcellations)
    before = (out / f"{CASE}_instances.nii.gz").read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(restoration, "report_files", killed)
        with pytest.raises(KeyboardInterrupt):
            predict("900", output=out)
    predict("900", output=out, regions=parcellations)
    assert (out / f"{CASE}_instances.nii.gz").read_bytes() == before


def test_the_sweep_chooses_rules_on_placed_validation_scans_and_metrics_ignore_what_is_removed(
    task, parcellations, tmp_path  # noqa: F811
):  # fmt: skip
    write_dataset(task, modalities=["swi"], classes=["cmb"], test_labels=False)
    labels, _ = read_mask(tmp_path / "aseg" / f"{CASE}_aseg.nii.gz")
    for number, centres in (("tr1", LESIONS), ("tr2", LESIONS)):
        write_scan(task.images("Tr") / f"{number}_0000.nii.gz", centres)
        mask = np.zeros(GRID.shape, np.uint8)
        mask[tuple(np.floor(LESIONS[0]).astype(int))] = 1  # the second blob is no lesion
        write_image(task.labels("Tr") / f"{number}.nii.gz", mask, GRID)
        write_json(task.labels("Tr") / f"{number}.json", {"instances": {"1": 0}})
        write_image(tmp_path / "aseg" / f"{number}.nii.gz", labels.astype(np.int16), GRID)
    predict("900", fold=0, split="val", regions=parcellations)
    sweep("900", fold=0)
    chosen = read_json(model_folder(tmp_path).fold(0).operating_point)["removal"]
    expected = ("parcellation", 1, 5.0)  # one lesion is too few to leave the default
    assert (chosen["source"], chosen["n_lesions"], chosen["ventricle_mm"]) == expected
    measured = evaluate("900", fold=0, overrides=["eval_cfg.operating_point=0.5"]).metrics
    assert (measured["sensitivity"], measured["fp_per_scan"]) == (1.0, 0.0)
    predict("900", fold=0, split="val")  # without regions the second blob is reported
    assert evaluate("900", fold=0, overrides=["eval_cfg.operating_point=0.5"]).metrics["fp_per_scan"] == 1.0


def test_auto_takes_parcellations_beside_the_scans(task, parcellations, tmp_path):  # noqa: F811
    shutil.copytree(tmp_path / "aseg", task.raw / "parcellations")
    predict("900", output=tmp_path / "out", regions="auto")
    made = load_map(tmp_path / "out" / "regions", CASE)
    assert made is not None
    assert made.source.startswith("parcellation:")
    assert read_case_predictions(tmp_path / "out" / f"{CASE}_boxes.json").regions["source"] == made.source


@pytest.mark.parametrize("words", ["atlass:builtin", "none:x", "parcellation:", "parcellation:nowhere", "model:None"])
def test_what_the_user_can_fix_is_one_line(task, tmp_path, words):  # noqa: F811
    with pytest.raises(UserError):
        predict("900", output=tmp_path / "out", regions=words)
