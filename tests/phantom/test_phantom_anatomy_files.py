"""Phantoms of a labelled head: its veins, its air, its record, and what a table may not say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cmb_plugin.commands.example import main
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json
from cmb_plugin.images import Grid, read_scan, write_image
from cmb_plugin.paths import TaskFolder
from cmb_plugin.phantom import AnatomyFiles, read_table, vein_paths
from cmb_plugin.phantom.anatomy import ORIGIN, load_atlas
from cmb_plugin.phantom.head_atlas import load_head_atlas, mirrored
from cmb_plugin.phantom.labelled import HeadTraits, read_head

STEP = 4  # mm of the tiny head
WHITE, GREY, FLUID, VEIN, BONE, SOFT = 1, 2, 3, 4, 5, 6
TABLE = """label\tname\ttissue\tchi_ppm\tt2star_ms
0\toutside\tair\t9.2\t
1\twhite matter\twhite_matter\t-0.03\t
2\tgrey matter\tgrey_matter\t0.02\t
3\tfluid\tcsf\t\t
4\tveins\tvein\t0.4\t10
5\tskull\tbone\t-2.1\t
6\tscalp\tsoft_tissue\t\t
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The template at 4 mm as labels, with a vein of one voxel's width from front to back on the right, at z = 30."""
    folder = tmp_path_factory.mktemp("head")
    atlas = load_atlas()
    every = (slice(None, None, STEP),) * 3
    grey, white, brain = (m[every] for m in (atlas.grey, atlas.white, atlas.brain))
    outside = np.repeat(np.repeat(np.repeat(atlas.head_distance, 3, 0), 3, 1), 3, 2)[every]
    outside = outside[: grey.shape[0], : grey.shape[1], : grey.shape[2]]
    labels = np.select([outside > 12, outside > 7, outside > 2], [0, SOFT, BONE], FLUID)
    tissue = brain > 0.5
    labels[tissue] = np.select([white > 0.45, grey > 0.4], [WHITE, GREY], FLUID)[tissue]
    z, y, x = (int((mm - o) / STEP) for mm, o in zip((30, -50, 30), ORIGIN, strict=True))
    labels[z, y : y + 22, x] = VEIN
    place = tuple(float(v) for v in (-ORIGIN[2], -ORIGIN[1], ORIGIN[0]))
    turned = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
    shape = (labels.shape[0], labels.shape[1], labels.shape[2])
    write_image(folder / "tiny.nii.gz", labels.astype(np.uint8), Grid(shape, (STEP,) * 3, place, turned))  # type: ignore[arg-type]
    (folder / "tiny.tsv").write_text(TABLE)
    return f"{folder / 'tiny.nii.gz'}:{folder / 'tiny.tsv'}"


