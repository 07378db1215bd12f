"""Detection with and without the removal of what lies in impossible places (Kim et al. 2023: 0.86 -> 0.56 FP per scan).

    python -m benchmarks.accuracy.removal TASK MODEL... [--regions atlas:builtin] [--cache DIR] [--fold 0]

Takes the validation and test predictions of each model's fold as they are. ``--regions`` is what ``nndet_predict``
takes, or ``truth``: the task's own ``regions{Tr,Ts}``, or ``brain``: nothing but the outline of the brain as it is
estimated from the scan. The limits are chosen on the validation scans of the same model. Prints a Markdown table: at
the operating point, and at fixed sensitivities, with paired differences over resampled scans. A scan that ``--cache``
holds is not placed again, so the script can be stopped and started.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.tools.markdown import table_head, table_row
from benchmarks.tools.measured import source_named
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.anatomy import Place, RegionMap, locate
from cmb_plugin.anatomy.learned import places_of
from cmb_plugin.anatomy.rules import choose_rules, remove_impossible
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.commands.names import find_folds, find_model, find_task
from cmb_plugin.dataset import Case, Dataset, Truth
from cmb_plugin.detections import Detections
from cmb_plugin.evaluation import CaseResult, Estimate, EvaluationConfig, bootstrap, subject_counts
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import read_mask, read_scan
from cmb_plugin.models.scored_cases import PredictionSet
from cmb_plugin.models.trained import PARTS
from cmb_plugin.preparation import brain_channel, estimate_brain
from cmb_plugin.regions.removal import lesion_boxes
from cmb_plugin.regions.sources import RegionSource

SENSITIVITIES = (0.7, 0.75, 0.8)
STEP_MM = 1.5
Scans = dict[str, list[CaseResult]]  # by model


def source_of(name: str, dataset: Dataset) -> RegionSource:
    """A source of the command line, or one of this script's own."""
    channel = brain_channel(dataset.modalities) or 0

    def truth(case: Case) -> RegionMap:
        """The regions that the task itself has."""
        path = case.extra("regions")
        assert path is not None, f"{case.case_id} has no regions"
        labels, grid = read_mask(path)
        return RegionMap(labels.astype(np.uint16), grid, places_of(dataset.regions), name)

    def brain(case: Case) -> RegionMap:
        """Nothing but the brain as it is estimated from the scan."""
        image, grid = read_scan(case.images[channel])
        found = estimate_brain(np.nan_to_num(image), grid.spacing)
        labels = np.zeros(grid.shape, np.uint16) if found is None else found.astype(np.uint16)
        return RegionMap(labels, grid, {0: Place("outside"), 1: Place("lobar")}, name, trusted=found is not None)

    own = {"truth": truth, "brain": brain}
    if name in own:
        return RegionSource(name, own[name], lambda case: ())
    return source_named(name, dataset, "Ts")


def thinned(regions: RegionMap) -> RegionMap:
    """The map on voxels of about ``STEP_MM``: distances are right to a millimetre, in a tenth of the time."""
    steps = [max(1, round(STEP_MM / side)) for side in regions.grid.spacing]
    labels = regions.labels[tuple(slice(None, None, step) for step in steps)]
    z, y, x = (side * step for side, step in zip(regions.grid.spacing, steps, strict=True))
    grid = dataclasses.replace(regions.grid, shape=labels.shape, spacing=(z, y, x))
    return dataclasses.replace(regions, labels=labels, grid=grid)


def place(scans: Scans, files: dict[str, Case], source: RegionSource, cache: Path) -> Scans:
    """The same scans with the place of every detection, and after the detections the lesions' own boxes.

    A scan's map is made once for all models.
    """
    placed: Scans = {model: [] for model in scans}
    for cases in zip(*scans.values(), strict=True):
        name = cases[0].case_id
        boxes = [np.concatenate([case.detections.boxes, lesion_boxes(case, EvaluationConfig())]) for case in cases]
        path = cache / f"{name}.json"
        if not path.is_file():
            regions = thinned(source.make(files[name]))
            print(f"{name}: quality {regions.quality} {regions.why}", flush=True)
            together = np.concatenate(boxes) * np.tile(np.asarray(cases[0].spacing) / regions.grid.spacing, 2)
            found = locate(Detections(together, np.ones(len(together)), np.zeros(len(together))), regions).columns
            depths = [None if np.isnan(depth) else round(float(depth), 3) for depth in found["tissue_mm"]]
            write_json(path, {"region_group": found["region_group"].tolist(), "tissue_mm": depths})
        columns = {column: np.array(values) for column, values in read_json(path).items()}
        ends = np.cumsum([len(rows) for rows in boxes])
        for model, case, rows, end in zip(scans, cases, boxes, ends, strict=True):
            own = {column: values[end - len(rows) : end] for column, values in columns.items()}
            located = Detections(rows, np.ones(len(rows)), np.zeros(len(rows)), own)
            placed[model].append(dataclasses.replace(case, detections=located))
    return placed


