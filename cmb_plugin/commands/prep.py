"""``nndet_prep``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cmb_plugin.errors import UserError

from .cli import add_overrides, add_scheduler, command, parser
from .names import find_task, machines_named

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

    from cmb_plugin.cluster import Cluster
    from cmb_plugin.planning import Plan
    from cmb_plugin.workflows.prep_report import PreparedSummary, PrepReport


MOST_NOTES = 25  # printed; thousands of like findings help nobody


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Check, plan and preprocess Task folders, and account for every lesion.

    Examples:
        nndet_prep Task101_CMB
        nndet_prep 101 102 -np 8                              two tasks, eight processes
        nndet_prep 101 --scheduler tcp://node1:8786           on the machines of a Dask cluster (docs/cluster.md)
        nndet_prep 101 -o planner_cfg.gpu_memory_gb=11        plan for 11 GB; 4 is the default on every machine
        nndet_prep 101 -o planner_cfg.gpu_memory_gb=auto      plan for this machine's GPU, or 2 GB without one
        nndet_prep 101 -o planner_cfg.finest_level=1          locations every second voxel: coarser, quicker
        nndet_prep 101 -o planner_cfg.domains=geometry        scans of one voxel size are one domain (docs/domains.md)
        nndet_prep 101 -o planner=D3V001                      nnDetection's rules, as a baseline
        nndet_prep 101 -o planner=Anatomy                     learn regionsTr instead: docs/segmentation.md
        nndet_prep 101 -o plan_from=pretrained                as the weights of this package, to go on from them
        nndet_prep 101 -o plan=my_plan.json                   use a plan that you edited, as it is

    Settings (-o):
        planner=NAME                    who plans; the default is D3CMB
        planner_cfg.*                   gpu_memory_gb, finest_level, detection_levels, base_features, max_features,
                                        pyramid_channels, batch_size, patch_size, spacing, seed, domains; of D3CMB also
                                        anchors, centre_features, centre_channels, brain_margin_mm; of D3V001 also
                                        anchors_per_axis
        plan=PATH.json                  a finished plan instead of a planner
        plan_from=pretrained|FILE.cmb|MODEL_DIR   spacing, network, patch and targets of a trained model, as a plan of
                                        its own beside the planner's: nndet_train -o train.init=... then takes it
        additional_imports=[module]     your own planners and normalisation schemes

    Files: ${det_data}/{task}/preprocessed/ holds fingerprint.json, splits.json, domains.json where domains were derived
    from the scans' geometry, and for each plan a folder with plan.json and the prepared scans. Run again at any time:
    what is finished and unchanged is skipped. Exit code 2 when a case could not be used; the others are prepared.
    """
    arguments = parser(main.__doc__)
    arguments.add_argument("tasks", nargs="+", metavar="TASK", help="number, name or path of a Task folder")
    add_overrides(arguments)
    arguments.add_argument(
        "--full_check", action="store_true", help="check cases again whose files have not changed since the last check"
    )
    arguments.add_argument("--no_check", action="store_true", help="do not check the folder first")
    arguments.add_argument("-np", "--num_processes", type=int, metavar="N", help="processes; every core by default")
    arguments.add_argument(
        "-npp",
        "--num_processes_preprocessing",
        type=int,
        metavar="N",
        help="processes for preprocessing; as -np by default",
    )
    add_scheduler(arguments)
    args = arguments.parse_args(argv)
    with machines_named(args.scheduler) as machines:
        return _prepare_all(args, machines)


def _prepare_all(args: argparse.Namespace, machines: Cluster | None) -> int:
    """Prepares each task; exit code."""
    from rich.console import Console

    from cmb_plugin.settings import Overrides
    from cmb_plugin.workflows.prep import prepare

    console = Console()
    code = 0
    for task in args.tasks:
        try:
            report = prepare(
                find_task(task),
                Overrides.parse(args.overrides),
                machines or args.num_processes,
                preprocess_workers=args.num_processes_preprocessing,
                check=not args.no_check,
                check_again=args.full_check,
            )
        except UserError as error:
            if len(args.tasks) == 1:
                raise
            console.print(f"error: {task}: {error}", markup=False, highlight=False, soft_wrap=True)
            code = code or 2
            continue
        show(report, console)
        code = 1 if 1 in (code, report.exit_code) else max(code, report.exit_code)
    return code


