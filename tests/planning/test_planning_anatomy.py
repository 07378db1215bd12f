"""Planner Anatomy: one coarse patch that holds a brain, on the modality that shows it; and the plan file."""

import dataclasses
import math

import pytest

from cmb_plugin.dataset import Case
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.planning import Plan, estimate_unet_gb
from cmb_plugin.plugins import planners
from cmb_plugin.preparation import CaseFingerprint, Fingerprint

Anatomy = planners.get("Anatomy")
REGIONS = ("lobar", "deep", "infratentorial")


def case(spacing=(1.0, 0.45, 0.45), brain_mm=(140, 180, 150)):
    brain = tuple(math.ceil(mm / side) for mm, side in zip(brain_mm, spacing, strict=True))
    whole = tuple(side + 100 for side in brain)
    numbers = ((0.0, 1.0, 2.0), (-3.1, 0.0, 3.1))
    return CaseFingerprint("a", whole, spacing, whole, "SPL", ((3.0, 2.5, 2.5),), (9,), (0,), numbers, brain, True)


def plan(*cases, modalities=("PHASE", "SWI"), **settings):
    config = Anatomy.config_class(**{"gpu_memory_gb": 2.0, **settings})
    return Anatomy(config).plan(Fingerprint("Task001_X", modalities, ("cmb",), cases or (case(),), REGIONS))


def test_a_patch_holds_the_largest_brain_and_its_margin():
    planned = plan(case(), case((4.0, 0.9, 0.9), brain_mm=(150, 170, 160)))
    assert planned.preprocessing.spacing == (3.0, 3.0, 3.0)
    assert planned.preprocessing.brain_channel == 0
    for side, mm in zip(planned.patch_size, (150, 180, 160), strict=True):
        assert mm + 24 - 3 <= 3 * side <= mm + 24 + 3 * 17  # padded to the network's stride


def test_it_learns_the_regions_on_the_one_modality_that_shows_the_brain():
    planned = plan()
    assert (planned.target, planned.classes, planned.polarity) == ("regions", REGIONS, ())
    assert (planned.modalities, planned.channels, planned.n_files) == (("SWI",), (1,), 2)
    assert [step.scheme for step in planned.preprocessing.normalisation] == ["robust"]
    assert plan(modalities=("PHASE", "QSM")).channels == (0, 1)
    assert plan(modalities=("T1", "SWI")).modalities == ("SWI",)


def test_other_modalities_and_spacing_when_asked_for():
    planned = plan(modalities=("T1", "SWI"), spacing=[2.0, 2.5, 2.5])
    assert planned.preprocessing.spacing == (2.5, 2.0, 2.5)  # the first of the longest axes comes first
    assert planned.preprocessing.transpose == (1, 0, 2)
    chosen = Anatomy(Anatomy.config_class(gpu_memory_gb=2.0, modalities=["SWI", "T1"]))
    planned = chosen.plan(Fingerprint("Task001_X", ("T1", "SWI"), ("cmb",), (case(),), REGIONS))
    assert planned.used(["t1.nii.gz", "swi.nii.gz"]) == ("swi.nii.gz", "t1.nii.gz")
    with pytest.raises(UserError, match="no modality 'SIW'"):
        Anatomy(Anatomy.config_class(modalities=["SIW"])).plan(
            Fingerprint("Task001_X", ("T1", "SWI"), ("cmb",), (case(),), REGIONS)
        )


def test_it_stays_within_the_memory():
    roomy, tight = plan(), plan(gpu_memory_gb=0.75)
    assert tight.memory_estimate_gb <= 0.75 < roomy.memory_estimate_gb
    assert roomy.memory_estimate_gb <= 2.0
    assert roomy.architecture.features[0] == 16  # no larger, however much there is
    assert plan(gpu_memory_gb=80.0) == dataclasses.replace(roomy, memory_gb=80.0, notes=plan(gpu_memory_gb=80.0).notes)


def test_the_estimate_grows_with_patch_and_batch():
    net = plan().architecture
    small, large, two = (
        estimate_unet_gb(net, patch, batch, 1, 3)
        for patch, batch in (((32, 32, 32), 1), ((64, 64, 64), 1), ((64, 64, 64), 2))
    )
    assert small < large < two < 2 * large


def test_the_plan_file_comes_back_and_old_ones_are_read(tmp_path):
    planned, path = plan(), tmp_path / "plan.json"
    planned.save(path)
    assert Plan.load(path) == planned
    content = read_json(path)
    content["target"] = "lesson"
    write_json(path, content)
    with pytest.raises(UserError, match=r"plan\.json: target is 'lesson'"):
        Plan.load(path)
    healthy = dataclasses.replace(case(), sizes_mm=(), voxels=(), labels=())
    planner = planners.get("D3CMB")
    old = planner(planner.config_class(gpu_memory_gb=2.0)).plan(Fingerprint("T", ("SWI",), ("cmb",), (healthy,)))
    old.save(path)
    content = read_json(path)
    del content["target"], content["channels"]
    write_json(path, content)
    assert Plan.load(path) == old


def test_a_plan_sees_its_own_files_of_a_case(tmp_path):
    (tmp_path / "regionsTr").mkdir()
    (tmp_path / "regionsTr" / "a.nii.gz").touch()
    files = Case("a", (tmp_path / "0", tmp_path / "1"), tmp_path / "label", tmp_path / "classes", "Tr", tmp_path)
    seen = plan().case(files)
    assert seen.images == (tmp_path / "1",)
    assert (seen.label, seen.classes_file) == (tmp_path / "regionsTr" / "a.nii.gz", None)
    assert plan().case(dataclasses.replace(files, case_id="b")).label is None
    assert plan().case(dataclasses.replace(files, split="")).label is None