def compare(
    model: str, val: list[CaseResult], test: list[CaseResult], placed: tuple[Scans, Scans], config: EvaluationConfig
) -> list[str]:
    """Rows of the table."""
    lesions = [p.detections[len(case.detections) :] for case, p in zip(val, placed[0][model], strict=True)]
    rules = choose_rules(lesions, "", sum(len(case.truth_boxes) for case in val))
    kept, lost = [], {"all": 0, "at": 0}
    for case, p in zip(test, placed[1][model], strict=True):
        gone = remove_impossible(p.detections, rules).columns["removed"][: len(case.detections)].astype(bool)
        kept.append(dataclasses.replace(case, detections=case.detections[~gone]))
        lost["all"] += int(gone.sum())
        lost["at"] += int((gone & (case.detections.scores >= np.float32(config.operating_point or 0.5))).sum())
    before, after = (bootstrap([subject_counts(cases, config)], sensitivities=SENSITIVITIES) for cases in (test, kept))
    print(f"{model}: {rules.description}; farthest true lesion {rules.farthest_outside_mm} mm outside; removed {lost}")
    rows = []
    for name in ("sensitivity", "fp_per_scan", *(f"fp_per_scan@{s:g}" for s in SENSITIVITIES)):
        cells = (before.estimate(name), after.estimate(name), after.difference(before, name))
        rows.append(table_row(model, name, *(_cell(estimate) for estimate in cells)))
    return rows


def _cell(estimate: Estimate) -> str:
    ends = ["∞" if end is None else f"{end:.3f}" for end in (estimate.low, estimate.high)]
    return "not reached" if estimate.value is None else f"{estimate.value:.3f} ({ends[0]} to {ends[1]})"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    arguments = parser(__doc__)
    arguments.add_argument("task", help="number, name or path of the Task folder")
    arguments.add_argument("models", nargs="+", help="names of trained models with validation and test predictions")
    arguments.add_argument("--regions", default="atlas:builtin", help="source of the maps (default: %(default)s)")
    arguments.add_argument("--cache", type=Path, default=Path("removal_cache"), help="folder (default: %(default)s)")
    arguments.add_argument("--fold", type=int, default=0, help="of the models (default: %(default)s)")
    args = arguments.parse_args(argv)
    dataset = Dataset.load(find_task(args.task))
    source = source_of(args.regions, dataset)
    scans: dict[str, Scans] = {"val": {}, "test": {}}
    configs, placed = {}, {}
    for split in scans:
        truths: dict[str, Truth] = {}
        files = {case.case_id: case for case in dataset.cases(PARTS[split])}
        for model in args.models:
            # All candidates are wanted: predictions of nndet_predict --regions lack what it removed.
            folds = find_folds(find_model(dataset.task, model), args.fold)
            scored = PredictionSet.of_model(dataset, folds, split).read(truths=truths)
            scored.check_complete()
            scans[split][model], configs[model] = scored.cases, scored.at_operating_point(EvaluationConfig())[0]
        placed[split] = place(
            scans[split], files, source, args.cache / args.regions.replace("/", "_").replace(":", "_")
        )
    rows = [
        row
        for model in args.models
        for row in compare(
            model, scans["val"][model], scans["test"][model], (placed["val"], placed["test"]), configs[model]
        )
    ]
    number = len(next(iter(scans["test"].values())))
    print(f"\n{measured_on('SimpleITK')}; regions {args.regions}, {number} test scans\n")
    print(table_head("model", "what", "without", "with removal", "difference"))
    print("\n".join(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
