"""``convert``: a data set as its owners publish it becomes a Task folder, by the converter of that name."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cmb_plugin.conversion import (
    Converter,
    Counted,
    Job,
    Problem,
    Record,
    SourceCase,
    choose_test,
    convert_case,
    doubt,
    source_key,
    write_html,
)
from cmb_plugin.dataset import write_dataset
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.paths import TaskFolder
from cmb_plugin.plugins import import_additional, suggest, tasks
from cmb_plugin.settings import Overrides
from cmb_plugin.workers import run_cases

STAGING = ".converting"
"""Cases wait here until the test split is known, which is balanced by their lesions."""


@dataclass(frozen=True)
class Failure:
    """A case that was not converted, and why."""

    case_id: str
    reason: str
    is_bug: bool = False


@dataclass
class ConversionReport:
    """What a run did.

    Attributes:
        task: the Task folder.
        records: every converted case of the folder, by name.
        splits: case -> ``Tr`` or ``Ts``.
        failures: what could not be converted.
        notes: what concerns the data set as a whole.
        converted: number of cases converted in this run.
    """

    task: TaskFolder
    records: list[Record]
    splits: dict[str, str]
    failures: list[Failure]
    notes: list[str] = field(default_factory=list)
    converted: int = 0

    @property
    def exit_code(self) -> int:
        """0, 2 when the user has something to repair, 1 when a case met a bug."""
        return 1 if any(failure.is_bug for failure in self.failures) else 2 if self.failures else 0

    @property
    def html(self) -> Path:
        """The page with a picture of every lesion."""
        return self.task.root / "conversion.html"


def converters() -> dict[str, type[Converter]]:
    """The converters by name: those tasks that convert something."""
    found = {name: tasks.get(name) for name in tasks.names()}
    return {name: task for name, task in found.items() if isinstance(task, type) and issubclass(task, Converter)}


@dataclass(frozen=True)
class ConvertOptions:
    """How a data set is converted.

    Attributes:
        test_fraction: share of the patients that are tested, where the source does not say who is.
        seed: of that choice.
        register: move the other modalities onto the reference by rigid registration.
        overwrite: begin anew; otherwise what was converted is kept and the rest is added.
        workers: processes; 0 or 1 works in this one.
    """

    test_fraction: float = 0.2
    seed: int = 0
    register: bool = False
    overwrite: bool = False
    workers: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.test_fraction < 1:
            raise UserError(
                f"--test-fraction {self.test_fraction:g}: not a share", remedy="give a number from 0 to below 1"
            )


def convert(
    name: str, source: Path, folder: TaskFolder, overrides: Overrides, options: ConvertOptions | None = None
) -> ConversionReport:
    """Converts a data set; a case that cannot be used is reported and does not stop the others.

    Args:
        name: of the converter, see ``converters``.
        source: folder or table that it reads.
        folder: the Task folder to fill.
        overrides: ``convert_cfg.x=y``, ``additional_imports=[module]``.
        options: how.

    Raises:
        UserError: nothing can be converted, an argument is wrong, or the folder holds something else.
    """
    options = options or ConvertOptions()
    test_fraction, seed, register = options.test_fraction, options.seed, options.register
    converter = _converter(name, overrides)
    if not source.exists():
        raise UserError(f"--source {source}: does not exist", remedy=f"give the path of: {converter.needs}")
    cases, failures = _find(converter, source)
    settings = {
        "converter": name,
        "source": str(source.resolve()),
        "settings": {**dataclasses.asdict(converter.config), "test_fraction": test_fraction, "seed": seed},
        "register": register,
    }
    _claim(folder, settings, options.overwrite)
    known, foreign = _records(folder)
    waiting = [case for case in cases if case.case_id not in {*known, *foreign}]
    for case in cases:
        if file := foreign.get(case.case_id):
            reason = f"{file}: stands in the place of a case of the source - rename one, or remove this one"
            failures.append(Failure(case.case_id, reason))
    job = Job(
        TaskFolder(folder.root / STAGING),
        converter.modalities,
        converter.classes,
        converter.config,
        register,
        folder.root / "conversion",
    )
    outcomes = run_cases(
        partial(convert_case, job=job), waiting, workers=options.workers, description=f"Converting {name}"
    )
    for outcome in outcomes:
        if outcome.is_bug:
            print(outcome.details, file=sys.stderr)
        if outcome.error:
            failures.append(Failure(outcome.item.case_id, outcome.error, outcome.is_bug))
    fresh = {outcome.result.case_id: outcome.result for outcome in outcomes if outcome.result is not None}
    notes = [
        f"{case.case_id}: its files have changed since it was converted; --overwrite converts all again"
        for case in cases
        if case.case_id in known and known[case.case_id].key != source_key(case)
    ]
    records = [record for _, record in sorted({**known, **fresh}.items())]
    if not records:
        first = f" ({failures[0].reason})" if failures else ""
        raise UserError(f"{source}: no case could be converted{first}", remedy="repair the source, see --help")
    if found := doubt([record.readings for record in records]):
        remedy = "look at conversion.html; correct the file or set convert_cfg.space, and add --overwrite"
        failures.append(Failure("all points", f"{source}: points would hit darker places if they {found} - {remedy}"))
    splits = _split(folder, records, {case.case_id: case.split for case in cases if case.split}, test_fraction, seed)
    _finish(folder, converter, records, splits, settings)
    report = ConversionReport(folder, records, splits, failures, notes, len(fresh))
    title = f"{folder.name}: {name} from {source}"
    write_html(
        report.html, title, records, splits, [(f.case_id, f.reason) for f in failures], folder.root / "conversion"
    )
    return report


def _converter(name: str, overrides: Overrides) -> Converter:
    overrides = overrides.copy()
    import_additional(overrides.take_imports())
    known = converters()
    if name not in known:
        raise UserError(f"unknown data set '{name}'", remedy=f"{suggest(name, known)}; see nndet_convert --list")
    config = overrides.apply(convert_cfg=known[name].config_class())["convert_cfg"]
    return known[name](config)


def _find(converter: Converter, source: Path) -> tuple[list[SourceCase], list[Failure]]:
    """The cases that the converter yields, and what it says is wrong; two scans of one name are both left out."""
    found = list(converter.find(source))
    cases = [item for item in found if isinstance(item, SourceCase)]
    failures = [Failure(item.case_id or "-", str(item)) for item in found if isinstance(item, Problem)]
    by_name: dict[str, list[SourceCase]] = {}
    for case in cases:
        by_name.setdefault(case.case_id, []).append(case)
    for name, same in by_name.items():
        if len(same) > 1:
            files = ", ".join(str(case.images[0]) for case in same)
            failures.append(Failure(name, f"{files}: {len(same)} scans are called {name} - rename or remove one"))
    if not found:
        raise UserError(f"{source}: holds no case", remedy=f"it needs: {converter.needs}")
    return [case for case in cases if len(by_name[case.case_id]) == 1], failures


def _claim(folder: TaskFolder, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Makes sure that the folder is ours and made with these settings; a new one gets its conversion.json."""
    if folder.root.exists() and any(folder.root.iterdir()):
        found = read_json(folder.conversion) if folder.conversion.is_file() else None
        if found is None:
            raise UserError(f"{folder.root}: holds a data set that was not converted", remedy="choose another --task")
        changed = [key for key, value in settings.items() if found.get(key) != value]
        if not overwrite and not changed:
            return
        if not overwrite:
            differences = "; ".join(f"{key} was {found.get(key)}, now {settings[key]}" for key in changed)
            remedy = "add --overwrite to replace it, or choose another --task"
            raise UserError(f"{folder.root}: was converted otherwise ({differences})", remedy=remedy)
        shutil.rmtree(folder.root)
    write_json(folder.conversion, {**settings, "split": {}})


