"""``prepare``: a raw Task folder becomes a plan, prepared arrays and splits; and an account of every lesion."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Mapping as Dictionary
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from cmb_plugin.dataset import Case, Dataset, check_dataset, read_splits, splits_around
from cmb_plugin.documents import some_of
from cmb_plugin.errors import UserError
from cmb_plugin.files import write_json
from cmb_plugin.images import voxels_of_instances
from cmb_plugin.paths import TaskFolder
from cmb_plugin.planning import Plan, Planner, load_fitting_plan, write_plan
from cmb_plugin.plugins import import_additional, planners
from cmb_plugin.preparation import (
    CaseFingerprint,
    Fingerprint,
    StoredCase,
    fingerprint_case,
    is_current,
    keep_only,
    load_piece,
    preprocess_case,
    read_brain,
    read_images,
    read_judged,
    read_labels,
    read_regions,
    save_case,
    save_piece,
    source_files,
    work_key,
)
from cmb_plugin.settings import Overrides
from cmb_plugin.workers import Outcome, Workers, default_workers, run_cases

from .domains import settle_domains
from .prep_report import Failure, PreparedSummary, PrepReport

DEFAULT_PLANNER = "D3CMB"


@dataclass(frozen=True)
class Item:
    """One case to work on and its split, ``Tr`` or ``Ts``."""

    split: str
    case: Case


def prepare(
    folder: TaskFolder,
    overrides: Overrides,
    workers: Workers | None = None,
    *,
    preprocess_workers: int | None = None,
    check: bool = True,
    check_again: bool = False,
) -> PrepReport:
    """Checks a Task folder, plans, preprocesses training and test scans, makes splits.

    Cases that cannot be used are reported and left out. What was done before and has not changed is not done again.

    Args:
        folder: the Task folder.
        overrides: ``planner=NAME``, ``planner_cfg.x=y``, ``plan=PATH.json``, ``plan_from=MODEL``,
            ``additional_imports=[module]``.
        workers: processes that check and measure, or machines; None takes every core.
        preprocess_workers: processes that preprocess; None takes ``workers``, of processes as many as the memory holds.
        check: False trusts the folder; what cannot be read still fails, case by case.
        check_again: also cases whose files have not changed since they were checked.

    Raises:
        UserError: nothing can be prepared, a setting is wrong, or a plan edited by hand would be overwritten.
    """
    begun = time.perf_counter()
    workers = default_workers() if workers is None else workers
    overrides = overrides.copy()
    given_model = overrides.take("plan_from")
    plan_from = None if given_model is None else str(given_model)
    planner, given_plan = _choose_planner(overrides)
    if plan_from is not None and given_plan is not None:
        raise UserError("plan and plan_from exclude each other", remedy="give one of them")
    dataset = Dataset.load(folder)
    failures, warnings = _check(dataset, workers, check_again) if check else ([], [])
    dataset = settle_domains(dataset, planner.config.domains, workers)
    items = [Item(split, case) for split in ("Tr", "Ts") for case in dataset.cases(split)]
    items = _without(items, failures)

    fingerprint, failed = _fingerprint(dataset, [item for item in items if item.split == "Tr"], workers)
    failures += failed
    if plan_from is not None:
        plan = _plan_from(plan_from, folder, planner, fingerprint)
    else:
        plan = planner.plan(fingerprint) if given_plan is None else load_fitting_plan(given_plan, dataset)
    path = write_plan(folder, plan, given_plan)
    items, without = _learnable(items, plan)
    warnings += without

    cases, failed = _preprocess(
        dataset, _without(items, failures), plan, _that_preprocess(workers, preprocess_workers, fingerprint)
    )
    failures += failed
    warnings += _take_back(dataset, plan, _without(items, failures))
    warnings += [_outside_warning(case, dataset) for case in cases if case.outside]
    warnings += _write_splits(dataset, _lesions(plan, fingerprint, cases))
    seconds = time.perf_counter() - begun
    return PrepReport(folder, plan, path, cases, failures, warnings, seconds, plan_from)


def _choose_planner(overrides: Overrides) -> tuple[Planner, Path | None]:
    """The planner that the overrides ask for, and the plan file that shall be used instead of planning."""
    overrides = overrides.copy()
    import_additional(overrides.take_imports())
    planner_class = planners.get(str(overrides.take("planner", DEFAULT_PLANNER)))
    given = overrides.take("plan")
    config = overrides.apply(planner_cfg=planner_class.config_class())["planner_cfg"]
    if given is not None and config != planner_class.config_class():
        raise UserError("a finished plan and planner_cfg.* exclude each other", remedy="edit the plan file instead")
    if given is not None and not str(given).endswith(".json"):
        raise UserError(f"plan={given} is no file", remedy="give the path of a plan.json, or choose with planner=NAME")
    return planner_class(config), None if given is None else Path(str(given)).expanduser()


def _plan_from(name: str, folder: TaskFolder, planner: Planner, fingerprint: Fingerprint) -> Plan:
    """What a planner plans, with all that a model decides in its place.

    Raises:
        UserError: there is no such model, it knows nothing of the data set, or it decides what a setting asks for.
    """
    from cmb_plugin.models.initial_weights import InitialWeights

    model, planned = InitialWeights.named(name, folder), planner.plan(fingerprint)
    plan = model.plan_for(planned)
    given, usual = planner.config, planner.config_class()
    settings = [field.name for field in fields(usual) if getattr(given, field.name) != getattr(usual, field.name)]
    for setting in settings:
        without = type(planner)(replace(given, **{setting: getattr(usual, setting)}))
        try:
            otherwise = without.plan(fingerprint)
            decided = otherwise != planned and model.plan_for(otherwise) == plan
        except UserError:  # without the setting there is no plan
            decided = False
        if decided:
            raise UserError(f"planner_cfg.{setting}: plan_from={name} decides it", remedy="leave one of the two out")
    return plan


def _check(dataset: Dataset, workers: Workers, again: bool) -> tuple[list[Failure], list[str]]:
    keep = dataset.task.preprocessed / "checks"
    if again:
        shutil.rmtree(keep, ignore_errors=True)
    report = check_dataset(dataset, workers, description=f"Checking {dataset.task.name}", keep=keep)
    failures: list[Failure] = []
    warnings = []
    for finding in report.findings:
        line = f"{finding.file}: {finding.message} - {finding.remedy}"
        if not finding.fatal:
            warnings.append(line)
        elif finding.case_id:
            # A name that stands in both splits is at fault where its file lies.
            split = "Ts" if Path(finding.file).parent.name.endswith("Ts") else "Tr"
            failures.append(Failure(split, finding.case_id, line))
        else:
            raise UserError(f"{finding.file}: {finding.message}", remedy=finding.remedy)
    return failures, warnings


def _without(items: Sequence[Item], failures: Sequence[Failure]) -> list[Item]:
    bad = {(failure.split, failure.case_id) for failure in failures}
    return [item for item in items if (item.split, item.case.case_id) not in bad]


def _fingerprint(dataset: Dataset, items: Sequence[Item], workers: Workers) -> tuple[Fingerprint, list[Failure]]:
    """Measures the training cases; what an earlier run measured is taken from there."""
    pieces = dataset.task.preprocessed / "fingerprint"
    measured = {item: load_piece(pieces / f"{item.case.case_id}.json", _fingerprint_key(item.case)) for item in items}
    outcomes = run_cases(
        partial(_fingerprint_case, dataset=dataset, pieces=pieces),
        [item for item in items if measured[item] is None],
        workers=workers,
        description=f"Measuring {dataset.task.name}",
    )
    measured |= {outcome.item: outcome.result for outcome in outcomes}
    cases = tuple(replace(case, domain=i.case.domain) for i, case in measured.items() if case is not None)
    fingerprint = Fingerprint(dataset.task.name, dataset.modalities, dataset.classes, cases, dataset.regions)
    fingerprint.save(dataset.task.fingerprint)
    return fingerprint, _failures(outcomes)


def _fingerprint_case(item: Item, dataset: Dataset, pieces: Path) -> CaseFingerprint:
    case, key = item.case, _fingerprint_key(item.case)
    images, grid = read_images(case)
    labels = read_labels(case, len(dataset.classes), grid)
    brain = read_brain(case, grid)
    result = fingerprint_case(case.case_id, images, grid, labels.mask, labels.classes, dataset.modalities, brain)
    save_piece(pieces / f"{case.case_id}.json", result, key)
    return result


def _fingerprint_key(case: Case) -> str:
    return work_key(source_files(case, brain=True))


def _learnable(items: Sequence[Item], plan: Plan) -> tuple[list[Item], list[str]]:
    """The items without the training cases that have nothing to learn by this plan, and a sentence on each of those.

    Raises:
        UserError: no training case is left.
    """
    if plan.target == "lesions":
        return list(items), []
    bare = [item for item in items if item.split == "Tr" and plan.case(item.case).label is None]
    kept = [item for item in items if item not in bare]
    if bare and not any(item.split == "Tr" for item in kept):
        where = bare[0].case.raw / "regionsTr"
        raise UserError(
            f"{where}: holds no region mask of any training case", remedy=f"add {where / bare[0].case.case_id}.nii.gz"
        )
    return kept, [f"{item.case.case_id}: has no mask in regionsTr, left out of {plan.name}" for item in bare]


def _preprocess(
    dataset: Dataset, items: Sequence[Item], plan: Plan, workers: Workers
) -> tuple[list[PreparedSummary], list[Failure]]:
    """Preprocesses and stores cases; those that stand there already and have not changed are left."""
    ready = {}
    for item in items:
        folder, case_id = dataset.task.prepared(plan.name, item.split), item.case.case_id
        if not is_current(folder, case_id, _prepared_key(item.case, plan)):
            continue
        stored = StoredCase.open(folder, case_id)
        if stored.weak == dataset.is_weak(case_id):
            ready[item] = _summary(item, stored, fresh=False)
    outcomes = run_cases(
        partial(_preprocess_case, dataset=dataset, plan=plan),
        [item for item in items if item not in ready],
        workers=workers,
        description=f"Preprocessing {dataset.task.name}",
    )
    ready |= {outcome.item: outcome.result for outcome in outcomes if outcome.result is not None}
    return [ready[item] for item in items if item in ready], _failures(outcomes)


def _that_preprocess(workers: Workers, chosen: int | None, fingerprint: Fingerprint) -> Workers:
    if chosen is not None:
        return chosen
    return min(workers, _processes_in_memory(fingerprint)) if isinstance(workers, int) else workers


def _processes_in_memory(fingerprint: Fingerprint) -> int:
    """How many of the largest case three quarters of the machine's memory hold: the library resamples in float64."""
    voxels = max((math.prod(case.shape) for case in fingerprint.cases), default=0)
    needed = 0.3e9 + voxels * (12 * len(fingerprint.modalities) + 32)
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return 4
    return max(1, int(0.75 * memory / needed))


