"""Label tables against the names that FreeSurfer, FastSurfer and SynthSeg publish, and a published table of lobes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmb_plugin.anatomy import GROUPS, NOT_TISSUE, load_table
from cmb_plugin.anatomy.label_tables import as_labels, unknown_labels
from cmb_plugin.errors import UserError

# FastSurferCNN/config/FastSurfer_ColorLUT.tsv (Deep-MI/FastSurfer): the labels below 1000.
FASTSURFER = {
    2: "Left-Cerebral-White-Matter", 4: "Left-Lateral-Ventricle", 5: "Left-Inf-Lat-Vent",
    7: "Left-Cerebellum-White-Matter", 8: "Left-Cerebellum-Cortex", 10: "Left-Thalamus", 11: "Left-Caudate",
    12: "Left-Putamen", 13: "Left-Pallidum", 14: "3rd-Ventricle", 15: "4th-Ventricle", 16: "Brain-Stem",
    17: "Left-Hippocampus", 18: "Left-Amygdala", 24: "CSF", 26: "Left-Accumbens-area", 28: "Left-VentralDC",
    31: "Left-choroid-plexus", 41: "Right-Cerebral-White-Matter", 43: "Right-Lateral-Ventricle",
    44: "Right-Inf-Lat-Vent", 46: "Right-Cerebellum-White-Matter", 47: "Right-Cerebellum-Cortex",
    49: "Right-Thalamus", 50: "Right-Caudate", 51: "Right-Putamen", 52: "Right-Pallidum", 53: "Right-Hippocampus",
    54: "Right-Amygdala", 58: "Right-Accumbens-area", 60: "Right-VentralDC", 63: "Right-choroid-plexus",
    77: "WM-hypointensities",
}  # fmt: skip

# data/labels table.txt of BBillot/SynthSeg; its names are FreeSurfer's in other letters.
SYNTHSEG = {
    2: "left cerebral white matter", 3: "left cerebral cortex", 4: "left lateral ventricle",
    5: "left inferior lateral ventricle", 7: "left cerebellum white matter", 8: "left cerebellum cortex",
    10: "left thalamus", 11: "left caudate", 12: "left putamen", 13: "left pallidum", 14: "3rd ventricle",
    15: "4th ventricle", 16: "brain-stem", 17: "left hippocampus", 18: "left amygdala", 24: "csf",
    26: "left accumbens area", 28: "left ventral DC", 41: "right cerebral white matter", 42: "right cerebral cortex",
    43: "right lateral ventricle", 44: "right inferior lateral ventricle", 46: "right cerebellum white matter",
    47: "right cerebellum cortex", 49: "right thalamus", 50: "right caudate", 51: "right putamen",
    52: "right pallidum", 53: "right hippocampus", 54: "right amygdala", 58: "right accumbens area",
    60: "right ventral DC",
}  # fmt: skip

# The order of the Desikan-Killiany gyri from 1000 on (FreeSurferColorLUT.txt), and the lobe that MRtrix3's
# fs2lobes_cinginc_convert.txt gives each: 1 frontal, 2 parietal, 3 occipital, 4 temporal.
GYRI = {
    "bankssts": 4, "caudalanteriorcingulate": 1, "caudalmiddlefrontal": 1, "corpuscallosum": 0, "cuneus": 3,
    "entorhinal": 4, "fusiform": 4, "inferiorparietal": 2, "inferiortemporal": 4, "isthmuscingulate": 2,
    "lateraloccipital": 3, "lateralorbitofrontal": 1, "lingual": 3, "medialorbitofrontal": 1, "middletemporal": 4,
    "parahippocampal": 4, "paracentral": 1, "parsopercularis": 1, "parsorbitalis": 1, "parstriangularis": 1,
    "pericalcarine": 3, "postcentral": 2, "posteriorcingulate": 2, "precentral": 1, "precuneus": 2,
    "rostralanteriorcingulate": 1, "rostralmiddlefrontal": 1, "superiorfrontal": 1, "superiorparietal": 2,
    "superiortemporal": 4, "supramarginal": 2, "frontalpole": 1, "temporalpole": 4, "transversetemporal": 4,
}  # fmt: skip
LOBES = {1: "frontal", 2: "parietal", 3: "occipital", 4: "temporal"}


def letters(name: str) -> str:
    return "".join(
        c
        for c in name.lower().replace("inferior", "inf").replace("ventricle", "vent").replace("lateral", "lat")
        if c.isalnum()
    )


def test_every_fastsurfer_label_has_its_published_name() -> None:
    names = load_table("freesurfer").names
    assert {value: names[value] for value in FASTSURFER} == FASTSURFER


def test_every_synthseg_label_has_its_published_name() -> None:
    names = load_table("freesurfer").names
    assert {v: letters(names[v]) for v in SYNTHSEG} == {v: letters(name) for v, name in SYNTHSEG.items()}


@pytest.mark.parametrize(("first", "begin", "side"), [(1000, "ctx-lh-", "left"), (2000, "ctx-rh-", "right"),
                                                      (3000, "wm-lh-", "left"), (4000, "wm-rh-", "right")])  # fmt: skip
def test_gyri_have_freesurfers_numbers_and_mrtrixs_lobes(first: int, begin: str, side: str) -> None:
    table = load_table("freesurfer")
    for value, (gyrus, lobe) in enumerate(GYRI.items(), start=first + 1):
        assert table.names[value] == begin + gyrus
        place = table.places[value]
        expected = ("lobar", LOBES[lobe], side) if lobe else ("deep", "corpus callosum", side)
        assert (place.group, place.region, place.side) == expected
        assert (value in table.white_matter) == (begin.startswith("wm") and lobe > 0)
    assert table.places[first + 35].region == "insula"


def test_left_and_right_labels_are_alike_but_for_the_side() -> None:
    table = load_table("freesurfer")
    by_name = {name: table.places[value] for value, name in table.names.items()}
    pairs = [(n, n.replace("Left", "Right").replace("-lh-", "-rh-")) for n in by_name if "Left" in n or "-lh-" in n]
    assert len(pairs) > 80
    for left, right in pairs:
        assert by_name[left].side == "left", left
        assert by_name[right].side == "right", right
        assert (by_name[left].group, by_name[left].region) == (by_name[right].group, by_name[right].region)


def test_brainstem_and_cerebellum_are_infratentorial_and_the_ventral_diencephalon_is_deep() -> None:
    table = load_table("freesurfer")
    groups = {name: table.places[value].group for value, name in table.names.items()}
    assert {group for name, group in groups.items() if "Cerebellum-" in name and "Ext" not in name} == {
        "infratentorial"
    }
    assert {groups[name] for name in ("Brain-Stem", "Midbrain", "Pons", "Medulla")} == {"infratentorial"}
    assert groups["Left-VentralDC"] == "deep"
    assert {group for name, group in groups.items() if "Vent" in name and "DC" not in name} == {"ventricle"}


def test_the_mars_table_holds_the_13_regions() -> None:
    places = load_table("mars").places
    assert [places[code].group for code in range(1, 14)] == ["infratentorial"] * 2 + ["deep"] * 6 + ["lobar"] * 5
    assert len({places[code].region for code in range(1, 14)}) == 13


@pytest.mark.parametrize("name", ["freesurfer", "mars", "coarse"])
def test_built_in_tables_use_the_known_groups_and_the_mars_regions(name: str) -> None:
    mars = {place.region for place in load_table("mars").places.values()}
    for place in load_table(name).places.values():
        assert place.group in (*GROUPS, *NOT_TISSUE)
        assert place.region in mars


def test_squares_are_recognised_only_where_the_roots_are_labels_and_the_values_are_not() -> None:
    table = load_table("mars")
    roots, findings = as_labels(np.array([[[0.0, 1.0, 4.0009, 168.999]]]), table, "file")
    assert roots.tolist() == [[[0, 1, 2, 13]]]
    assert "squares" in findings[0]
    assert as_labels(np.array([[[0, 1, 4, 9]]]), table, "file") == (pytest.approx(np.array([[[0, 1, 4, 9]]])), ())
    labels, findings = as_labels(np.array([[[0, 1, 16, 20]]]), table, "file")
    assert labels.tolist() == [[[0, 1, 16, 20]]]
    assert findings == ()


def test_a_label_without_a_row_is_a_finding_with_its_number_of_voxels() -> None:
    table = load_table("freesurfer")
    (finding,) = unknown_labels(np.array([[[2, 11101, 11101, 0]]], np.uint16), table, "aparc.nii.gz")
    assert "11101 (2 voxels)" in finding
    assert "aparc.nii.gz" in finding
    assert unknown_labels(np.array([[[2, 0]]], np.uint16), table, "x") == ()


@pytest.mark.parametrize("values", [[0.5], [-1.0], [np.nan], [70000.0]])
def test_values_that_are_no_labels_are_refused(values: list[float]) -> None:
    with pytest.raises(UserError, match="no labels"):
        as_labels(np.array([[values]]), load_table("mars"), "file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("value\tname\n1\tx\n", "no column group"),
        ("value\tgroup\n1\tlobe\n", "line 2: unknown group 'lobe'"),
        ("value\tgroup\tside\n1\tlobar\tboth\n", "unknown side"),
        ("value\tgroup\n1\tlobar\n1\tdeep\n", "line 3"),
        ("value\tgroup\none\tlobar\n", "no label value"),
        ("value\tgroup\n0\tlobar\n", "label 0"),
    ],
)
def test_a_wrong_table_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_table(tmp_path / "labels.tsv")


def test_a_missing_table_is_a_user_error() -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_table("nowhere.tsv")


def test_a_users_table_needs_only_values_and_groups(tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text("value\tgroup\n3\tdeep\n\n", encoding="utf-8")
    table = load_table(tmp_path / "labels.tsv")
    assert {value: place.group for value, place in table.places.items()} == {0: "outside", 3: "deep"}