def _records(folder: TaskFolder) -> tuple[dict[str, Record], dict[str, Path]]:
    """The cases that were converted before, in place or still waiting; and files of cases that somebody added.

    Raises:
        UserError: a file is damaged.
    """
    staging = TaskFolder(folder.root / STAGING)
    places = [folder.extra("lesions", "Tr"), folder.extra("lesions", "Ts"), staging.extra("lesions", "Tr")]
    files = [file for place in places if place.is_dir() for file in place.glob("*.json")]
    records, foreign = {}, {}
    for file in files:
        if file.name.startswith("."):
            continue
        try:
            records[file.stem] = Record(**read_json(file))
        except TypeError:  # other entries: all that a data set must say of its lesions is their numbers
            foreign[file.stem] = file
    return records, foreign


def _split(
    folder: TaskFolder, records: Sequence[Record], given: Mapping[str, str], fraction: float, seed: int
) -> dict[str, str]:
    """Case -> split: what was decided before stands, then what the source says, then the balanced choice."""
    decided = {**given, **read_json(folder.conversion).get("split", {})}
    names = {record.case_id for record in records}
    decided = {case: split for case, split in decided.items() if case in names}
    for record in records:
        if not record.labelled:
            decided.setdefault(record.case_id, "Ts")
    counted = [Counted(r.case_id, r.patient, r.domain, len(r.lesions)) for r in records]
    return choose_test(counted, 0.0 if given else fraction, seed, decided)


def _finish(
    folder: TaskFolder,
    converter: Converter,
    records: Sequence[Record],
    splits: Mapping[str, str],
    settings: Mapping[str, Any],
) -> None:
    """Writes down who is tested, moves waiting cases to their place, and writes dataset.json."""
    write_json(folder.conversion, {**settings, "split": dict(splits)})
    staging = TaskFolder(folder.root / STAGING)
    for record in records:
        _move(staging, folder, record.case_id, splits[record.case_id], len(converter.modalities))
    if staging.root.is_dir():
        shutil.rmtree(staging.root)
    weak = [record.case_id for record in records if record.weak]
    lesion_cases = [record for record in records if record.lesions]
    extra: dict[str, Any] = {}
    if weak and len(weak) < len(lesion_cases):
        extra["weak_cases"] = weak
    if any(record.metadata or record.session for record in records):
        extra["metadata"] = {
            r.case_id: {**({"session": r.session} if r.session else {}), **r.metadata} for r in records
        }
    write_dataset(
        folder,
        modalities=converter.modalities,
        classes=converter.classes,
        test_labels=any(record.labelled for record in records if splits[record.case_id] == "Ts"),
        annotation_style="weak" if weak else "seg",
        session_id={record.case_id: record.patient for record in records},
        domain={record.case_id: record.domain for record in records if record.domain},
        **extra,
    )


def _move(staging: TaskFolder, folder: TaskFolder, case_id: str, split: str, modalities: int) -> None:
    """Moves the files of a case, its lesion file last, so that a killed run goes on where it was."""
    names = [(f"images{split}", "imagesTr", f"{case_id}_{m:04d}.nii.gz") for m in range(modalities)]
    names += [(f"labels{split}", "labelsTr", f"{case_id}{ending}") for ending in (".nii.gz", ".json")]
    names.append((f"lesions{split}", "lesionsTr", f"{case_id}.json"))
    for target, origin, name in names:
        waiting = staging.raw / origin / name
        if waiting.is_file():
            (folder.raw / target).mkdir(parents=True, exist_ok=True)
            waiting.replace(folder.raw / target / name)