def _preprocess_case(item: Item, dataset: Dataset, plan: Plan) -> PreparedSummary:
    split, case, regions = item.split, plan.case(item.case), plan.target == "regions"
    folder, key = dataset.task.prepared(plan.name, split), _prepared_key(item.case, plan)
    images, grid = read_images(case)
    read = read_regions if regions else read_labels
    labels = read(case, len(plan.classes), grid) if case.label is not None or split == "Tr" else None
    mask = None if labels is None else labels.mask
    brain = read_brain(case, grid) if plan.preprocessing.brain_channel is not None else None
    recipe = plan.preprocessing.of_domain(case.domain)
    judged = read_judged(case, grid) if split == "Tr" and not regions else None
    prepared = preprocess_case(images, grid, mask, recipe, brain, regions, judged)
    classes = {} if labels is None else labels.classes
    weak = dataset.is_weak(case.case_id)
    save_case(folder, case.case_id, prepared, classes, patch_size=plan.patch_size, key=key, weak=weak)
    stored = StoredCase.open(folder, case.case_id)
    if mask is not None and not regions:
        # Counted in what was written, not in what was meant to be written.
        lost = set(voxels_of_instances(mask)) - set(voxels_of_instances(stored.instances[:])) - set(stored.outside_ids)
        if lost:
            raise RuntimeError(f"{case.case_id}: instances {sorted(lost)} are not in the stored mask")
    return _summary(item, stored, fresh=True)


