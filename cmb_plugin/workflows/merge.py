"""``merge``: several Task folders become one, by links; modalities and classes are matched by name."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmb_plugin.dataset import Case, Dataset, write_dataset
from cmb_plugin.dataset.dataset import REGIONS, SPLITS, definition_file
from cmb_plugin.errors import UserError
from cmb_plugin.files import locked, read_json, write_json
from cmb_plugin.images import image_stem
from cmb_plugin.paths import TaskFolder
from cmb_plugin.plugins import suggest

SCHEMA = 1
EXTRAS = ("mimics", "lesions", "regions", "brain", "judged")


@dataclass(frozen=True)
class MergeRules:
    """How Task folders are joined.

    Attributes:
        modalities: names of those to join, in the order that they get; empty for those of the first Task, which all
            others must have. A case of a Task that has not all of those that are named here does without them.
        rename: name -> name, of modalities and classes; two classes with one new name become one.
        shared_patients: a patient's name means the same person in all Tasks; otherwise each Task has its own.
    """

    modalities: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    shared_patients: bool = False


@dataclass
class MergeReport:
    """What was joined.

    Attributes:
        task: the joined Task folder.
        cases: Task -> domain -> number of training and of test cases.
        linked: files that were linked or written now.
        removed: links of cases that the Tasks no longer have.
    """

    task: TaskFolder
    cases: dict[str, dict[str, tuple[int, int]]]
    linked: int = 0
    removed: int = 0


@dataclass(frozen=True)
class _Source:
    """One of the Tasks with its names as they are in the joined one.

    Attributes:
        dataset: the Task.
        prefix: before the names of its cases and patients.
        modalities, classes: by their number in the Task.
    """

    dataset: Dataset
    prefix: str
    modalities: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the Task folder."""
        return self.dataset.task.name

    def case_id(self, name: str) -> str:
        """Name of one of its cases in the joined Task."""
        return f"{self.prefix}_{name}"


def merge(
    sources: Sequence[TaskFolder], target: TaskFolder, rules: MergeRules | None = None, *, overwrite: bool = False
) -> MergeReport:
    """Joins Task folders: links, no copies. Run again, it adds what is new and removes what is gone.

    Cases and patients are named after their Task, ``Task101_A`` becoming ``A_...``, so that names cannot meet. Domains
    stay; where a case has none, that name is its domain. Training cases stay training cases and test cases test cases.
    dataset.json comes last: without it no command takes the folder for a whole one.

    Args:
        sources: at least two.
        target: the joined Task.
        rules: how.
        overwrite: replace a Task that was joined in another way.

    Raises:
        UserError: Tasks do not fit together, or ``target`` holds something else.
    """
    rules = rules or MergeRules()
    given = _sources(sources, rules)
    modalities = _joined_modalities(given, rules)
    classes = _joined_classes(given)
    regions = _joined_regions(given)
    _check_patients(given, rules)
    record = {
        "schema": SCHEMA,
        "tasks": [str(source.dataset.task.root) for source in given],
        "modalities": list(rules.modalities),
        "rename": dict(rules.rename),
        "shared_patients": rules.shared_patients,
    }
    with locked(target.root.with_name(f".{target.name}.lock")):
        _claim(target, record, overwrite)
        files = {place: made for source in given for place, made in _files(source, target, modalities, classes)}
        report = MergeReport(target, {source.name: _count(source) for source in given})
        report.removed = _remove_others(target, files)
        report.linked = sum(_place(place, made) for place, made in files.items())
        _define(target, given, rules, modalities, classes, regions)
    return report


def _sources(tasks: Sequence[TaskFolder], rules: MergeRules) -> list[_Source]:
    roots = [task.root.resolve() for task in tasks]
    if len(roots) < 2 or len(set(roots)) < len(roots):
        raise UserError("nothing to join", remedy="name two or more Tasks, each once")
    short = [task.name.partition("_")[2] or task.name for task in tasks]
    prefixes = [name if short.count(name) == 1 else task.name for name, task in zip(short, tasks, strict=True)]
    if len(set(prefixes)) < len(prefixes):
        raise UserError(f"several Tasks are called {prefixes[0]}", remedy="rename one of the folders")
    given = []
    for task, prefix in zip(tasks, prefixes, strict=True):
        dataset = Dataset.load(task)
        modalities, classes = (
            tuple(rules.rename.get(name, name) for name in names) for names in (dataset.modalities, dataset.classes)
        )
        if len(set(map(str.casefold, modalities))) < len(modalities):
            remedy = "leave one of them out of --rename"
            raise UserError(f"{task.name}: two of its modalities would have one name", remedy=remedy)
        given.append(_Source(dataset, prefix, modalities, classes))
    known = [name for source in given for name in (*source.dataset.modalities, *source.dataset.classes)]
    for name in rules.rename:
        if name not in known:
            raise UserError(f"--rename {name}: no Task has such a modality or class", remedy=suggest(name, known))
    return given


