"""The FROC figure and the gallery: right content, and robust where little is there."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from random_scans import cube

from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import CaseResult, EvaluationConfig, measure
from cmb_plugin.evaluation.listing import Entry, list_entries
from cmb_plugin.images import Grid
from cmb_plugin.reporting.figures import GREEN, embed, froc_figure, save_figure
from cmb_plugin.reporting.gallery import crop_planes, write_gallery

AT_HALF = EvaluationConfig(operating_point=0.5)


@pytest.mark.parametrize("seed", [0, None])
def test_the_froc_figure_shows_the_readings_and_the_operating_point(random_cases, tmp_path, seed):
    metrics = measure(random_cases(0) if seed is not None else [], ["a", "b"], AT_HALF)
    figure = froc_figure(metrics, "title")
    save_figure(figure, tmp_path / "froc.png")
    assert (tmp_path / "froc.png").stat().st_size > 5000
    drawn = {(x, y) for line in figure.axes[0].lines for x, y in zip(*line.get_data(), strict=True)}
    if seed is not None:
        assert {(float(rate), value) for rate, value in metrics["froc"].items()} <= drawn
        assert (metrics["fp_per_scan"], metrics["sensitivity"]) in drawn


@pytest.mark.parametrize("orientation", [(1, 1, 1), (-1, 1, -1), (1, -1, -1)])
def test_a_crop_shows_the_same_anatomy_whatever_the_orientation_of_the_scan(orientation):
    # A bright voxel behind, above and to the left of the lesion, in world coordinates.
    z, y, x = orientation
    direction = (x, 0, 0, 0, y, 0, 0, 0, z)
    grid = Grid((40, 50, 60), (1.5, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(float(v) for v in direction))
    array = np.zeros(grid.shape, dtype=np.float32)
    lesion = np.array([[20.5, 25.5, 30.5]])  # edge coordinates of a voxel's centre
    for step in ((0, 0, 0), (8.0, 6.0, 6.0), (8.0, 6.0, 0), (8.0, 0, 6.0), (0, 6.0, 6.0)):
        spot = grid.from_world(grid.to_world(lesion) + np.array(step))[0]
        array[tuple(np.floor(spot).astype(int))] = 1
    entry = Entry("a", "false", 0, np.concatenate([lesion[0] - 1, lesion[0] + 1]), 2.0)
    crop = crop_planes(array, grid, entry, (0.0, 1.0))

    def bright(plane):  # (mm downwards, mm to the right) of bright pixels' centres
        left, right, bottom, top = crop.extents[plane]
        image = crop.images[plane]
        rows, columns = np.nonzero(image)
        down = top + (rows + 0.5) * (bottom - top) / image.shape[0]
        across = left + (columns + 0.5) * (right - left) / image.shape[1]
        return {(round(float(d), 3), round(float(a), 3)) for d, a in zip(down, across, strict=True)}

    # axial: posterior down, left to the right; coronal: superior up, left; sagittal: superior up, posterior right
    assert bright(0) == {(0.0, 0.0), (6.0, 8.0)}
    assert bright(1) == {(0.0, 0.0), (6.0, 8.0)}
    assert bright(2) == {(0.0, 0.0), (6.0, 6.0)}
    np.testing.assert_allclose(crop.box, [-1.5, -1, -1, 1.5, 1, 1])


def test_the_gallery_has_as_many_pages_as_are_needed_and_removes_old_ones(tmp_path):
    places = np.arange(16) * 10.0 + 10
    boxes = np.array([cube(z) for z in places])
    cases = [CaseResult("a", Detections(boxes[:8], np.full(8, 0.9), np.zeros(8)), boxes[8:], np.zeros(8), (1.0,) * 3)]
    reads = []

    def read_scan(case_id):
        reads.append(case_id)
        return np.random.default_rng(0).random((180, 20, 20)).astype(np.float32), Grid((180, 20, 20), (1.0, 1.0, 1.0))

    entries = list_entries(cases, AT_HALF)
    assert [p.name for p in write_gallery(tmp_path, entries, ["cmb"], read_scan)] == ["gallery.png", "gallery_2.png"]
    assert reads == ["a", "a"]
    assert [p.name for p in write_gallery(tmp_path, entries[:2], ["cmb"], read_scan)] == ["gallery.png"]
    assert not (tmp_path / "gallery_2.png").exists()


def test_the_gallery_of_nothing_and_of_unreadable_or_flat_scans_is_drawn_all_the_same(one_of_each, tmp_path):
    def unreadable(case_id):
        raise UserError(f"{case_id}: no such file")

    def flat(case_id):
        return np.full((60, 20, 20), np.nan, dtype=np.float32), Grid((60, 20, 20), (2.0, 1.0, 1.0))

    entries = list_entries(one_of_each, AT_HALF)
    for case, read_scan in (([], unreadable), (entries, unreadable), (entries, flat)):
        (path,) = write_gallery(tmp_path, case, ["cmb"], read_scan, "title")
        assert path.stat().st_size > 3000


def test_a_box_is_drawn_around_the_lesion_with_a_margin(one_of_each):
    from cmb_plugin.reporting.gallery import Section, gallery_figure

    entry = list_entries(one_of_each, AT_HALF)[0]
    scan = np.ones((60, 20, 20), dtype=np.float32), Grid((60, 20, 20), (2.0, 1.0, 1.0))
    figure = gallery_figure([Section("Found", GREEN, (entry,))], ["cmb"], lambda _: scan)
    axial = figure.axes[0]
    box = next(p for p in axial.patches if isinstance(p, Rectangle) and p.get_edgecolor() == to_rgba(GREEN))
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == pytest.approx((-2.0, -2.0, 4.0, 4.0))
    assert [text.get_text() for text in figure.texts][-1].startswith("a  cmb  score 0.90")


def test_dollar_signs_in_a_name_are_no_formula(tmp_path):
    figure = Figure()
    axes = figure.subplots()
    axes.set_title("a$_{b$c$")
    axes.set_xscale("log")  # whose labels are formulas
    save_figure(figure, tmp_path / "a.png")
    assert embed(figure, "a").png