def _summary(item: Item, stored: StoredCase, fresh: bool) -> PreparedSummary:
    before = len(stored.truth) + len(stored.outside_ids) if stored.labelled else None
    after = len(stored.mask_boxes) if stored.labelled else None
    redrawn, outside = stored.redrawn, stored.outside_ids
    domain = item.case.domain
    return PreparedSummary(stored.case_id, item.split, before, after, redrawn, stored.nonfinite, fresh, outside, domain)


def _outside_warning(case: PreparedSummary, dataset: Dataset) -> str:
    numbers = ", ".join(map(str, case.outside))
    learned = "is not learned and " if case.split == "Tr" else ""
    return (
        f"{dataset.task.labels(case.split) / case.case_id}: instance {numbers} lies outside the crop, which is made "
        f"without labels: it {learned}counts as missed - look at the label, add a mask of the brain, or keep more "
        "around it with planner_cfg.brain_margin_mm"
    )


def _prepared_key(case: Case, plan: Plan) -> str:
    return work_key(source_files(plan.case(case), plan.preprocessing), plan.preprocessing.of_domain(case.domain))


def _failures(outcomes: Sequence[Outcome[Item, Any]]) -> list[Failure]:
    failures = []
    for outcome in outcomes:
        if outcome.error:
            failures.append(Failure(outcome.item.split, outcome.item.case.case_id, outcome.error, outcome.is_bug))
        if outcome.is_bug:
            print(outcome.details, file=sys.stderr)
    return failures