def _joined_modalities(given: Sequence[_Source], rules: MergeRules) -> tuple[str, ...]:
    """Names in the order of the joined Task; each Task must have what is needed."""
    wanted = rules.modalities or given[0].modalities
    for name in rules.modalities:
        known = [other for source in given for other in source.modalities]
        if name.casefold() not in map(str.casefold, known):
            raise UserError(f"--modalities {name}: no Task has it", remedy=suggest(name, known))
    for source in given:
        own, needed = set(map(str.casefold, source.modalities)), {name.casefold() for name in wanted}
        if not rules.modalities and own != needed:
            other = next((name for name in wanted if name.casefold() not in own), "")
            lacks, has = (source, given[0]) if other else (given[0], source)
            other = other or next(name for name in source.modalities if name.casefold() not in needed)
            shared = [name for name in wanted if all(name.casefold() in map(str.casefold, s.modalities) for s in given)]
            choose = f"--modalities {','.join(shared)} to join what all have, or " if shared else ""
            raise UserError(
                f"{lacks.name}: has no modality {other}, which {has.name} has",
                remedy=f"give {choose}--rename OLD=NEW where only the names differ",
            )
        if not own & needed:
            remedy = f"name some of: {', '.join(source.modalities)}"
            raise UserError(f"--modalities {','.join(wanted)}: {source.name} has none of them", remedy=remedy)
    return tuple(wanted)


def _joined_classes(given: Sequence[_Source]) -> tuple[str, ...]:
    """Class names by their joined number. What one Task labels and another does not would be background there."""
    classes = tuple({name.casefold(): name for name in reversed(given[0].classes)}.values())[::-1]
    for source in given[1:]:
        ours, theirs = {name.casefold() for name in classes}, {name.casefold() for name in source.classes}
        if ours != theirs:
            name = sorted(ours ^ theirs)[0]
            lacks, has = (source, given[0]) if name in ours else (given[0], source)
            raise UserError(
                f"{lacks.name}: has no class {name}, which {has.name} has",
                remedy=f"give --rename {name}={lacks.classes[0]} where both mean the same, or make copies with one "
                "class by nndet_cls2fg",
            )
    return classes


def _joined_regions(given: Sequence[_Source]) -> tuple[str, ...]:
    having = [source for source in given if any(source.dataset.task.extra("regions", s).is_dir() for s in SPLITS)]
    for source in having[1:]:
        if source.dataset.regions != having[0].dataset.regions:
            remedy = 'give both the same "regions" in dataset.json, or move regionsTr out of one'
            raise UserError(f"{source.name}: numbers other regions than {having[0].name}", remedy=remedy)
    return having[0].dataset.regions if having else REGIONS


def _check_patients(given: Sequence[_Source], rules: MergeRules) -> None:
    """Nobody is in training and in test."""
    places: dict[str, tuple[str, str]] = {}
    for source in given:
        for split in SPLITS:
            for case in source.dataset.cases(split):
                patient = _patient(source, case.case_id, rules)
                before, where = places.setdefault(patient, (split, source.name))
                if before != split:
                    parts = {"Tr": "training", "Ts": "test"}
                    raise UserError(
                        f"{source.name}: patient {patient} is in {parts[split]}, but in {parts[before]} of {where}",
                        remedy="move the scans of one of them, or leave --shared_patients out if they are two people",
                    )


def _patient(source: _Source, case_id: str, rules: MergeRules) -> str:
    patient = source.dataset.session_id.get(case_id, case_id)
    return patient if rules.shared_patients else source.case_id(patient)


def _claim(target: TaskFolder, record: dict[str, Any], overwrite: bool) -> None:
    """Makes sure that the folder is ours, and joined from the same Tasks by the same rules."""
    path = target.root / "merged.json"
    if target.root.exists() and any(target.root.iterdir()):
        if not path.is_file():
            raise UserError(f"{target.root}: holds a data set that was not joined", remedy="choose another --task")
        if read_json(path) == record:
            return
        if not overwrite:
            remedy = "add --overwrite to replace it, with what was prepared of it, or choose another --task"
            raise UserError(f"{target.root}: was joined from other Tasks or by other rules", remedy=remedy)
        shutil.rmtree(target.root)
    write_json(path, record)


def _files(
    source: _Source, target: TaskFolder, modalities: Sequence[str], classes: Sequence[str]
) -> Iterator[tuple[Path, Path | dict[str, Any]]]:
    """Every file of the joined Task, and what it links to or holds."""
    channel = {name.casefold(): number for number, name in enumerate(modalities)}
    number_of = {name.casefold(): number for number, name in enumerate(classes)}
    numbers = [number_of[name.casefold()] for name in source.classes]
    for split in SPLITS:
        for case in source.dataset.cases(split):
            name = source.case_id(case.case_id)
            for modality, path in zip(source.modalities, case.images, strict=True):
                if modality.casefold() in channel and path.is_file():
                    yield target.images(split) / f"{name}_{channel[modality.casefold()]:04d}{_ending(path)}", path
            if case.label is not None:
                yield target.labels(split) / f"{name}{_ending(case.label)}", case.label
            if case.classes_file is not None:
                same = numbers == list(range(len(numbers)))
                yield (
                    target.labels(split) / f"{name}.json",
                    case.classes_file if same else _renumbered(case.classes_file, numbers),
                )
            yield from _extra_files(case, name, target)