@pytest.fixture(scope="module", autouse=True)
def no_sinus() -> Iterator[None]:
    """A vein as wide as a voxel of the tiny head is no sinus."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vein_paths, "SINUS_MM", 9.0)
        yield


@pytest.fixture(scope="module")
def task(head: str, tmp_path_factory: pytest.TempPathFactory) -> TaskFolder:
    root = tmp_path_factory.mktemp("data")
    words = ["--protocol", "tiny", "--train", "1", "--test", "0", "--healthy", "0", "--modalities", "t2s", "-np", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("det_data", str(root))
        assert main([*words, "--anatomy", head]) == 0
    return TaskFolder(root / "Task100_Phantom")


def test_the_record_of_a_case_names_the_head(task: TaskFolder, head: str) -> None:
    record = read_json(task.extra("lesions", "Tr") / "case_000.json")
    labels = Path(head.split(":")[0])
    assert record["anatomy"]["labels"] == "tiny.nii.gz"
    assert record["anatomy"]["labels_sha256"] == hashlib.sha256(labels.read_bytes()).hexdigest()
    assert set(record["anatomy"]) >= {"table_sha256", "mirrored", "veins", "iron"}
    assert read_json(task.root / "dataset.json")["phantom"]["anatomy"]["table"] == "tiny.tsv"
    assert record["lesions"]


def test_labelled_veins_are_dark_and_among_the_mimics(task: TaskFolder) -> None:
    image, grid = read_scan(task.images("Tr") / "case_000_0000.nii.gz")
    brain, _ = read_scan(task.extra("brain", "Tr") / "case_000.nii.gz")
    mimics = read_json(task.extra("mimics", "Tr") / "case_000.json")["mimics"]
    labelled = [m for m in mimics if m["site"] == "labelled"]
    assert labelled
    assert 1200 < brain.sum() * np.prod(grid.spacing) / 1e3 < 2600  # mL
    course = np.concatenate([m["path"] for m in labelled])
    within = tuple(np.floor(course).astype(int).T)
    assert np.median(image[within]) < 0.6 * np.median(image[brain > 0])


def test_lesions_lie_in_the_heads_own_tissue(task: TaskFolder) -> None:
    brain, grid = read_scan(task.extra("brain", "Tr") / "case_000.nii.gz")
    for lesion in read_json(task.extra("lesions", "Tr") / "case_000.json")["lesions"]:
        index = np.floor(np.asarray(lesion["centre"])).astype(int)
        near = tuple(slice(max(i - 2, 0), i + 3) for i in index)
        assert brain[near].any()
        assert grid.shape[0] > index[0] >= 0


def test_a_mirrored_head_has_its_vein_on_the_other_side(head: str) -> None:
    files = AnatomyFiles.of(head)
    sides = []
    for flip in (False, True):
        atlas = load_head_atlas(files, HeadTraits(mirrored=flip, veins=1.5))
        assert atlas.veins
        assert atlas.head
        course = np.concatenate([v.path for v in atlas.veins])
        sides.append(float(np.median(course[:, 0])))
        places = atlas.head.index(course.T)
        labels = atlas.head.head.labels[tuple(np.round(places).astype(int))]
        assert {atlas.head.head.materials[n].tissue for n in labels} == {"vein"}
        assert atlas.veins[0].ppm == pytest.approx(0.6)
    assert sides[0] > 15
    assert sides[1] == pytest.approx(-sides[0], abs=0.5)


def test_mirroring_twice_changes_nothing() -> None:
    atlas = load_atlas()
    back = mirrored(mirrored(atlas))
    np.testing.assert_array_equal(back.regions, atlas.regions)
    np.testing.assert_allclose(back.places["cortex"], atlas.places["cortex"])
    inner = (slice(None),) * 3 + (slice(2, -2),)
    assert np.abs(back.ventricle_pull - atlas.ventricle_pull)[inner].mean() < 0.05


def test_constants_of_the_table_replace_those_of_the_tissue(head: str) -> None:
    materials = read_table(AnatomyFiles.of(head).table)
    assert materials[VEIN].constants[1].decay == pytest.approx(100)
    assert materials[WHITE].chi == -0.03
    assert materials[FLUID].chi == 0.0
    traits = HeadTraits(veins=2.0, iron=3.0)
    assert traits.susceptibility(materials[VEIN]) == pytest.approx(0.8)
    assert traits.susceptibility(materials[GREY]) == 0.02


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE.replace("4\tveins\tvein\t0.4\t10\n", ""), "no row for label 4 of tiny.nii.gz"),
        (TABLE.replace("\tvein\t", "\tvien\t"), "line 6: unknown tissue 'vien'"),
        (TABLE.replace("\t0.4\t", "\tmuch\t"), "line 6: chi_ppm 'much' is no number"),
        (TABLE.replace("4\tveins", "2\tveins"), "line 6: label '2' is no number of its own"),
        (TABLE.replace("tissue", "what"), "no column tissue"),
        (TABLE.replace("grey_matter", "white_matter"), "no label is grey_matter"),
        (TABLE.replace("\t10\n", "\t0\n"), "t2star_ms 0 is not possible"),
    ],
)
def test_a_wrong_table_is_named(head: str, tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "wrong.tsv").write_text(table)
    with pytest.raises(UserError, match=r"wrong\.tsv") as error:
        read_head(AnatomyFiles(Path(head.split(":")[0]), tmp_path / "wrong.tsv"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--anatomy", "labels.nii.gz"], "not two files"),
        (["--anatomy", "nowhere.nii.gz:nowhere.tsv"], "nowhere.nii.gz: there is no such file"),
        (["--anatomy", "a:b", "--into", "."], "measured scans bring their own heads"),
    ],
)
def test_a_wrong_option_is_an_error_in_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("det_data", str(tmp_path))
    assert main(words) == 2
    assert message in " ".join("".join(capsys.readouterr()).split())
