"""``PhantomTask``: phantoms written as a Task folder."""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmb_plugin.dataset import write_dataset
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import write_image
from cmb_plugin.paths import TaskFolder
from cmb_plugin.phantom import (
    DRAWN,
    AnatomyFiles,
    ExampleOptions,
    ExampleReport,
    ExampleTask,
    PhantomCase,
    PhantomConfig,
    VisitRow,
    healthy_cases,
    make_case,
    make_scans,
    make_visit,
    read_table,
    resolve_modalities,
    resolve_protocols,
    write_visits,
)
from cmb_plugin.plugins import register_task, suggest
from cmb_plugin.workers import keep_freed_memory, run_cases

RECIPE = 5
"""Raised whenever the phantoms of a seed change, so that an older folder is not taken for a finished one."""

ANATOMY_RECIPE = 2
"""The same for the phantoms of a labelled head alone."""

WIDE_RECIPE = 3
"""The same for the protocol ``wide`` alone."""

CLASSES = (("cmb",), ("cmb", "iron"))
TRAIN, TEST, MODALITIES = 16, 8, "swi,phase"
"""Where the options name none."""
Place = tuple[str, int, int]  # split, number of the subject, number of the scan


@dataclass(frozen=True)
class PhantomSettings:
    """Everything that decides what the folder holds; kept in dataset.json under ``phantom``."""

    train: int
    test: int
    healthy: float
    protocols: tuple[str, ...]
    modalities: tuple[str, ...]
    classes: tuple[str, ...]
    seed: int
    followup: int = 0
    followup_protocol: str = ""
    scans: int = 1
    anatomy: AnatomyFiles | None = None
    lesions: int = 0

    @classmethod
    def of(cls, options: ExampleOptions) -> PhantomSettings:
        """Settings from the options of the command line.

        Raises:
            UserError: an unknown name, or a number out of range.
        """
        train = TRAIN if options.train is None else options.train
        test = TEST if options.test is None else options.test
        healthy, classes = options.healthy, options.classes
        if train < 0 or test < 0 or train + test == 0:
            raise UserError(
                f"--train {train} --test {test}: no case to make", remedy="give numbers from 0, one above it"
            )
        if not 0 <= healthy <= 1:
            raise UserError(f"--healthy {healthy:g}: not a share", remedy="give a number from 0 to 1")
        if options.seed < 0:
            raise UserError(f"--seed {options.seed}: negative", remedy="give a number from 0")
        if options.followup < 0:
            raise UserError(f"--followup {options.followup}: negative", remedy="give a number of later scans from 0")
        names = tuple(word.strip() for word in classes.split(",") if word.strip())
        if names not in CLASSES:
            known = [",".join(c) for c in CLASSES]
            raise UserError(f"--classes: '{classes}' cannot be made", remedy=suggest(classes, known))
        protocols = resolve_protocols(options.protocol)
        modalities = resolve_modalities(options.modalities or MODALITIES)
        later = resolve_protocols(options.followup_protocol) if options.followup_protocol else ("",)
        if len(later) > 1 or (later[0] and not options.followup):
            remedy = "name one protocol, and how many later scans with --followup N"
            raise UserError(f"--followup-protocol {options.followup_protocol}: cannot be made", remedy=remedy)
        scans = options.scans
        if scans < 1 or (scans > 1 and (options.followup or not set(protocols) <= set(DRAWN))):
            remedy = f"give a number from 1, without --followup and with --protocol {' or '.join(DRAWN)}"
            raise UserError(f"--scans-per-subject {scans}: cannot be made", remedy=remedy)
        anatomy = AnatomyFiles.of(options.anatomy) if options.anatomy else None
        if anatomy:
            read_table(anatomy.table)  # what is wrong with it is said before anything is made
        return cls(
            train=train,
            test=test,
            healthy=healthy,
            protocols=protocols,
            modalities=modalities,
            classes=names,
            seed=options.seed,
            followup=options.followup,
            followup_protocol=later[0],
            scans=scans,
            anatomy=anatomy,
            lesions=options.lesions,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data by which a later call knows whether the phantoms are the same."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}
        if not self.followup:  # folders made before there were later scans say nothing of them
            plain = {k: v for k, v in plain.items() if not k.startswith("followup")}
        if self.scans == 1:
            del plain["scans"]
        if not self.lesions:
            del plain["lesions"]
        del plain["anatomy"]
        if self.anatomy:
            plain["anatomy"] = {"recipe": ANATOMY_RECIPE, **self.anatomy.source()}
        if "wide" in self.protocols:
            plain["wide_recipe"] = WIDE_RECIPE
        return {"recipe": RECIPE, **plain}

    def case_id(self, index: int, number: int = 0) -> str:
        """Name of the phantom with this number, or of a further scan of it."""
        further = "scan" if self.scans > 1 else "visit"
        return f"case_{index:03d}" + (f"_{further}{number}" if number else "")


@register_task
class PhantomTask(ExampleTask):
    """Synthetic scans with microbleeds and everything that looks like them (docs/phantom.md)."""

    folder = "Task100_Phantom"

    def settings(self, options: ExampleOptions) -> PhantomSettings:
        """``PhantomSettings.of``."""
        return PhantomSettings.of(options)

    def write(
        self, task: TaskFolder, settings: PhantomSettings, *, workers: int = 0, overwrite: bool = False
    ) -> ExampleReport:
        """Makes the phantoms that are not there yet.

        Raises:
            UserError: the folder holds something else, and ``overwrite`` does not say that it may go.
        """
        _claim(task, settings, overwrite)
        cases = [place for subject in _subjects(settings) for place in subject]
        missing = [place for place in cases if not _record(task, settings, place).exists()]
        make = _write_case if settings.scans == 1 else _write_subject
        # All scans of a subject come from one simulation of its head.
        work = missing if settings.scans == 1 else sorted({(split, i, 0) for split, i, _ in missing})
        outcomes = run_cases(functools.partial(make, task, settings), work, workers=workers, description="Phantoms")
        if settings.followup:
            _write_tables(task, settings)
        return ExampleReport(task, outcomes, len(cases) - len(missing))


def _subjects(settings: PhantomSettings) -> list[list[Place]]:
    """The scans of each subject."""
    subjects = [("Tr" if i < settings.train else "Ts", i) for i in range(settings.train + settings.test)]
    return [[(split, i, scan) for scan in range(settings.followup + settings.scans)] for split, i in subjects]


def _record(task: TaskFolder, settings: PhantomSettings, place: Place) -> Path:
    split, index, number = place
    return task.extra("lesions", split) / f"{settings.case_id(index, number)}.json"


def _claim(task: TaskFolder, settings: PhantomSettings, overwrite: bool) -> None:
    """Makes sure that the folder is ours and made with these settings; writes dataset.json."""
    definition = task.root / "dataset.json"
    if task.root.exists() and any(task.root.iterdir()):
        found = read_json(definition).get("phantom") if definition.exists() else None
        if found is None:
            raise UserError(f"{task.root}: holds a data set that is no phantom", remedy="choose another --task")
        if found == settings.to_json():
            if "domain" not in read_json(definition):  # made before phantoms named their protocol there
                _define(task, settings)
            return
        if not overwrite:
            changed = [f"{k} {found.get(k)}, now {v}" for k, v in settings.to_json().items() if found.get(k) != v]
            remedy = "add --overwrite to replace them, or choose another --task"
            raise UserError(
                f"{task.root}: holds phantoms made with other settings ({'; '.join(changed)})", remedy=remedy
            )
        shutil.rmtree(task.root)
    _define(task, settings)


def _define(task: TaskFolder, settings: PhantomSettings) -> None:
    """Writes dataset.json; a scan's domain is its protocol, which cases take in turn (``PhantomConfig``)."""
    protocols = settings.protocols
    domain, patients = {}, {}
    for subject in _subjects(settings):
        for _, i, visit in subject:
            name = settings.case_id(i, visit)
            domain[name] = (settings.followup_protocol if visit else "") or protocols[i % len(protocols)]
            patients[name] = settings.case_id(i)
    write_dataset(
        task,
        name="Phantom",
        modalities=[name.upper() for name in settings.modalities],
        classes=settings.classes,
        test_labels=True,
        target_class=0,
        session_id=patients if settings.followup or settings.scans > 1 else None,
        domain=domain,
        phantom=settings.to_json(),
    )


def _write_case(task: TaskFolder, settings: PhantomSettings, place: Place) -> int:
    """Simulates and writes one case."""
    keep_freed_memory()
    _, index, visit = place
    config, healthy = _drawn_from(settings, place)
    extra: dict[str, Any] = {}
    if settings.followup:
        later = settings.followup_protocol
        made = make_visit(settings.seed, index, config, visit, settings.followup, healthy=healthy, protocol=later)
        case = made.case
        extra = {"subject": settings.case_id(index), "visit": visit, "course": made.lesions}
    else:
        case = make_case(settings.seed, index, config, healthy=healthy)
    return _write_files(task, settings, place, case, extra)


def _write_subject(task: TaskFolder, settings: PhantomSettings, place: Place) -> int:
    """Simulates a subject and writes all its scans; returns the number of their lesions."""
    keep_freed_memory()
    split, index, _ = place
    config, healthy = _drawn_from(settings, place)
    lesions = 0
    for number, case in enumerate(make_scans(settings.seed, index, config, settings.scans, healthy=healthy)):
        extra = {"subject": settings.case_id(index)}
        lesions += _write_files(task, settings, (split, index, number), case, extra)
    return lesions


def _drawn_from(settings: PhantomSettings, place: Place) -> tuple[PhantomConfig, bool]:
    """What a subject's phantoms are made of, and whether it is healthy."""
    split, index, _ = place
    first, cases = (0, settings.train) if split == "Tr" else (settings.train, settings.test)
    config = PhantomConfig(
        settings.protocols, settings.modalities, settings.classes, settings.anatomy, settings.lesions
    )
    return config, index - first in healthy_cases(cases, settings.healthy, len(settings.protocols))


def _write_files(
    task: TaskFolder, settings: PhantomSettings, place: Place, case: PhantomCase, extra: dict[str, Any]
) -> int:
    """Writes one case; its lesion file comes last and marks it as finished."""
    split, index, scan = place
    name = settings.case_id(index, scan)
    for number, modality in enumerate(settings.modalities):
        write_image(task.images(split) / f"{name}_{number:04d}.nii.gz", case.images[modality], case.grid)
    write_image(task.labels(split) / f"{name}.nii.gz", case.mask, case.grid)
    write_json(task.labels(split) / f"{name}.json", {"instances": {str(n): c for n, c in case.classes.items()}})
    write_image(task.extra("regions", split) / f"{name}.nii.gz", case.regions, case.grid)
    write_image(task.extra("brain", split) / f"{name}.nii.gz", case.brain, case.grid)
    write_json(task.extra("mimics", split) / f"{name}.json", {"mimics": case.mimics})
    scanner = {"scanner": case.scanner} if case.scanner else {}
    anatomy = {"anatomy": case.anatomy} if case.anatomy else {}
    record = {"protocol": case.protocol, **scanner, **anatomy, "lesions": case.lesions, **extra}
    write_json(_record(task, settings, place), record)
    return len(case.lesions)


def _write_tables(task: TaskFolder, settings: PhantomSettings) -> None:
    rows = []
    for subject in _subjects(settings):
        for place in subject:
            split, index, visit = place
            name = settings.case_id(index, visit)
            scans = tuple(task.images(split) / f"{name}_{n:04d}.nii.gz" for n in range(len(settings.modalities)))
            rows.append(VisitRow(settings.case_id(index), visit, name, scans, _record(task, settings, place)))
    write_visits(task.root, rows)