def _extra_files(case: Case, name: str, target: TaskFolder) -> Iterator[tuple[Path, Path]]:
    for kind in EXTRAS:
        path = case.extra(kind)
        if path is not None:
            yield target.extra(kind, case.split) / f"{name}{_ending(path)}", path


def _ending(path: Path) -> str:
    """``.nii.gz``, ``.json`` or another ending of an image."""
    stem = image_stem(path)
    return path.suffix if stem is None else path.name.removeprefix(stem)


def _renumbered(path: Path, numbers: Sequence[int]) -> dict[str, Any]:
    """A class file with the joined Task's numbers; what else it says stays."""
    content = read_json(path)
    instances = content.get("instances", {})
    try:
        return {**content, "instances": {instance: numbers[int(label)] for instance, label in instances.items()}}
    except (TypeError, ValueError, IndexError, AttributeError):
        remedy = f"give class indices from 0 to {len(numbers) - 1}"
        raise UserError(f"{path}: has a class that dataset.json does not name", remedy=remedy) from None


def _place(place: Path, made: Path | dict[str, Any]) -> bool:
    """Links or writes one file, atomically; False where it stands already."""
    if isinstance(made, dict):
        if place.is_file() and not place.is_symlink() and read_json(place) == made:
            return False
        write_json(place, made)
        return True
    origin = made.resolve()
    if place.is_symlink() and place.resolve() == origin:
        return False
    place.parent.mkdir(parents=True, exist_ok=True)
    link = place.with_name(f".{secrets.token_hex(4)}.{place.name}")
    link.symlink_to(os.path.relpath(origin, place.parent.resolve()))
    link.replace(place)
    return True


def _remove_others(target: TaskFolder, files: Mapping[Path, Any]) -> int:
    """Removes what was put here of cases that the Tasks no longer hold; files that somebody added stay."""
    placed = [path for folder in target.raw.glob("*") for path in folder.glob("*") if path not in files]
    gone = [path for path in placed if path.is_symlink() or (path.suffix == ".json" and "labels" in path.parent.name)]
    for path in gone:
        path.unlink()
    return len(gone)


def _define(
    target: TaskFolder,
    given: Sequence[_Source],
    rules: MergeRules,
    modalities: Sequence[str],
    classes: Sequence[str],
    regions: Sequence[str],
) -> None:
    """Writes dataset.json."""
    patients: dict[str, str] = {}
    domain: dict[str, str] = {}
    missing: dict[str, list[str]] = {}
    metadata: dict[str, Any] = {}
    weak, drawn = [], 0
    for source in given:
        dataset = source.dataset
        notes = read_json(path).get("metadata") if (path := definition_file(dataset.task)).suffix == ".json" else None
        own = {name.casefold() for name in source.modalities}
        for case in (case for split in SPLITS for case in dataset.cases(split)):
            name = source.case_id(case.case_id)
            patients[name] = _patient(source, case.case_id, rules)
            domain[name] = case.domain or source.prefix
            without = {source.modalities[number].casefold() for number in case.missing}
            if absent := [m for m in modalities if m.casefold() not in own or m.casefold() in without]:
                missing[name] = absent
            if isinstance(notes, dict) and case.case_id in notes:
                metadata[name] = notes[case.case_id]
            drawn += case.label is not None
            weak += [name] if case.label is not None and dataset.is_weak(case.case_id) else []
    targets = {s.classes[t].casefold() if (t := s.dataset.target_class) is not None else None for s in given}
    aim = targets.pop() if len(targets) == 1 else None
    extra: dict[str, Any] = {}
    if weak and len(weak) < drawn:
        extra["weak_cases"] = weak
    if tuple(regions) != REGIONS:
        extra["regions"] = {str(number): name for number, name in enumerate(regions, start=1)}
    extra |= {"missing": missing} if missing else {}
    extra |= {"metadata": metadata} if metadata else {}
    tested = [source.dataset for source in given if source.dataset.cases("Ts")]
    write_dataset(
        target,
        modalities=modalities,
        classes=classes,
        test_labels=bool(tested) and all(dataset.test_labels for dataset in tested),
        target_class=None if aim is None else [name.casefold() for name in classes].index(aim),
        annotation_style="weak" if weak else "seg",
        session_id=patients,
        domain=domain,
        **extra,
    )


def _count(source: _Source) -> dict[str, tuple[int, int]]:
    counts: dict[str, list[int]] = {}
    for place, split in enumerate(SPLITS):
        for case in source.dataset.cases(split):
            counts.setdefault(case.domain or source.prefix, [0, 0])[place] += 1
    return {domain: (training, test) for domain, (training, test) in sorted(counts.items())}