def _take_back(dataset: Dataset, plan: Plan, usable: Sequence[Item]) -> list[str]:
    """Deletes what stands prepared of scans that are gone, by any plan, and of those that this plan cannot use now, so
    that neither is trained on or predicted; returns a sentence on those that are gone. Where no scan is, prepared cases
    have been copied alone, and stay."""
    gone: set[str] = set()
    for split in ("Tr", "Ts"):
        there = {case.case_id for case in dataset.cases(split)}
        own = dataset.task.prepared(plan.name, split)
        for folder in dataset.task.preprocessed.glob(f"*/{own.name}") if there else ():
            kept = {item.case.case_id for item in usable if item.split == split} if folder == own else there
            gone |= set(keep_only(folder, kept)) - there
    if not gone:
        return []
    return [f"{some_of(sorted(gone))}: the scan is gone, and so is now what was prepared of it"]


def _lesions(plan: Plan, fingerprint: Fingerprint, cases: Sequence[PreparedSummary]) -> dict[str, int]:
    """Number of lesions of every training case that a fold may hold. A plan for regions leaves some cases out, but
    folds are shared by all plans."""
    prepared = {case.case_id: case.lesions_before or 0 for case in cases if case.split == "Tr"}
    if plan.target == "lesions" or not prepared:
        return prepared
    return {case.case_id: len(case.labels) for case in fingerprint.cases}


def _write_splits(dataset: Dataset, lesions: Dictionary[str, int]) -> list[str]:
    """Writes splits.json; one that covers all cases stands, so that a fold means the same for ever, edited or not."""
    path = dataset.task.splits
    if not lesions:
        raise UserError(
            f"{dataset.task.root}: no training case could be prepared", remedy="repair the cases named above"
        )
    known: set[str] = set()
    if path.is_file():
        known = {case_id for fold in read_splits(path) for part in ("train", "val") for case_id in fold[part]}
        if known >= set(lesions):
            return []
    judged = {case.case_id for case in dataset.cases("Tr") if case.judged is not None}
    write_json(path, splits_around(judged, lesions, dataset.patients(list(lesions)), dataset.domain))
    if known:
        return [f"{path}: made anew, because there are new cases; models trained before have seen other folds"]
    return []
