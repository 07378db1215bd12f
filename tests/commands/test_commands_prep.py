"""What ``nndet_prep`` prints of a plan."""

import dataclasses
from pathlib import Path

import numpy as np
from rich.console import Console
from small_plan import PLAN

from cmb_plugin.commands.prep import show
from cmb_plugin.paths import TaskFolder
from cmb_plugin.planning import AnchorFit, Anchors, Plan, plan_centres
from cmb_plugin.workflows.prep_report import PrepReport
from cmb_plugin.workflows.training_run import DEFAULT_PLAN

SIZES = np.array([[2.0, 2.5, 2.5], [3, 4, 4], [3, 4, 4]])
CENTRES = plan_centres(PLAN.architecture, (1.5, 1.0, 1.0), 1, (4.5, 4.0, 4.0), SIZES)


def shown(plan: Plan, plan_from: str | None = None) -> str:
    console = Console(width=120)
    report = PrepReport(TaskFolder(Path("Task000_Test")), plan, Path("plan.json"), [], [], plan_from=plan_from)
    with console.capture() as capture:
        show(report, console)
    return capture.get()


def test_the_plan_says_what_lesions_of_each_size_get_of_the_dense_map() -> None:
    text = shown(dataclasses.replace(PLAN, centres=CENTRES))
    assert "every 1 x 2 x 2 voxels, sigma 1.72 mm, boxes within 2.15 mm" in text
    assert "2-3 mm: a box covers 3.1 locations, 6.9 learn it (n=1)" in text
    assert "3-5 mm: a box covers 12 locations, 6.9 learn it (n=2)" in text
    assert ">= 5 mm" not in text  # none so large
    assert "16, 32, 64, maps of 16" in text


def test_the_fit_of_anchors_is_shown_by_size_only_where_they_are_all_there_is() -> None:
    fitted = Anchors(PLAN.anchors.sizes, 0.5, 0.2, (AnchorFit("3-5 mm", 2, 0.55, 0.44),))
    alone = shown(dataclasses.replace(PLAN, anchors=fitted))
    both = shown(dataclasses.replace(PLAN, anchors=fitted, centres=CENTRES))
    assert "2 per location, best IoU mean 0.50, worst 0.20" in alone
    assert "2 per location, best IoU mean 0.50, worst 0.20" in both
    assert "3-5 mm: 0.55, worst 0.44 (n=2)" in alone
    assert "0.55" not in both
    assert "centre map" not in alone


def test_a_plan_without_anchors_shows_its_dense_map() -> None:
    bare = dataclasses.replace(
        PLAN,
        centres=CENTRES,
        anchors=Anchors(()),
        architecture=dataclasses.replace(PLAN.architecture, detection_levels=()),
    )
    text = shown(bare)
    assert "cmb, iron on swi" in text
    assert "sigma 1.72 mm" in text


def test_the_last_line_is_how_to_go_on() -> None:
    default = dataclasses.replace(PLAN, name=DEFAULT_PLAN)
    last = shown(default).splitlines()[-2:]
    assert last[0] == "Next: nndet_train Task000_Test"
    assert last[1].endswith("nndet_prep Task000_Test -o plan_from=pretrained")
    bright = shown(dataclasses.replace(default, polarity=("bright",)))
    assert bright.splitlines()[-1] == "Next: nndet_train Task000_Test"  # the weights of the package look for dark ones
    assert shown(default, "mine.cmb").splitlines()[-1] == "Next: nndet_train Task000_Test -o train.init=mine.cmb"
    assert "Next" not in shown(dataclasses.replace(PLAN, name="Other_3d"))