def show(report: PrepReport, console: Console) -> None:
    """Prints the report: problems, a table of the cases, a table of the plan."""
    from rich.table import Table

    from cmb_plugin.dataset.domains import UNNAMED

    def line(text: str) -> None:
        """Prints a line as it is, whatever its length."""
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    for warning in report.warnings[:MOST_NOTES]:
        line(f"note: {warning}")
    if len(report.warnings) > MOST_NOTES:
        line(f"note: and {len(report.warnings) - MOST_NOTES} more like these")
    for failure in report.failures:
        line(f"skipped {failure.case_id}: {failure.reason}")
    cases = Table(title=f"{report.task.name}, prepared in {report.seconds:.0f} s", title_justify="left")
    for column in ("", "cases", "new", "healthy", f"{report.plan.target} before", "after", "redrawn", "outside"):
        cases.add_column(column, justify="right" if column else "left")
    for split, name in (("Tr", "training"), ("Ts", "test")):
        prepared = report.of(split)
        if prepared:
            cases.add_row(name, *_counts(prepared))
            for domain in report.domains if len(report.domains) > 1 else ():
                own = [case for case in prepared if case.domain == domain]
                if own:
                    cases.add_row(f"  {domain or UNNAMED}", *_counts(own))
    console.print(cases)
    plan = Table(title="Plan", title_justify="left", show_header=False)
    for key, value in _plan_rows(report):
        plan.add_row(key, value)
    console.print(plan)
    for case in report.cases:
        if case.redrawn:
            numbers = ", ".join(map(str, case.redrawn))
            line(f"redrawn in {case.case_id}: instance {numbers} (smaller than half a voxel at the plan's spacing)")
        if case.nonfinite:
            line(f"{case.case_id}: {case.nonfinite} values were NaN or infinite and became 0")
    for note in report.plan.notes:
        line(note)
    line(f"Plan: {report.plan_path}")
    for step in _next_steps(report):
        line(step)


def _next_steps(report: PrepReport) -> list[str]:
    """How to train by the plan: where it is the one that is trained by default, or that of given weights."""
    from cmb_plugin.models.shipped import PRETRAINED, pretrained_file
    from cmb_plugin.workflows.training_run import DEFAULT_PLAN

    name = report.task.name
    if report.plan_from is not None:
        return [f"Next: nndet_train {name} -o train.init={report.plan_from}"]
    if report.plan.name != DEFAULT_PLAN:
        return []
    steps = [f"Next: nndet_train {name}"]
    if "dark" in report.plan.polarities and pretrained_file().is_file():
        steps.append(f"Or, from the weights of this package: nndet_prep {name} -o plan_from={PRETRAINED}")
    return steps


def _counts(cases: Sequence[PreparedSummary]) -> list[str]:
    labelled = [case for case in cases if case.lesions_before is not None]
    if not labelled:
        return [str(len(cases)), str(sum(case.fresh for case in cases)), *["-"] * 5]
    return [
        str(len(cases)),
        str(sum(case.fresh for case in cases)),
        str(sum(case.lesions_before == 0 for case in labelled)),
        str(sum(case.lesions_before or 0 for case in labelled)),
        str(sum(case.lesions_after or 0 for case in labelled)),
        str(sum(len(case.redrawn) for case in labelled)),
        str(sum(len(case.outside) for case in labelled)),
    ]


def _plan_rows(report: PrepReport) -> list[tuple[str, str]]:
    plan, architecture = report.plan, report.plan.architecture

    def by(values: Sequence[float], unit: str = "") -> str:
        """``0.5 x 0.5 x 2 mm``."""
        return " x ".join(f"{value:g}" for value in values) + unit

    first = [
        ("spacing", by(plan.preprocessing.spacing, " mm")),
        ("patch and batch", f"{by(plan.patch_size)} voxels, {plan.batch_size} per step"),
    ]
    memory = ("memory", f"{plan.memory_estimate_gb:g} GB estimated for {plan.memory_gb:g} GB")
    dense = _centre_rows(plan)
    if not plan.anchors.sizes:
        learns = ("learns", f"{', '.join(plan.classes)} on {', '.join(plan.modalities)}")
        return [learns, *first, *dense, memory]
    anchors = f"{len(plan.anchors.sizes[0])} per location"
    if plan.anchors.mean_best_iou is not None and plan.anchors.min_best_iou is not None:
        anchors += f", best IoU mean {plan.anchors.mean_best_iou:.2f}, worst {plan.anchors.min_best_iou:.2f}"
    by_size = [
        f"{fit.diameter}: {fit.mean_best_iou:.2f}, worst {fit.min_best_iou:.2f} (n={fit.lesions})"
        for fit in plan.anchors.by_size
        if fit.mean_best_iou is not None and fit.min_best_iou is not None and not dense
    ]
    return [
        *first,
        *dense,
        ("detection strides", ", ".join(by(architecture.stride_of(level)) for level in architecture.detection_levels)),
        ("anchors", "\n".join([anchors, *by_size])),
        memory,
    ]


def _centre_rows(plan: Plan) -> list[tuple[str, str]]:
    """The dense map of centres and what lesions of each size get from it; none where it is not planned."""
    centres = plan.centres
    if centres is None:
        return []
    stride = " x ".join(map(str, plan.architecture.stride_of(centres.level)))
    target = f"every {stride} voxels, sigma {centres.sigma_mm:g} mm, boxes within {centres.reach_mm:g} mm"
    by_size = [
        f"{fit.diameter}: a box covers {fit.cells:g} locations, {fit.learned:g} learn it (n={fit.lesions})"
        for fit in centres.by_size
        if fit.lesions
    ]
    widths = f"{', '.join(map(str, centres.features))}, maps of {centres.channels}"
    return [("centre map", "\n".join([target, *by_size])), ("its widths", widths)]
