"""Checks of a Task folder: all that is wrong or odd in it, by file, with a remedy. Nothing is changed or raised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cmb_plugin.documents import counted, some_of
from cmb_plugin.errors import UserError
from cmb_plugin.images import (
    Grid,
    boxes_of_instances,
    image_stem,
    pieces_of_instances,
    place_doubt,
    read_grid,
    read_mask,
    read_scan,
)
from cmb_plugin.workers import Outcome, Workers, run_cases

from .dataset import SPLITS, Case, Dataset, image_files, read_classes, split_modality
from .findings import CaseFacts, Finding, KeptFacts

SAME_GRID_MM = 0.01
"""Corners of two files that differ by less differ by rounding: NIfTI stores its geometry in single precision."""

_SHOWN = 25

ADD_OR_SAY = 'add the file; or, for trainers that can do without, say "missing": {{"{name}": ["..."]}} in dataset.json'


@dataclass
class Report:
    """The outcome of ``check_dataset``.

    Attributes:
        task: name of the Task folder.
        findings: errors first, then warnings, each in the order of the cases.
        n_cases: split -> number of cases.
        n_healthy: split -> number of labelled cases without a lesion.
        n_lesions: split -> number of lesions.
    """

    task: str
    findings: list[Finding]
    n_cases: dict[str, int]
    n_healthy: dict[str, int]
    n_lesions: dict[str, int]

    @property
    def errors(self) -> list[Finding]:
        """The fatal findings."""
        return [finding for finding in self.findings if finding.fatal]

    @property
    def bad_cases(self) -> set[str]:
        """The cases that cannot be used as they are."""
        return {finding.case_id for finding in self.errors if finding.case_id}

    @property
    def summary(self) -> str:
        """Lines for the terminal: what there is, then the findings."""
        counts = [
            f"{counted(self.n_cases[split], f'{word} case')} "
            f"({self.n_healthy[split]} healthy, {counted(self.n_lesions[split], 'lesion')})"
            for split, word in (("Tr", "training"), ("Ts", "test"))
        ]
        lines = [f"{self.task}: {', '.join(counts)}"]
        warnings = [finding for finding in self.findings if not finding.fatal]
        for findings in (self.errors, warnings):
            lines += [str(finding) for finding in findings[:_SHOWN]]
            if len(findings) > _SHOWN:
                lines.append(f"... and {len(findings) - _SHOWN} more {'errors' if findings[0].fatal else 'warnings'}")
        lines.append(f"{counted(len(self.errors), 'error')}, {counted(len(warnings), 'warning')}")
        return "\n".join(lines)


def check_dataset(
    dataset: Dataset, workers: Workers = 0, full: bool = True, description: str = "", keep: Path | None = None
) -> Report:
    """Checks every case of a Task folder, training and test.

    Args:
        dataset: the Task folder.
        workers: number of processes, or machines.
        full: read the voxels too; otherwise names, headers and class files only.
        description: title of the progress bar; empty shows none.
        keep: folder that keeps what was seen of each case; a case whose files have not changed since is not read again.
    """
    cases = {split: dataset.cases(split) for split in SPLITS}
    n_classes, test_labels = len(dataset.classes), dataset.test_labels
    kept = KeptFacts(keep, (n_classes, test_labels, full))
    seen = {case: facts for split in SPLITS for case in cases[split] if (facts := kept.of(case)) is not None}
    check = partial(check_case, n_classes=n_classes, test_labels=test_labels, full=full)
    todo = [case for split in SPLITS for case in cases[split] if case not in seen]
    outcomes = run_cases(partial(kept.made, check=check), todo, workers=workers, description=description)
    seen |= {outcome.item: _facts(outcome) for outcome in outcomes}
    by_split = {split: [seen[case] for case in cases[split]] for split in SPLITS}
    every = [*by_split["Tr"], *by_split["Ts"]]

    findings = [*_check_presence(dataset, cases["Tr"]), *_check_clashes(cases["Tr"], cases["Ts"])]
    for split in SPLITS:
        findings += _check_stray_files(dataset, split, {case.case_id for case in cases[split]})
    findings += [finding for facts in every for finding in facts.findings]
    findings += [*_check_orientations(dataset, every), *_check_classes(dataset, by_split["Tr"])]
    findings.sort(key=lambda finding: not finding.fatal)
    return Report(
        task=dataset.task.name,
        findings=findings,
        n_cases={split: len(cases[split]) for split in SPLITS},
        n_healthy={split: sum(fact.labels == [] for fact in by_split[split]) for split in SPLITS},
        n_lesions={split: sum(len(fact.labels or ()) for fact in by_split[split]) for split in SPLITS},
    )


def check_case(case: Case, n_classes: int, test_labels: bool = False, full: bool = True) -> CaseFacts:
    """Checks the files of one case; see ``check_dataset``.

    Args:
        case: the case.
        n_classes: number of classes of the dataset.
        test_labels: whether a test case should have a label.
        full: read the voxels too.
    """
    facts = CaseFacts()
    add = partial(_add, facts.findings, case.case_id)
    reference: tuple[Path, Grid] | None = None
    for path in case.present:
        if not path.is_file():
            add(path, "is missing", ADD_OR_SAY.format(name=case.case_id), fatal=True)
            continue
        with _as_finding(path, add):
            grid = read_grid(path)
            reference = reference or (path, grid)
            _check_geometry(path, grid, *reference, add)
            _check_place(path, grid, add)
            if full:
                _check_voxels(path, add)
    if reference:
        facts.axis_codes = reference[1].axis_codes
    if case.label is None:
        where = case.raw / f"labels{case.split}" / f"{case.case_id}.nii.gz"
        if case.split == "Tr":
            add(where, "is missing", "add the mask; a healthy case has an empty one", fatal=True)
        elif test_labels:
            add(where, "is missing, but test_labels is true", "add the mask, or the case is left out of evaluation")
        return facts
    with _as_finding(case.label, add):
        if reference:
            grid = read_grid(case.label)
            _check_geometry(case.label, grid, *reference, add)
            _check_place(case.label, grid, add)
        listed = _check_class_file(case, n_classes, full, add)
        facts.labels = _check_mask(case, listed, add) if full and listed is not None else _labels(listed)
    return facts


Add = Callable[..., None]


def _add(
    findings: list[Finding], case_id: str, path: Path | str, message: str, remedy: str, fatal: bool = False
) -> None:
    findings.append(Finding(case_id, str(path), message, remedy, fatal))


@contextmanager
def _as_finding(path: Path, add: Add) -> Iterator[None]:
    """Turns a ``UserError`` of the block into a finding about ``path``."""
    try:
        yield
    except UserError as error:
        add(path, error.message.removeprefix(f"{path}: "), error.remedy, fatal=True)


def _facts(outcome: Outcome[Case, CaseFacts]) -> CaseFacts:
    if outcome.result is not None:
        return outcome.result
    case = outcome.item
    finding = Finding(case.case_id, str(case.images[0]), f"could not be checked: {outcome.error}", "see above", True)
    return CaseFacts([finding])


def _check_geometry(path: Path, grid: Grid, reference: Path, expected: Grid, add: Add) -> None:
    """Every file of a case lies on the grid of its first image."""
    if grid.shape != expected.shape:
        ours, theirs = (" x ".join(str(n) for n in shape[::-1]) for shape in (grid.shape, expected.shape))
        remedy = f"resample it to the grid of {reference.name}"
        add(path, f"has {ours} voxels, {reference.name} has {theirs}", remedy, fatal=True)
        return
    distance = grid.corner_distance(expected)
    if distance <= SAME_GRID_MM:
        return
    if grid.same_as(expected):
        add(path, f"lies up to {distance:.2f} mm off {reference.name}", f"the place of {reference.name} is taken")
    else:
        remedy = f"resample it to the grid of {reference.name}, or correct its header if the voxels do agree"
        add(path, f"lies up to {distance:.1f} mm off {reference.name}", remedy, fatal=True)


def _check_place(path: Path, grid: Grid, add: Add) -> None:
    if doubt := place_doubt(path, grid):
        add(path, doubt, "write one of them over the other, with both codes alike")


def _check_voxels(path: Path, add: Add) -> None:
    array, _ = read_scan(path)
    finite = np.isfinite(array)
    n_bad = array.size - int(np.count_nonzero(finite))
    if n_bad == array.size:
        add(path, "holds no finite number", "export the scan again", fatal=True)
    elif n_bad:
        add(
            path,
            f"{n_bad} of {array.size} voxels are NaN or infinite",
            "they count as 0; check the scan if they are many",
        )
    if n_bad < array.size and np.ptp(array[finite]) == 0:
        add(path, f"every voxel is {array[finite][0]:g}", "export the scan again", fatal=True)


def _check_class_file(case: Case, n_classes: int, full: bool, add: Add) -> dict[int, int] | None:
    """Instance -> class as the class file says; None when it is unreadable, or missing and the mask is not read."""
    if case.classes_file is None:
        if full:
            return {}
        expected = case.raw / f"labels{case.split}" / f"{case.case_id}.json"
        add(expected, "is missing", 'this is right only for a healthy case; else write {"instances": {"1": 0}}')
        return None
    with _as_finding(case.classes_file, add):
        return read_classes(case.classes_file, n_classes)
    return None


def _check_mask(case: Case, listed: dict[int, int], add: Add) -> list[int] | None:
    """Returns the class index of every instance that has voxels, None when one has no class."""
    assert case.label is not None
    mask, _ = read_mask(case.label)
    if (lowest := int(mask.min(initial=0))) < 0:
        add(case.label, f"holds negative numbers down to {lowest}", "lesions are 1, 2, ... on background 0", fatal=True)
    instances = list(boxes_of_instances(mask))
    class_file = case.label.parent / f"{case.case_id}.json"
    if instances and instances[-1] != len(instances):
        missing = sorted(set(range(1, instances[-1])) - set(instances))
        message = f"lesions are numbered up to {instances[-1]}, but {some_of(missing)} {_have(missing)} no voxel"
        add(case.label, message, "number them 1, 2, ... without gaps, as nnDetection wants it")
    if without := [number for number in instances if number not in listed]:
        message = f"{_instances(without)} {_have(without)} no class in {class_file.name}"
        remedy = f'add "{without[0]}" under "instances" in {class_file.name}, or remove the voxels'
        add(case.label, message, remedy, fatal=True)
    classless = bool(without)
    if without := [number for number in listed if number not in instances]:
        message = f"{_instances(without)} {_have(without)} no voxel in {case.label.name}"
        remedy = "was a small lesion lost in resampling? draw it again, or remove the entry"
        add(class_file, message, remedy, fatal=True)
    for number, pieces in pieces_of_instances(mask).items():
        if pieces > 1:
            message = f"instance {number} consists of {pieces} pieces"
            add(case.label, message, "if they are several lesions, give each a number; its box spans all of them")
    return None if classless else [listed[number] for number in instances]


def _labels(listed: dict[int, int] | None) -> list[int] | None:
    return None if listed is None else list(listed.values())


def _check_presence(dataset: Dataset, train: Sequence[Case]) -> Iterator[Finding]:
    if not train:
        remedy = "put the scans there as {case}_0000.nii.gz, one file per modality"
        yield Finding("", str(dataset.task.images("Tr")), "holds no training case", remedy, True)


def _check_clashes(train: Sequence[Case], test: Sequence[Case]) -> Iterator[Finding]:
    names = {case.case_id for case in train}
    for case in test:
        if case.case_id in names:
            message = f"case {case.case_id} is in training and in test"
            remedy = "remove one if they are the same scan, else rename one"
            yield Finding(case.case_id, str(case.images[0]), message, remedy, True)


def _check_stray_files(dataset: Dataset, split: str, case_ids: set[str]) -> Iterator[Finding]:
    """Files that nothing will read: a name or place mistaken by the user more often than not."""
    images, labels = dataset.task.images(split), dataset.task.labels(split)
    n_modalities = len(dataset.modalities)
    seen: set[tuple[str, int]] = set()
    for path in image_files(images):
        case_id, modality = split_modality(path)
        if modality is None:
            yield _ignored(path, "has no modality number", f"rename it to {image_stem(path)}_0000")
        elif modality >= n_modalities:
            yield _ignored(path, f"is modality {modality} of {n_modalities}", "correct modalities in dataset.json")
        elif (case_id, modality) in seen:
            yield _twice(case_id, path)
        else:
            seen.add((case_id, modality))
    for path in _visible_files(images):
        if image_stem(path) is None:
            yield _ignored(path, "is not an image", "remove it")
    masks: set[str | None] = set()
    missing_masks = case_ids if split == "Tr" or dataset.test_labels else set()  # each case's own check tells of those
    for path in image_files(labels):
        stem = image_stem(path)
        if stem not in case_ids:
            yield _ignored(path, f"has no image in images{split}", "name it as the images, without modality number")
        elif stem in masks:
            yield _twice(str(stem), path)
        masks.add(stem)
    for path in _visible_files(labels):
        stem = path.name.removesuffix(".json")
        if path.suffix == ".json" and stem not in masks | missing_masks:
            yield _ignored(path, "has no mask beside it", f"add {stem}.nii.gz")
        elif path.suffix != ".json" and image_stem(path) is None:
            yield _ignored(path, "is neither a mask nor a class file", "remove it")


def _ignored(path: Path, message: str, remedy: str) -> Finding:
    return Finding("", str(path), f"{message}, it is passed over", remedy, False)


def _twice(case_id: str, path: Path) -> Finding:
    """Which of two files is the right one nobody can tell but the user."""
    return Finding(case_id, str(path), "is there twice, with different endings", "remove one of them", True)


def _visible_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if not path.name.startswith(".")) if folder.is_dir() else []


def _check_orientations(dataset: Dataset, facts: Sequence[CaseFacts]) -> Iterator[Finding]:
    codes = Counter(fact.axis_codes for fact in facts if fact.axis_codes)
    if len(codes) > 1:
        counts = ", ".join(f"{code} in {count}" for code, count in codes.most_common())
        message = f"array axes z, y, x point to different sides over the cases: {counts}"
        yield Finding(
            "", str(dataset.task.raw), message, "they are turned alike; check that left and right are right", False
        )


def _check_classes(dataset: Dataset, train: Sequence[CaseFacts]) -> Iterator[Finding]:
    present = {label for fact in train for label in fact.labels or ()}
    absent = [name for index, name in enumerate(dataset.classes) if index not in present]
    if train and absent:
        message = f"no training lesion is of class {', '.join(absent)}"
        remedy = "correct labels in dataset.json or the class files; a class without lesions cannot be learned"
        yield Finding("", str(dataset.task.labels("Tr")), message, remedy, False)


def _instances(numbers: Sequence[int]) -> str:
    return f"{'instance' if len(numbers) == 1 else 'instances'} {some_of(numbers)}"


def _have(numbers: Sequence[int]) -> str:
    return "has" if len(numbers) == 1 else "have"
